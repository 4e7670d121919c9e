//! Classes of domains by size and age. Pure.

use chrono::{DateTime, Months, Utc};

/// A class, in the order of printing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    NoForms,
    /// No form for five years.
    Fossilized,
    /// No form for a year.
    Inactive,
    Small,
    Smallish,
    Smallesque,
    Moderate,
    Large,
    SuperLarge,
}

/// Below these numbers of forms a domain is small, smallish, smallesque.
const SMALL: [(i64, Class); 3] = [(2000, Class::Small), (3500, Class::Smallish), (5000, Class::Smallesque)];
/// Above these it is super-large, large.
const LARGE: [(i64, Class); 2] = [(720_000, Class::SuperLarge), (60_000, Class::Large)];

impl Class {
    pub(super) const ALL: [Self; 9] = [
        Self::NoForms,
        Self::Fossilized,
        Self::Inactive,
        Self::Small,
        Self::Smallish,
        Self::Smallesque,
        Self::Moderate,
        Self::Large,
        Self::SuperLarge,
    ];

    /// Its name, also of its file.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::NoForms => "no_forms",
            Self::Fossilized => "fossilized",
            Self::Inactive => "inactive",
            Self::Small => "small",
            Self::Smallish => "smallish",
            Self::Smallesque => "smallesque",
            Self::Moderate => "moderate",
            Self::Large => "large",
            Self::SuperLarge => "super_large",
        }
    }

    /// The class of a domain: age comes before size. Without a date that can be read, it is by size.
    pub(super) fn of(forms: i64, last_form: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Self {
        if forms == 0 {
            return Self::NoForms;
        }
        let is_older_than = |years: u32| {
            let limit = now.checked_sub_months(Months::new(12 * years));
            last_form.zip(limit).is_some_and(|(last, limit)| last <= limit)
        };
        if is_older_than(5) {
            return Self::Fossilized;
        }
        if is_older_than(1) {
            return Self::Inactive;
        }
        let small = SMALL.into_iter().find(|(limit, _)| forms < *limit);
        let large = LARGE.into_iter().find(|(limit, _)| forms > *limit);
        small.or(large).map_or(Self::Moderate, |(_, class)| class)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn date(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).unwrap().with_timezone(&Utc)
    }

    #[test]
    fn classes_by_size() {
        let now = date("2020-10-01T00:00:00Z");
        let recent = Some(date("2020-09-30T00:00:00Z"));
        for (forms, class) in [
            (0, "no_forms"),
            (1, "small"),
            (1999, "small"),
            (2000, "smallish"),
            (3499, "smallish"),
            (3500, "smallesque"),
            (4999, "smallesque"),
            (5000, "moderate"),
            (60_000, "moderate"),
            (60_001, "large"),
            (720_000, "large"),
            (720_001, "super_large"),
        ] {
            assert_eq!(Class::of(forms, recent, now).name(), class, "{forms}");
            assert_eq!(Class::of(forms, None, now).name(), class, "{forms}, no date");
        }
    }

    #[test]
    fn age_comes_before_size() {
        let now = date("2020-10-01T00:00:00Z");
        for (last, class) in [
            ("2019-10-02T00:00:00Z", "super_large"),
            ("2019-10-01T00:00:00Z", "inactive"),
            ("2015-10-02T00:00:00Z", "inactive"),
            ("2015-10-01T00:00:00Z", "fossilized"),
        ] {
            assert_eq!(Class::of(1_000_000, Some(date(last)), now).name(), class, "{last}");
        }
        assert_eq!(Class::of(0, Some(date("2010-01-01T00:00:00Z")), now), Class::NoForms);
    }
}
