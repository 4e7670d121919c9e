//! Quantities of ledgers: exact decimal numbers.
//!
//! HQ computes with Python's `Decimal`. A form's quantities have at most 17 digits, those of a float, so that sums stay far
//! below the 28 digits at which `Decimal` begins to round; here nothing is rounded.

use num_bigint::BigInt;

/// A decimal number: `units` times ten to the power of minus `places`.
#[derive(Clone, Debug)]
pub(crate) struct Quantity {
    units: BigInt,
    places: u32,
}

/// Bound of exponents, as absolute value: beyond every exponent that a Python float has.
const MAX_EXPONENT: i64 = 400;

/// Bound of the length of a quantity's text.
const MAX_LENGTH: usize = 1_000;

impl Quantity {
    /// Reads a number: digits with at most one point, maybe a sign before, maybe an exponent behind.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_LENGTH {
            return None;
        }
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
            None => (text, 0),
        };
        let (negative, mantissa) = match mantissa.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, mantissa.strip_prefix('+').unwrap_or(mantissa)),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = [whole, fraction].concat();
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) || exponent.abs() > MAX_EXPONENT {
            return None;
        }
        let units: BigInt = digits.parse().ok()?;
        let units = if negative { -units } else { units };
        let places = i64::try_from(fraction.len()).ok()?.checked_sub(exponent)?;
        Some(match u32::try_from(places) {
            Ok(places) => Self { units, places },
            Err(_) => Self {
                units: units * power_of_ten(u32::try_from(places.unsigned_abs()).ok()?),
                places: 0,
            },
        })
    }

    pub(crate) fn plus(&self, other: &Self) -> Self {
        let places = self.places.max(other.places);
        Self {
            units: self.with_places(places) + other.with_places(places),
            places,
        }
    }

    pub(crate) fn minus(&self, other: &Self) -> Self {
        let places = self.places.max(other.places);
        Self {
            units: self.with_places(places) - other.with_places(places),
            places,
        }
    }

    /// The whole part, as an integer column gets it: cut towards zero. None beyond 64 bits.
    pub(crate) fn whole(&self) -> Option<i64> {
        i64::try_from(&self.units / power_of_ten(self.places)).ok()
    }

    fn with_places(&self, places: u32) -> BigInt {
        &self.units * power_of_ten(places - self.places)
    }
}

impl From<i32> for Quantity {
    fn from(whole: i32) -> Self {
        Self {
            units: whole.into(),
            places: 0,
        }
    }
}

fn power_of_ten(exponent: u32) -> BigInt {
    BigInt::from(10).pow(exponent)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_their_whole_parts() {
        for (text, whole) in [
            ("0", 0),
            ("7", 7),
            ("7.0", 7),
            ("+7.9", 7),
            ("-7.9", -7),
            ("-0.5", 0),
            (".5", 0),
            ("5.", 5),
            ("007", 7),
            ("1.5e3", 1_500),
            ("15E-1", 1),
            ("1e+16", 10_000_000_000_000_000),
            ("5e-324", 0),
            ("9223372036854775807.9", i64::MAX),
            ("-9223372036854775808.9", i64::MIN),
        ] {
            assert_eq!(Quantity::parse(text).unwrap().whole(), Some(whole), "{text}");
        }
        for text in ["9223372036854775808", "-9223372036854775809", "1e19", "1e308"] {
            assert_eq!(Quantity::parse(text).unwrap().whole(), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_number() {
        let long = "1".repeat(MAX_LENGTH + 1);
        for text in [
            "",
            ".",
            "-",
            "e5",
            "nan",
            "inf",
            "-inf",
            "1e",
            "1e1.5",
            "1.2.3",
            "--1",
            " 1",
            "1_0",
            "0x1",
            "٣",
            "1e401",
            "1e-401",
            "1e99999999999999999999",
            &long,
        ] {
            assert!(Quantity::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn sums_are_exact() {
        let number = |text| Quantity::parse(text).unwrap();
        let mut sum = Quantity::from(0);
        for _ in 0..10 {
            sum = sum.plus(&number("0.1"));
        }
        assert_eq!(sum.whole(), Some(1));
        // With the sum of ten floats this would be 0.
        assert_eq!(sum.minus(&number("1")).plus(&number("1")).whole(), Some(1));
        assert_eq!(number("1").minus(&number("1e-30")).whole(), Some(0));
        assert_eq!(
            number("1e300").minus(&number("1e300")).plus(&number("4.5")).whole(),
            Some(4)
        );
    }
}
