//! What a report may say of the checks that were made.

use state::Phase;
use state::look::Look;

/// What is known of the checks.
pub(super) struct Checked {
    /// How far the last run has come.
    pub(super) phase: Phase,
    /// Cases that were not compared since they were last replayed.
    pub(super) undiffed: i64,
    /// Looks for documents of one side alone that have come to their end.
    pub(super) looks: Vec<String>,
}

impl Checked {
    /// What was checked, and what was not.
    pub(super) fn sentences(&self) -> Vec<String> {
        let mut said =
            vec!["Every form was compared when it was migrated, by both sides as they are stored.".to_owned()];
        said.push(match self.undiffed {
            0 => "Every case that is on record was compared after its last replay.".to_owned(),
            count => format!("{count} cases were not compared since they were last replayed."),
        });
        let all: Vec<String> = Look::all().map(Look::name).collect();
        let open = all.iter().filter(|look| !self.looks.contains(*look)).count();
        said.push(match open {
            0 => "Every id of either side was looked for on the other.".to_owned(),
            open if open == all.len() => "Nobody has looked for documents that only one side has.".to_owned(),
            open => format!(
                "The look for documents that only one side has has not come to its end: {open} of {} kinds are open.",
                all.len()
            ),
        });
        if self.phase != Phase::Finished {
            said.push(format!(
                "The last run has not come to its end (phase {}): more may differ than is on record.",
                self.phase
            ));
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(phase: Phase, undiffed: i64, looks: Vec<String>) -> String {
        Checked { phase, undiffed, looks }.sentences().join(" ")
    }

    #[test]
    fn no_check_is_claimed_that_was_not_made() {
        let all: Vec<String> = Look::all().map(Look::name).collect();
        let whole = told(Phase::Finished, 0, all.clone());
        assert!(whole.contains("Every case") && whole.contains("Every id"), "{whole}");
        assert!(!whole.contains("not"), "{whole}");

        let undiffed = told(Phase::Finished, 3, all.clone());
        assert!(
            undiffed.contains("3 cases were not compared") && !undiffed.contains("Every case"),
            "{undiffed}"
        );
        let cut_short = told(Phase::Missing, 0, all[1..].to_vec());
        assert!(
            !cut_short.contains("Every id") && cut_short.contains("has not come to its end"),
            "{cut_short}"
        );
        assert!(cut_short.contains("phase missing"), "{cut_short}");
        assert!(told(Phase::Scan, 0, Vec::new()).contains("Nobody has looked"));
    }
}
