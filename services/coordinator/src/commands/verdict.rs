//! What stands against a commit, in words; and what an operator accepts of it.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use proto::doctype::DocType;
use state::commit::Obstacles;
use state::migration::Migration;
use state::{Phase, Status};

use crate::failure::{Failure, Result};
use crate::rules::{Command, Situation, allow};

/// Kinds of differences that the operator accepts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Document types, or `errors`, or `all`.
    kinds: BTreeSet<String>,
    /// Diffs and changes of these types, but not missing documents.
    compared: BTreeSet<String>,
}

impl Accepted {
    /// From a comma-separated list of document types, `errors` and `all`.
    ///
    /// # Errors
    /// `C2S-0104` for a kind that does not exist.
    pub fn parse(text: &str) -> Result<Self> {
        let kinds: BTreeSet<String> = text
            .split(',')
            .map(str::trim)
            .filter(|kind| !kind.is_empty())
            .map(str::to_owned)
            .collect();
        for kind in &kinds {
            if kind != "errors" && kind != "all" && DocType::parse(kind).is_none() {
                let known: Vec<&str> = DocType::ALL.iter().map(|kind| kind.as_str()).collect();
                return Err(Failure::new(
                    "C2S-0104",
                    format!("--accept-diffs: {kind} is not a kind of difference"),
                    format!("use document types ({}), errors, or all", known.join(", ")),
                ));
            }
        }
        Ok(Self {
            kinds,
            ..Self::default()
        })
    }

    /// Diffs and changes of soft-deleted cases: what lists accept unless they are strict.
    pub(crate) fn differences_of_deleted_cases() -> Self {
        Self {
            compared: BTreeSet::from([DocType::CommCareCaseDeleted.as_str().to_owned()]),
            ..Self::default()
        }
    }

    /// Of kinds that were checked before.
    pub(crate) fn of<'a>(kinds: impl Iterator<Item = &'a str>) -> Self {
        Self {
            kinds: kinds.map(str::to_owned).collect(),
            ..Self::default()
        }
    }

    /// Types of which diffs and changes are accepted, and nothing else.
    pub(crate) const fn compared(&self) -> &BTreeSet<String> {
        &self.compared
    }

    /// The kinds, as they were given.
    pub(crate) const fn kinds(&self) -> &BTreeSet<String> {
        &self.kinds
    }

    fn has(&self, kind: &str) -> bool {
        self.kinds.contains("all") || self.kinds.contains(kind)
    }
}

/// What a finished run found, in a few words.
pub(crate) fn verdict(obstacles: &Obstacles) -> String {
    let reasons = against(obstacles, &Accepted::default());
    if reasons.is_empty() {
        "clean: COMMIT may follow".to_owned()
    } else {
        reasons.join("; ")
    }
}

/// What stands against a commit of a migration as it is: its state and phase, then what is on record.
pub(crate) fn of_migration(migration: &Migration, obstacles: &Obstacles) -> String {
    let situation = Situation {
        migration: Some(migration),
        on_sql: migration.status == Status::Complete,
    };
    let mut reasons = Vec::new();
    if let Err(refusal) = allow(Command::Commit, situation) {
        reasons.push(refusal.what);
    } else if migration.phase != Phase::Finished {
        reasons.push(format!(
            "the last run has not come to its end (phase {})",
            migration.phase
        ));
    }
    if reasons.is_empty() {
        return verdict(obstacles);
    }
    reasons.extend(against(obstacles, &Accepted::default()));
    reasons.join("; ")
}

/// What a finished run of a live migration found. Cases that are still pending are those that changed after the cut-off.
pub(crate) fn live_verdict(obstacles: &Obstacles, cutoff: DateTime<Utc>) -> String {
    let pending = obstacles.undiffed;
    let obstacles = Obstacles {
        undiffed: 0,
        ..obstacles.clone()
    };
    let reasons = against(&obstacles, &Accepted::default());
    let found = if reasons.is_empty() {
        "no differences".to_owned()
    } else {
        reasons.join("; ")
    };
    format!(
        "live up to {}: {found}; {pending} cases changed later; MIGRATE again takes what has come since, MIGRATE --finish the rest",
        cutoff.format("%Y-%m-%d %H:%M:%S UTC")
    )
}

/// What stands against a commit, but for what is accepted.
pub(crate) fn against(obstacles: &Obstacles, accepted: &Accepted) -> Vec<String> {
    let mut reasons = Vec::new();
    // These say that the work is not done: no one can accept them.
    for (count, what) in [
        (obstacles.open_batches, "batches are open"),
        (obstacles.dirty, "cases are not replayed"),
        (obstacles.undiffed, "cases are not diffed"),
        (obstacles.other_rules, "staged forms are of other document rules"),
        (
            obstacles.without_rule,
            "differences are set aside by rules that were being removed: run `rules remove` again",
        ),
    ] {
        if count > 0 {
            reasons.push(format!("{count} {what}"));
        }
    }
    if obstacles.parked > 0 && !accepted.has("errors") {
        reasons.push(format!("{} batches are set aside", obstacles.parked));
    }
    if !accepted.has("errors") {
        reasons.extend(
            obstacles
                .errors
                .iter()
                .map(|(kind, count)| format!("{count} {kind} with errors")),
        );
    }
    for (list, what) in [
        (&obstacles.diffs, "with diffs"),
        (&obstacles.missing, "missing"),
        (&obstacles.changes, "with changes"),
    ] {
        let is_missing = what == "missing";
        reasons.extend(
            list.iter()
                .filter(|(kind, _)| !accepted.has(kind) && (is_missing || !accepted.compared.contains(kind)))
                .map(|(kind, count)| format!("{count} {kind} {what}")),
        );
    }
    reasons
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_migration_is_clean_only_where_commit_is_allowed() {
        let migration = |status, phase| Migration {
            phase,
            ..crate::rules::tests::migration(status, None, false)
        };
        let nothing = Obstacles::default();
        let told = |status, phase, obstacles: &Obstacles| of_migration(&migration(status, phase), obstacles);
        let clean = "clean: COMMIT may follow";
        assert_eq!(told(Status::InProgress, Phase::Finished, &nothing), clean);
        for (status, phase) in [
            (Status::NotStarted, Phase::Idle),
            (Status::DryRun, Phase::Finished),
            (Status::InProgress, Phase::Missing),
            (Status::Complete, Phase::Finished),
        ] {
            let told = told(status, phase, &nothing);
            assert!(!told.is_empty() && told != clean, "{status} {phase}: {told}");
        }
        let parked = Obstacles {
            parked: 1,
            ..Obstacles::default()
        };
        let both = told(Status::InProgress, Phase::Missing, &parked);
        assert!(
            both.contains("phase missing") && both.contains("1 batches are set aside"),
            "{both}"
        );
    }

    #[test]
    fn differences_can_be_accepted_by_kind_and_unfinished_work_cannot() {
        let obstacles = Obstacles {
            undiffed: 2,
            errors: vec![("XFormInstance".to_owned(), 1)],
            diffs: vec![("CommCareCase".to_owned(), 3), ("XFormError".to_owned(), 1)],
            ..Obstacles::default()
        };
        let accepted = Accepted::parse("CommCareCase, errors").unwrap();
        assert_eq!(
            against(&obstacles, &accepted),
            ["2 cases are not diffed", "1 XFormError with diffs"]
        );
        assert_eq!(
            against(&obstacles, &Accepted::parse("all").unwrap()),
            ["2 cases are not diffed"]
        );
        assert_eq!(against(&obstacles, &Accepted::default()).len(), 4);
        let deleted = Obstacles {
            diffs: vec![("CommCareCase-Deleted".to_owned(), 3)],
            missing: vec![("CommCareCase-Deleted".to_owned(), 2)],
            ..Obstacles::default()
        };
        let usual = Accepted::differences_of_deleted_cases();
        assert_eq!(against(&deleted, &usual), ["2 CommCareCase-Deleted missing"]);
        assert_eq!(against(&deleted, &Accepted::default()).len(), 2);
        assert_eq!(Accepted::parse("Cases").unwrap_err().code, "C2S-0104");
    }
}
