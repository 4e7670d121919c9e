//! Many small domains and a large one in lists: do the small ones finish at the pace of small ones, and do two lists share
//! them without doing one twice?
//!
//! Three lists, one after the other, each of small domains of its own: a few one at a time, with nothing beside them; many
//! beside the large one, by one coordinator; many by several coordinators that are given the same list at once. At the end a
//! few are migrated live, by several coordinators too, and left so. Whatever the times are: it fails when a domain was not
//! brought to the end that was asked for, was driven more than once, or had a document staged twice.

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
/// Small domains that are migrated one at a time, for comparison.
const ALONE: usize = 12;
/// Small domains that are left live.
const LIVE: usize = 12;
/// A measurement may be long.
const PATIENCE: Duration = Duration::from_secs(4 * 3600);

/// Migrates many small domains and a large one in lists, and prints how long each took.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Small domains beside the large one, and as many again for several coordinators
    #[arg(long, default_value_t = 200)]
    small: usize,
    /// Forms of each small domain
    #[arg(long, default_value_t = 20)]
    small_forms: usize,
    /// Forms of the large domain
    #[arg(long, default_value_t = 20_000)]
    large_forms: usize,
    /// Domains of a list at a time
    #[arg(long, default_value_t = 4)]
    at_most: usize,
    /// Coordinators that are given the same list at once
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=8))]
    coordinators: u8,
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

/// A list, and what is to become of its domains.
struct List<'a> {
    domains: Vec<String>,
    /// Coordinators that are given it at once.
    coordinators: usize,
    at_most: usize,
    /// More options of the command.
    flags: &'a [&'a str],
    /// What each domain's result is called in the summary.
    result: &'static str,
    /// The status of each migration afterwards.
    status: &'static str,
    /// Whether each Domain document says SQL afterwards.
    on_sql: bool,
}

impl<'a> List<'a> {
    fn committed(domains: Vec<String>, coordinators: usize, at_most: usize) -> Self {
        Self {
            domains,
            coordinators,
            at_most,
            flags: &[],
            result: "migrated",
            status: "complete",
            on_sql: true,
        }
    }
}

/// How a list went.
struct Listed {
    /// Seconds of each domain, by whoever did it.
    seconds: BTreeMap<String, f64>,
    /// Domains that each coordinator has done.
    shares: Vec<usize>,
    whole: f64,
}

impl Listed {
    fn of_each(&self) -> Vec<f64> {
        self.seconds.values().copied().collect()
    }
}

struct Figures {
    alone: Vec<f64>,
    /// Transactions of the state database for each of these.
    transactions: i64,
    beside: Vec<f64>,
    large: f64,
    /// Seconds from the start of the list to the end of the last small domain.
    small_done: f64,
    whole_list: f64,
    shared: Listed,
    live: Listed,
}

async fn run(arguments: &Arguments) -> Result<Figures> {
    let options = Options {
        settings: Settings::for_measurements(),
        workers: arguments.workers,
        ..Options::default()
    };
    let mut world = World::start(options).await?;
    let names =
        |kind: &str, count: usize| -> Vec<String> { (0..count).map(|number| format!("{kind}-{number}")).collect() };
    let (alone, beside) = (names("alone", ALONE), names("small", arguments.small));
    let (shared, live) = (names("shared", arguments.small), names("live", LIVE));
    let small: Vec<&String> = alone.iter().chain(&beside).chain(&shared).chain(&live).collect();
    for (number, name) in small.iter().enumerate() {
        let seed = arguments.seed + number as u64;
        let options = generator::Options::new(name.as_str(), arguments.small_forms, seed);
        world.load_streamed(&options).await?;
    }
    world
        .load_streamed(&generator::Options::new(LARGE, arguments.large_forms, arguments.seed))
        .await?;
    world
        .target()
        .batch_execute("analyze blobs_blobmeta; checkpoint")
        .await?;
    eprintln!("{} small domains and a large one are loaded", small.len());
    let loaded = small.len() + 1;
    let several = usize::from(arguments.coordinators);

    let before = transactions(&world).await?;
    let alone = migrate(&mut world, List::committed(alone, 1, 1)).await?;
    let transactions = (transactions(&world).await? - before) / i64::try_from(ALONE)?;

    let everything = std::iter::once(LARGE.to_owned()).chain(beside).collect();
    let mut beside = migrate(&mut world, List::committed(everything, 1, arguments.at_most)).await?;
    let small_done: f64 = world
        .state()
        .query_one(
            "select extract(epoch from max(r.ended_at) - min(r.queued_at))::float8 from run r
             join migration m on m.id = r.migration_id where m.domain like 'small-%'",
            &[],
        )
        .await?
        .try_get(0)?;
    let large = beside
        .seconds
        .remove(LARGE)
        .context("the large domain is not in the summary")?;

    let shared = migrate(&mut world, List::committed(shared, several, arguments.at_most)).await?;
    let live = List {
        flags: &["--live"],
        result: "live",
        status: "dry_run",
        on_sql: false,
        ..List::committed(live, several, arguments.at_most)
    };
    let live = migrate(&mut world, live).await?;

    none_twice(&world, loaded).await?;
    world.end()?;
    Ok(Figures {
        alone: alone.of_each(),
        transactions,
        beside: beside.of_each(),
        large,
        small_done,
        whole_list: beside.whole,
        shared,
        live,
    })
}

/// Transactions of the state database so far, as its server counts them: some of the last second may be missing.
async fn transactions(world: &World) -> Result<i64> {
    world
        .number("select xact_commit + xact_rollback from pg_stat_database where datname = current_database()")
        .await
}

/// Gives the list to its coordinators. Every domain must be done by one of them, and be what it was to become.
async fn migrate(world: &mut World, list: List<'_>) -> Result<Listed> {
    let path = world.folder().join("list.txt");
    std::fs::write(&path, list.domains.join("\n"))?;
    let (file, at_most) = (path.to_string_lossy().into_owned(), list.at_most.to_string());
    let mut arguments = vec![COMMAND, "--json", "--at-most", &at_most, &file];
    arguments.extend(list.flags);
    let started = Instant::now();
    let mut commands = Vec::new();
    for _ in 0..list.coordinators {
        commands.push(world.begin(&arguments)?);
    }
    let (mut seconds, mut shares) = (BTreeMap::new(), Vec::new());
    for command in commands {
        let output = command.end(PATIENCE).await?;
        let done = done(&output, list.result, list.domains.len())?;
        shares.push(done.len());
        for (domain, took) in done {
            let before = seconds.insert(domain.clone(), took);
            ensure!(before.is_none(), "{domain} was done by two lists");
        }
    }
    let whole = started.elapsed().as_secs_f64();
    for domain in &list.domains {
        ensure!(seconds.contains_key(domain), "{domain} was done by nobody");
        let doc = world.source().domain_doc(domain).await?;
        ensure!(
            doc["use_sql_backend"].as_bool().unwrap_or_default() == list.on_sql,
            "{domain} is on the wrong backend"
        );
    }
    let others: Vec<String> = world
        .state()
        .query(
            "select domain from migration where domain = any($1) and status <> $2 order by 1",
            &[&list.domains, &list.status],
        )
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    ensure!(others.is_empty(), "not {}: {}", list.status, others.join(", "));
    Ok(Listed { seconds, shares, whole })
}

/// The domains that this command has done itself, with their seconds. It must tell of every domain of the list.
fn done(output: &Output, result: &str, listed: usize) -> Result<Vec<(String, f64)>> {
    let summary: Value = serde_json::from_str(&output.stdout).with_context(|| output.told())?;
    ensure!(output.status == Some(0), "{}", output.told());
    let rows = summary["domains"].as_array().map_or(&[][..], Vec::as_slice);
    ensure!(rows.len() == listed, "{} rows for {listed} domains", rows.len());
    let mut done = Vec::new();
    for row in rows {
        let domain = row["domain"].as_str().context("a name")?;
        match row["result"].as_str().unwrap_or_default() {
            found if found == result => done.push((domain.to_owned(), row["seconds"].as_f64().context("seconds")?)),
            "by_another_list" => {}
            found => anyhow::bail!("{domain} is {found}: {}", row["detail"]),
        }
    }
    Ok(done)
}

/// Every domain has one run, which one process has driven to its end, and none of its documents was staged twice.
async fn none_twice(world: &World, domains: usize) -> Result<()> {
    for (what, query) in [
        (
            "runs that have not ended well",
            "select m.domain || ': ' || r.state from run r join migration m on m.id = r.migration_id
             where r.state <> 'finished' order by 1",
        ),
        (
            "domains with another number of runs than one",
            "select m.domain || ': ' || count(r.id) from migration m left join run r on r.migration_id = m.id
             group by m.domain having count(r.id) <> 1 order by 1",
        ),
        (
            "domains with documents that were staged twice, or never",
            "select m.domain || ': ' || coalesce(t.items, 0) || ' of ' || d.documents from migration m
             cross join lateral (select count(*) as documents from doc_revision d where d.migration_id = m.id) d
             left join lateral (select sum(items) as items from stage_total t
                                where t.migration_id = m.id and t.stage = 'form') t on true
             where t.items is distinct from d.documents order by 1",
        ),
    ] {
        let rows = world.state().query(query, &[]).await?;
        let found: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        ensure!(found.is_empty(), "{what}: {}", found.join(", "));
    }
    let runs = world.number("select count(*) from run").await?;
    ensure!(usize::try_from(runs)? == domains, "{runs} runs for {domains} domains");
    Ok(())
}

impl Figures {
    fn print(&self, arguments: &Arguments) {
        println!(
            "lists of {} domains of {} forms, one of {} forms beside the first; {} at a time, {} workers of each kind",
            arguments.small, arguments.small_forms, arguments.large_forms, arguments.at_most, arguments.workers
        );
        let shared = self.shared.of_each();
        for (what, seconds) in [
            ("small, one at a time: median", part(&self.alone, 50)),
            ("small, beside the large one: median", part(&self.beside, 50)),
            ("small, beside the large one: slowest of ten", part(&self.beside, 90)),
            ("small, beside the large one: slowest", part(&self.beside, 100)),
            ("all small ones beside it were done after", self.small_done),
            ("the large one", self.large),
            ("that list", self.whole_list),
            ("small, several coordinators: median", part(&shared, 50)),
            ("small, several coordinators: slowest", part(&shared, 100)),
            ("that list", self.shared.whole),
        ] {
            println!("{what:<46} {seconds:>8.1} s");
        }
        println!(
            "state transactions of a small domain: {}; domains done by each of {} coordinators: {}; left live: {}",
            self.transactions,
            arguments.coordinators,
            told(&self.shared.shares),
            told(&self.live.shares)
        );
        println!(
            "lists: ok small={} small_forms={} large_forms={} alone_median_seconds={:.1} alone_transactions={} \
             small_median_seconds={:.1} small_slowest_seconds={:.1} small_done_seconds={:.1} large_seconds={:.1} \
             list_seconds={:.1} coordinators={} shared_median_seconds={:.1} shared_list_seconds={:.1} shares={} \
             live_shares={}",
            arguments.small,
            arguments.small_forms,
            arguments.large_forms,
            part(&self.alone, 50),
            self.transactions,
            part(&self.beside, 50),
            part(&self.beside, 100),
            self.small_done,
            self.large,
            self.whole_list,
            arguments.coordinators,
            part(&shared, 50),
            self.shared.whole,
            told(&self.shared.shares),
            told(&self.live.shares)
        );
    }
}

fn told(shares: &[usize]) -> String {
    let shares: Vec<String> = shares.iter().map(usize::to_string).collect();
    shares.join("/")
}

/// The value below which this share of the values lies.
fn part(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied().unwrap_or(0.0)
}
