//! `date_modified` of a case block: repair, validation, and the point in time it means.

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};

use crate::datetimes::{WrittenDateTime, date, digits, parse_clock, parse_iso8601};
use crate::error::FormError;

/// Mends the three malformed shapes of `@date_modified` that CommCare's migration mends; `None` for any other text.
///
/// | length | shape | becomes |
/// |---|---|---|
/// | 10 | `MM-DD-YYYY` | `YYYY-MM-DD` |
/// | 11 | `YYYY-MM-0DD` | `YYYY-MM-DD` |
/// | 17 | `MM/DD/YY HH:MM:SS` | `20YY-MM-DD HH:MM:SS` |
pub fn repair_date_modified(text: &str) -> Option<String> {
    if has_shape(text, "00-00-0000") {
        Some(format!("{}-{}", &text[6..], &text[..5]))
    } else if has_shape(text, "0000-00-000") && text.as_bytes()[8] == b'0' {
        Some(format!("{}{}", &text[..8], &text[9..]))
    } else if has_shape(text, "00/00/00 00:00:00") {
        Some(format!(
            "20{}-{}-{}{}",
            &text[6..8],
            &text[..2],
            &text[3..5],
            &text[8..]
        ))
    } else {
        None
    }
}

/// Whether the text has a digit for each `0` of the shape and is equal to it elsewhere; then it is ASCII.
fn has_shape(text: &str, shape: &str) -> bool {
    text.len() == shape.len()
        && text.bytes().zip(shape.bytes()).all(|(byte, wanted)| match wanted {
            b'0' => byte.is_ascii_digit(),
            other => byte == other,
        })
}

/// The point in time of a non-empty `date_modified`. `None`: it cannot be read.
///
/// HQ reads with python-dateutil, which is lenient and fills what is missing from today's date. Here: everything that the
/// iso8601 check accepts, with the first of the month or year where day or month are missing; and, since blocks of
/// version 1.0 are not checked, the numeric shapes with slashes or with the year last, month before day unless the first
/// number cannot be a month.
pub(crate) fn point_in_time(text: &str) -> Option<Result<DateTime<Utc>, FormError>> {
    let written = parse_iso8601(text).or_else(|| parse_numeric(text.trim()))?;
    Some(written.utc().map(|utc| utc.and_utc()))
}

fn parse_numeric(text: &str) -> Option<WrittenDateTime> {
    let (day, clock) = match text.find([' ', 'T']) {
        Some(at) => (&text[..at], Some(text[at + 1..].trim_start())),
        None => (text, None),
    };
    let separator = if day.contains('/') { '/' } else { '-' };
    let mut parts = day.split(separator);
    let (first, second, third) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let date = match (first.len(), third.len()) {
        (4, 1 | 2) => date(number(first)?, number(second)?, number(third)?)?,
        (1 | 2, 4) => month_first(first, second, number(third)?)?,
        // dateutil takes two digits for a year within fifty years of now; dates of phones are all of this century.
        (1 | 2, 2) => month_first(first, second, 2000 + number(third)?)?,
        _ => return None,
    };
    let (local, offset): (NaiveDateTime, TimeDelta) = match clock {
        None => (date.and_hms_opt(0, 0, 0)?, TimeDelta::zero()),
        Some(clock) => {
            // Unlike iso8601, dateutil takes a small z.
            let clock = clock
                .strip_suffix('z')
                .map_or_else(|| clock.to_owned(), |clock| format!("{clock}Z"));
            let (hour, minute, second, microsecond, offset) = parse_clock(clock.as_bytes())?;
            (date.and_hms_micro_opt(hour, minute, second, microsecond)?, offset)
        }
    };
    Some(WrittenDateTime { local, offset })
}

fn month_first(first: &str, second: &str, year: u32) -> Option<chrono::NaiveDate> {
    let (first, second) = (number(first)?, number(second)?);
    if first > 12 {
        date(year, second, first)
    } else {
        date(year, first, second)
    }
}

fn number(text: &str) -> Option<u32> {
    if text.len() > 4 {
        None
    } else {
        digits(text.as_bytes(), text.len()).filter(|_| !text.is_empty())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn repairs_the_three_shapes() {
        for (text, expected) in [
            ("2015-08-014", Some("2015-08-14")),
            ("2015-08-114", None),
            ("08-14-2015", Some("2015-08-14")),
            ("08/14/15 18:25:56", Some("2015-08-14 18:25:56")),
            ("2015-08-14", None),
            ("08/14/2015", None),
            ("08/14/15T18:25:56", None),
            ("2015-08-14T18:25:56.656000Z", None),
            ("2015-08-0é", None),
            ("", None),
        ] {
            assert_eq!(repair_date_modified(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn reads_points_in_time() {
        for (text, expected) in [
            ("2015-08-04T18:25:56.656000Z", Some("2015-08-04T18:25:56.656Z")),
            ("2015-08-14", Some("2015-08-14T00:00:00Z")),
            ("2015-08-14 18:25:56", Some("2015-08-14T18:25:56Z")),
            ("2015-08-04T18:25:56.5", Some("2015-08-04T18:25:56.5Z")),
            (
                "2015-08-04T18:25:56.123456789+05:30",
                Some("2015-08-04T12:55:56.123456Z"),
            ),
            ("2015-8-4T18:25:56.656Z", Some("2015-08-04T18:25:56.656Z")),
            ("2015-08-04T18", Some("2015-08-04T18:00:00Z")),
            ("20150804", Some("2015-08-04T00:00:00Z")),
            // The first of the month or year, where dateutil takes today's day.
            ("2015-08", Some("2015-08-01T00:00:00Z")),
            ("2015", Some("2015-01-01T00:00:00Z")),
            // Only in version 1.0, where nothing checks the text.
            ("2015-08-04T18:25:56z", Some("2015-08-04T18:25:56Z")),
            ("2015/08/04 18:25:56", Some("2015-08-04T18:25:56Z")),
            ("08/04/2015", Some("2015-08-04T00:00:00Z")),
            ("12-08-2015", Some("2015-12-08T00:00:00Z")),
            ("13/08/2015", Some("2015-08-13T00:00:00Z")),
            ("1-1-2015", Some("2015-01-01T00:00:00Z")),
            ("08/04/15 18:25:56", Some("2015-08-04T18:25:56Z")),
            (" 2015-08-04", Some("2015-08-04T00:00:00Z")),
            ("2015-08-014", None),
            ("2015-02-30", None),
            ("2015-08-04 18.25.56", None),
            ("2015-08-04T24:00:00", None),
            ("abc", None),
            ("0", None),
            (" ", None),
            ("//", None),
            ("1//2015", None),
        ] {
            let found = point_in_time(text).map(Result::unwrap);
            assert_eq!(found, expected.map(|expected| expected.parse().unwrap()), "{text}");
        }
        assert_eq!(
            point_in_time("0001-01-01T00:00:00.5+05:00"),
            Some(Err(FormError::DateOutOfRange))
        );
    }
}
