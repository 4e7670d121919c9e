//! Processes: services with their logs, and commands with their output.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::process::{Child, Command};

/// Signals that tests send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// End in good order.
    Terminate,
    /// End at once.
    Kill,
    /// Stand still.
    Stop,
    /// Go on.
    Continue,
}

impl Signal {
    const fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "INT",
            Self::Terminate => "TERM",
            Self::Kill => "KILL",
            Self::Stop => "STOP",
            Self::Continue => "CONT",
        }
    }
}

/// Through the shell's own `kill`: the standard library sends no signals, and small images lack the program.
fn send(signal: Signal, target: &str) -> Result<()> {
    let status = std::process::Command::new("sh")
        .args(["-c", "kill -s \"$1\" -- \"$2\"", "sh", signal.name(), target])
        .stderr(Stdio::null())
        .status()
        .context("cannot run sh")?;
    ensure!(status.success(), "process {target} takes no signal {}", signal.name());
    Ok(())
}

/// Kills process groups when the process that started it is gone, however that came.
#[derive(Debug)]
pub struct Watchdog {
    child: std::process::Child,
}

/// Reads ids of process groups until its input ends; after the word "done" it leaves them alone.
const WATCHDOG: &str = r#"
groups=
while read -r group; do
    [ "$group" = done ] && exit 0
    groups="$groups -$group"
done
[ -z "$groups" ] || kill -s KILL -- $groups 2>/dev/null
"#;

impl Watchdog {
    /// Starts one.
    ///
    /// # Errors
    /// There is no `sh`.
    pub fn start() -> Result<Self> {
        use std::os::unix::process::CommandExt;
        let child = std::process::Command::new("sh")
            .args(["-c", WATCHDOG])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is for the test; the watchdog has to outlive it.
            .process_group(0)
            .spawn()
            .context("cannot run sh")?;
        Ok(Self { child })
    }

    fn watch(&mut self, group: u32) -> Result<()> {
        let input = self.child.stdin.as_mut().context("the watchdog cannot be reached")?;
        writeln!(input, "{group}").context("the watchdog has ended")
    }
}

impl Drop for Watchdog {
    /// Whoever owns it has ended the processes before.
    fn drop(&mut self) {
        if let Some(mut input) = self.child.stdin.take() {
            writeln!(input, "done").ok();
        }
        self.child.wait().ok();
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Name of the program, a file of the folder of programs.
    pub program: PathBuf,
    /// Arguments.
    pub arguments: Vec<String>,
    /// Environment variables besides those of this process.
    pub variables: Vec<(String, String)>,
}

impl Launch {
    fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            // No couch-sql.toml of somebody else is found there, and no variable of the caller's shell counts.
            .current_dir(folder)
            .env_remove("COUCH_SQL_CONFIG")
            .process_group(0)
            .kill_on_drop(true)
            .stdin(Stdio::null());
        command
    }
}

/// A process that runs in the background and writes a log.
#[derive(Debug)]
pub struct Program {
    name: String,
    pid: u32,
    log: PathBuf,
    child: Child,
}

impl Program {
    /// Starts it; its output goes to `<folder>/<name>.log`.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn start(name: &str, launch: &Launch, folder: &Path, watchdog: &mut Watchdog) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = launch
            .command(folder)
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot run {}", launch.program.display()))?;
        let pid = child.id().context("the process has ended already")?;
        watchdog.watch(pid)?;
        Ok(Self {
            name: name.to_owned(),
            pid,
            log,
            child,
        })
    }

    /// Its name in this world.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        send(signal, &self.pid.to_string())
    }

    /// Kills it with all its children, and waits until it is gone.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub async fn kill(&mut self) -> Result<()> {
        if self.is_running() {
            send(Signal::Kill, &format!("-{}", self.pid))?;
        }
        self.child.wait().await.context("wait for a killed process")?;
        Ok(())
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// It does not end in time.
    pub async fn ended_within(&mut self, patience: Duration) -> Result<ExitStatus> {
        let Ok(status) = tokio::time::timeout(patience, self.child.wait()).await else {
            bail!("{} did not end within {patience:?}", self.name);
        };
        status.context("wait for a process")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.is_running() {
            send(Signal::Kill, &format!("-{}", self.pid)).ok();
        }
    }
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// What was typed.
    pub command: String,
    /// Exit status; none when it was killed.
    pub status: Option<i32>,
    /// Its result.
    pub stdout: String,
    /// Everything else.
    pub stderr: String,
}

impl Output {
    /// Everything, for the message of a failing test.
    pub fn told(&self) -> String {
        format!(
            "`{}` ended with {:?}\n{}\n{}",
            self.command, self.status, self.stdout, self.stderr
        )
    }

    /// The result of a command that must have ended with this status.
    ///
    /// # Panics
    /// It ended otherwise.
    #[track_caller]
    pub fn ended_with(self, status: i32) -> Self {
        assert_eq!(self.status, Some(status), "{}", self.told());
        self
    }

    /// The result of a command that must have succeeded.
    ///
    /// # Panics
    /// It did not.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.ended_with(0)
    }
}

/// A command that runs. What it writes goes to files, so that it can be read meanwhile.
#[derive(Debug)]
pub struct RunningCommand {
    shown: String,
    pid: u32,
    stdout: PathBuf,
    stderr: PathBuf,
    child: Child,
}

/// Commands of this process so far: their files need names.
static COMMANDS: AtomicU64 = AtomicU64::new(0);

impl RunningCommand {
    /// Starts it.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn start(launch: &Launch, folder: &Path, watchdog: &mut Watchdog) -> Result<Self> {
        let name = launch.program.file_name().unwrap_or_default().to_string_lossy();
        let number = COMMANDS.fetch_add(1, Ordering::Relaxed);
        let stdout = folder.join(format!("command-{number}.out"));
        let stderr = folder.join(format!("command-{number}.err"));
        let child = launch
            .command(folder)
            .stdout(File::create(&stdout).with_context(|| format!("cannot write {}", stdout.display()))?)
            .stderr(File::create(&stderr).with_context(|| format!("cannot write {}", stderr.display()))?)
            .spawn()
            .with_context(|| format!("cannot run {}", launch.program.display()))?;
        let pid = child.id().context("the process has ended already")?;
        watchdog.watch(pid)?;
        Ok(Self {
            shown: format!("{name} {}", launch.arguments.join(" ")),
            pid,
            stdout,
            stderr,
            child,
        })
    }

    /// Its process id.
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        send(signal, &self.pid.to_string())
    }

    /// Kills it and waits until it is gone. Its children live on, as after any crash.
    ///
    /// # Errors
    /// It had ended already.
    pub async fn kill(mut self) -> Result<()> {
        self.signal(Signal::Kill)?;
        let status = self.child.wait().await.context("wait for a killed command")?;
        ensure!(
            status.code().is_none(),
            "`{}` had ended before it was killed: {}",
            self.shown,
            self.stderr()
        );
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It does not end in time; it is killed then.
    pub async fn end(mut self, patience: Duration) -> Result<Output> {
        let Ok(status) = tokio::time::timeout(patience, self.child.wait()).await else {
            bail!("`{}` did not end within {patience:?}: {}", self.shown, self.stderr());
        };
        Ok(Output {
            command: self.shown.clone(),
            status: status.context("wait for a command")?.code(),
            stdout: std::fs::read_to_string(&self.stdout).unwrap_or_default(),
            stderr: self.stderr(),
        })
    }
}
