//! How long a domain will take, learnt from what first runs of others took. Pure.

use state::first_runs::FirstRun;

/// A run's start and end cost about as much as this many forms, whatever its size: small domains are not proportionally
/// faster.
const BASE_FORMS: f64 = 1000.0;
/// Spread at least, as a natural logarithm: a quarter up or down, however well past runs agree.
const LEAST_SPREAD: f64 = 0.22;
/// Spread that each factor of e between a domain's size and the nearest past run adds.
const SPREAD_BY_DISTANCE: f64 = 0.15;
/// Band on either side, in spreads.
const BAND: f64 = 2.0;

/// An estimate with its error band, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) low: f64,
    pub(crate) likely: f64,
    pub(crate) high: f64,
}

impl Estimate {
    /// The estimate of things that are done one after the other. Their errors are taken to be of one cause.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            low: self.low + other.low,
            likely: self.likely + other.likely,
            high: self.high + other.high,
        }
    }
}

/// Estimates a first run over so many forms; `None` when there were none to learn from.
///
/// Each past run says what the domain would take at its pace. The nearer it is in size, the more it counts; what they
/// disagree about, and how far the nearest one is away, makes the band.
pub(crate) fn estimate(past: &[FirstRun], forms: i64) -> Option<Estimate> {
    let size = |forms: i64| (forms.max(0) as f64 + BASE_FORMS).ln();
    let wanted = size(forms);
    let (mut weights, mut sum, mut squares) = (0.0, 0.0, 0.0);
    let mut nearest = f64::INFINITY;
    for run in past {
        let distance = (size(run.forms) - wanted).abs();
        let weight = 1.0 / (1.0 + distance).powi(2);
        let says = run.seconds.max(f64::MIN_POSITIVE).ln() + wanted - size(run.forms);
        weights += weight;
        sum += weight * says;
        squares += weight * says * says;
        nearest = nearest.min(distance);
    }
    if weights == 0.0 {
        return None;
    }
    let mean = sum / weights;
    let disagreement = (squares / weights - mean * mean).max(0.0).sqrt();
    let spread =
        BAND * (disagreement.max(LEAST_SPREAD) + nearest * SPREAD_BY_DISTANCE) * (1.0 + 1.0 / past.len() as f64);
    Some(Estimate {
        low: (mean - spread).exp(),
        likely: mean.exp(),
        high: (mean + spread).exp(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn runs(of: &[(i64, f64)]) -> Vec<FirstRun> {
        of.iter().map(|&(forms, seconds)| FirstRun { forms, seconds }).collect()
    }

    #[test]
    fn nothing_is_said_without_past_runs() {
        assert_eq!(estimate(&[], 1000), None);
    }

    #[test]
    fn a_domain_of_the_same_size_takes_as_long_and_a_larger_one_in_proportion() {
        let past = runs(&[(9000, 20.0), (9000, 20.0), (9000, 20.0)]);
        let same = estimate(&past, 9000).unwrap();
        assert!((same.likely - 20.0).abs() < 1e-9, "{same:?}");
        let larger = estimate(&past, 99_000).unwrap();
        assert!((larger.likely - 200.0).abs() < 1e-9, "{larger:?}");
        assert!(
            larger.high / larger.likely > same.high / same.likely,
            "the further away, the less is known"
        );
    }

    #[test]
    fn the_band_holds_what_past_runs_of_that_size_took_and_narrows_with_their_number() {
        let disagreeing = runs(&[(9000, 10.0), (9000, 20.0), (9000, 40.0)]);
        let found = estimate(&disagreeing, 9000).unwrap();
        assert!(found.low < 10.0 && found.high > 40.0, "{found:?}");
        let one = estimate(&runs(&[(9000, 20.0)]), 9000).unwrap();
        let many = estimate(&runs(&[(9000, 20.0); 20]), 9000).unwrap();
        assert!(many.high < one.high && many.low > one.low);
    }

    #[test]
    fn runs_of_about_that_size_count_most() {
        let past = runs(&[(500, 5.0), (1_000_000, 4000.0)]);
        let small = estimate(&past, 400).unwrap();
        assert!(small.likely < 5.0 && small.likely > 3.0, "{small:?}");
        let large = estimate(&past, 2_000_000).unwrap();
        assert!(large.likely > 6000.0 && large.likely < 9500.0, "{large:?}");
    }
}
