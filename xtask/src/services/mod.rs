//! The private services of this clone: started, stopped and shown together.

pub(crate) mod postgres;
pub(crate) mod postgres_session;
pub(crate) mod pouchdb;
pub(crate) mod rabbitmq;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::demo;
use crate::register::{Record, Register};
use crate::workspace::Workspace;
use rabbitmq::BrokerAction;

/// The services by their shown names, in the order they start.
const NAMES: [&str; 3] = ["postgres", "rabbitmq", "pouchdb"];

/// Which services came up, and why the others did not.
pub(crate) struct Started {
    pub(crate) register: Register,
    failures: Vec<(&'static str, anyhow::Error)>,
}

impl Started {
    /// Whether this service runs.
    pub(crate) fn has(&self, service: &str) -> bool {
        !self.failures.iter().any(|(name, _)| *name == service)
    }

    /// The register, if each of the wanted services runs. Reasons were printed when they failed.
    pub(crate) fn require(self, wanted: &[&str]) -> Result<Register> {
        let missing: Vec<&str> = wanted.iter().copied().filter(|name| !self.has(name)).collect();
        anyhow::ensure!(missing.is_empty(), "not running: {}", missing.join(", "));
        Ok(self.register)
    }

    /// The register, if every service runs.
    pub(crate) fn require_all(self) -> Result<Register> {
        self.require(&NAMES)
    }
}

/// Starts what does not run. A service that cannot run does not keep the others from starting.
pub(crate) fn start(workspace: &Workspace) -> Result<Started> {
    type Start = fn(&Workspace, &mut Register) -> Result<()>;
    let starts: [Start; 3] = [postgres::up, rabbitmq::up, pouchdb::up];
    let _lock = workspace.lock()?;
    let mut register = Register::load(workspace)?;
    let mut failures = Vec::new();
    for (name, start) in NAMES.into_iter().zip(starts) {
        if let Err(error) = start(workspace, &mut register) {
            eprintln!("{name}: unavailable: {error:#}");
            failures.push((name, error));
        }
        register.save(workspace)?;
    }
    Ok(Started { register, failures })
}

/// `cargo xtask up`
pub(crate) fn up(workspace: &Workspace) -> Result<ExitCode> {
    let started = start(workspace)?;
    let complete = started.failures.is_empty();
    print_table(&started.register);
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `cargo xtask down`
pub(crate) fn down(workspace: &Workspace) -> Result<ExitCode> {
    let _lock = workspace.lock()?;
    let mut register = Register::load(workspace)?;
    let results = [
        demo::stop_leftovers(workspace),
        pouchdb::down(&mut register).context("pouchdb"),
        rabbitmq::down(&mut register).context("rabbitmq"),
        postgres::down(&mut register).context("postgres"),
    ];
    register.save(workspace)?;
    let failures: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    for error in &failures {
        eprintln!("error: {error:#}");
    }
    print_table(&register);
    Ok(if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// `cargo xtask status`: succeeds when every service answers.
pub(crate) fn status(workspace: &Workspace) -> Result<ExitCode> {
    let answers = print_table(&Register::load(workspace)?);
    Ok(if answers { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `cargo xtask rabbit`
pub(crate) fn rabbit(workspace: &Workspace, action: BrokerAction) -> Result<ExitCode> {
    let _lock = workspace.lock()?;
    let mut register = Register::load(workspace)?;
    let done = rabbitmq::act(workspace, &mut register, action);
    register.save(workspace)?;
    done.map(|()| ExitCode::SUCCESS)
}

/// Prints one line per service; says whether all of them answer.
fn print_table(register: &Register) -> bool {
    type Answers = fn(&Register) -> bool;
    let rows: [(&str, &Record, Answers); 4] = [
        ("postgres", &register.postgres, postgres::answers),
        ("epmd", &register.epmd, rabbitmq::epmd_answers),
        ("rabbitmq", &register.rabbitmq, rabbitmq::answers),
        ("pouchdb", &register.pouchdb, pouchdb::answers),
    ];
    println!("{:<10} {:>8} {:>6}  state", "service", "pid", "port");
    let mut complete = true;
    for (name, record, answers) in rows {
        let running = record.running();
        let state = match running {
            None => "stopped",
            Some(_) if answers(register) => "running",
            Some(_) => "not answering",
        };
        complete &= state == "running";
        let pid = running.map_or_else(|| "-".to_owned(), |process| process.pid.to_string());
        let port = record.port.map_or_else(|| "-".to_owned(), |port| port.to_string());
        println!("{name:<10} {pid:>8} {port:>6}  {state}");
    }
    complete
}

/// Sends a greeting to a loopback port and reads the first bytes of the answer.
fn ask(port: u16, greeting: &[u8], length: usize) -> std::io::Result<Vec<u8>> {
    let patience = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(greeting)?;
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// Whether an HTTP server answers this path with success.
pub(crate) fn http_answers(port: u16, path: &str) -> bool {
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    ask(port, request.as_bytes(), 12).is_ok_and(|answer| answer.starts_with(b"HTTP/1.") && answer.ends_with(b" 200"))
}
