//! How a look over many documents is cut into ranges that go side by side.

use std::fmt::Write as _;

use chrono::{DateTime, Datelike, SecondsFormat, Utc};
use proto::doctype::DocType;
use serde_json::{Value, json};

use super::{DESIGN, Driver, Step, VIEW};

/// Ranges of one type at most.
const RANGES: usize = 8;
/// A type of fewer pages than this is one range.
const PAGES: u64 = 4;
/// Documents of a submission system cannot be older; what is, belongs to the first range.
const FIRST_YEAR: i32 = 2005;
/// First letters of ids: those that HQ makes are hexadecimal numbers, and others fall into some range too.
const FIRST_LETTERS: [&str; 7] = ["2", "4", "6", "8", "a", "c", "e"];

/// A range of keys: after one text, up to another. Open ends are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
}

impl Range {
    /// Its name among the scans.
    pub(super) fn name(&self) -> String {
        let mut name = String::new();
        // Writing into a text cannot fail.
        let _ = write!(
            name,
            "{}..{}",
            self.from.as_deref().unwrap_or_default(),
            self.to.as_deref().unwrap_or_default()
        );
        name
    }

    /// The range of that name.
    pub(super) fn parse(name: &str) -> Self {
        let (from, to) = name.split_once("..").unwrap_or((name, ""));
        let end = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Self {
            from: end(from),
            to: end(to),
        }
    }

    /// Ranges between these places, which are in order: one more than there are places.
    fn between(places: &[String]) -> Vec<Self> {
        let ends = places.iter().cloned().map(Some).chain([None]);
        let starts = [None].into_iter().chain(places.iter().cloned().map(Some));
        starts.zip(ends).map(|(from, to)| Self { from, to }).collect()
    }

    /// Ranges of ids.
    pub(super) fn of_ids() -> Vec<Self> {
        Self::between(&FIRST_LETTERS.map(str::to_owned))
    }
}

/// Greater than whatever a document may have in place of its date: `{}` is only the least of the objects.
pub(super) fn above_all_dates() -> Value {
    json!({"\u{fff0}": {}})
}

/// The first and the last key of all documents of a type.
pub(crate) fn all_of(domain: &str, doc_type: DocType) -> (Value, Value) {
    (
        json!([domain, doc_type.as_str()]),
        json!([domain, doc_type.as_str(), above_all_dates()]),
    )
}

/// Whether a scan that stands at a key is past the end of its range: the cut-off of an earlier run may have been later, or
/// there was none. Couch refuses to be asked for such a range.
pub(super) fn is_past(key: &Value, end_key: &Value) -> bool {
    match (key.get(2), end_key.get(2)) {
        (Some(Value::String(date)), Some(Value::String(end))) => date > end,
        // Arrays and objects come after all texts.
        (Some(Value::Array(_) | Value::Object(_)), Some(Value::String(_))) => true,
        _ => false,
    }
}

/// The first key of a range in the view. The view's keys have three elements, so that the fourth leaves out what is exactly
/// at the place where the range before ended.
pub(super) fn start_key(domain: &str, doc_type: DocType, range: &Range) -> Value {
    match &range.from {
        None => json!([domain, doc_type.as_str()]),
        Some(from) => json!([domain, doc_type.as_str(), from, null]),
    }
}

/// The last key of a range, up to a cut-off if there is one; none when all of the range is later.
pub(super) fn end_key(domain: &str, doc_type: DocType, range: &Range, cutoff: Option<DateTime<Utc>>) -> Option<Value> {
    let cutoff = cutoff.map(|cutoff| cutoff.to_rfc3339_opts(SecondsFormat::Micros, true));
    if let (Some(from), Some(cutoff)) = (&range.from, &cutoff)
        && from >= cutoff
    {
        return None;
    }
    let end = match (&range.to, cutoff) {
        (Some(to), Some(cutoff)) => Some(to.clone().min(cutoff)),
        (to, cutoff) => to.clone().or(cutoff),
    };
    Some(end.map_or_else(
        || json!([domain, doc_type.as_str(), above_all_dates()]),
        |end| json!([domain, doc_type.as_str(), end]),
    ))
}

/// Ranges of the documents of a type, by date, with about as many documents in each. One, when there are few documents or the
/// view cannot count.
pub(super) async fn of_type(driver: &Driver, doc_type: DocType) -> Step<Vec<Range>> {
    let whole = vec![Range::default()];
    let page = u64::try_from(driver.context.config.driver.scan_page).unwrap_or(u64::MAX);
    let Some(total) = count(driver, doc_type, &Range::default()).await? else {
        return Ok(whole);
    };
    if total < page.saturating_mul(PAGES) {
        return Ok(whole);
    }
    let share = total.div_ceil(RANGES as u64);
    let this_year = driver.context.state.now().await?.year();
    let years: Vec<String> = (FIRST_YEAR..=this_year).map(|year| year.to_string()).collect();
    let mut counted = Vec::new();
    for (year, range) in years.iter().zip(Range::between(&years).into_iter().skip(1)) {
        driver.pause(std::time::Duration::ZERO).await?;
        let documents = count(driver, doc_type, &range).await?.unwrap_or(0);
        if documents <= share {
            counted.push((year.clone(), documents));
            continue;
        }
        let months: Vec<String> = (1..=12).map(|month| format!("{year}-{month:02}")).collect();
        for (month, mut range) in months.iter().zip(Range::between(&months).into_iter().skip(1)) {
            if range.to.is_none() {
                range.to = Some(format!("{year}-13"));
            }
            counted.push((month.clone(), count(driver, doc_type, &range).await?.unwrap_or(0)));
        }
    }
    Ok(Range::between(&places(&counted, share)))
}

/// Of places with the documents that follow each, those at which a range of about `share` documents is full.
fn places(counted: &[(String, u64)], share: u64) -> Vec<String> {
    let mut places = Vec::new();
    let mut gathered = 0;
    for (place, documents) in counted {
        if gathered > 0 && gathered + documents > share {
            places.push(place.clone());
            gathered = 0;
        }
        gathered += documents;
    }
    places
}

async fn count(driver: &Driver, doc_type: DocType, range: &Range) -> Step<Option<u64>> {
    let domain = driver.migration.domain.as_str();
    let start = start_key(domain, doc_type, range);
    let end = end_key(domain, doc_type, range, None);
    Ok(driver
        .context
        .forms_db
        .view_count(DESIGN, VIEW, Some(&start), end.as_ref())
        .await?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ranges_meet_and_cover_everything() {
        let ranges = Range::between(&["2017".to_owned(), "2019-03".to_owned()]);
        let names: Vec<String> = ranges.iter().map(Range::name).collect();
        assert_eq!(names, ["..2017", "2017..2019-03", "2019-03.."]);
        for range in &ranges {
            assert_eq!(Range::parse(&range.name()), *range);
        }
        assert_eq!(Range::between(&[]), [Range::default()]);
        assert_eq!(Range::of_ids().len(), 8);
    }

    #[test]
    fn a_range_ends_where_the_next_begins_or_at_the_cut_off() {
        let cutoff = "2018-01-01T00:00:00Z".parse::<DateTime<Utc>>().unwrap();
        let kind = DocType::XFormError;
        let range = Range::parse("2017..2019");
        assert_eq!(start_key("d", kind, &range), json!(["d", "XFormError", "2017", null]));
        assert_eq!(
            end_key("d", kind, &range, None),
            Some(json!(["d", "XFormError", "2019"]))
        );
        assert_eq!(
            end_key("d", kind, &range, Some(cutoff)),
            Some(json!(["d", "XFormError", "2018-01-01T00:00:00.000000Z"]))
        );
        assert_eq!(end_key("d", kind, &Range::parse("2019.."), Some(cutoff)), None);
        let whole = Range::default();
        assert_eq!(start_key("d", kind, &whole), json!(["d", "XFormError"]));
        let (first, last) = all_of("d", kind);
        assert_eq!(start_key("d", kind, &whole), first);
        assert_eq!(end_key("d", kind, &whole, None), Some(last));
    }

    #[test]
    fn a_scan_may_stand_past_the_end_of_its_range() {
        let end = json!(["d", "XFormInstance", "2018-01-01T00:00:00.000000Z"]);
        for (date, past) in [
            (Value::Null, false),
            (json!(7), false),
            (json!("2017-12-31T23:59:59.000000Z"), false),
            (json!("2018-01-01T00:00:00.000000Z"), false),
            (json!("2018-01-01T00:00:00Z"), true),
            (json!("2030-05-01T00:00:00.000000Z"), true),
            (json!(["2017"]), true),
            (json!({"a": 1}), true),
        ] {
            let key = json!(["d", "XFormInstance", date]);
            assert_eq!(is_past(&key, &end), past, "{key}");
            assert!(!is_past(&key, &all_of("d", DocType::XFormInstance).1), "{key}");
        }
    }

    #[test]
    fn ranges_are_of_about_the_same_size() {
        let counted: Vec<(String, u64)> = [("a", 5), ("b", 0), ("c", 4), ("d", 9), ("e", 30), ("f", 1), ("g", 9)]
            .map(|(place, documents)| (place.to_owned(), documents))
            .into();
        assert_eq!(places(&counted, 10), ["d", "e", "f"]);
        assert!(places(&[], 10).is_empty());
    }
}
