//! What a generated domain is like.

use chrono::{DateTime, TimeZone, Utc};

/// What to generate. The same options give the same bytes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the domain.
    pub domain: String,
    /// Form documents of all types together; met exactly.
    pub forms: usize,
    /// Seed of all choices.
    pub seed: u64,
    /// Whether case blocks carry attachments, as in a domain with HQ's toggle `MM_CASE_PROPERTIES`. Without the toggle
    /// HQ ignores them, so then none are written.
    pub case_attachments: bool,
    /// Name of the Couch database, if some blob references shall be of the old kind, whose key contains it. `None`: all
    /// references carry their key.
    pub couch_db: Option<String>,
    /// When the domain began.
    pub start: DateTime<Utc>,
    /// Days over which households register.
    pub days: i64,
    /// Cases touched by one census form.
    pub census_cases: usize,
    /// Forms that touch one hub case; a small domain gets a smaller hub, of a tenth of its forms.
    pub hub_forms: usize,
    /// Proportions of everything else.
    pub weights: Weights,
}

impl Options {
    /// Options with the usual proportions.
    pub fn new(domain: impl Into<String>, forms: usize, seed: u64) -> Self {
        Self {
            domain: domain.into(),
            forms,
            seed,
            ..Self::default()
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            domain: "sample-domain".to_owned(),
            forms: 1000,
            seed: 1,
            case_attachments: false,
            couch_db: None,
            // A fixed moment: generated domains must not depend on the day of the test.
            start: Utc
                .with_ymd_and_hms(2015, 3, 1, 6, 0, 0)
                .single()
                .unwrap_or(DateTime::UNIX_EPOCH),
            days: 1400,
            census_cases: 30,
            hub_forms: 300,
            weights: Weights::default(),
        }
    }
}

/// Probabilities between 0 and 1.
#[derive(Clone, Debug)]
pub struct Weights {
    /// A form is edited later: a deprecated copy exists beside it.
    pub edits: f64,
    /// A form is submitted again under another id.
    pub duplicates: f64,
    /// A further form of the household is archived.
    pub archived: f64,
    /// … failed in processing.
    pub errors: f64,
    /// … was not XML.
    pub error_logs: f64,
    /// … is a raw submission of early days.
    pub hq_submissions: f64,
    /// … is soft-deleted.
    pub deleted_forms: f64,
    /// … is a normal form with a `problem`.
    pub problem_forms: f64,
    /// … is a normal form that was never processed into cases.
    pub unprocessed: f64,
    /// … is a log of a device.
    pub device_reports: f64,
    /// A household is of the early days: V1 case blocks, old `meta`, dates without fractions.
    pub legacy: f64,
    /// A visit carries a photo.
    pub images: f64,
    /// A blob has no metadata row yet.
    pub missing_blobmeta: f64,
    /// An attachment's metadata row has the type code of a form's XML.
    pub wrong_type_blobmeta: f64,
    /// A visit has no `meta` block.
    pub no_meta: f64,
    /// A visit also names a case without doing anything to it.
    pub noop: f64,
    /// The phone's clock was wrong, or the form was long on its way.
    pub wrong_clock: f64,
    /// A household begins with several forms received at one moment that many households share.
    pub ties: f64,
    /// A household is soft-deleted with all of its forms.
    pub deleted_households: f64,
    /// A case is marked deleted while its forms live on.
    pub deleted_cases: f64,
    /// A visit makes a referral: an extension case, closed later.
    pub referrals: f64,
    /// A visit closes its case.
    pub closures: f64,
    /// A visit changes, removes or restores an index.
    pub index_changes: f64,
    /// A household comes with the case of a mobile worker (`hq_user_id`).
    pub user_cases: f64,
    /// A name is longer than its column.
    pub long_names: f64,
    /// A case is touched, but never created by any form.
    pub never_created: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            edits: 0.03,
            duplicates: 0.012,
            archived: 0.012,
            errors: 0.008,
            error_logs: 0.005,
            hq_submissions: 0.005,
            deleted_forms: 0.01,
            problem_forms: 0.005,
            unprocessed: 0.004,
            device_reports: 0.004,
            legacy: 0.12,
            images: 0.08,
            missing_blobmeta: 0.05,
            wrong_type_blobmeta: 0.2,
            no_meta: 0.02,
            noop: 0.02,
            wrong_clock: 0.03,
            ties: 0.15,
            deleted_households: 0.02,
            deleted_cases: 0.02,
            referrals: 0.12,
            closures: 0.06,
            index_changes: 0.04,
            user_cases: 0.03,
            long_names: 0.01,
            never_created: 0.02,
        }
    }
}
