//! A world: databases, servers and processes of one test or measurement.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use generator::GeneratedDomain;
use serde_json::Value;
use tempfile::TempDir;
use tokio_postgres::Client;
use url::Url;
use uuid::Uuid;

use crate::database::{self, Databases};
use crate::environment;
use crate::load::{self, Shards, StockTables};
use crate::program::{Launch, Program, Watchdog};
use crate::queues::Queues;
use crate::settings::{Settings, quoted};
use crate::source::{Source, SourceKind};
use crate::turn::Turn;

mod commands;
mod rows;
mod streamed;

/// The longest a command may take.
const COMMAND_PATIENCE: Duration = Duration::from_secs(400);
/// The longest anything else may take that must happen.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks at something that must happen.
const LOOK: Duration = Duration::from_millis(20);
/// Differences shown at most.
const SHOWN: usize = 15;
/// Lines of each log that are shown when a test fails.
const LOG_LINES: usize = 25;

/// What carries the batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerKind {
    /// RabbitMQ; this world waits for its turn.
    RabbitMq,
    /// The broker within the coordinator's process.
    InProcess,
}

/// The three kinds of workers.
pub const WORKERS: [&str; 3] = ["form-worker", "case-worker", "diff-worker"];

/// What a world is like.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which server holds the documents.
    pub source: SourceKind,
    /// What carries the batches.
    pub broker: BrokerKind,
    /// Workers of each kind.
    pub workers: usize,
    /// Whether a `coordinator serve` runs.
    pub serve: bool,
    /// Databases that forms and cases are spread over; 0: everything is in the default database.
    pub shards: u32,
    /// Configuration.
    pub settings: Settings,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            source: SourceKind::StandIn,
            broker: BrokerKind::RabbitMq,
            workers: 2,
            serve: false,
            shards: 0,
            settings: Settings::for_tests(),
        }
    }
}

impl Options {
    /// Everything in one process; needs no RabbitMQ.
    pub fn in_process() -> Self {
        Self {
            broker: BrokerKind::InProcess,
            workers: 0,
            ..Self::default()
        }
    }

    /// The same with a setting in TOML.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.settings.set(key, value);
        self
    }

    /// The same with so many workers of each kind.
    #[must_use]
    pub fn workers(self, workers: usize) -> Self {
        Self { workers, ..self }
    }
}

/// Databases, servers and processes. All of it is gone when this is dropped.
pub struct World {
    // In the order in which they must go.
    programs: Vec<Program>,
    watchdog: Watchdog,
    source: Source,
    queues: Option<Queues>,
    target: Client,
    shards: Shards,
    state: Client,
    state_url: Url,
    settings: Settings,
    binaries: PathBuf,
    started: usize,
    ended: bool,
    _databases: Databases,
    folder: TempDir,
    _turn: Option<Turn>,
}

impl World {
    /// Makes the databases, writes the configuration, runs `coordinator init`, starts the processes.
    ///
    /// # Errors
    /// What is missing or cannot be reached.
    pub async fn start(options: Options) -> Result<Self> {
        let binaries = environment::binaries()?;
        let prefix = format!("e2e_{}", &Uuid::new_v4().simple().to_string()[..12]);
        let (turn, queues, broker) = match options.broker {
            BrokerKind::InProcess => (None, None, "memory:".to_owned()),
            BrokerKind::RabbitMq => {
                let url = environment::amqp()?;
                let turn = Turn::take(&url).await?;
                let queues = Queues::connect(&url).await?;
                queues.purge().await?;
                (Some(turn), Some(queues), url.to_string())
            }
        };
        let folder = tempfile::Builder::new()
            .prefix("couch-sql-e2e-")
            .tempdir()
            .context("make a folder")?;
        std::fs::create_dir(folder.path().join("blobs")).context("make a folder")?;
        let mut databases = Databases::new(environment::postgres()?, prefix.clone());
        let target_url = databases.create("hq").await?;
        let state_url = databases.create("state").await?;
        let source = Source::create(&options.source, &prefix).await?;

        let mut settings = options.settings;
        settings.set_text("source.url", source.url().as_str());
        settings.set_text("source.forms_db", source.forms().name());
        settings.set_text("source.domains_db", source.domains().name());
        settings.set_text("blobs.kind", "fs");
        settings.set_text("blobs.path", &folder.path().join("blobs").to_string_lossy());
        settings.set_text("target.default", target_url.as_str());
        settings.set_text("state.url", state_url.as_str());
        settings.set_text("broker.url", &broker);
        let shard_urls = shard_urls(&mut databases, options.shards).await?;
        if !shard_urls.is_empty() {
            let count = shard_urls.len() as u32 * LOGICAL_PER_DATABASE;
            settings.set("target.shard_count", count.to_string());
            let entries = shard_urls
                .iter()
                .map(|(first, last, url)| format!("{{ range = [{first}, {last}], url = {} }}", quoted(url.as_str())));
            settings.set("target.shards", format!("[{}]", entries.collect::<Vec<_>>().join(", ")));
        }
        settings.write(&folder.path().join(CONFIGURATION))?;

        let mut world = Self {
            programs: Vec::new(),
            watchdog: Watchdog::start()?,
            source,
            queues,
            target: database::connect(&target_url).await?,
            shards: connect_shards(&target_url, &shard_urls).await?,
            state: connect_state(&state_url).await?,
            state_url,
            settings,
            binaries,
            started: 0,
            ended: false,
            _databases: databases,
            folder,
            _turn: turn,
        };
        let init = world.coordinator(&["init", "--create-target"]).await?;
        ensure!(init.status == Some(0), "{}", init.told());
        for worker in WORKERS {
            world.start_workers(worker, options.workers).await?;
        }
        if options.serve {
            world.start_program("serve", "coordinator", &["serve"])?;
        }
        Ok(world)
    }

    /// Its folder: configuration, logs, blobs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration file.
    pub fn configuration(&self) -> PathBuf {
        self.folder().join(CONFIGURATION)
    }

    /// Writes the configuration under another name, with some keys set to other values in TOML. Gives its path.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn configuration_with(&self, name: &str, changes: &[(&str, &str)]) -> Result<String> {
        let mut settings = self.settings.clone();
        for (key, value) in changes {
            settings.set(key, *value);
        }
        let path = self.folder().join(name);
        settings.write(&path)?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// The source.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// RabbitMQ itself.
    ///
    /// # Panics
    /// This world does without.
    pub fn queues(&self) -> &Queues {
        self.queues.as_ref().expect("this world does without RabbitMQ")
    }

    /// Connects to RabbitMQ again, after it was restarted.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn reconnect_queues(&mut self) -> Result<()> {
        self.queues = Some(Queues::connect(&environment::amqp()?).await?);
        Ok(())
    }

    /// HQ's default database.
    pub fn target(&self) -> &Client {
        &self.target
    }

    /// All databases that hold forms and cases.
    pub fn shards(&self) -> &Shards {
        &self.shards
    }

    /// The database with our state schema, which is on the search path.
    pub fn state(&self) -> &Client {
        &self.state
    }

    /// Another connection to the default database of HQ, for a lock.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn another_target(&self) -> Result<Client> {
        let mut url = self.state_url.clone();
        url.set_path(&url.path().replace("_state", "_hq"));
        database::connect(&url).await
    }

    /// Puts a domain where the migration finds it.
    ///
    /// # Errors
    /// Those of the servers.
    pub async fn load(&self, domain: &GeneratedDomain) -> Result<()> {
        self.load_documents(domain.docs.clone()).await?;
        load::write_blobs(&self.folder().join("blobs"), domain.blobs.clone()).await?;
        self.shards.load_blobmeta(&domain.blobmeta).await?;
        if !domain.stock.is_empty() {
            StockTables::open(&self.target).await?.load(&domain.stock).await?;
        }
        load::write_documents(self.source.domains(), std::slice::from_ref(&domain.domain_doc)).await
    }

    /// Puts documents into the database of forms and cases.
    ///
    /// # Errors
    /// Those of Couch.
    pub async fn load_documents(&self, documents: Vec<Value>) -> Result<()> {
        self.source.load(documents).await
    }

    /// Starts so many more workers of a kind, and waits until they are on record.
    ///
    /// # Errors
    /// They cannot be run, or do not come up.
    pub async fn start_workers(&mut self, kind: &str, count: usize) -> Result<()> {
        for _ in 0..count {
            self.start_program(kind, kind, &[])?;
        }
        if count > 0 {
            let pids: Vec<i32> = self
                .pids(kind)
                .into_iter()
                .filter_map(|pid| i32::try_from(pid).ok())
                .collect();
            let wanted = pids.len();
            self.until(&format!("{wanted} of {kind} are there"), async |world| {
                let alive: i64 = world
                    .state
                    .query_one("select count(distinct pid) from instance where pid = any($1)", &[&pids])
                    .await?
                    .get(0);
                Ok(usize::try_from(alive)? == wanted)
            })
            .await?;
        }
        Ok(())
    }

    /// Starts a process in the background.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn start_program(&mut self, label: &str, binary: &str, arguments: &[&str]) -> Result<()> {
        self.started += 1;
        let name = format!("{label}-{}", self.started);
        let launch = self.launch(binary, arguments);
        let program = Program::start(&name, &launch, self.folder.path(), &mut self.watchdog)?;
        self.programs.push(program);
        Ok(())
    }

    fn launch(&self, binary: &str, arguments: &[&str]) -> Launch {
        let mut all = vec![
            "--config".to_owned(),
            self.configuration().to_string_lossy().into_owned(),
        ];
        all.extend(arguments.iter().map(|&argument| argument.to_owned()));
        Launch {
            program: self.binaries.join(binary),
            arguments: all,
            variables: Vec::new(),
        }
    }

    /// Process ids of the background processes whose name begins so.
    pub fn pids(&self, label: &str) -> Vec<u32> {
        self.programs
            .iter()
            .filter(|program| program.name().starts_with(label))
            .map(Program::pid)
            .collect()
    }

    /// The background processes.
    pub fn programs(&self) -> &[Program] {
        &self.programs
    }

    /// The first background process whose name begins so.
    ///
    /// # Errors
    /// There is none.
    pub fn program(&self, label: &str) -> Result<&Program> {
        let found = self.programs.iter().find(|program| program.name().starts_with(label));
        found.with_context(|| format!("no {label} runs"))
    }

    /// The background process with this id, taken out of the world.
    ///
    /// # Errors
    /// There is none.
    pub fn take_program(&mut self, pid: u32) -> Result<Program> {
        let place = self.programs.iter().position(|program| program.pid() == pid);
        Ok(self
            .programs
            .remove(place.with_context(|| format!("no process {pid} of this world"))?))
    }

    /// The end of a test that has seen what it wanted to see. Whoever drops a world without it wants to know why, and is
    /// shown the logs.
    ///
    /// # Errors
    /// A background process has ended by itself.
    pub fn end(mut self) -> Result<()> {
        for program in &mut self.programs {
            ensure!(program.is_running(), "{} ended by itself", program.name());
        }
        self.ended = true;
        Ok(())
    }

    fn last_lines_of_logs(&self) -> String {
        let mut text = String::new();
        for program in &self.programs {
            let log = program.log();
            let lines: Vec<&str> = log.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LOG_LINES)..];
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "--- {} (pid {})\n{}",
                program.name(),
                program.pid(),
                shown.join("\n")
            );
        }
        text
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !self.ended {
            eprintln!("the last lines of the processes:\n{}", self.last_lines_of_logs());
        }
    }
}

/// Name of the configuration file.
const CONFIGURATION: &str = "couch-sql.toml";
/// Logical shards of each database.
const LOGICAL_PER_DATABASE: u32 = 4;

async fn shard_urls(databases: &mut Databases, count: u32) -> Result<Vec<(u32, u32, Url)>> {
    let mut urls = Vec::new();
    for number in 0..count {
        let first = number * LOGICAL_PER_DATABASE;
        urls.push((
            first,
            first + LOGICAL_PER_DATABASE - 1,
            databases.create(&format!("shard{number}")).await?,
        ));
    }
    Ok(urls)
}

async fn connect_state(url: &Url) -> Result<Client> {
    let client = database::connect(url).await?;
    client.batch_execute("set search_path to couch_sql_migration").await?;
    Ok(client)
}

async fn connect_shards(default: &Url, shards: &[(u32, u32, Url)]) -> Result<Shards> {
    if shards.is_empty() {
        return Ok(Shards::single(database::connect(default).await?));
    }
    let mut databases = Vec::new();
    for (first, last, url) in shards {
        databases.push((*first..=*last, database::connect(url).await?));
    }
    Ok(Shards::of(shards.len() as u32 * LOGICAL_PER_DATABASE, databases))
}
