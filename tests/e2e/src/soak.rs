//! A soak: users submit, edit, archive and delete at a steady rate while their domain migrates live and is followed; then
//! submissions stop, the migration is finished and committed, and everything that was submitted must be there.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use generator::GeneratedDomain;
use generator::compare::compare;

use crate::program::RunningCommand;
use crate::settings::Settings;
use crate::submissions::{Kind, Submissions, Write};
use crate::world::{Options, World};

const DOMAIN: &str = "soak";
/// HQ's caches, of which there are none here; a real HQ with a hook has as long.
const CACHE_WAIT: Duration = Duration::from_secs(1);
/// The longest that the first look at everything may take after the last submission.
const PATIENCE: Duration = Duration::from_secs(3600);
/// The longest that a stopped command may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(120);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// Differences from the model that are shown.
const SHOWN: usize = 5;

/// How large, how long, how fast.
#[derive(Clone, Copy, Debug)]
pub struct Soak {
    /// Forms of the domain when its migration begins.
    pub forms: usize,
    /// How long users go on.
    pub time: Duration,
    /// Forms a second that arrive; edits, archives and deletions come on top.
    pub rate: f64,
    /// Workers of each kind.
    pub workers: usize,
    /// `live.minimum_age`: what is younger is left for the finish.
    pub minimum_age: Duration,
    /// The longest that the finish may take.
    pub finish_within: Duration,
    /// The same seed gives the same domain.
    pub seed: u64,
}

/// What came of it. What was not reached has no value.
#[derive(Clone, Debug)]
pub struct Report {
    soak: Soak,
    /// Writes by kind.
    pub writes: BTreeMap<Kind, usize>,
    /// From the command to the first round of following.
    pub live_seconds: Option<f64>,
    /// For how long users worked.
    pub writing_seconds: Option<f64>,
    /// From the end of submissions to the end of `MIGRATE --finish`.
    pub finish_seconds: Option<f64>,
    /// Of `COMMIT`.
    pub commit_seconds: Option<f64>,
    /// Forms of the domain that are in SQL in the end, of all types.
    pub forms_in_sql: Option<usize>,
}

impl Report {
    fn new(soak: Soak) -> Self {
        Self {
            soak,
            writes: BTreeMap::new(),
            live_seconds: None,
            writing_seconds: None,
            finish_seconds: None,
            commit_seconds: None,
            forms_in_sql: None,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "forms={} rate={}", self.soak.forms, self.soak.rate)?;
        for (kind, count) in &self.writes {
            write!(f, " {}={count}", kind.as_str())?;
        }
        for (name, seconds) in [
            ("live_seconds", self.live_seconds),
            ("writing_seconds", self.writing_seconds),
            ("finish_seconds", self.finish_seconds),
            ("commit_seconds", self.commit_seconds),
        ] {
            if let Some(seconds) = seconds {
                write!(f, " {name}={seconds:.1}")?;
            }
        }
        write!(f, " finish_limit_seconds={:.0}", self.soak.finish_within.as_secs_f64())?;
        if let Some(forms) = self.forms_in_sql {
            write!(f, " forms_in_sql={forms}")?;
        }
        let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        write!(
            f,
            " cores={cores} minimum_age_seconds={:.0} cache_wait_seconds={:.0}",
            self.soak.minimum_age.as_secs_f64(),
            CACHE_WAIT.as_secs_f64()
        )
    }
}

/// Runs it. Gives what came of it, and why it failed.
pub async fn run(soak: Soak, settings: Settings) -> (Report, Result<()>) {
    let mut report = Report::new(soak);
    let ended = soak_through(soak, settings, &mut report).await;
    (report, ended)
}

async fn soak_through(soak: Soak, mut settings: Settings, report: &mut Report) -> Result<()> {
    let seconds = |time: Duration| format!("\"{}ms\"", time.as_millis());
    settings.set("live.minimum_age", seconds(soak.minimum_age));
    settings.set("live.follow_pause", "\"1s\"");
    settings.set("hq.cache_wait", seconds(CACHE_WAIT));
    let late = (soak.time.as_secs_f64() * soak.rate).round() as usize;
    let options = Options {
        settings,
        ..Options::default().workers(soak.workers)
    };
    let mut world = World::start(options).await?;
    let generated = generator::generate(&generator::Options::new(DOMAIN, soak.forms + late, soak.seed));
    let GeneratedDomain { docs, model, .. } = generated;
    let Submissions { before, writes } = Submissions::of(docs, late);
    report.writes = crate::submissions::counts(&writes);
    world
        .load(&GeneratedDomain {
            docs: before,
            blobs: generated.blobs,
            blobmeta: generated.blobmeta,
            stock: generated.stock,
            domain_doc: generated.domain_doc,
            model: generator::Model::default(),
        })
        .await?;

    let started = Instant::now();
    let command = world.begin_domain(DOMAIN, "MIGRATE", &["--live", "--follow"])?;
    let pace = soak.time.div_f64(writes.len().max(1) as f64);
    let submitting = submit(&world, writes, pace);
    let reaching = reach_following(&world, started);
    let (writing, live) = tokio::try_join!(submitting, reaching)?;
    report.writing_seconds = Some(writing);
    report.live_seconds = Some(live);

    let stopped = Instant::now();
    let finish = world.domain(DOMAIN, "MIGRATE", &["--finish"]).await?;
    let took = stopped.elapsed();
    report.finish_seconds = Some(took.as_secs_f64());
    ensure!(finish.status == Some(0), "{}", finish.told());
    end(command).await?;
    let committing = Instant::now();
    let commit = world.domain(DOMAIN, "COMMIT", &[]).await?;
    report.commit_seconds = Some(committing.elapsed().as_secs_f64());
    ensure!(commit.status == Some(0), "{}", commit.told());

    let actual = world.actual(DOMAIN).await?;
    report.forms_in_sql = Some(actual.forms.len());
    let differences = compare(&model, &actual, SHOWN);
    ensure!(
        differences.is_empty(),
        "rows differ from the model: {}",
        differences.join("; ")
    );
    world.end()?;
    ensure!(took <= soak.finish_within, "the finish took longer than it may");
    Ok(())
}

/// Writes at a steady pace; one that is late is followed by the next at once.
async fn submit(world: &World, writes: Vec<Write>, pace: Duration) -> Result<f64> {
    let started = Instant::now();
    let mut tick = tokio::time::interval(pace.max(Duration::from_micros(1)));
    for write in writes {
        tick.tick().await;
        world.load_documents(write.docs).await?;
    }
    Ok(started.elapsed().as_secs_f64())
}

async fn reach_following(world: &World, started: Instant) -> Result<f64> {
    while world.text("select phase from migration").await?.as_deref() != Some("follow") {
        ensure!(started.elapsed() < PATIENCE, "the run does not come to follow");
        tokio::time::sleep(LOOK).await;
    }
    Ok(started.elapsed().as_secs_f64())
}

async fn end(command: RunningCommand) -> Result<()> {
    let output = command.end(STOP_PATIENCE).await.context("the run that followed")?;
    ensure!(output.status == Some(130), "{}", output.told());
    Ok(())
}
