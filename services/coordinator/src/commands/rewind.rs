//! `rewind`: sends the scan of the main forms back, so that the next `MIGRATE` looks at them again from there.
//!
//! Scanning a form again is safe: it is read and staged anew, and its rows are written only where they differ. The place that
//! the scan had reached is saved, and may be gone back to: everything before it has been scanned.

use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use proto::doctype::DocType;
use proto::ids::Domain;
use serde_json::{Value, json};
use state::MigrationId;
use state::rewind::SAVED;
use state::scan::{Cursor, form_scan};
use tokio_util::sync::CancellationToken;

use super::{HeldDomain, migration_of};
use crate::context::Context;
use crate::domain_doc::DomainDoc;
use crate::driver::{ids, scanned_page};
use crate::failure::{Exit, Failure, Result};
use crate::rules::{Command, Situation, allow};

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// Before the forms received at this moment.
    Date(DateTime<Utc>),
    /// `case-N`: so far back that the forms after it touch cases N times at least.
    Cases(i64),
    /// `resume-…`: a place that a rewind has saved.
    Saved(String),
}

impl To {
    /// From the option: a date, a date with time, `case-N`, or the name of a saved place.
    ///
    /// # Errors
    /// `C2S-0130` when it is none of these.
    pub fn parse(text: &str) -> Result<Self> {
        if text.starts_with(SAVED) {
            return Ok(Self::Saved(text.to_owned()));
        }
        let cases = text.strip_prefix("case-").and_then(|number| number.parse().ok());
        if let Some(number) = cases
            && number > 0
        {
            return Ok(Self::Cases(number));
        }
        let day = || {
            let midnight = text.parse::<NaiveDate>().ok()?.and_hms_opt(0, 0, 0)?;
            Some(midnight.and_utc())
        };
        DateTime::parse_from_rfc3339(text)
            .map(|date| date.with_timezone(&Utc))
            .ok()
            .or_else(day)
            .map(Self::Date)
            .ok_or_else(|| {
                Failure::new(
                    "C2S-0130",
                    format!("--to={text} is no place to go back to"),
                    "use a date such as 2020-03-31 or 2020-03-31T12:00:00Z, case-N, or the name resume-… of a saved place",
                )
            })
    }
}

/// Sends the scan back.
///
/// # Errors
/// The refusal: nothing was scanned, or the place lies ahead.
pub async fn rewind(context: &Context, domain: &Domain, to: &To, stop: CancellationToken) -> Result<Exit> {
    let doc = DomainDoc::read(&context.domains_db, domain).await?;
    let held = HeldDomain::take(context, &migration_of(context, domain).await?).await?;
    let rewound = async {
        allow(
            Command::Rewind,
            Situation {
                migration: Some(&held.migration),
                on_sql: doc.is_on_sql(),
            },
        )?;
        let scan = form_scan(DocType::XFormInstance);
        let present = context.state.cursor(held.migration.id, &scan).await?;
        let place = tokio::select! {
            place = place(context, held.migration.id, domain, &present, to) => place?,
            // A walk back over cases may be long; the domain is given back, and nothing was changed.
            () = stop.cancelled() => return Ok(None),
        };
        let saved = context.state.rewind(&held.lease, &scan, &place).await?;
        let detail = json!({ "to": format!("{to:?}"), "saved": saved });
        context
            .state
            .audit(domain, &context.operator, "rewind", &detail)
            .await?;
        Ok::<_, Failure>(Some((place, saved)))
    }
    .await;
    held.give_back(context).await?;
    let Some((place, saved)) = rewound? else {
        eprintln!("stopped; nothing was changed");
        return Ok(Exit::Stopped);
    };
    println!(
        "MIGRATE scans the forms of {domain} again {}",
        date_of(&place).map_or_else(|| "from the first".to_owned(), |date| format!("from {date}"))
    );
    println!("the place that was reached is saved as {saved}");
    Ok(Exit::Clean)
}

/// The date of the last form before a place.
fn date_of(place: &Cursor) -> Option<String> {
    let key: Value = serde_json::from_str(place.after_key.as_deref()?).ok()?;
    Some(key.get(2)?.as_str()?.to_owned())
}

async fn place(context: &Context, id: MigrationId, domain: &Domain, present: &Cursor, to: &To) -> Result<Cursor> {
    let Some(present_key) = present.after_key.as_deref() else {
        return Err(Failure::new(
            "C2S-4115",
            format!("no form of {domain} was scanned yet"),
            "there is nothing to go back over; start with MIGRATE",
        ));
    };
    match to {
        To::Date(date) => before_date(domain, present, *date),
        To::Cases(number) => {
            let end: Value =
                serde_json::from_str(present_key).map_err(|_| state::StateError::Corrupt("scan cursor"))?;
            back_over_cases(context, id, domain, present, &end, *number).await
        }
        To::Saved(name) => {
            let saved = context.state.saved_positions(id).await?;
            let names: Vec<&str> = saved.iter().map(|(name, _)| name.as_str()).collect();
            let known = if names.is_empty() {
                "no rewind of this domain has saved one".to_owned()
            } else {
                format!("there are {}", names.join(", "))
            };
            saved
                .iter()
                .find(|(of, _)| of == name)
                .map(|(_, cursor)| cursor.clone())
                .ok_or_else(|| Failure::new("C2S-4116", format!("no place is saved as {name}"), known))
        }
    }
}

/// The place before the forms of a date. A later one than the scan has reached is refused: the forms between would be left
/// out.
fn before_date(domain: &Domain, present: &Cursor, date: DateTime<Utc>) -> Result<Cursor> {
    let text = date.to_rfc3339_opts(SecondsFormat::Micros, true);
    let key: Option<Value> = present
        .after_key
        .as_deref()
        .and_then(|key| serde_json::from_str(key).ok());
    // The view has dates that are no texts too: null before all others, arrays and objects behind them.
    let reached = match key.as_ref().and_then(|key| key.get(2)) {
        Some(Value::String(date)) => Some(date.as_str()),
        Some(Value::Array(_) | Value::Object(_)) => None,
        _ => Some(""),
    };
    if let Some(reached) = reached
        && text.as_str() > reached
    {
        return Err(Failure::new(
            "C2S-4115",
            if reached.is_empty() {
                format!("the scan has not come to {text}, nor to any other date")
            } else {
                format!("the scan has not come to {text}, but to {reached}")
            },
            "give an earlier date; a later one would leave forms out",
        ));
    }
    Ok(Cursor {
        after_key: Some(json!([domain.as_str(), DocType::XFormInstance.as_str(), text]).to_string()),
        // Before every document of that moment.
        after_id: Some(String::new()),
        complete: false,
        scanned: present.scanned,
    })
}

/// A form that was scanned.
struct Scanned {
    key: String,
    id: String,
    cases: i64,
}

/// Walks over the scanned forms page by page, keeping the count of each page only, then looks into the page where the count
/// from the end passes the number.
async fn back_over_cases(
    context: &Context,
    id: MigrationId,
    domain: &Domain,
    present: &Cursor,
    end: &Value,
    number: i64,
) -> Result<Cursor> {
    let mut pages: Vec<(Cursor, i64)> = Vec::new();
    let mut cursor = Cursor::default();
    while !cursor.complete {
        let before = cursor.clone();
        let forms = page(context, id, domain, &mut cursor, present, end).await?;
        pages.push((before, forms.iter().map(|form| form.cases).sum()));
    }
    let mut counted = 0;
    while let Some((before, cases)) = pages.pop() {
        if counted + cases >= number {
            let mut again = before.clone();
            let forms = page(context, id, domain, &mut again, present, end).await?;
            let first = first_of_the_last(&forms, number - counted);
            let mut place = before;
            if let Some(previous) = first.checked_sub(1).and_then(|index| forms.get(index)) {
                place.after_key = Some(previous.key.clone());
                place.after_id = Some(ids::for_cursor(&previous.id));
            }
            place.complete = false;
            place.scanned = present.scanned;
            return Ok(place);
        }
        counted += cases;
    }
    Ok(Cursor {
        scanned: present.scanned,
        ..Cursor::default()
    })
}

/// A page of the forms that were scanned, with the number of cases that each touches.
async fn page(
    context: &Context,
    id: MigrationId,
    domain: &Domain,
    cursor: &mut Cursor,
    present: &Cursor,
    end: &Value,
) -> Result<Vec<Scanned>> {
    let page = scanned_page(context, domain, DocType::XFormInstance, cursor, end).await?;
    if let Some(last) = page.cursor() {
        cursor.after_key = Some(last.key.to_string());
        cursor.after_id = Some(ids::for_cursor(&last.id));
    }
    cursor.complete = page.end;
    let usable = page.rows.iter().filter(|row| ids::is_usable(&row.id));
    let ids: Vec<String> = usable.map(|row| row.id.clone()).collect();
    let cases = context.state.cases_of_forms(id, &ids).await?;
    let scanned = page.rows.into_iter().map(|row| Scanned {
        cases: cases.get(&row.id).copied().unwrap_or(0),
        key: row.key.to_string(),
        id: row.id,
    });
    // Of the forms of the last moment, some may not have been scanned.
    Ok(scanned
        .filter(|form| Some(&form.key) != present.after_key.as_ref() || Some(&form.id) <= present.after_id.as_ref())
        .collect())
}

/// Index of the form at which a walk from the end has met so many cases; 0 if it meets fewer.
fn first_of_the_last(forms: &[Scanned], number: i64) -> usize {
    let mut counted = 0;
    for (index, form) in forms.iter().enumerate().rev() {
        counted += form.cases;
        if counted >= number {
            return index;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn places_to_go_back_to() {
        let date = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().with_timezone(&Utc);
        for (text, expected) in [
            ("2020-03-31", Some(To::Date(date("2020-03-31T00:00:00Z")))),
            (
                "2020-03-31T12:00:00+02:00",
                Some(To::Date(date("2020-03-31T10:00:00Z"))),
            ),
            ("case-150", Some(To::Cases(150))),
            (
                "resume-20200331-120000.1",
                Some(To::Saved("resume-20200331-120000.1".to_owned())),
            ),
            ("case-0", None),
            ("case-", None),
            ("yesterday", None),
        ] {
            match (To::parse(text), expected) {
                (Ok(found), Some(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(failure), None) => assert_eq!(failure.code, "C2S-0130", "{text}"),
                (found, expected) => panic!("{text}: {found:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn a_date_ahead_of_the_scan_is_refused() {
        let domain = Domain::new("d");
        let present = Cursor {
            after_key: Some(json!(["d", "XFormInstance", "2020-03-31T12:00:00.000000Z"]).to_string()),
            after_id: Some("form".to_owned()),
            complete: true,
            scanned: 7,
        };
        let to = |text: &str| match To::parse(text).unwrap() {
            To::Date(date) => before_date(&domain, &present, date),
            _ => unreachable!(),
        };
        let place = to("2020-03-31").unwrap();
        assert_eq!(date_of(&place).unwrap(), "2020-03-31T00:00:00.000000Z");
        assert!(!place.complete);
        assert_eq!(to("2020-04-01").unwrap_err().code, "C2S-4115");
    }

    #[test]
    fn a_scan_that_has_come_to_a_date_that_is_no_text() {
        let domain = Domain::new("d");
        let to = |reached: Value| {
            let present = Cursor {
                after_key: Some(json!(["d", "XFormInstance", reached]).to_string()),
                after_id: Some("form".to_owned()),
                complete: true,
                scanned: 7,
            };
            let date = DateTime::parse_from_rfc3339("2020-03-31T00:00:00Z").unwrap();
            before_date(&domain, &present, date.with_timezone(&Utc)).map(|place| date_of(&place).unwrap())
        };
        // CouchDB sorts null before texts, and arrays and objects behind them.
        assert_eq!(to(json!({"a": 1})).unwrap(), "2020-03-31T00:00:00.000000Z");
        assert_eq!(to(json!(["2030"])).unwrap(), "2020-03-31T00:00:00.000000Z");
        let refused = to(json!(null)).unwrap_err();
        assert_eq!(refused.code, "C2S-4115");
        assert!(refused.what.ends_with("nor to any other date"), "{}", refused.what);
    }

    #[test]
    fn a_walk_back_ends_at_the_form_that_passes_the_number_of_cases() {
        let forms: Vec<Scanned> = [2, 0, 3, 1, 0]
            .into_iter()
            .map(|cases| Scanned {
                key: String::new(),
                id: String::new(),
                cases,
            })
            .collect();
        for (number, index) in [(1, 3), (2, 2), (4, 2), (5, 0), (6, 0), (7, 0)] {
            assert_eq!(first_of_the_last(&forms, number), index, "{number}");
        }
    }
}
