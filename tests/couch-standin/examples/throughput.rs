//! Measures what the stand-in can serve: loading, view pages, bulk reads. Arguments: number of forms, seconds per part.
//!
//! The client only reads and throws away, on a thread of its own; the server has one thread. Run it with `--release`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use couch_standin::{Options, StandIn};
use serde_json::json;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const VIEW: &str = "/db/_design/by_domain_doc_type_date/_view/view?reduce=false";

/// Documents that are made at a time; making them is not measured.
const GENERATED: usize = 5000;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let forms: usize = arguments.next().map_or(Ok(200_000), |text| text.parse())?;
    let seconds: u64 = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let running = runtime.block_on(StandIn::start(Options::default()))?;
    running.install_views("db")?;
    let loaded = forms + forms * 3 / 10;
    let mut loading = Duration::ZERO;
    for first in (0..loaded).step_by(GENERATED) {
        let numbers = first..loaded.min(first + GENERATED);
        let documents: Vec<_> = numbers
            .map(|n| if n < forms { form(n) } else { case(n - forms) })
            .collect();
        let before = Instant::now();
        running.load("db", documents)?;
        loading += before.elapsed();
    }
    println!(
        "load                    {:>9.0} docs/s",
        loaded as f64 / loading.as_secs_f64()
    );
    println!(
        "resident                {:>9} MB for {loaded} documents",
        resident_megabytes()?
    );

    let address = running.address();
    let last = format!("%22{}%22", "f".repeat(32));
    let before = Instant::now();
    first_bytes(address, &format!("/db/_all_docs?include_docs=true&endkey={last}"))?;
    println!(
        "first bytes of all docs {:>9.1} ms",
        before.elapsed().as_secs_f64() * 1e3
    );

    let budget = Duration::from_secs(seconds);
    report("view pages of 1,000", "rows/s", budget, 1000, |round| {
        let skip = round * 1000 % (forms - 1000).max(1);
        exchange(address, &format!("GET {VIEW}&limit=1000&skip={skip}"), "")
    })?;
    report("view pages with bodies", "docs/s", budget, 1000, |round| {
        let skip = round * 1000 % (forms - 1000).max(1);
        exchange(
            address,
            &format!("GET {VIEW}&include_docs=true&limit=1000&skip={skip}"),
            "",
        )
    })?;
    report("_bulk_get of 100", "docs/s", budget, 100, |round| {
        let docs: Vec<_> = (0..100)
            .map(|n| json!({"id": form_id((round * 100 + n) * 7919 % forms)}))
            .collect();
        exchange(address, "POST /db/_bulk_get", &json!({"docs": docs}).to_string())
    })?;
    Ok(())
}

fn form_id(number: usize) -> String {
    format!(
        "{:032x}",
        (number as u128).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834)
    )
}

/// A form of about 3 KB.
fn form(number: usize) -> Vec<u8> {
    let answers: serde_json::Map<_, _> = (0..55)
        .map(|n| {
            (
                format!("question_{n}"),
                json!(format!("answer {number} of {n}, a text")),
            )
        })
        .collect();
    let received_on = format!(
        "2019-{:02}-{:02}T08:{:02}:00.000000Z",
        number % 12 + 1,
        number % 28 + 1,
        number % 60
    );
    let case = json!({"@case_id": form_id(number % 1000), "update": {"weight": "11.5"}});
    json!({
        "_id": form_id(number), "domain": "demo", "doc_type": "XFormInstance", "received_on": received_on,
        "form": {"answers": answers, "case": case},
    })
    .to_string()
    .into_bytes()
}

fn case(number: usize) -> Vec<u8> {
    let properties: serde_json::Map<_, _> = (0..60)
        .map(|n| (format!("property_{n}"), json!(format!("value {number} of {n}"))))
        .collect();
    let opened_on = format!("2019-{:02}-01T08:00:00.000000Z", number % 12 + 1);
    json!({"_id": format!("case-{number:08}"), "domain": "demo", "doc_type": "CommCareCase", "opened_on": opened_on, "properties": properties})
        .to_string()
        .into_bytes()
}

fn resident_megabytes() -> Outcome<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .ok_or("no VmRSS")?;
    let kilobytes: usize = line.split_whitespace().nth(1).ok_or("no VmRSS")?.parse()?;
    Ok(kilobytes / 1024)
}

fn report(
    name: &str,
    unit: &str,
    budget: Duration,
    per_round: usize,
    mut round: impl FnMut(usize) -> Outcome<usize>,
) -> Outcome<()> {
    let before = Instant::now();
    let (mut rounds, mut bytes) = (0, 0);
    while before.elapsed() < budget {
        bytes += round(rounds)?;
        rounds += 1;
    }
    let seconds = before.elapsed().as_secs_f64();
    let rate = (rounds * per_round) as f64 / seconds;
    println!(
        "{name:<23} {rate:>9.0} {unit}, {:.0} MB/s",
        bytes as f64 / seconds / 1e6
    );
    Ok(())
}

fn send(address: SocketAddr, head: &str, body: &str) -> Outcome<BufReader<TcpStream>> {
    let mut stream = TcpStream::connect(address)?;
    let length = body.len();
    write!(
        stream,
        "{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    Ok(BufReader::with_capacity(1 << 18, stream))
}

/// Sends a request on a connection of its own, and returns the size of the answer.
fn exchange(address: SocketAddr, head: &str, body: &str) -> Outcome<usize> {
    let mut reader = send(address, head, body)?;
    let mut line = String::new();
    reader.read_line(&mut line)?;
    if !line.starts_with("HTTP/1.1 200") {
        return Err(format!("{head} answered {line}").into());
    }
    let mut size = 0;
    loop {
        let seen = reader.fill_buf()?.len();
        if seen == 0 {
            return Ok(size);
        }
        size += seen;
        reader.consume(seen);
    }
}

fn first_bytes(address: SocketAddr, path: &str) -> Outcome<()> {
    let mut reader = send(address, &format!("GET {path}"), "")?;
    reader.read_exact(&mut [0; 1000])?;
    Ok(())
}
