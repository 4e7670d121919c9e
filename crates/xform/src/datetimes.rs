//! Date-times in form JSON: which texts HQ takes for one, and what it makes of them.
//!
//! HQ first matches a loose pattern, then parses with the Python library iso8601 (0.1.12). The two disagree on many
//! texts; only what both accept is touched.

use chrono::{Datelike, NaiveDate, NaiveDateTime, TimeDelta, Timelike};
use serde_json::Value;

use crate::error::FormError;

/// Rewrites every date-time text of the form as UTC, `YYYY-MM-DDTHH:MM:SS.ffffffZ`, in place.
///
/// Attributes and list items count like any other value; a text without a zone is taken as UTC; plain dates and anything
/// that is not exactly a date-time stay as they are.
///
/// # Errors
/// [`FormError::DateOutOfRange`] when the zone moves a date-time out of the years 1 to 9999: HQ fails on such a form.
pub fn adjust_datetimes(form: &mut Value) -> Result<(), FormError> {
    match form {
        Value::String(text) => {
            if let Some(adjusted) = adjusted(text)? {
                *text = adjusted;
            }
            Ok(())
        }
        Value::Array(items) => items.iter_mut().try_for_each(adjust_datetimes),
        Value::Object(object) => object.values_mut().try_for_each(adjust_datetimes),
        _ => Ok(()),
    }
}

/// The date-time rewritten, or `None` for any other text.
fn adjusted(text: &str) -> Result<Option<String>, FormError> {
    // Shortest: `YYYYMMDD HHMM`. Longest: every separator, six digits of fraction, a zone and a line feed.
    if !(13..=40).contains(&text.len()) || !text.as_bytes()[..4].iter().all(u8::is_ascii_digit) {
        return Ok(None);
    }
    match parse_iso8601(text) {
        Some(found) if matches_loose_pattern(strip_line_feed(text).as_bytes()) => Ok(Some(format_utc(found.utc()?))),
        _ => Ok(None),
    }
}

/// `YYYY-MM-DDTHH:MM:SS.ffffffZ`, the year always with four digits. A form has several of these, and chrono's own
/// formatting is slow enough to show.
fn format_utc(utc: NaiveDateTime) -> String {
    let mut text = String::with_capacity("YYYY-MM-DDTHH:MM:SS.ffffffZ".len());
    let mut push = |number: u32, width: u32, end: char| {
        for place in (0..width).rev() {
            text.push(char::from(b'0' + (number / 10_u32.pow(place) % 10) as u8));
        }
        text.push(end);
    };
    push(utc.year().unsigned_abs(), 4, '-');
    push(utc.month(), 2, '-');
    push(utc.day(), 2, 'T');
    push(utc.hour(), 2, ':');
    push(utc.minute(), 2, ':');
    push(utc.second(), 2, '.');
    push(utc.nanosecond() / 1000, 6, 'Z');
    text
}

/// A date or date-time as written, with its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WrittenDateTime {
    /// Date and time of day as written; a missing month, day or time is the first or midnight.
    pub(crate) local: NaiveDateTime,
    /// East of UTC; zero when no zone is written.
    pub(crate) offset: TimeDelta,
}

impl WrittenDateTime {
    /// In UTC.
    pub(crate) fn utc(self) -> Result<NaiveDateTime, FormError> {
        self.local
            .checked_sub_signed(self.offset)
            .filter(|utc| (1..=9999).contains(&utc.year()))
            .ok_or(FormError::DateOutOfRange)
    }
}

/// Python's `$` matches before one final line feed too.
pub(crate) fn strip_line_feed(text: &str) -> &str {
    text.strip_suffix('\n').unwrap_or(text)
}

/// Reads what the library iso8601 0.1.12 reads: `YYYY`, `YYYY-MM`, dates with or without hyphens, and these with a time.
pub(crate) fn parse_iso8601(text: &str) -> Option<WrittenDateTime> {
    let bytes = strip_line_feed(text).as_bytes();
    let year = digits(bytes, 4)?;
    let rest = &bytes[4..];
    if rest.is_empty() {
        return written(year, 1, 1, Time::default());
    }
    // The library's pattern may give a digit of the month back to the day. The first way that fits the whole text
    // counts, even if its numbers turn out to be no date.
    for (month, rest) in month_or_day(rest) {
        // Six digits alone are not year and month.
        if bytes[4] != b'-' && rest.is_empty() {
            continue;
        }
        for (day, rest) in month_or_day(rest) {
            if rest.is_empty() {
                return written(year, month, day, Time::default());
            }
            if let Some(time) = rest
                .strip_prefix(b" ")
                .or_else(|| rest.strip_prefix(b"T"))
                .and_then(parse_time)
            {
                return written(year, month, day, time);
            }
        }
        if rest.is_empty() {
            return written(year, month, 1, Time::default());
        }
    }
    None
}

/// The ways to read a month or a day: a hyphen and two digits or one, or two digits alone.
fn month_or_day(bytes: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    let (bytes, widths) = match bytes.strip_prefix(b"-") {
        Some(rest) => (rest, [Some(2), Some(1)]),
        None => (bytes, [Some(2), None]),
    };
    widths
        .into_iter()
        .flatten()
        .filter_map(move |width| Some((digits(bytes, width)?, &bytes[width..])))
}

#[derive(Clone, Copy, Default)]
struct Time {
    hour: u32,
    minute: u32,
    second: u32,
    microsecond: u32,
    offset: TimeDelta,
}

/// Hour, then maybe minute, then maybe second with fraction, then maybe a zone.
pub(crate) fn parse_clock(bytes: &[u8]) -> Option<(u32, u32, u32, u32, TimeDelta)> {
    parse_time(bytes).map(|time| (time.hour, time.minute, time.second, time.microsecond, time.offset))
}

fn parse_time(bytes: &[u8]) -> Option<Time> {
    let hour = digits(bytes, 2)?;
    let rest = &bytes[2..];
    let after_colon = rest.strip_prefix(b":").unwrap_or(rest);
    if let Some(minute) = digits(after_colon, 2)
        && let Some(time) = parse_seconds(
            Time {
                hour,
                minute,
                ..Time::default()
            },
            &after_colon[2..],
        )
    {
        return Some(time);
    }
    // An odd text such as `18:25.5` fits only when the minute is left out.
    parse_seconds(
        Time {
            hour,
            ..Time::default()
        },
        rest,
    )
}

fn parse_seconds(time: Time, bytes: &[u8]) -> Option<Time> {
    let after_colon = bytes.strip_prefix(b":").unwrap_or(bytes);
    for width in [2, 1] {
        let Some(second) = digits(after_colon, width) else {
            continue;
        };
        let rest = &after_colon[width..];
        if let Some(fraction) = rest.strip_prefix(b".").or_else(|| rest.strip_prefix(b","))
            && let length @ 1.. = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count()
        {
            // Digits beyond the sixth are cut off.
            let microsecond = (0..6).fold(0, |number, place| {
                number * 10 + fraction[..length].get(place).map_or(0, |digit| u32::from(digit - b'0'))
            });
            if let Some(offset) = parse_zone(&fraction[length..]) {
                return Some(Time {
                    second,
                    microsecond,
                    offset,
                    ..time
                });
            }
        }
        if let Some(offset) = parse_zone(rest) {
            return Some(Time { second, offset, ..time });
        }
    }
    parse_zone(bytes).map(|offset| Time { offset, ..time })
}

/// Nothing, `Z`, or a sign with hours and maybe minutes, up to the end of the text.
fn parse_zone(bytes: &[u8]) -> Option<TimeDelta> {
    let (negative, rest) = match bytes {
        [] | [b'Z'] => return Some(TimeDelta::zero()),
        [b'+', rest @ ..] => (false, rest),
        [b'-', rest @ ..] => (true, rest),
        _ => return None,
    };
    let hours = digits(rest, 2)?;
    let rest = &rest[2..];
    let minutes = match rest.strip_prefix(b":").unwrap_or(rest) {
        [] => 0,
        two @ [_, _] => digits(two, 2)?,
        _ => return None,
    };
    let offset = TimeDelta::minutes(i64::from(hours * 60 + minutes));
    // Python has no zone a day or more away.
    (offset < TimeDelta::days(1)).then_some(if negative { -offset } else { offset })
}

fn written(year: u32, month: u32, day: u32, time: Time) -> Option<WrittenDateTime> {
    let local = date(year, month, day)?.and_hms_micro_opt(time.hour, time.minute, time.second, time.microsecond)?;
    Some(WrittenDateTime {
        local,
        offset: time.offset,
    })
}

/// A date of the years 1 to 9999, those that Python has.
pub(crate) fn date(year: u32, month: u32, day: u32) -> Option<NaiveDate> {
    let year = i32::try_from(year).ok().filter(|year| (1..=9999).contains(year))?;
    NaiveDate::from_ymd_opt(year, month, day)
}

/// The number that the first `width` bytes spell, all digits.
pub(crate) fn digits(bytes: &[u8], width: usize) -> Option<u32> {
    bytes.get(..width)?.iter().try_fold(0, |number: u32, byte| {
        byte.is_ascii_digit().then(|| number * 10 + u32::from(byte - b'0'))
    })
}

/// HQ's loose pattern over a text of which [`parse_iso8601`] has made sure that it is ASCII. Up to the minute each step
/// is forced; after it, digits may be seconds or fraction, so every way is tried.
fn matches_loose_pattern(bytes: &[u8]) -> bool {
    let forced = || {
        digits(bytes, 4)?;
        let rest = number_within(skip_one_other(&bytes[4..]), 1, 12)?;
        let rest = number_within(skip_one_other(rest), 1, 31)?;
        let rest = rest.strip_prefix(b" ").or_else(|| rest.strip_prefix(b"T"))?;
        let rest = number_within(rest, 0, 23)?;
        number_within(skip_one_other(rest), 0, 59)
    };
    let Some(rest) = forced() else { return false };
    one_other_or_none(rest).any(|rest| {
        let with_second = number_within(rest, 0, 59);
        with_second
            .into_iter()
            .chain([rest])
            .flat_map(one_other_or_none)
            .any(|rest| {
                let fraction = rest.iter().take(6).take_while(|byte| byte.is_ascii_digit()).count();
                (3..=fraction)
                    .map(|length| &rest[length..])
                    .chain([rest])
                    .any(is_loose_zone)
            })
    })
}

fn is_loose_zone(bytes: &[u8]) -> bool {
    match bytes {
        [] | [b'z' | b'Z'] => true,
        [b'+' | b'-', rest @ ..] => number_within(rest, 0, 23).is_some_and(|rest| {
            one_other_or_none(rest).any(|rest| rest.is_empty() || number_within(rest, 0, 59) == Some(&[]))
        }),
        _ => false,
    }
}

/// What follows two digits of a number within the bounds.
fn number_within(bytes: &[u8], least: u32, most: u32) -> Option<&[u8]> {
    digits(bytes, 2)
        .filter(|number| (least..=most).contains(number))
        .map(|_| &bytes[2..])
}

/// Steps over one byte that is no digit: where digits must follow, it can be nothing but the separator.
fn skip_one_other(bytes: &[u8]) -> &[u8] {
    match bytes {
        [first, rest @ ..] if !first.is_ascii_digit() => rest,
        _ => bytes,
    }
}

/// Both ways of an optional separator.
fn one_other_or_none(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let without = skip_one_other(bytes);
    let skipped = (without.len() < bytes.len()).then_some(without);
    skipped.into_iter().chain([bytes])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn rewrites_date_times_as_utc() {
        for (text, expected) in [
            ("2011-05-20T12:27:34.823+05:30", "2011-05-20T06:57:34.823000Z"),
            ("2019-02-07T11:15:48.575+02", "2019-02-07T09:15:48.575000Z"),
            ("2015-08-04 18:25", "2015-08-04T18:25:00.000000Z"),
            ("20150804T182556", "2015-08-04T18:25:56.000000Z"),
            ("2015-08-04T18:25:56,656", "2015-08-04T18:25:56.656000Z"),
            ("2016-03-01 12:04:16.123456", "2016-03-01T12:04:16.123456Z"),
            ("2015-08-04T18:25:56.656Z", "2015-08-04T18:25:56.656000Z"),
            ("2015-08-04T18:25:56.000000Z", "2015-08-04T18:25:56.000000Z"),
            ("2015-08-04T18:25-0530", "2015-08-04T23:55:00.000000Z"),
            ("2015-08-04T18:25:56+05:", "2015-08-04T13:25:56.000000Z"),
            ("20150804 1825", "2015-08-04T18:25:00.000000Z"),
            ("2015-0804T18:2556Z", "2015-08-04T18:25:56.000000Z"),
            ("2015-08-04T18:25:56Z\n", "2015-08-04T18:25:56.000000Z"),
            ("0099-01-02T03:04:05Z", "0099-01-02T03:04:05.000000Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z"),
            ("2016-02-29T00:30:00+01:00", "2016-02-28T23:30:00.000000Z"),
        ] {
            assert_eq!(adjusted(text).unwrap().as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn leaves_everything_else() {
        for text in [
            "",
            "2015-08-14",
            "2015-08-014",
            "2015-8-4 18:25",
            "2015-08-04T18:25:56.5",
            "2015-08-04T18:25:56.56",
            "2015-08-04T18:25:56.1234567",
            "2015-08-04T24:00:00",
            "2015-08-04T18:25:60",
            "2015-08-04T18:25:56z",
            "2015/08/04 18:25:56",
            "2015-08-04 18.25.56",
            "2015-02-30T10:10:10Z",
            "0000-01-01T10:10:10Z",
            "2015-08-04T18:25:5",
            "2015-08-04T18:25 +05:30",
            "2015-08-04  18:25",
            "2015-08-04t18:25",
            "2015-08-04T18:25:56+24:00",
            "2015-08-04T18:25:56+05:75",
            "2015-08-04T18:25:56Z\n\n",
            " 2015-08-04T18:25:56Z",
            "2015-08-04T18:25:56Z ",
            "2015-08-04T18",
            "12015-08-04T18:25",
            "٢٠١٥-08-04T18:25:56Z",
            "2015–08-04T18:25:56Z",
        ] {
            assert_eq!(adjusted(text).unwrap(), None, "{text}");
        }
    }

    #[test]
    fn a_zone_that_leaves_pythons_years_is_an_error() {
        for text in ["0001-01-01T00:00:00+05:00", "9999-12-31T23:00:00-05:00"] {
            assert_eq!(adjusted(text), Err(FormError::DateOutOfRange), "{text}");
        }
    }

    #[test]
    fn walks_attributes_lists_and_objects() {
        let mut form = json!({
            "@at": "2015-08-04 18:25",
            "list": ["2015-08-04T18:25:56,656", {"deep": "2015-08-04T18:25+01", "date": "2015-08-04"}],
            "none": null, "number": 5,
        });
        adjust_datetimes(&mut form).unwrap();
        assert_eq!(
            form,
            json!({
                "@at": "2015-08-04T18:25:00.000000Z",
                "list": ["2015-08-04T18:25:56.656000Z", {"deep": "2015-08-04T17:25:00.000000Z", "date": "2015-08-04"}],
                "none": null, "number": 5,
            })
        );
    }

    #[test]
    fn reads_what_the_library_reads() {
        for (text, expected) in [
            ("2015", Some(("2015-01-01T00:00:00", 0))),
            ("2015-08", Some(("2015-08-01T00:00:00", 0))),
            ("2015-8-4", Some(("2015-08-04T00:00:00", 0))),
            ("201508-04", Some(("2015-08-04T00:00:00", 0))),
            ("2015-08-04T18", Some(("2015-08-04T18:00:00", 0))),
            ("2015-08-04T18Z", Some(("2015-08-04T18:00:00", 0))),
            ("2015-08-04T18-05:30", Some(("2015-08-04T18:00:00", -330))),
            ("2015-08-04T18:25:5", Some(("2015-08-04T18:25:05", 0))),
            ("2015-08-04T18:25:56.1234567", Some(("2015-08-04T18:25:56.123456", 0))),
            ("2015-08-04T18255", Some(("2015-08-04T18:25:05", 0))),
            ("2015-08-04T182", Some(("2015-08-04T18:00:02", 0))),
            ("2015-08-04T18:25:56.5+05:75", Some(("2015-08-04T18:25:56.5", 375))),
            ("2015\n", Some(("2015-01-01T00:00:00", 0))),
            ("201508", None),
            ("2015-00-01", None),
            ("2015-13-01", None),
            ("0000-01-01", None),
            ("2015-02-30", None),
            ("2015-08-014", None),
            ("2015-08-04T24:00:00", None),
            ("2015-08-04T18:25:56+24:00", None),
            ("2015-08-04T18:25:56z", None),
            ("08/04/2015", None),
            ("1-1-2015", None),
            ("", None),
            ("abc", None),
        ] {
            let expected = expected.map(|(local, minutes): (&str, i64)| WrittenDateTime {
                local: local.parse().unwrap(),
                offset: TimeDelta::minutes(minutes),
            });
            assert_eq!(parse_iso8601(text), expected, "{text}");
        }
    }
}
