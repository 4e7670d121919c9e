//! `cargo xtask demo`: a generated domain, migrated from start to finish by separate processes.

mod configuration;
mod fleet;
mod steps;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::program::SERVICES;
use crate::register::Register;
use crate::services;
use crate::workspace::Workspace;
use configuration::{Broker, Configuration, Source};
pub(crate) use fleet::stop_leftovers;
use fleet::{Fleet, Program};
use steps::Steps;

/// The domain of the demonstration.
const DOMAIN: &str = "demo";

/// Databases of its own, so that running it again starts afresh and disturbs nobody.
const TARGET_DATABASE: &str = "demo_hq";
const STATE_DATABASE: &str = "demo_state";
const FORMS_DATABASE: &str = "demo_commcarehq";
const DOMAINS_DATABASE: &str = "demo_commcarehq__domains";

#[derive(Args)]
pub(crate) struct DemoArguments {
    /// How many forms to generate
    #[arg(long, default_value_t = 5_000)]
    forms: u64,
    /// Seed of the generated domain: the same seed gives the same documents
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Which server holds the documents
    #[arg(long, value_enum, default_value_t = SourceKind::Pouchdb)]
    source: SourceKind,
    /// Do without RabbitMQ: driver and workers in one process, with the broker inside it
    #[arg(long)]
    standalone: bool,
    /// Leave the processes running at the end; the next demo, or `cargo xtask down`, stops them
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SourceKind {
    /// PouchDB Server, which `cargo xtask up` starts
    Pouchdb,
    /// The in-memory server of this workspace: faster to load
    StandIn,
}

/// Whether driver and workers are separate processes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Separate,
    Standalone,
}

/// Where the demonstration's files and programs are.
struct Places {
    root: PathBuf,
    folder: PathBuf,
    binaries: PathBuf,
}

impl Places {
    fn configuration(&self) -> PathBuf {
        self.folder.join("couch-sql.toml")
    }

    fn blobs(&self) -> PathBuf {
        self.folder.join("blobs")
    }

    fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    /// As one would type it in the root of the workspace.
    fn shown<'path>(&self, path: &'path Path) -> std::path::Display<'path> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }
}

/// Runs the demonstration; the last line says how it went.
pub(crate) fn run(workspace: &Workspace, arguments: &DemoArguments) -> Result<ExitCode> {
    let start = Instant::now();
    match demonstrate(workspace, arguments) {
        Ok(Measured { docs, migration }) => {
            let seconds = migration.as_secs_f64();
            let rate = docs as f64 / seconds;
            println!(
                "The whole demonstration took {:.0} s, MIGRATE {seconds:.1} s.",
                start.elapsed().as_secs_f64()
            );
            println!(
                "demo: ok forms={} docs={docs} seconds={seconds:.1} docs_per_second={rate:.0}",
                arguments.forms
            );
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            println!("demo: failed ({error:#})");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// What the demonstration measures: forms and cases, and the time from their scan to their last comparison.
struct Measured {
    docs: u64,
    migration: Duration,
}

fn demonstrate(workspace: &Workspace, arguments: &DemoArguments) -> Result<Measured> {
    let folder = workspace.private_folder("demo")?;
    let lock = fs::File::create(folder.join("lock")).context("cannot write .dev/demo/lock")?;
    ensure!(lock.try_lock().is_ok(), "another demo is running in this clone");
    stop_leftovers(workspace)?;

    let started = services::start(workspace)?;
    let shape = match (arguments.standalone, started.has("rabbitmq")) {
        (true, _) => Shape::Standalone,
        (false, true) => Shape::Separate,
        (false, false) => {
            eprintln!(
                "There is no RabbitMQ: the same job runs in one process, with the broker inside it (--standalone)."
            );
            Shape::Standalone
        }
    };
    let register = match arguments.source {
        SourceKind::Pouchdb => started.require(&["postgres", "pouchdb"])?,
        SourceKind::StandIn => started.require(&["postgres"])?,
    };

    build(workspace, arguments.source)?;
    let binaries = workspace.target()?.join("release");
    let places = Places {
        root: workspace.root().to_path_buf(),
        folder,
        binaries,
    };
    start_afresh(workspace, &register, &places, arguments.source)?;

    let mut fleet = Fleet::start(places.folder.join("processes.json"), places.logs())?;
    let source = source(&mut fleet, &register, &places, arguments.source)?;
    let broker = match shape {
        Shape::Standalone => Broker::InProcess,
        Shape::Separate => Broker::rabbitmq(&register)?,
    };
    Configuration {
        source,
        broker,
        blobs: places.blobs(),
        register: &register,
    }
    .write(&places.configuration())?;

    let steps = Steps::new(&places);
    let measured = migrate(&steps, &mut fleet, &places, arguments, shape)?;
    what_next(&steps, &fleet, &places, arguments.keep);
    let ended = if arguments.keep { fleet.release() } else { fleet.stop() };
    ended.map(|()| measured)
}

fn build(workspace: &Workspace, source: SourceKind) -> Result<()> {
    let mut build = workspace.cargo(&["build", "--release", "-p", "e2e", "--bin", "demo-load"]);
    for service in SERVICES {
        build.args(["-p", service, "--bin", service]);
    }
    if source == SourceKind::StandIn {
        build.args(["-p", "couch-standin", "--bin", "couch-standin"]);
    }
    eprintln!("building in release mode; the first time takes some minutes");
    ensure!(
        build.status().context("cannot run cargo")?.success(),
        "the build failed"
    );
    Ok(())
}

/// Empty databases, an empty blob store, empty logs.
fn start_afresh(workspace: &Workspace, register: &Register, places: &Places, source: SourceKind) -> Result<()> {
    let mut postgres = services::postgres::session(workspace, register)?;
    for database in [TARGET_DATABASE, STATE_DATABASE] {
        postgres.execute(&format!("drop database if exists {database} with (force)"))?;
        postgres.execute(&format!("create database {database}"))?;
    }
    if source == SourceKind::Pouchdb {
        for database in [FORMS_DATABASE, DOMAINS_DATABASE] {
            services::pouchdb::drop_database(register, database)?;
        }
    }
    for folder in [places.blobs(), places.logs()] {
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    Ok(())
}

fn source(fleet: &mut Fleet, register: &Register, places: &Places, kind: SourceKind) -> Result<Source> {
    match kind {
        SourceKind::Pouchdb => Source::pouchdb(register),
        SourceKind::StandIn => {
            let password = crate::secret::random()?;
            let port = fleet.choose_port()?;
            let program = Program::new("couch-standin", places.binaries.join("couch-standin"))
                .arguments(&["--listen", &format!("127.0.0.1:{port}")])
                .variable("COUCH_STANDIN_AUTH", &format!("admin:{password}"));
            fleet.add(program, port, "/")?;
            Ok(Source { port, password })
        }
    }
}

/// The demonstration itself, from the empty databases to the domain on SQL.
fn migrate(
    steps: &Steps<'_>,
    fleet: &mut Fleet,
    places: &Places,
    arguments: &DemoArguments,
    shape: Shape,
) -> Result<Measured> {
    let (forms, seed) = (arguments.forms.to_string(), arguments.seed.to_string());
    steps.run("demo-load", &["--domain", DOMAIN, "--forms", &forms, "--seed", &seed])?;
    steps.run("coordinator", &["init", "--create-target"])?;
    steps.say(match shape {
        Shape::Separate => "starting the driver and two workers of each kind, each a process of its own",
        Shape::Standalone => "starting driver and workers in one process",
    });
    start_services(fleet, places, shape)?;

    let domain_command = "migrate_domain_from_couch_to_sql";
    steps.run("coordinator", &[domain_command, DOMAIN, "stats"])?;
    let start = Instant::now();
    steps.run("coordinator", &[domain_command, DOMAIN, "MIGRATE", "--no-input"])?;
    let migration = start.elapsed();
    steps.run("coordinator", &[domain_command, DOMAIN, "stats"])?;
    steps.run("coordinator", &[domain_command, DOMAIN, "COMMIT", "--no-input"])?;
    steps.run("coordinator", &[domain_command, DOMAIN, "stats"])?;
    let docs = steps.count_docs(&[domain_command, DOMAIN, "stats", "--json"])?;
    Ok(Measured { docs, migration })
}

fn start_services(fleet: &mut Fleet, places: &Places, shape: Shape) -> Result<()> {
    let configuration = places.configuration();
    let mut add = |name: &str, binary: &str, action: Option<&str>| -> Result<()> {
        let port = fleet.choose_port()?;
        let program = Program::new(name, places.binaries.join(binary))
            .arguments(&["--config", &configuration.to_string_lossy()])
            .arguments(action.as_slice())
            .variable("COUCH_SQL__TELEMETRY__LISTEN", &format!("127.0.0.1:{port}"));
        fleet.add(program, port, "/readyz")
    };
    match shape {
        Shape::Standalone => add("standalone", "coordinator", Some("standalone")),
        Shape::Separate => {
            add("serve", "coordinator", Some("serve"))?;
            for worker in ["form-worker", "case-worker", "diff-worker"] {
                for number in 1..=2 {
                    add(&format!("{worker}-{number}"), worker, None)?;
                }
            }
            Ok(())
        }
    }
}

fn what_next(steps: &Steps<'_>, fleet: &Fleet, places: &Places, keep: bool) {
    steps.say("where to look next");
    let coordinator = steps.shown_command("coordinator");
    println!("  configuration  {}", places.shown(&places.configuration()));
    println!("  logs           {}/", places.shown(&places.logs()));
    println!("  differences    {coordinator} couch_sql_diff {DOMAIN} show");
    println!("  HQ's tables    . .dev/env && psql \"${{C2S_TEST_PG_URL%/*}}/{TARGET_DATABASE}\"");
    println!("  our state      . .dev/env && psql \"${{C2S_TEST_PG_URL%/*}}/{STATE_DATABASE}\"");
    if keep {
        for (name, port) in fleet.ports() {
            println!("  {name:<14} http://127.0.0.1:{port}/metrics");
        }
        println!("  stop           cargo xtask down");
    } else {
        println!("  metrics        cargo xtask demo --keep leaves the processes and their /metrics pages running");
    }
}
