//! A generated supply chain of any size, migrated and then compared row by row with the generator's own model.
//!
//! Neither side is ever in memory as a whole: the generator gives the domain in pieces, once to load it and once more to
//! compare, and the rows of each piece are read back by their ids. What stands in the target beyond the pieces shows in the
//! number of rows.

use std::collections::BTreeSet;
use std::ops::AddAssign;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use generator::compare::{Actual, compare};
use generator::supply::{self, SupplyOptions};
use generator::{Model, Piece};

use crate::ledger_report;
use crate::load::{self, Loaded, StockTables};
use crate::world::World;

/// Documents that are loaded or compared together: some megabytes.
const DOCS_AT_ONCE: usize = 1000;
/// A year of a large supply chain takes its time, beside whatever else the machine does.
const PATIENCE: Duration = Duration::from_secs(12 * 3600);
/// Pause between two lines that tell how far it is.
const TELL: Duration = Duration::from_secs(30);

/// Rows of each table, or what a model says of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Forms.
    pub forms: usize,
    /// Cases.
    pub cases: usize,
    /// Transactions of cases.
    pub transactions: usize,
    /// Ledger values.
    pub ledger_values: usize,
    /// Ledger transactions.
    pub ledger_transactions: usize,
}

impl Rows {
    fn of(model: &Model) -> Self {
        let mut rows = Self {
            forms: model.forms.len(),
            cases: model.cases.len(),
            ..Self::default()
        };
        for case in model.cases.values() {
            rows.transactions += case.transactions.len();
            rows.ledger_values += case.ledger_values.len();
            rows.ledger_transactions += case.ledger_transactions.len();
        }
        rows
    }
}

impl AddAssign for Rows {
    fn add_assign(&mut self, other: Self) {
        self.forms += other.forms;
        self.cases += other.cases;
        self.transactions += other.transactions;
        self.ledger_values += other.ledger_values;
        self.ledger_transactions += other.ledger_transactions;
    }
}

/// What the comparison found.
#[derive(Clone, Debug, Default)]
pub struct Compared {
    /// Rows that the model has.
    pub rows: Rows,
    /// Differences of ledgers that late reports must leave, and that are on record.
    pub reported: usize,
    /// What is wrong, each a line.
    pub differing: Vec<String>,
}

/// Loads a supply chain into a world, piece by piece.
///
/// # Errors
/// Those of the servers.
pub async fn load(world: &World, options: &SupplyOptions) -> Result<Loaded> {
    let stock = StockTables::open(world.target()).await?;
    let blobs = world.folder().join("blobs");
    let mut pieces = supply::stream(options);
    let mut loaded = Loaded::default();
    let mut told = Instant::now();
    while let Some(gathered) = load::gather(&mut pieces, DOCS_AT_ONCE) {
        loaded.add(&gathered);
        tokio::try_join!(
            world.load_documents(gathered.docs),
            load::write_blobs(&blobs, gathered.blobs),
            world.shards().load_blobmeta(&gathered.blobmeta),
            stock.load(&gathered.stock),
        )?;
        if told.elapsed() > TELL {
            told = Instant::now();
            eprintln!("{} documents loaded", loaded.documents());
        }
    }
    load::write_documents(world.source().domains(), &[supply::domain_document(options)]).await?;
    // A load of this size is no place to wait for the statistics of autovacuum.
    world.target().batch_execute("analyze").await?;
    Ok(loaded)
}

/// Migrates the supply chain. Differences of ledgers may be found; nothing else may stand against it.
///
/// # Errors
/// Those of the servers; the migration has not come to its end.
pub async fn migrate(world: &mut World, domain: &str) -> Result<()> {
    let mut command = world.begin_domain(domain, "MIGRATE", &[])?;
    let mut told = Instant::now();
    while command.is_running() {
        tokio::time::sleep(Duration::from_millis(200)).await;
        if told.elapsed() > TELL {
            told = Instant::now();
            eprintln!("{}", progress(world).await?);
        }
    }
    let output = command.end(PATIENCE).await?;
    ensure!(matches!(output.status, Some(0 | 1)), "{}", output.told());
    let stats = world.stats(domain).await?;
    let phase = world.text("select phase from migration").await?;
    ensure!(phase.as_deref() == Some("finished"), "{}", output.told());
    for obstacle in ["errors", "parked_batches", "cases_to_replay", "pending_case_diffs"] {
        ensure!(stats[obstacle] == 0, "{obstacle}: {stats}");
    }
    for row in stats["doc_types"].as_array().into_iter().flatten() {
        ensure!(row["missing"] == 0, "missing documents: {stats}");
    }
    Ok(())
}

async fn progress(world: &World) -> Result<String> {
    let query = "select concat(phase, ': ',
            (select count(*) from doc_revision), ' documents staged, ',
            (select count(*) from case_state where generation > 0), ' cases replayed, ',
            (select count(*) from case_state where diffed_generation is not null), ' compared')
        from migration";
    Ok(world.text(query).await?.unwrap_or_default())
}

/// Generates the supply chain once more and compares each piece with its rows, and with what is on record of its ledgers.
///
/// # Errors
/// Those of the databases.
pub async fn compare_all(world: &World, options: &SupplyOptions) -> Result<Compared> {
    let mut compared = Compared::default();
    let mut pieces = supply::stream(options);
    let mut told = Instant::now();
    while let Some(gathered) = gather_models(&mut pieces) {
        compare_part(world, &options.domain, &gathered, &mut compared).await?;
        if told.elapsed() > TELL {
            told = Instant::now();
            eprintln!("{} forms compared", compared.rows.forms);
        }
    }
    let found = count(world, &options.domain).await?;
    if found != compared.rows {
        let wanted = compared.rows;
        compared
            .differing
            .push(format!("rows: expected {wanted:?}, found {found:?}"));
    }
    let on_record = ledger_report::on_record(world.state(), None).await?.len();
    if on_record != compared.reported {
        let wanted = compared.reported;
        let text = format!("differences on record: expected {wanted} that the model has, found {on_record}");
        compared.differing.push(text);
    }
    Ok(compared)
}

/// Models of as many pieces as are worth their queries. Documents and blobs are of no interest here.
fn gather_models(pieces: &mut impl Iterator<Item = Piece>) -> Option<Model> {
    let mut gathered = Model::default();
    while gathered.forms.len() < DOCS_AT_ONCE {
        let Some(piece) = pieces.next() else { break };
        gathered.absorb(piece.model);
    }
    (!gathered.forms.is_empty()).then_some(gathered)
}

async fn compare_part(world: &World, domain: &str, model: &Model, compared: &mut Compared) -> Result<()> {
    let form_ids: Vec<String> = model.forms.keys().cloned().collect();
    let case_ids: Vec<String> = model.cases.keys().cloned().collect();
    let mut actual = Actual::default();
    for client in world.shards().clients() {
        let rows = generator::sql::read_some(client, domain, &form_ids, &case_ids).await;
        actual.merge(rows.context("read the target")?);
    }
    compared.rows += Rows::of(model);
    compared.differing.extend(compare(model, &actual, usize::MAX));

    let wanted: BTreeSet<String> = model.ledger_diffs.iter().map(ledger_report::line).collect();
    let found = ledger_report::on_record(world.state(), Some(&case_ids)).await?;
    let found: BTreeSet<String> = found.into_iter().collect();
    compared.reported += wanted.intersection(&found).count();
    let silent = wanted.difference(&found).map(|line| format!("not reported: {line}"));
    compared.differing.extend(silent);
    let unknown = found
        .difference(&wanted)
        .map(|line| format!("reported in error: {line}"));
    compared.differing.extend(unknown);
    Ok(())
}

/// The rows of the domain, counted.
async fn count(world: &World, domain: &str) -> Result<Rows> {
    let mut rows = Rows::default();
    for client in world.shards().clients() {
        let row = client.query_one(COUNTS, &[&domain]).await.context("count the rows")?;
        let number = |column: usize| -> Result<usize> { Ok(usize::try_from(row.try_get::<_, i64>(column)?)?) };
        rows += Rows {
            forms: number(0)?,
            cases: number(1)?,
            transactions: number(2)?,
            ledger_values: number(3)?,
            ledger_transactions: number(4)?,
        };
    }
    Ok(rows)
}

const COUNTS: &str = "
    select
        (select count(*) from form_processor_xforminstancesql where domain = $1),
        (select count(*) from form_processor_commcarecasesql where domain = $1),
        (select count(*) from form_processor_casetransaction t
         join form_processor_commcarecasesql c on c.case_id = t.case_id where c.domain = $1),
        (select count(*) from form_processor_ledgervalue where domain = $1),
        (select count(*) from form_processor_ledgertransaction t
         join form_processor_commcarecasesql c on c.case_id = t.case_id where c.domain = $1)";
