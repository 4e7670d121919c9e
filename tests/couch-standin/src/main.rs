//! The stand-in as a process. Prints its URL on standard output when it is ready to answer.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;

use anyhow::{Context, bail};
use clap::Parser;
use couch_standin::{Credentials, Options, Running, StandIn};
use tokio::signal::unix::{SignalKind, signal};

/// An in-memory server that speaks the part of CouchDB's protocol that the migration uses.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example: couch-standin --listen 127.0.0.1:5984 --create commcarehq --load-ndjson commcarehq=forms.ndjson"
)]
struct Arguments {
    /// Where to listen; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// Name and password that every request must carry; better given by the environment than on the command line
    #[arg(
        long,
        value_name = "USER:PASSWORD",
        env = "COUCH_STANDIN_AUTH",
        hide_env_values = true
    )]
    auth: Option<String>,

    /// Database to create, with the design documents of both views; may be repeated
    #[arg(long, value_name = "DATABASE")]
    create: Vec<String>,

    /// Documents to load, one a line, from a file or from standard input ("-"); may be repeated
    #[arg(long, value_name = "DATABASE=FILE")]
    load_ndjson: Vec<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let auth = arguments.auth.as_deref().map(parse_credentials).transpose()?;
    let running = StandIn::start(Options {
        bind: arguments.listen,
        auth,
        ..Options::default()
    })
    .await
    .with_context(|| format!("cannot listen on {}", arguments.listen))?;
    for source in &arguments.load_ndjson {
        let count = load(&running, source)?;
        eprintln!("{count} documents from {source}");
    }
    for database in &arguments.create {
        running.install_views(database)?;
    }
    println!("{}", running.url());
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminated.recv() => {}
    }
    running.stop().await;
    Ok(())
}

fn parse_credentials(text: &str) -> anyhow::Result<Credentials> {
    match text.split_once(':') {
        Some((user, password)) => Ok(Credentials {
            user: user.to_owned(),
            password: password.to_owned(),
        }),
        None => bail!("--auth wants USER:PASSWORD"),
    }
}

fn load(running: &Running, source: &str) -> anyhow::Result<usize> {
    let Some((database, path)) = source.split_once('=') else {
        bail!("--load-ndjson wants DATABASE=FILE, not {source}")
    };
    let input: Box<dyn Read> = match path {
        "-" => Box::new(std::io::stdin()),
        path => Box::new(File::open(path).with_context(|| format!("cannot open {path}"))?),
    };
    let mut failure = None;
    let lines = BufReader::with_capacity(1 << 20, input).split(b'\n');
    let documents = lines
        .map_while(|line| line.map_err(|error| failure = Some(error)).ok())
        .filter(|line| !line.trim_ascii().is_empty());
    let count = running
        .load(database, documents)
        .with_context(|| format!("loading {path}"))?;
    match failure {
        Some(error) => Err(error).with_context(|| format!("reading {path}")),
        None => Ok(count),
    }
}
