//! Dates as Python's `iso8601` library (0.1.12) reads them, which HQ uses for `date_opened`.

use chrono::{DateTime, Duration, NaiveDate, Utc};

/// Reads a date: `YYYY`, `YYYY-MM`, `YYYY-MM-DD` or `YYYYMMDD`, with an optional time after a space or `T` and an optional
/// zone. Absent parts are the smallest, an absent zone is UTC, digits below a microsecond are cut off.
pub(crate) fn parse(text: &str) -> Option<DateTime<Utc>> {
    // The library's pattern ends with `$`, which lets one line feed pass.
    let text = text.strip_suffix('\n').unwrap_or(text).as_bytes();
    let (year, rest) = digits(text, 4)?;
    let year = i32::try_from(year).ok()?;
    if rest.is_empty() {
        return instant(year, 1, 1, Clock::default());
    }
    if let Some(after_dash) = rest.strip_prefix(b"-") {
        // A month with a dash has one or two digits, as many as let the rest be read.
        return [2, 1].into_iter().find_map(|width| {
            let (month, rest) = digits(after_dash, width)?;
            if rest.is_empty() {
                instant(year, month, 1, Clock::default())
            } else {
                day_and_time(year, month, rest)
            }
        });
    }
    let (month, rest) = digits(rest, 2)?;
    if rest.is_empty() {
        None
    } else {
        day_and_time(year, month, rest)
    }
}

/// A date-time of a Couch document: as [`parse`], and also with the doubled zone `+00:00Z` that real documents hold.
pub(crate) fn parse_couch(text: &str) -> Option<DateTime<Utc>> {
    match text.strip_suffix("+00:00Z") {
        Some(start) => parse(&format!("{start}Z")),
        None => parse(text),
    }
}

#[derive(Clone, Copy, Default)]
struct Clock {
    hour: u32,
    minute: u32,
    second: u32,
    micros: u32,
    offset_minutes: i64,
}

fn instant(year: i32, month: u32, day: u32, clock: Clock) -> Option<DateTime<Utc>> {
    if year < 1 || clock.offset_minutes.abs() >= 24 * 60 {
        return None;
    }
    let local = NaiveDate::from_ymd_opt(year, month, day)?.and_hms_micro_opt(
        clock.hour,
        clock.minute,
        clock.second,
        clock.micros,
    )?;
    local
        .checked_sub_signed(Duration::minutes(clock.offset_minutes))
        .map(|utc| utc.and_utc())
}

fn day_and_time(year: i32, month: u32, rest: &[u8]) -> Option<DateTime<Utc>> {
    if let Some(after_dash) = rest.strip_prefix(b"-") {
        return [2, 1].into_iter().find_map(|width| {
            let (day, rest) = digits(after_dash, width)?;
            time(rest).and_then(|clock| instant(year, month, day, clock))
        });
    }
    let (day, rest) = digits(rest, 2)?;
    instant(year, month, day, time(rest)?)
}

fn time(rest: &[u8]) -> Option<Clock> {
    let mut clock = Clock::default();
    if rest.is_empty() {
        return Some(clock);
    }
    let rest = rest.strip_prefix(b"T").or_else(|| rest.strip_prefix(b" "))?;
    let (hour, mut rest) = digits(rest, 2)?;
    clock.hour = hour;
    if let Some((minute, after)) = digits(without_colon(rest), 2) {
        (clock.minute, rest) = (minute, after);
    }
    let seconds = without_colon(rest);
    if let Some((second, after)) = digits(seconds, 2).or_else(|| digits(seconds, 1)) {
        (clock.second, rest) = (second, after);
        if let Some((b'.' | b',', fraction)) = rest.split_first() {
            let length = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if length == 0 {
                return None;
            }
            let mut micros = 0;
            for place in 0..6 {
                micros = micros * 10 + fraction[..length].get(place).map_or(0, |digit| u32::from(digit - b'0'));
            }
            clock.micros = micros;
            rest = &fraction[length..];
        }
    }
    clock.offset_minutes = match rest {
        [] | [b'Z'] => 0,
        [sign @ (b'+' | b'-'), zone @ ..] => {
            let (hours, zone) = digits(zone, 2)?;
            let zone = without_colon(zone);
            let minutes = if zone.is_empty() {
                0
            } else {
                digits(zone, 2).filter(|(_, rest)| rest.is_empty())?.0
            };
            let offset = i64::from(hours) * 60 + i64::from(minutes);
            if *sign == b'-' { -offset } else { offset }
        }
        _ => return None,
    };
    Some(clock)
}

fn without_colon(rest: &[u8]) -> &[u8] {
    rest.strip_prefix(b":").unwrap_or(rest)
}

/// A number of exactly `width` digits, and what follows it.
fn digits(text: &[u8], width: usize) -> Option<(u32, &[u8])> {
    let (number, rest) = text.split_at_checked(width)?;
    let mut value = 0;
    for byte in number {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = value * 10 + u32::from(byte - b'0');
    }
    Some((value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_that_are_read() {
        for (text, expected) in [
            ("2015", "2015-01-01T00:00:00.000000Z"),
            ("2015-08", "2015-08-01T00:00:00.000000Z"),
            ("2015-8-4", "2015-08-04T00:00:00.000000Z"),
            ("2015-08-14", "2015-08-14T00:00:00.000000Z"),
            ("20150814", "2015-08-14T00:00:00.000000Z"),
            ("2015-08-14\n", "2015-08-14T00:00:00.000000Z"),
            ("2015-08-04 18:25", "2015-08-04T18:25:00.000000Z"),
            ("20150804T182556", "2015-08-04T18:25:56.000000Z"),
            ("2015-08-04T18:25:56,656", "2015-08-04T18:25:56.656000Z"),
            ("2015-08-04T18:25:56.1234567Z", "2015-08-04T18:25:56.123456Z"),
            ("2011-05-20T12:27:34.823+05:30", "2011-05-20T06:57:34.823000Z"),
            ("2019-02-07T11:15:48.575+02", "2019-02-07T09:15:48.575000Z"),
            ("2019-02-07T11:15:48-0130", "2019-02-07T12:45:48.000000Z"),
        ] {
            let read = parse(text).map(|date| date.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string());
            assert_eq!(read.as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn shapes_that_are_refused() {
        for text in [
            "",
            "yesterday",
            "201508",
            "2015-08-014",
            "2015-13-01",
            "2015-02-30T10:10:10Z",
            "2015/08/04",
            "2015-08-04T18:25:56z",
            "2015-08-04 18.25.56",
            "2015-08-04T24:00:00Z",
            "2015-08-04T18:25:60Z",
            "2015-08-04T18:25:56.Z",
            "2015-08-04T18:25:56+00:00Z",
            "0000-01-01",
            "2015-08-04T18:25:56+99:00",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn couch_dates_may_have_a_doubled_zone() {
        assert_eq!(parse_couch("2015-08-04T18:25:56+00:00Z"), parse("2015-08-04T18:25:56Z"));
        assert_eq!(
            parse_couch("2015-08-04T18:25:56.120000Z"),
            parse("2015-08-04T18:25:56.12Z")
        );
    }
}
