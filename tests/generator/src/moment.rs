//! Moments as phones write them and as Couch holds them.

use chrono::{DateTime, FixedOffset, Offset, Utc};

/// A moment with the time zone of the phone that noted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) utc: DateTime<Utc>,
    /// Minutes east of Greenwich.
    pub(crate) zone: i32,
}

impl Moment {
    /// As in XML: milliseconds and the phone's own offset, which some phones shorten to whole hours.
    pub(crate) fn phone(self) -> String {
        let offset = FixedOffset::east_opt(self.zone * 60).unwrap_or_else(|| Utc.fix());
        let local = self.utc.with_timezone(&offset).format("%Y-%m-%dT%H:%M:%S%.3f");
        let sign = if self.zone < 0 { '-' } else { '+' };
        let (hours, minutes) = (self.zone.abs() / 60, self.zone.abs() % 60);
        match (self.zone, minutes) {
            (0, _) => format!("{local}Z"),
            (_, 0) if hours % 2 == 1 => format!("{local}{sign}{hours:02}"),
            _ => format!("{local}{sign}{hours:02}:{minutes:02}"),
        }
    }

    /// As in the form JSON: UTC, six digits.
    pub(crate) fn couch(self) -> String {
        couch_time(self.utc)
    }
}

/// A date-time as Couch documents hold it.
pub(crate) fn couch_time(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// A date-time as documents of the early days hold it; only for whole seconds.
pub(crate) fn short_couch_time(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn zones_and_utc_name_the_same_moment() {
        let utc = DateTime::parse_from_rfc3339("2011-05-20T06:57:34.823Z")
            .unwrap()
            .to_utc();
        for (zone, text) in [
            (330, "2011-05-20T12:27:34.823+05:30"),
            (180, "2011-05-20T09:57:34.823+03"),
            (0, "2011-05-20T06:57:34.823Z"),
            (-240, "2011-05-20T02:57:34.823-04:00"),
        ] {
            let moment = Moment { utc, zone };
            assert_eq!(moment.phone(), text);
            assert_eq!(moment.couch(), "2011-05-20T06:57:34.823000Z");
        }
    }
}
