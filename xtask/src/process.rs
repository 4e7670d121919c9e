//! Processes that outlive the command that started them, remembered by pid and start time.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::account::Account;

/// A process that was seen running. The start time tells it from a later process with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessRef {
    pub(crate) pid: u32,
    /// In clock ticks since the machine started, as in `/proc/<pid>/stat`.
    started: u64,
}

/// The signals we send.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Signal {
    Interrupt,
    Terminate,
    Kill,
}

/// How a service likes to be asked to stop.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StopBy {
    pub(crate) signal: Signal,
    /// After this long its whole process group is killed.
    pub(crate) patience: Duration,
}

/// How often a condition is looked at that nothing announces.
const POLL: Duration = Duration::from_millis(50);

impl ProcessRef {
    /// The running process with this pid.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self {
            pid,
            started: parse_stat(&stat)?.started,
        })
    }

    pub(crate) fn is_running(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Signals the process alone.
    pub(crate) fn signal(self, signal: Signal) -> Result<()> {
        ensure!(self.is_running(), "process {} has ended", self.pid);
        kill(signal, &self.pid.to_string())
    }

    /// Kills the process and whatever else is in its group. It must have been started by [`detach`].
    pub(crate) fn kill_group(self) -> Result<()> {
        ensure!(self.is_running(), "process {} has ended", self.pid);
        kill(Signal::Kill, &format!("-{}", self.pid))?;
        // All of them: a child that is still being torn down may hold a port or a lock.
        let start = Instant::now();
        while group_is_running(self.pid) {
            ensure!(
                start.elapsed() < Duration::from_secs(10),
                "the processes of group {} do not end",
                self.pid
            );
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Asks the process to stop, waits for its end, and kills its group when patience is over.
    pub(crate) fn stop(self, by: StopBy) -> Result<()> {
        if !self.is_running() {
            return Ok(());
        }
        self.signal(by.signal)?;
        if self.wait_for_end(by.patience).is_err() && self.is_running() {
            self.kill_group()?;
        }
        Ok(())
    }

    /// Waits for the process to end; says whether it did.
    pub(crate) fn ended_within(self, patience: Duration) -> bool {
        self.wait_for_end(patience).is_ok()
    }

    fn wait_for_end(self, patience: Duration) -> Result<()> {
        let start = Instant::now();
        while self.is_running() {
            ensure!(
                start.elapsed() < patience,
                "process {} did not end within {patience:?}",
                self.pid
            );
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}

/// Starts a program in a process group of its own, so that neither Ctrl-C nor our end reaches it. Its output is
/// appended to `log`.
pub(crate) fn detach(command: &mut Command, account: Option<&Account>, log: &Path) -> Result<ProcessRef> {
    let output = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot write {}", log.display()))?;
    if let Some(account) = account {
        account.assume(command);
    }
    command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0);
    let program = command.get_program().to_string_lossy().into_owned();
    let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
    ProcessRef::of(child.id()).with_context(|| format!("{program} ended at once: see {}", log.display()))
}

/// Waits until `ready` holds. Fails when the process ends first or when `patience` is over, with the end of its log.
pub(crate) fn wait_until_ready(
    process: ProcessRef,
    log: &Path,
    patience: Duration,
    mut ready: impl FnMut() -> bool,
) -> Result<()> {
    let start = Instant::now();
    loop {
        if ready() {
            return Ok(());
        }
        if !process.is_running() {
            bail!(
                "it ended while starting; {} ends with:\n{}",
                log.display(),
                last_lines(log, 15)
            );
        }
        if start.elapsed() > patience {
            bail!(
                "no answer within {patience:?}; {} ends with:\n{}",
                log.display(),
                last_lines(log, 15)
            );
        }
        std::thread::sleep(POLL);
    }
}

/// Runs a command to its end with its output in `log`; fails with the end of that log.
pub(crate) fn run_logged(command: &mut Command, log: &Path) -> Result<()> {
    let output = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot write {}", log.display()))?;
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    ensure!(
        status.success(),
        "{program} failed ({status}); {} ends with:\n{}",
        log.display(),
        last_lines(log, 15)
    );
    Ok(())
}

/// The path of a program found through `PATH`.
pub(crate) fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

/// The last lines of a log file, indented.
pub(crate) fn last_lines(log: &Path, count: usize) -> String {
    let text = fs::read(log)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let kept = &lines[lines.len().saturating_sub(count)..];
    kept.iter()
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Through the shell's own `kill`: the standard library sends no signals, and small images lack the program.
fn kill(signal: Signal, target: &str) -> Result<()> {
    let name = match signal {
        Signal::Interrupt => "INT",
        Signal::Terminate => "TERM",
        Signal::Kill => "KILL",
    };
    let output = Command::new("sh")
        .args(["-c", "kill -s \"$1\" -- \"$2\"", "sh", name, target])
        .output()?;
    ensure!(
        output.status.success(),
        "cannot signal process {target}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Whether any process of this group runs.
fn group_is_running(group: u32) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok())
        .any(|stat| parse_stat(&stat).is_some_and(|stat| stat.group == group))
}

/// The part of `/proc/<pid>/stat` that matters here.
struct Stat {
    group: u32,
    started: u64,
}

/// None for a zombie.
fn parse_stat(stat: &str) -> Option<Stat> {
    // The program's name is in parentheses and may hold anything, parentheses included.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let [state, _parent, group, ..] = fields[..] else {
        return None;
    };
    if matches!(state, "Z" | "X") {
        return None;
    }
    Some(Stat {
        group: group.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn group_and_start_time_are_read_behind_any_program_name() {
        let stat = "77 (a) b (c)) S 1 76 75 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1000 200";
        let parsed = parse_stat(stat).unwrap();
        assert_eq!((parsed.group, parsed.started), (76, 98765));
        assert!(parse_stat(&stat.replace(") S 1", ") Z 1")).is_none());
    }

    #[test]
    fn a_process_is_not_mistaken_for_a_later_one_with_its_pid() {
        let this = ProcessRef::of(std::process::id()).unwrap();
        assert!(this.is_running());
        assert!(
            !ProcessRef {
                started: this.started + 1,
                ..this
            }
            .is_running()
        );
    }

    #[test]
    fn a_detached_process_is_stopped_with_its_group() {
        let log = std::env::temp_dir().join(format!("xtask-detach-{}.log", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM; sleep 1000 & echo $!; wait; wait"]);
        let process = detach(&mut command, None, &log).unwrap();
        wait_until_ready(process, &log, Duration::from_secs(10), || {
            fs::read_to_string(&log).is_ok_and(|text| text.ends_with('\n'))
        })
        .unwrap();
        let inner = ProcessRef::of(fs::read_to_string(&log).unwrap().trim().parse().unwrap()).unwrap();
        process
            .stop(StopBy {
                signal: Signal::Terminate,
                patience: Duration::from_millis(100),
            })
            .unwrap();
        assert!(!process.is_running());
        assert!(!inner.is_running());
        fs::remove_file(log).unwrap();
    }
}
