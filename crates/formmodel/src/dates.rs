//! Date-times as Couch documents hold them.

use chrono::{DateTime, NaiveDateTime, Utc};

/// Reads a date-time of a Couch document: `YYYY-MM-DDTHH:MM:SSZ` with up to six digits of fraction, and the shape
/// `YYYY-MM-DDTHH:MM:SS+00:00Z` that some old documents hold. Anything else is `None`.
pub fn parse(text: &str) -> Option<DateTime<Utc>> {
    let plain = text.strip_suffix('Z')?;
    let plain = plain
        .strip_suffix("+00:00")
        .filter(|rest| !rest.contains('.'))
        .unwrap_or(plain);
    let (whole, fraction) = match plain.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (plain, None),
    };
    // The reader below would take single digits, signs, and a sixty-first second.
    let is_exact = whole.len() == "YYYY-MM-DDTHH:MM:SS".len()
        && whole.bytes().enumerate().all(|(place, byte)| match place {
            4 | 7 => byte == b'-',
            10 => byte == b'T',
            13 | 16 => byte == b':',
            _ => byte.is_ascii_digit(),
        })
        && !whole.ends_with("60");
    if !is_exact || fraction.is_some_and(|fraction| !(1..=6).contains(&fraction.len())) {
        return None;
    }
    NaiveDateTime::parse_from_str(plain, "%Y-%m-%dT%H:%M:%S%.f")
        .ok()
        .map(|naive| naive.and_utc())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::parse;

    #[test]
    fn couch_date_times() {
        for (text, micros) in [
            ("2019-03-02T08:15:00.120000Z", 120_000),
            ("2019-03-02T08:15:00Z", 0),
            ("2019-03-02T08:15:00.5Z", 500_000),
            ("2019-03-02T08:15:00+00:00Z", 0),
        ] {
            let read = parse(text).unwrap();
            assert_eq!(read.timestamp(), 1_551_514_500, "{text}");
            assert_eq!(read.timestamp_subsec_micros(), micros, "{text}");
        }
        for text in [
            "",
            "2019-03-02",
            "2019-03-02T08:15:00",
            "2019-03-02T08:15:00.1234567Z",
            "2019-03-02T08:15:00.5+00:00Z",
            "2019-13-02T08:15:00Z",
            "2019-03-02T08:15:00.Z",
            "2019-3-02T08:15:00Z",
            "+2019-03-2T08:15:0Z",
            "2019-03-02T08:15:60Z",
            "2019-03-02 08:15:00Z",
            "2019-03-02T08:15:00+00:00",
            "2019-03-02T08:15:00+02:00Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
