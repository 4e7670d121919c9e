//! Runs inputs one after the other and watches what they cost.

use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::check::Subject;
use crate::inputs::{Input, Inputs};
use crate::measured;

/// Most bytes that reading one input may allocate.
pub const MAX_ALLOCATED_BYTES: usize = 64 << 20;

/// Most time on a processor that one input may take, unless told otherwise: far more than any needs.
pub const MAX_TIME: Duration = Duration::from_secs(20);

/// How many times as long it may take in all. A busy machine may let a thread wait for a processor this long.
const MAX_WAIT: u32 = 15;

/// Stack of the thread that reads: that of the threads that read forms in a worker.
const STACK_BYTES: usize = 2 << 20;

/// How often the watching thread looks whether an input hangs.
const LOOK: Duration = Duration::from_millis(200);

/// What is checked of an input; the text says what is wrong.
pub type Check = fn(&Subject) -> Result<(), String>;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides all inputs.
    pub seed: u64,
    /// How long to go on.
    pub time: Duration,
    /// Most time on a processor that one input may take; in all it may take fifteen times as long.
    pub most: Duration,
    /// Where the number of the current input and a failing input are written.
    pub folder: PathBuf,
}

/// What the inputs so far cost at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// How many there were.
    pub inputs: u64,
    /// Most bytes allocated by one.
    pub max_bytes: usize,
    /// Most time on a processor that one took.
    pub slowest: Duration,
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// What it cost.
    pub figures: Figures,
    /// How long it took.
    pub time: Duration,
    /// The first failure, which ended it.
    pub failure: Option<Failure>,
}

/// An input that must not be as it is.
#[derive(Debug)]
pub struct Failure {
    /// Its number.
    pub number: u64,
    /// What is wrong: `panic`, `rule`, `memory` or `hang`, and the details.
    pub reason: String,
    /// The file that holds it.
    pub file: PathBuf,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.failure.is_some() { "failed" } else { "ok" };
        let figures = &self.figures;
        write!(
            f,
            "fuzz: {verdict} inputs={} seconds={} max_bytes={} slowest_ms={}",
            figures.inputs,
            self.time.as_secs(),
            figures.max_bytes,
            figures.slowest.as_millis()
        )?;
        match &self.failure {
            None => Ok(()),
            Some(failure) => write!(
                f,
                " number={} file={} reason={}",
                failure.number,
                failure.file.display(),
                failure.reason.replace('\n', " ")
            ),
        }
    }
}

/// The file with the number of the input that is being read, as eight bytes, little end first.
pub fn progress_file(folder: &Path) -> PathBuf {
    folder.join("current")
}

/// Writes an input to a file of its own.
///
/// # Errors
/// The folder cannot be written.
pub fn save(folder: &Path, seed: u64, number: u64, input: &Input) -> Result<PathBuf> {
    let file = folder.join(format!("seed-{seed}-input-{number}.{}", input.kind.ending()));
    fs::write(&file, &input.bytes).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// How long a thread has had a processor.
#[derive(Clone, Debug)]
struct Processor {
    file: Option<PathBuf>,
    start: Instant,
}

impl Processor {
    /// Of the calling thread.
    fn of_this_thread() -> Self {
        let thread = fs::read_link("/proc/thread-self").ok();
        Self {
            file: thread.map(|thread| Path::new("/proc").join(thread).join("schedstat")),
            start: Instant::now(),
        }
    }

    /// The time so far; where the kernel does not tell, the time that has passed.
    fn time(&self) -> Duration {
        // Nanoseconds on a processor come first.
        let text = self.file.as_ref().and_then(|file| fs::read_to_string(file).ok());
        let nanoseconds = text.as_deref().and_then(|text| text.split(' ').next()?.parse().ok());
        nanoseconds.map_or_else(|| self.start.elapsed(), Duration::from_nanos)
    }
}

/// What the reading thread is at.
#[derive(Clone, Debug)]
struct Current {
    number: u64,
    since: Instant,
    processor: Processor,
    /// What [`Processor::time`] said when it began.
    processor_since: Duration,
}

impl Current {
    /// How long it has been at it: on a processor, and in all.
    fn times(&self) -> (Duration, Duration) {
        let on_processor = self.processor.time().saturating_sub(self.processor_since);
        (on_processor, self.since.elapsed())
    }
}

/// What the reading thread and the watching one both know.
#[derive(Default)]
struct Shared {
    current: Mutex<Option<Current>>,
    figures: Mutex<Figures>,
}

/// Runs inputs until the time is over, but at least the corpus, or until one fails.
///
/// # Errors
/// The folder cannot be written, or the thread cannot be started.
pub fn run(options: &Options, check: Check) -> Result<Outcome> {
    let start = Instant::now();
    fs::create_dir_all(&options.folder).with_context(|| format!("cannot make {}", options.folder.display()))?;
    let progress = progress_file(&options.folder);
    let progress = File::create(&progress).with_context(|| format!("cannot write {}", progress.display()))?;
    let shared = Arc::new(Shared::default());
    let (end, ended) = mpsc::channel();
    let reader = Reader {
        inputs: Inputs::new(options.seed),
        check,
        progress,
        shared: Arc::clone(&shared),
        until: start + options.time,
        most: options.most,
    };
    thread::Builder::new()
        .name("reader".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || reader.run(&end))
        .context("cannot start a thread")?;
    let failed = loop {
        match ended.recv_timeout(LOOK) {
            Ok(end) => break end?,
            Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the reading thread ended without a word"),
            Err(RecvTimeoutError::Timeout) => {
                let current = lock(&shared.current).clone();
                if let Some((number, reason)) = current.and_then(|current| hang(&current, options.most)) {
                    // The thread cannot be stopped; it dies with the process.
                    break Some((number, reason));
                }
            }
        }
    };
    let failure = match failed {
        None => None,
        Some((number, reason)) => {
            let input = Inputs::new(options.seed).input(number);
            let file = save(&options.folder, options.seed, number, &input)?;
            Some(Failure { number, reason, file })
        }
    };
    let figures = *lock(&shared.figures);
    Ok(Outcome {
        figures,
        time: start.elapsed(),
        failure,
    })
}

/// The number of an input that takes too long, and how long.
fn hang(current: &Current, most: Duration) -> Option<(u64, String)> {
    let (on_processor, in_all) = current.times();
    let too_long = on_processor > most || in_all > most * MAX_WAIT;
    too_long.then(|| {
        let reason = format!(
            "hang: {} ms on a processor, {} ms in all",
            on_processor.as_millis(),
            in_all.as_millis()
        );
        (current.number, reason)
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The number of the input that failed, and why; nothing when the time is over.
type End = Result<Option<(u64, String)>>;

struct Reader {
    inputs: Inputs,
    check: Check,
    progress: File,
    shared: Arc<Shared>,
    until: Instant,
    most: Duration,
}

impl Reader {
    fn run(&self, end: &Sender<End>) {
        let processor = Processor::of_this_thread();
        let mut number = 0;
        let outcome = loop {
            if number >= self.inputs.least() && Instant::now() >= self.until {
                break Ok(None);
            }
            match self.read(number, &processor) {
                Ok(None) => number += 1,
                Ok(Some(reason)) => break Ok(Some((number, reason))),
                Err(error) => break Err(error),
            }
        };
        // Nobody listens any more after a hang.
        let _ = end.send(outcome);
    }

    /// What is wrong with an input, if anything.
    fn read(&self, number: u64, processor: &Processor) -> Result<Option<String>> {
        self.progress
            .write_all_at(&number.to_le_bytes(), 0)
            .context("cannot write the number of the input")?;
        let Some(subject) = Subject::of(self.inputs.input(number)) else {
            return Ok(None);
        };
        let current = Current {
            number,
            since: Instant::now(),
            processor: processor.clone(),
            processor_since: processor.time(),
        };
        *lock(&self.shared.current) = Some(current.clone());
        let (outcome, allocated) = measured(|| catch_unwind(AssertUnwindSafe(|| (self.check)(&subject))));
        *lock(&self.shared.current) = None;
        let (on_processor, _) = current.times();
        let mut figures = lock(&self.shared.figures);
        figures.inputs += 1;
        figures.max_bytes = figures.max_bytes.max(allocated);
        figures.slowest = figures.slowest.max(on_processor);
        Ok(match outcome {
            Err(_) => Some("panic".to_owned()),
            Ok(Err(rule)) => Some(format!("rule: {rule}")),
            Ok(Ok(())) if allocated > MAX_ALLOCATED_BYTES => Some(format!("memory: {allocated} bytes")),
            Ok(Ok(())) => hang(&current, self.most).map(|(_, reason)| reason),
        })
    }
}
