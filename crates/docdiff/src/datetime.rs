//! Texts that are date-times.

use chrono::{DateTime, NaiveDate, Utc};

/// The zone that some old documents hold twice.
const DOUBLED_ZONE: &str = "+00:00Z";

/// Reads a date-time of a Couch document, also one with its zone doubled, `YYYY-MM-DDTHH:MM:SS+00:00Z`.
pub fn couch_date(text: &str) -> Option<DateTime<Utc>> {
    let single = text.strip_suffix(DOUBLED_ZONE).map(|start| format!("{start}Z"));
    let read = DateTime::parse_from_rfc3339(single.as_deref().unwrap_or(text));
    read.ok().map(|date| date.to_utc())
}

/// As [`is_datetime_text`], for a text of a Couch document: HQ reads a zone that is doubled as `Z`.
pub(crate) fn is_couch_datetime_text(text: &str) -> bool {
    match text.strip_suffix(DOUBLED_ZONE) {
        Some(start) => start.len() == "YYYY-MM-DDTHH:MM:SS".len() && is_datetime_text(&format!("{start}Z")),
        None => is_datetime_text(text),
    }
}

/// Whether the text is exactly `YYYY-MM-DDTHH:MM:SSZ`, or the same with one to six digits of a fraction before the `Z`, and
/// a time that exists.
pub fn is_datetime_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let Some((seconds, rest)) = bytes.split_at_checked(19) else {
        return false;
    };
    let zone = match rest.split_first() {
        Some((b'.', fraction)) => {
            let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if !(1..=6).contains(&digits) {
                return false;
            }
            &fraction[digits..]
        }
        _ => rest,
    };
    if zone != b"Z" {
        return false;
    }
    let number = |from: usize, to: usize| -> Option<u32> {
        seconds[from..to].iter().try_fold(0, |number, byte| {
            byte.is_ascii_digit().then(|| number * 10 + u32::from(byte - b'0'))
        })
    };
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators.iter().any(|&(at, separator)| seconds[at] != separator) {
        return false;
    }
    let (Some(year), Some(month), Some(day)) = (number(0, 4), number(5, 7), number(8, 10)) else {
        return false;
    };
    let (Some(hour), Some(minute), Some(second)) = (number(11, 13), number(14, 16), number(17, 19)) else {
        return false;
    };
    let year = i32::try_from(year).unwrap_or_default();
    year > 0 && hour < 24 && minute < 60 && second < 60 && NaiveDate::from_ymd_opt(year, month, day).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn date_times_and_others() {
        for text in [
            "2015-08-04T18:25:56Z",
            "2015-08-04T18:25:56.6Z",
            "2015-08-04T18:25:56.656123Z",
            "2016-02-29T00:00:00Z",
        ] {
            assert!(is_datetime_text(text), "{text}");
        }
        for text in [
            "",
            "2015-08-04",
            "2015-08-04T18:25:56",
            "2015-08-04T18:25:56+00:00",
            "2015-08-04T18:25:56+00:00Z",
            "2015-08-04 18:25:56Z",
            "2015-08-04T18:25:56.Z",
            "2015-08-04T18:25:56.1234567Z",
            "2015-02-29T00:00:00Z",
            "2015-08-04T24:00:00Z",
            "2015-08-04T18:60:00Z",
            "2015-08-04T18:25:60Z",
            "2015-8-04T18:25:56Z",
            "2015-08-04T18:25:56Zé",
            "0000-08-04T18:25:56Z",
            "2015-08-04T18:25:56z",
            "2015-08-04T1é:25:56Z",
        ] {
            assert!(!is_datetime_text(text), "{text}");
        }
    }

    #[test]
    fn a_doubled_zone_is_read_as_one() {
        let expected = DateTime::from_timestamp(1_438_712_756, 0);
        assert!(expected.is_some());
        assert_eq!(couch_date("2015-08-04T18:25:56+00:00Z"), expected);
        assert_eq!(couch_date("2015-08-04T23:55:56+05:30"), expected);
        assert_eq!(couch_date("2015-08-04"), None);
        assert_eq!(couch_date("+00:00Z"), None);
        assert!(is_couch_datetime_text("2015-08-04T18:25:56+00:00Z"));
        assert!(is_couch_datetime_text("2015-08-04T18:25:56.5Z"));
        for text in [
            "2015-08-04T18:25:56.5+00:00Z",
            "2015-08-04T18:25:56+01:00Z",
            "2015-02-29T18:25:56+00:00Z",
        ] {
            assert!(!is_couch_datetime_text(text), "{text}");
        }
    }
}
