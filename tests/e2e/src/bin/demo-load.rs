//! Puts a generated domain where a configuration says that the migration finds it, so that it can be migrated as a real
//! one: documents into CouchDB, blobs into the blob store's directory, blob metadata and stock into the target.
//!
//! Running it again replaces the domain's documents.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use couch::{Couch, Database};
use e2e::database;
use e2e::load::{self, Loaded, Shards, StockTables};
use e2e::source::delete_database;
use generator::Piece;
use generator::supply::{self, SupplyOptions};
use hqsql::Target;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use service::config::{BlobsKind, Config};
use service::connect;
use tokio_postgres::Client;
use url::Url;

/// Documents gathered before they are written: some megabytes.
const DOCS_AT_ONCE: usize = 1000;

/// Generates a sample domain and puts it into CouchDB, the blob store, HQ's blob metadata and HQ's stock tables.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Configuration of the migration; else $COUCH_SQL_CONFIG, else ./couch-sql.toml
    #[arg(long)]
    config: Option<PathBuf>,
    /// Name of the domain
    #[arg(long, default_value = "demo")]
    domain: String,
    /// How many forms, of all types together
    #[arg(long, default_value_t = 5000)]
    forms: usize,
    /// A supply chain of so many locations, instead of households
    #[arg(long, value_name = "LOCATIONS", conflicts_with = "forms")]
    supply_chain: Option<usize>,
    /// Products of the supply chain
    #[arg(long, default_value_t = 10, requires = "supply_chain")]
    products: usize,
    /// Weeks of reports of the supply chain
    #[arg(long, default_value_t = 12, requires = "supply_chain")]
    weeks: usize,
    /// The same seed gives the same documents
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Delete both Couch databases first, with everything in them
    #[arg(long)]
    recreate: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    let started = Instant::now();
    let config = Config::load(arguments.config.as_deref())?;
    ensure!(
        config.blobs.kind == BlobsKind::Fs,
        "blobs are written into a directory only: blobs.kind must be fs"
    );
    let blobs = config.blobs.path.clone().context("blobs.path is not set")?;
    std::fs::create_dir_all(&blobs).with_context(|| format!("cannot make {}", blobs.display()))?;

    let couch = Couch::new(connect::couch_config(&config))?;
    couch.ping().await?;
    let forms_db = couch.database(&config.source.forms_db);
    let domains_db = couch.database(&config.source.domains_db);
    if arguments.recreate {
        for name in [forms_db.name(), domains_db.name()] {
            delete_database(&with_credentials(&config)?, name, config.source.timeout).await?;
        }
    }
    let (forms_design, domains_design) = load::design_documents();
    load::ensure_database(&forms_db, &forms_design).await?;
    load::ensure_database(&domains_db, &domains_design).await?;
    let shards = target(&config, &arguments.domain).await?;
    let default = default_database(&config).await?;
    StockTables::delete(&default, &arguments.domain).await?;
    let replaced = delete_domain(&forms_db, &domains_db, &arguments.domain).await?;
    if replaced > 0 {
        println!("{replaced} documents of an earlier {} were deleted", arguments.domain);
    }

    let (domain_doc, mut pieces) = generated(arguments);
    let stock = StockTables::open(&default).await?;
    let mut loaded = Loaded::default();
    while let Some(gathered) = load::gather(&mut pieces, DOCS_AT_ONCE) {
        loaded.add(&gathered);
        tokio::try_join!(
            load::write_documents(&forms_db, &gathered.docs),
            load::write_blobs(&blobs, gathered.blobs),
            shards.load_blobmeta(&gathered.blobmeta),
            stock.load(&gathered.stock),
        )?;
    }
    load::write_documents(&domains_db, &[domain_doc]).await?;
    println!(
        "{}: {} forms, {} cases, {} blobs, {} rows of blob metadata, {} rows of stock in {:.1} s",
        arguments.domain,
        loaded.forms,
        loaded.cases,
        loaded.blobs,
        loaded.blobmeta,
        loaded.stock,
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

/// The Domain document and the pieces of the domain.
fn generated(arguments: &Arguments) -> (Value, Box<dyn Iterator<Item = Piece>>) {
    match arguments.supply_chain {
        None => {
            let options = generator::Options::new(arguments.domain.clone(), arguments.forms, arguments.seed);
            (generator::domain_doc(&options), Box::new(generator::stream(&options)))
        }
        Some(locations) => {
            let options = SupplyOptions {
                locations,
                products: arguments.products,
                weeks: arguments.weeks,
                ..SupplyOptions::new(arguments.domain.clone(), arguments.seed)
            };
            (supply::domain_document(&options), Box::new(supply::stream(&options)))
        }
    }
}

/// HQ's default database.
async fn default_database(config: &Config) -> Result<Client> {
    let target = &config.target;
    database::connect(&with_password(&target.default, target.password.as_ref())?).await
}

/// Deletes what Couch has of the domain.
async fn delete_domain(forms_db: &Database, domains_db: &Database, domain: &str) -> Result<usize> {
    let (start, end) = (json!([domain]), json!([domain, {}]));
    let deleted = load::delete_listed(forms_db, "by_domain_doc_type_date", "view", &start, &end).await?;
    let name = json!(domain);
    Ok(deleted + load::delete_listed(domains_db, "domain", "domains", &name, &name).await?)
}

/// The target, with HQ's tables, and without blob metadata of the domain. It must hold no migrated rows of it.
async fn target(config: &Config, domain: &str) -> Result<Shards> {
    Target::connect(&connect::target_config(config))
        .await?
        .create_tables()
        .await?;
    let target = &config.target;
    let password = target.password.as_ref();
    let shards = match target.shard_count {
        None => Shards::single(default_database(config).await?),
        Some(count) => {
            let mut databases = Vec::new();
            for shard in &target.shards {
                let url = with_password(&shard.url, shard.password.as_ref().or(password))?;
                databases.push((shard.range.0..=shard.range.1, database::connect(&url).await?));
            }
            Shards::of(count, databases)
        }
    };
    for client in shards.clients() {
        let migrated: i64 = client
            .query_one(
                "select count(*) from form_processor_xforminstancesql where domain = $1",
                &[&domain],
            )
            .await?
            .get(0);
        if migrated > 0 {
            bail!("the target holds {migrated} forms of {domain}: reset its migration first");
        }
        client
            .execute("delete from blobs_blobmeta where domain = $1", &[&domain])
            .await?;
    }
    Ok(shards)
}

/// The configuration keeps passwords apart from URLs.
fn with_password(url: &Url, password: Option<&secrecy::SecretString>) -> Result<Url> {
    let mut url = url.clone();
    if url.set_password(password.map(ExposeSecret::expose_secret)).is_err() {
        bail!("a database URL has no host");
    }
    Ok(url)
}

fn with_credentials(config: &Config) -> Result<Url> {
    let mut url = config.source.url.clone();
    let password = config.source.password.as_ref().map(ExposeSecret::expose_secret);
    let set = url
        .set_username(config.source.username.as_deref().unwrap_or_default())
        .and_then(|()| url.set_password(password));
    if set.is_err() {
        bail!("source.url has no host");
    }
    Ok(url)
}
