//! `forecast`: what is left of a migration, and how long its end will take.

use std::fmt::Write as _;
use std::time::Duration;

use proto::ids::Domain;
use serde_json::{Value, json};
use state::pace::Work;
use state::{Migration, Status};

use super::{human, migration_of};
use crate::context::Context;
use crate::domain_doc::DomainDoc;
use crate::driver::left;
use crate::failure::{Exit, Failure, Result};
use crate::forecast::{Count, Forecast, Span, forecast};

/// How to print it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// Prints the forecast of a domain.
///
/// # Errors
/// The domain is not being migrated, or is on SQL already; servers that cannot be reached.
pub async fn print(context: &Context, domain: &Domain, output: Output) -> Result<Exit> {
    let doc = DomainDoc::read(&context.domains_db, domain).await?;
    let migration = migration_of(context, domain).await?;
    match migration.status {
        Status::NotStarted => {
            return Err(Failure::new(
                "C2S-4006",
                format!("{domain} is not being migrated"),
                "start with MIGRATE",
            ));
        }
        Status::Complete => return Err(on_sql(domain)),
        Status::DryRun | Status::InProgress if doc.is_on_sql() => return Err(on_sql(domain)),
        Status::DryRun | Status::InProgress => {}
    }
    let found = of(context, &migration).await?;
    match output {
        Output::Text => print!("{}", text(domain, &found)),
        Output::Json => println!("{}", as_json(domain, &found)),
    }
    Ok(Exit::Clean)
}

fn on_sql(domain: &Domain) -> Failure {
    Failure::new(
        "C2S-4002",
        format!("{domain} is on SQL already"),
        "there is nothing left to forecast",
    )
}

/// The forecast of a migration that has begun.
pub(crate) async fn of(context: &Context, migration: &Migration) -> Result<Forecast> {
    let left = Box::pin(left(context, migration)).await?;
    let mut paces = context.state.paces(migration.id).await?;
    paces.extend(context.state.snapshot_paces(left.snapshot).await?);
    Ok(forecast(&left, &paces))
}

/// For people; ends with a line break.
pub(crate) fn text(domain: &Domain, found: &Forecast) -> String {
    let mut text = format!("Forecast for {domain}: what MIGRATE --finish has to do\n");
    // Writing to a String cannot fail.
    for piece in &found.pieces {
        let _ = writeln!(
            text,
            "  {:24} {:>17}   {}",
            name_of(piece.work),
            count(piece.documents),
            span(piece.time)
        );
    }
    let _ = writeln!(
        text,
        "  {:24} {:>17}   {}",
        "wait for HQ's caches",
        "",
        human(found.settle)
    );
    let _ = writeln!(text, "MIGRATE --finish takes {}.", span(found.run));
    if found.snapshot.documents.high > 0 {
        let _ = writeln!(
            text,
            "COMMIT takes a snapshot of {} documents before its switch: {}.",
            count(found.snapshot.documents),
            span(found.snapshot.time)
        );
    }
    let _ = writeln!(text, "COMMIT waits {} for HQ's caches.", human(found.commit));
    let _ = writeln!(text, "Without submissions, in all: {}.", span(found.downtime));
    let unmeasured: Vec<&str> = found.unmeasured().map(name_of).collect();
    if !unmeasured.is_empty() {
        let _ = writeln!(
            text,
            "This migration has no rate yet for: {}. MIGRATE --live again measures it.",
            unmeasured.join(", ")
        );
    }
    text
}

/// One line, for `stats`.
pub(crate) fn line(found: &Forecast) -> String {
    format!(
        "MIGRATE --finish would take {}, and submissions would be off for {} in all (see `coordinator forecast`).",
        span(found.run),
        span(found.downtime)
    )
}

/// The forecast as a JSON object.
pub(crate) fn as_json(domain: &Domain, found: &Forecast) -> Value {
    let pieces: Vec<Value> = found
        .pieces
        .iter()
        .map(|piece| {
            json!({
                "work": piece.work.as_str(),
                "documents": { "low": piece.documents.low, "high": piece.documents.high },
                "seconds": seconds(piece.time),
            })
        })
        .collect();
    json!({
        "domain": domain.as_str(),
        "work": pieces,
        "cache_wait_seconds": found.settle.as_secs_f64(),
        "finish_seconds": seconds(found.run),
        "commit_snapshot": { "documents": found.snapshot.documents.high, "seconds": seconds(found.snapshot.time) },
        "commit_wait_seconds": found.commit.as_secs_f64(),
        "downtime_seconds": seconds(found.downtime),
        "unmeasured": found.unmeasured().map(Work::as_str).collect::<Vec<_>>(),
    })
}

const fn name_of(work: Work) -> &'static str {
    match work {
        Work::Forms => "documents to migrate",
        Work::Replay => "cases to replay",
        Work::List => "cases to list",
        Work::Diff => "cases to compare",
        Work::Missing => "documents to look up",
        Work::Snapshot => "snapshot of COMMIT",
    }
}

fn count(count: Count) -> String {
    if count.low == count.high {
        count.low.to_string()
    } else {
        format!("{} to {}", count.low, count.high)
    }
}

pub(crate) fn span(span: Span) -> String {
    match span.high {
        None if span.low.is_zero() => "unknown".to_owned(),
        None => format!("at least {}", human(span.low)),
        Some(high) if human(high) == human(span.low) => human(high),
        Some(high) => format!("{} to {}", human(span.low), human(high)),
    }
}

fn seconds(span: Span) -> Value {
    json!({ "low": span.low.as_secs_f64(), "high": span.high.map(|high| high.as_secs_f64()) })
}

/// A refusal when even the lower end is beyond the limit.
///
/// # Errors
/// `C2S-4090`.
pub(crate) fn within(domain: &Domain, found: &Forecast, limit: Duration) -> Result<()> {
    if found.downtime.low <= limit {
        return Ok(());
    }
    Err(Failure::new(
        "C2S-4090",
        format!(
            "{domain} would be without submissions for at least {}, and --max-downtime is {}",
            human(found.downtime.low),
            human(limit)
        ),
        "take what is left with MIGRATE --live first, set hq.cache_hook if the wait for HQ's caches is the most of it, or allow more",
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::forecast::Left;
    use state::pace::Pace;

    fn found(paces: &[Pace]) -> Forecast {
        let left = Left {
            documents: 120,
            dirty: 3,
            settle: Duration::from_secs(61),
            commit: Duration::from_secs(61),
            snapshot: 120,
            ..Left::default()
        };
        forecast(&left, paces)
    }

    #[test]
    fn a_forecast_without_rates_says_so() {
        let domain = Domain::new("demo");
        let text = text(&domain, &found(&[]));
        assert!(
            text.contains("documents to migrate                   120   unknown"),
            "{text}"
        );
        assert!(
            text.contains("cases to replay                   3 to 123   unknown"),
            "{text}"
        );
        assert!(text.contains("MIGRATE --finish takes at least 1 min 1 s."), "{text}");
        assert!(
            text.contains("no rate yet for: documents to migrate, cases to replay"),
            "{text}"
        );
        let json = as_json(&domain, &found(&[]));
        assert_eq!(json["downtime_seconds"]["high"], Value::Null);
        assert_eq!(json["unmeasured"].as_array().unwrap().len(), Work::ALL.len());
    }

    #[test]
    fn a_limit_is_held_against_the_lower_end() {
        let domain = Domain::new("demo");
        let measured = Work::ALL.map(|work| Pace {
            work,
            documents: 120,
            seconds: 1.0,
        });
        let found = found(&measured);
        assert!(within(&domain, &found, Duration::from_secs(130)).is_ok());
        let refused = within(&domain, &found, Duration::from_secs(100)).unwrap_err();
        assert_eq!(refused.code, "C2S-4090");
        assert!(!text(&domain, &found).contains("no rate"), "{found:?}");
    }
}
