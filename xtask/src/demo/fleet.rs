//! The demonstration's own processes, and the promise that they end with it.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::{self, ProcessRef, Signal, StopBy};
use crate::workspace::Workspace;
use crate::{ports, secret, services};

/// The services promise to end within ten seconds of SIGTERM.
const STOP: StopBy = StopBy {
    signal: Signal::Terminate,
    patience: Duration::from_secs(15),
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Reads pids until its standard input ends, which happens when we end, however that is; then stops those processes.
/// After the word "done" it leaves them alone.
const WATCHDOG: &str = r#"
pids=
while read -r line; do
    [ "$line" = done ] && exit 0
    pids="$pids $line"
done
[ -z "$pids" ] || kill -s TERM $pids
"#;

/// A program of the fleet.
pub(super) struct Program {
    name: String,
    command: Command,
}

impl Program {
    pub(super) fn new(name: &str, path: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            command: Command::new(path),
        }
    }

    pub(super) fn arguments(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    pub(super) fn variable(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }
}

/// Processes in the order of their start.
pub(super) struct Fleet {
    /// Where their pids are written down, for the command after this one.
    record: PathBuf,
    logs: PathBuf,
    members: Vec<(String, u16, ProcessRef)>,
    chosen_ports: Vec<u16>,
    watchdog: Child,
}

impl Fleet {
    pub(super) fn start(record: PathBuf, logs: PathBuf) -> Result<Self> {
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is for us; the watchdog has to outlive it.
            .process_group(0)
            .spawn()
            .context("cannot run sh")?;
        Ok(Self {
            record,
            logs,
            members: Vec::new(),
            chosen_ports: Vec::new(),
            watchdog,
        })
    }

    /// A free port that no other member was given.
    pub(super) fn choose_port(&mut self) -> Result<u16> {
        let port = ports::keep_or_choose(None, &self.chosen_ports, &self.record.to_string_lossy())?;
        self.chosen_ports.push(port);
        Ok(port)
    }

    /// Starts a program and waits until it answers `path` on its port.
    pub(super) fn add(&mut self, mut program: Program, port: u16, path: &str) -> Result<()> {
        let log = self.logs.join(format!("{}.log", program.name));
        let process = process::detach(&mut program.command, None, &log)?;
        self.members.push((program.name.clone(), port, process));
        let told = self.tell_watchdog(&process.pid.to_string());
        let recorded = self.write_record();
        told.and(recorded)?;
        let started = process::wait_until_ready(process, &log, PATIENCE, || services::http_answers(port, path));
        started.with_context(|| format!("{} did not start", program.name))
    }

    /// Names and ports of the members.
    pub(super) fn ports(&self) -> impl Iterator<Item = (&str, u16)> {
        self.members.iter().map(|(name, port, _)| (name.as_str(), *port))
    }

    /// Lets the processes live on.
    pub(super) fn release(mut self) -> Result<()> {
        self.members.clear();
        self.tell_watchdog("done")
    }

    /// Stops all of them, each in good order.
    pub(super) fn stop(mut self) -> Result<()> {
        self.stop_members()
    }

    fn stop_members(&mut self) -> Result<()> {
        let members: Vec<ProcessRef> = self.members.drain(..).map(|(_, _, process)| process).collect();
        stop_all(&members)?;
        self.tell_watchdog("done")?;
        fs::remove_file(&self.record).or_else(|error| match error.kind() {
            ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        Ok(())
    }

    fn tell_watchdog(&mut self, line: &str) -> Result<()> {
        let input = self.watchdog.stdin.as_mut().context("the watchdog cannot be reached")?;
        writeln!(input, "{line}").context("the watchdog has ended")
    }

    fn write_record(&self) -> Result<()> {
        let processes: Vec<ProcessRef> = self.members.iter().map(|(_, _, process)| *process).collect();
        secret::write_private(&self.record, &serde_json::to_string(&processes)?)
    }
}

impl Drop for Fleet {
    /// After a failure half-way.
    fn drop(&mut self) {
        if !self.members.is_empty()
            && let Err(error) = self.stop_members()
        {
            eprintln!("some processes of the demo may still run: {error:#}");
        }
        // Its input is closed now: it ends by itself, and this only takes its status.
        drop(self.watchdog.stdin.take());
        self.watchdog.wait().ok();
    }
}

/// Stops what an earlier demonstration left running, on purpose or not.
pub(crate) fn stop_leftovers(workspace: &Workspace) -> Result<()> {
    let record = workspace.private_folder("demo")?.join("processes.json");
    let Some(processes) = read_record(&record)? else {
        return Ok(());
    };
    let running: Vec<ProcessRef> = processes.into_iter().filter(|process| process.is_running()).collect();
    if !running.is_empty() {
        eprintln!("stopping {} processes of an earlier demo", running.len());
    }
    stop_all(&running)?;
    fs::remove_file(&record).context("cannot remove .dev/demo/processes.json")
}

fn read_record(record: &Path) -> Result<Option<Vec<ProcessRef>>> {
    match fs::read(record) {
        Ok(text) => Ok(Some(
            serde_json::from_slice(&text).context("cannot read .dev/demo/processes.json")?,
        )),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("cannot read .dev/demo/processes.json"),
    }
}

/// Asks all of them at once, then waits for each: they drain side by side.
fn stop_all(processes: &[ProcessRef]) -> Result<()> {
    for process in processes.iter().filter(|process| process.is_running()) {
        // One that ends between the look and the signal is what we want.
        process.signal(STOP.signal).ok();
    }
    let mut stubborn = 0;
    for process in processes {
        stubborn += usize::from(!process.ended_within(STOP.patience));
        if process.is_running() {
            process.kill_group()?;
        }
    }
    ensure!(
        stubborn == 0,
        "{stubborn} processes did not end within {:?} of SIGTERM and were killed",
        STOP.patience
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn sleeper(fleet: &mut Fleet) -> ProcessRef {
        let mut program = Program::new("sleeper", PathBuf::from("sleep")).arguments(&["1000"]);
        let process = process::detach(&mut program.command, None, &fleet.logs.join("sleeper.log")).unwrap();
        fleet.tell_watchdog(&process.pid.to_string()).unwrap();
        process
    }

    fn fleet(name: &str) -> Fleet {
        let folder = std::env::temp_dir().join(format!("xtask-fleet-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Fleet::start(folder.join("processes.json"), folder).unwrap()
    }

    #[test]
    fn the_watchdog_stops_the_fleet_when_its_starter_is_gone() {
        let mut fleet = fleet("gone");
        let process = sleeper(&mut fleet);
        // What the kernel does to a process that is killed: its end of the pipe is closed.
        drop(fleet.watchdog.stdin.take());
        assert!(process.ended_within(Duration::from_secs(10)));
        fs::remove_dir_all(&fleet.logs).unwrap();
    }

    #[test]
    fn the_watchdog_leaves_a_released_fleet_alone() {
        let mut fleet = fleet("released");
        let process = sleeper(&mut fleet);
        fleet.tell_watchdog("done").unwrap();
        fleet.watchdog.wait().unwrap();
        assert!(process.is_running());
        process.stop(STOP).unwrap();
        fs::remove_dir_all(&fleet.logs).unwrap();
    }
}
