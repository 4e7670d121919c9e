//! One list of many small domains and a large one: do the small ones finish at the pace of small ones?
//!
//! First a few small domains in a list by themselves, for comparison. Then all others in one list, the large one at its top;
//! with `--coordinators 2`, the same list is started twice at once. What counts is that every domain is migrated, and none
//! twice; the figures are printed.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use e2e::program::Output;
use e2e::settings::Settings;
use e2e::world::{Options, World};
use serde_json::Value;

const COMMAND: &str = "migrate_multiple_domains_from_couch_to_sql";
const LARGE: &str = "large";
/// Small domains that are migrated by themselves, for comparison.
const BY_THEMSELVES: usize = 12;
/// A measurement may be long.
const PATIENCE: Duration = Duration::from_secs(4 * 3600);

/// Migrates many small domains and a large one in one list, and prints how long each took.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Small domains
    #[arg(long, default_value_t = 200)]
    small: usize,
    /// Forms of each small domain
    #[arg(long, default_value_t = 20)]
    small_forms: usize,
    /// Forms of the large domain
    #[arg(long, default_value_t = 20_000)]
    large_forms: usize,
    /// Domains at a time
    #[arg(long, default_value_t = 4)]
    at_most: usize,
    /// Coordinators that are given the list at the same time
    #[arg(long, default_value_t = 1)]
    coordinators: usize,
    /// Workers of each kind
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// The same seed gives the same documents
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (small, large_forms) = (arguments.small, arguments.large_forms);
    match run(&arguments).await {
        Ok(figures) => {
            figures.print(&arguments);
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("lists: failed small={small} large_forms={large_forms} ({error:#})");
            ExitCode::FAILURE
        }
    }
}

/// Seconds.
struct Figures {
    /// Small domains by themselves.
    alone: Vec<f64>,
    /// Small domains beside the large one.
    beside: Vec<f64>,
    large: f64,
    /// From the start of the list to the end of the last small domain.
    small_done: f64,
    whole_list: f64,
}

async fn run(arguments: &Arguments) -> Result<Figures> {
    let options = Options {
        settings: Settings::for_measurements(),
        workers: arguments.workers,
        ..Options::default()
    };
    let mut world = World::start(options).await?;
    let compared: Vec<String> = (0..BY_THEMSELVES).map(|number| format!("alone-{number}")).collect();
    let small: Vec<String> = (0..arguments.small).map(|number| format!("small-{number}")).collect();
    for (number, name) in compared.iter().chain(&small).enumerate() {
        let seed = arguments.seed + number as u64;
        let options = generator::Options::new(name, arguments.small_forms, seed);
        world.load_streamed(&options).await?;
    }
    world
        .load_streamed(&generator::Options::new(LARGE, arguments.large_forms, arguments.seed))
        .await?;
    world
        .target()
        .batch_execute("analyze blobs_blobmeta; checkpoint")
        .await?;
    eprintln!(
        "{} small domains and a large one are loaded",
        compared.len() + small.len()
    );

    let alone = in_one_list(&mut world, arguments, 1, &compared).await?;
    let everything: Vec<String> = std::iter::once(LARGE.to_owned()).chain(small.iter().cloned()).collect();
    let started = Instant::now();
    let mut beside = in_one_list(&mut world, arguments, arguments.coordinators.max(1), &everything).await?;
    let whole_list = started.elapsed().as_secs_f64();

    let runs = world.number("select count(*) from run").await?;
    let domains = compared.len() + everything.len();
    ensure!(usize::try_from(runs)? == domains, "{runs} runs for {domains} domains");
    let small_done: f64 = world
        .state()
        .query_one(
            "select extract(epoch from max(r.ended_at) - min(r.queued_at))::float8 from run r
             join migration m on m.id = r.migration_id where m.domain like 'small-%'",
            &[],
        )
        .await?
        .try_get(0)?;
    let large = beside.remove(LARGE).context("the large domain is not in the summary")?;
    world.end()?;
    Ok(Figures {
        alone: alone.into_values().collect(),
        beside: beside.into_values().collect(),
        large,
        small_done,
        whole_list,
    })
}

/// Gives the list to so many coordinators. Seconds of each domain, by whoever did it; every domain must be on SQL at the end.
async fn in_one_list(
    world: &mut World,
    arguments: &Arguments,
    coordinators: usize,
    domains: &[String],
) -> Result<BTreeMap<String, f64>> {
    let path = world.folder().join("list.txt");
    std::fs::write(&path, domains.join("\n"))?;
    let (list, at_most) = (path.to_string_lossy().into_owned(), arguments.at_most.to_string());
    let mut commands = Vec::new();
    for _ in 0..coordinators {
        commands.push(world.begin(&[COMMAND, "--json", "--at-most", &at_most, &list])?);
    }
    let mut seconds: BTreeMap<String, f64> = BTreeMap::new();
    for command in commands {
        let output = command.end(PATIENCE).await?;
        for (domain, took) in migrated(&output)? {
            let before = seconds.insert(domain.clone(), took);
            ensure!(before.is_none(), "{domain} was migrated by two lists");
        }
    }
    for domain in domains {
        ensure!(seconds.contains_key(domain), "{domain} was migrated by nobody");
        let switch = &world.source().domain_doc(domain).await?["use_sql_backend"];
        ensure!(*switch == true, "{domain} is not on SQL");
    }
    Ok(seconds)
}

/// The domains that this command has migrated, with their seconds.
fn migrated(output: &Output) -> Result<Vec<(String, f64)>> {
    let summary: Value = serde_json::from_str(&output.stdout).with_context(|| output.told())?;
    ensure!(output.status == Some(0), "{}", output.told());
    let rows = summary["domains"].as_array().into_iter().flatten();
    rows.filter(|row| row["result"] == "migrated")
        .map(|row| {
            let domain = row["domain"].as_str().context("a name")?;
            let seconds = row["seconds"].as_f64().context("seconds")?;
            Ok((domain.to_owned(), seconds))
        })
        .collect()
}

impl Figures {
    fn print(&self, arguments: &Arguments) {
        println!(
            "{} domains of {} forms and one of {}, {} at a time, {} coordinators, {} workers of each kind",
            arguments.small,
            arguments.small_forms,
            arguments.large_forms,
            arguments.at_most,
            arguments.coordinators,
            arguments.workers
        );
        for (what, seconds) in [
            ("small, by themselves: median", part(&self.alone, 50)),
            ("small, beside the large one: median", part(&self.beside, 50)),
            ("small, beside the large one: slowest of ten", part(&self.beside, 90)),
            ("small, beside the large one: slowest", part(&self.beside, 100)),
            ("all small ones were done after", self.small_done),
            ("the large one", self.large),
            ("the whole list", self.whole_list),
        ] {
            println!("{what:<46} {seconds:>8.1} s");
        }
        println!(
            "lists: ok small={} large_forms={} small_median_seconds={:.1} alone_median_seconds={:.1} small_done_seconds={:.1} \
             large_seconds={:.1} list_seconds={:.1} coordinators={}",
            arguments.small,
            arguments.large_forms,
            part(&self.beside, 50),
            part(&self.alone, 50),
            self.small_done,
            self.large,
            self.whole_list,
            arguments.coordinators
        );
    }
}

/// The value below which this share of the values lies.
fn part(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied().unwrap_or(0.0)
}
