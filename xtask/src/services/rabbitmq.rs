//! The private RabbitMQ, with an Erlang port mapper (epmd) of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::account::{self, Account};
use crate::process::{self, Signal, StopBy};
use crate::register::Register;
use crate::workspace::Workspace;
use crate::{packages, secret};

/// Accounts for the broker when we are root, best first.
const ACCOUNTS: [&str; 2] = ["rabbitmq", "nobody"];

/// A first start on a busy machine, with everything to create, takes up to half a minute.
const PATIENCE: Duration = Duration::from_secs(120);

const STOP: StopBy = StopBy {
    signal: Signal::Terminate,
    patience: Duration::from_secs(40),
};

/// `PATH` leads to a wrapper on Debian that insists on its own account; this one does not.
const DEBIAN_SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// What `cargo xtask rabbit` can do to the broker; epmd stays.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum BrokerAction {
    /// Start it, if it does not run
    Start,
    /// Stop it in good order
    Stop,
    /// Stop it in good order and start it again
    Restart,
    /// Kill it, as a crash would
    Kill,
}

/// Starts epmd and the broker unless they run.
pub(crate) fn up(workspace: &Workspace, register: &mut Register) -> Result<()> {
    if register.rabbitmq.running().is_some() && register.epmd.running().is_some() && answers(register) {
        return Ok(());
    }
    if let Some(half_dead) = register.rabbitmq.running() {
        half_dead.stop(STOP)?;
    }
    let server = find_server(workspace)?;
    let account = account::for_service(&ACCOUNTS)?;
    let folder = workspace.service_folder("rabbitmq", account.as_ref())?;
    start_epmd(workspace, register, account.as_ref(), &folder)?;
    start_broker(workspace, register, account.as_ref(), &folder, &server)
}

/// Stops the broker, then its epmd.
pub(crate) fn down(register: &mut Register) -> Result<()> {
    stop_broker(register)?;
    if let Some(epmd) = register.epmd.running() {
        epmd.stop(STOP)?;
    }
    register.epmd.process = None;
    Ok(())
}

/// Does one thing to the broker alone.
pub(crate) fn act(workspace: &Workspace, register: &mut Register, action: BrokerAction) -> Result<()> {
    match action {
        BrokerAction::Start => up(workspace, register),
        BrokerAction::Stop => stop_broker(register),
        BrokerAction::Restart => {
            stop_broker(register)?;
            up(workspace, register)
        }
        BrokerAction::Kill => {
            if let Some(broker) = register.rabbitmq.running() {
                broker.kill_group()?;
            }
            register.rabbitmq.process = None;
            Ok(())
        }
    }
}

/// Whether the broker greets a client.
pub(crate) fn answers(register: &Register) -> bool {
    register.rabbitmq.port.is_some_and(|port| {
        // The protocol header is answered with a method frame (type 1) on channel 0.
        super::ask(port, b"AMQP\0\0\x09\x01", 3).is_ok_and(|answer| answer == [1, 0, 0])
    })
}

/// Whether epmd answers.
pub(crate) fn epmd_answers(register: &Register) -> bool {
    register.epmd.port.is_some_and(|port| {
        // NAMES_REQ is answered with epmd's own port.
        super::ask(port, &[0, 1, b'n'], 4).is_ok_and(|answer| answer == u32::from(port).to_be_bytes())
    })
}

fn stop_broker(register: &mut Register) -> Result<()> {
    if let Some(broker) = register.rabbitmq.running() {
        broker.stop(STOP)?;
    }
    register.rabbitmq.process = None;
    Ok(())
}

/// Started by us rather than by the broker: a port mapper that makes a daemon of itself is nobody's to stop.
fn start_epmd(workspace: &Workspace, register: &mut Register, account: Option<&Account>, folder: &Path) -> Result<()> {
    if register.epmd.running().is_some() && epmd_answers(register) {
        return Ok(());
    }
    let program = process::find_program("epmd")
        .or_else(bundled_epmd)
        .context("Erlang came without epmd")?;
    let port = register.choose_port(register.epmd.port, &format!("epmd {}", workspace.tag()))?;
    let log = workspace.log("epmd")?;
    let mut command = Command::new(program);
    command
        .current_dir(folder)
        .env("ERL_EPMD_PORT", port.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1");
    let process = process::detach(&mut command, account, &log)?;
    register.epmd.port = Some(port);
    register.epmd.process = Some(process);
    register.save(workspace)?;
    process::wait_until_ready(process, &log, PATIENCE, || epmd_answers(register))
}

fn start_broker(
    workspace: &Workspace,
    register: &mut Register,
    account: Option<&Account>,
    folder: &Path,
    server: &Path,
) -> Result<()> {
    let tag = workspace.tag();
    let port = register.choose_port(register.rabbitmq.port, &format!("rabbitmq {tag}"))?;
    register.rabbitmq.port = Some(port);
    let distribution = register.choose_port(register.rabbitmq_distribution.port, &format!("distribution {tag}"))?;
    register.rabbitmq_distribution.port = Some(distribution);
    let epmd = register.epmd.port.context("epmd has no port")?;
    if register.rabbitmq.password.is_none() {
        // The user and its password are made with the data folder: without the one, the other is of no use.
        remove_folder(&folder.join("mnesia"))?;
    }
    let password = register.rabbitmq.password()?;
    write_files(folder, account, port, &password)?;
    let log = workspace.log("rabbitmq")?;
    eprintln!("rabbitmq: starting on port {port}");
    let mut command = Command::new(server);
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("RABBITMQ_") || name.starts_with("ERL_"))
        {
            command.env_remove(name);
        }
    }
    command
        .current_dir(folder)
        .env("HOME", folder.join("home"))
        .env("ERL_EPMD_PORT", epmd.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODENAME", format!("couch-sql-{tag}@localhost"))
        .env("RABBITMQ_DIST_PORT", distribution.to_string())
        .env("RABBITMQ_MNESIA_BASE", folder.join("mnesia"))
        .env("RABBITMQ_LOG_BASE", folder.join("log"))
        .env("RABBITMQ_PID_FILE", folder.join("pid"))
        .env("RABBITMQ_CONF_ENV_FILE", folder.join("rabbitmq-env.conf"))
        .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
        .env("RABBITMQ_ADVANCED_CONFIG_FILE", folder.join("advanced.config"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("enabled_plugins"))
        .env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "-kernel inet_dist_use_interface {127,0,0,1}",
        );
    let process = process::detach(&mut command, account, &log)?;
    register.rabbitmq.process = Some(process);
    register.save(workspace)?;
    process::wait_until_ready(process, &log, PATIENCE, || answers(register))
}

/// The configuration, written anew before each start. The password is in a file of mode 0600, never on a command line.
fn configuration(port: u16, password: &str) -> String {
    format!(
        "\
listeners.tcp.local = 127.0.0.1:{port}
default_vhost = couch-sql
default_user = couch-sql
default_pass = {password}
# A laptop's share: publishers wait above this much memory, or with less free disk than this.
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 200MB
# Quorum queues keep this log in memory until it is full; the default is 512 MB.
raft.wal_max_size_bytes = 64000000
log.console = true
log.console.level = warning
log.file = false
"
    )
}

fn write_files(folder: &Path, account: Option<&Account>, port: u16, password: &str) -> Result<()> {
    let own = |path: &Path| account.map_or(Ok(()), |account| account.take(path));
    for name in ["home", "mnesia", "log"] {
        let path = folder.join(name);
        crate::workspace::make_folder(&path, 0o700)?;
        own(&path)?;
    }
    let cookie = folder.join("home/.erlang.cookie");
    if !cookie.exists() {
        secret::write_private(&cookie, &secret::random()?)?;
        own(&cookie)?;
    }
    let configuration = configuration(port, password);
    // The empty files keep the machine's own settings and plugins out.
    let files = [
        ("rabbitmq.conf", configuration.as_str()),
        ("rabbitmq-env.conf", ""),
        ("advanced.config", "[].\n"),
        ("enabled_plugins", "[].\n"),
    ];
    for (name, text) in files {
        let path = folder.join(name);
        secret::write_private(&path, text)?;
        own(&path)?;
    }
    Ok(())
}

fn remove_folder(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

fn find_server(workspace: &Workspace) -> Result<PathBuf> {
    if let Some(found) = installed_server() {
        return Ok(found);
    }
    packages::install(workspace, &["rabbitmq-server"]).context("there is no RabbitMQ")?;
    let found = installed_server();
    ensure!(found.is_some(), "the package rabbitmq-server brought no server");
    found.context("the package rabbitmq-server brought no server")
}

fn installed_server() -> Option<PathBuf> {
    let debian = PathBuf::from(DEBIAN_SERVER);
    if debian.is_file() {
        Some(debian)
    } else {
        process::find_program("rabbitmq-server")
    }
}

/// epmd inside Erlang's own folder, where a distribution does not put it on `PATH`.
fn bundled_epmd() -> Option<PathBuf> {
    let entries = fs::read_dir("/usr/lib/erlang").ok()?.flatten();
    let runtimes = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("erts-"));
    runtimes
        .map(|entry| entry.path().join("bin/epmd"))
        .find(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_broker_listens_on_loopback_only_and_has_no_guest() {
        let text = configuration(21_000, "secret");
        assert!(text.contains("listeners.tcp.local = 127.0.0.1:21000\n"));
        assert!(text.contains("default_user = couch-sql\n"));
        assert!(text.contains("default_pass = secret\n"));
        assert!(!text.contains("guest"));
    }
}
