//! How long to wait before an attempt is repeated. Pure.

use std::time::Duration;

use chrono::DateTime;

/// Upper bound of the first wait: a server that hiccuped is back by then.
const FIRST: Duration = Duration::from_millis(200);
/// Upper bound of any wait of our own choosing.
const LONGEST: Duration = Duration::from_secs(20);
/// The longest wait that a server may ask for and get; beyond it the caller decides.
pub(crate) const LONGEST_ASKED_FOR: Duration = Duration::from_secs(120);

/// Exponential back-off with full jitter: a random part (`random` in 0..1) of a bound that doubles with each attempt, so
/// that clients which failed together do not come back together.
pub(crate) fn delay(failed_attempts: u32, random: f64) -> Duration {
    let doublings = failed_attempts.saturating_sub(1).min(16);
    FIRST
        .saturating_mul(1 << doublings)
        .min(LONGEST)
        .mul_f64(random.clamp(0.0, 1.0))
}

/// The wait that a `Retry-After` header asks for: seconds, or a date, which is taken relative to the answer's own `Date`
/// so that clocks need not agree.
pub(crate) fn asked_for(retry_after: &str, date: Option<&str>) -> Option<Duration> {
    if let Ok(seconds) = retry_after.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let until = DateTime::parse_from_rfc2822(retry_after.trim()).ok()?;
    let now = DateTime::parse_from_rfc2822(date?.trim()).ok()?;
    Some((until - now).to_std().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_doubles_up_to_the_longest() {
        for (failed, bound) in [(1, 200), (2, 400), (3, 800), (7, 12_800), (8, 20_000), (1000, 20_000)] {
            assert_eq!(delay(failed, 1.0), Duration::from_millis(bound), "{failed}");
            assert_eq!(delay(failed, 0.5), Duration::from_millis(bound / 2), "{failed}");
            assert_eq!(delay(failed, 0.0), Duration::ZERO);
        }
    }

    #[test]
    fn retry_after_in_both_notations() {
        let date = Some("Wed, 21 Oct 2015 07:28:00 GMT");
        assert_eq!(asked_for("7", None), Some(Duration::from_secs(7)));
        assert_eq!(
            asked_for("Wed, 21 Oct 2015 07:28:30 GMT", date),
            Some(Duration::from_secs(30))
        );
        assert_eq!(asked_for("Wed, 21 Oct 2015 07:27:00 GMT", date), Some(Duration::ZERO));
        assert_eq!(asked_for("Wed, 21 Oct 2015 07:28:30 GMT", None), None);
        assert_eq!(asked_for("soon", date), None);
    }
}
