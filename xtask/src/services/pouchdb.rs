//! The private PouchDB Server: speaks most of CouchDB's protocol, from npm.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::process::{self, Signal, StopBy};
use crate::register::Register;
use crate::workspace::Workspace;
use crate::{packages, secret};

const PATIENCE: Duration = Duration::from_secs(60);

const STOP: StopBy = StopBy {
    signal: Signal::Terminate,
    patience: Duration::from_secs(10),
};

/// The files that fix the versions of the server and of everything it needs.
const MANIFESTS: [&str; 2] = ["package.json", "package-lock.json"];

/// Starts the server unless it runs.
pub(crate) fn up(workspace: &Workspace, register: &mut Register) -> Result<()> {
    if register.pouchdb.running().is_some() && answers(register) {
        return Ok(());
    }
    if let Some(half_dead) = register.pouchdb.running() {
        half_dead.stop(STOP)?;
    }
    let program = install(workspace)?;
    let folder = workspace.private_folder("pouchdb")?;
    crate::workspace::make_folder(&folder.join("data"), 0o700)?;
    let port = register.choose_port(register.pouchdb.port, &format!("pouchdb {}", workspace.tag()))?;
    let password = register.pouchdb.password()?;
    // The server hashes the password in this file when it reads it.
    let configuration = folder.join("config.json");
    secret::write_private(&configuration, &configuration_text(&folder, port, &password)?)?;
    let log = workspace.log("pouchdb")?;
    eprintln!("pouchdb: starting on port {port}");
    let mut server = Command::new("node");
    // Without this option one refused or odd request ends the whole server.
    server
        .arg("--unhandled-rejections=warn")
        .arg(program)
        .arg("--config")
        .arg(&configuration);
    server.args(["--no-stdout-logs", "--no-color"]).current_dir(&folder);
    let process = process::detach(&mut server, None, &log)?;
    register.pouchdb.port = Some(port);
    register.pouchdb.process = Some(process);
    register.save(workspace)?;
    process::wait_until_ready(process, &log, PATIENCE, || answers(register))
}

/// Stops the server.
pub(crate) fn down(register: &mut Register) -> Result<()> {
    if let Some(process) = register.pouchdb.running() {
        process.stop(STOP)?;
    }
    register.pouchdb.process = None;
    Ok(())
}

/// Whether the server welcomes a client.
pub(crate) fn answers(register: &Register) -> bool {
    register.pouchdb.port.is_some_and(|port| super::http_answers(port, "/"))
}

/// Deletes a database, if there is one of this name.
pub(crate) fn drop_database(register: &Register, name: &str) -> Result<()> {
    let (port, password) = register
        .pouchdb
        .endpoint()
        .context("PouchDB Server was never started")?;
    let credentials = base64(format!("admin:{password}").as_bytes());
    let request = format!(
        "DELETE /{name} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Basic {credentials}\r\nConnection: close\r\n\r\n"
    );
    let answer = super::ask(port, request.as_bytes(), 12).context("PouchDB Server does not answer")?;
    let status = String::from_utf8_lossy(&answer).into_owned();
    ensure!(
        status.ends_with("200") || status.ends_with("404"),
        "PouchDB Server refuses to delete {name}: {status}"
    );
    Ok(())
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

fn configuration_text(folder: &Path, port: u16, password: &str) -> Result<String> {
    let text = json!({
        "admins": { "admin": password },
        "httpd": { "bind_address": "127.0.0.1", "port": port },
        "couchdb": { "database_dir": folder.join("data") },
        "couch_httpd_auth": { "require_valid_user": true },
        "log": { "file": folder.join("requests.log"), "level": "warning" },
    });
    Ok(serde_json::to_string_pretty(&text)?)
}

/// The path of the server's script, installed when absent or when the fixed versions have changed.
fn install(workspace: &Workspace) -> Result<PathBuf> {
    if process::find_program("node").is_none() || process::find_program("npm").is_none() {
        packages::install(workspace, &["nodejs", "npm"]).context("there is no Node.js with npm")?;
    }
    let source = workspace.root().join("xtask/node");
    let folder = workspace.private_folder("node")?;
    let script = folder.join("node_modules/pouchdb-server/bin/pouchdb-server");
    let current = MANIFESTS.iter().all(
        |name| match (fs::read(source.join(name)), fs::read(folder.join(name))) {
            (Ok(wanted), Ok(installed)) => wanted == installed,
            _ => false,
        },
    );
    if current && script.is_file() {
        return Ok(script);
    }
    for name in MANIFESTS {
        fs::copy(source.join(name), folder.join(name)).with_context(|| format!("cannot copy xtask/node/{name}"))?;
    }
    if let Err(error) = packages::npm_ci(workspace, &folder) {
        // Or the next start would take the half-made folder for a whole one.
        fs::remove_file(folder.join("package.json")).ok();
        return Err(error).context("cannot install pouchdb-server from npm");
    }
    ensure!(script.is_file(), "the npm package pouchdb-server brought no server");
    Ok(script)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_in_rfc_4648() {
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, encoded) in cases {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
