//! What a `MIGRATE` is to do about the downtime of its domain: how long it may last, and whether `COMMIT` is part of the run.

use std::time::Duration;

use serde_json::{Value, json};
use state::Status;
use state::run::Run;

use super::commit::Accepted;
use crate::failure::{Failure, Result};
use crate::rules::Mode;

/// What begins the outcome of a run that has taken its domain back to live.
pub(crate) const BACK_TO_LIVE: &str = "C2S-4091";

/// Of the limit, what is kept for the way back, or for the last writes of `COMMIT`: one part of so many.
const RESERVE_SHARE: u32 = 5;
/// Of that at most: it is a row of HQ's, and a hook.
const LONGEST_RESERVE: Duration = Duration::from_secs(60);

/// How the downtime of a run ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cutover {
    /// `--max-downtime`: the longest that submissions may be off, `COMMIT` included.
    pub max_downtime: Option<Duration>,
    /// `--commit-if-clean`: `COMMIT` is part of the run, with these differences accepted.
    pub commit: Option<Accepted>,
}

impl Cutover {
    /// Of a run on record.
    pub(crate) fn of(run: &Run) -> Self {
        let arguments = &run.arguments;
        Self {
            max_downtime: arguments
                .get("max_downtime_ms")
                .and_then(Value::as_u64)
                .map(Duration::from_millis),
            commit: arguments
                .get("commit_accepting")
                .and_then(Value::as_array)
                .map(|kinds| Accepted::of(kinds.iter().filter_map(Value::as_str))),
        }
    }

    /// Adds what there is to the arguments of a run.
    pub(crate) fn add_to(&self, arguments: &mut Value) {
        if let Some(limit) = self.max_downtime {
            arguments["max_downtime_ms"] = json!(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        }
        if let Some(accepted) = &self.commit {
            arguments["commit_accepting"] = json!(accepted.kinds());
        }
    }

    /// Refuses what makes no sense for a run of this mode.
    ///
    /// # Errors
    /// `C2S-4092`.
    pub(crate) fn check(&self, mode: Mode, status: Status) -> Result<()> {
        if self.max_downtime.is_some() && mode != Mode::Finish {
            return Err(Failure::new(
                "C2S-4092",
                "--max-downtime belongs to MIGRATE --finish: only a live migration can be taken back to live",
                "leave it out, or migrate live first",
            ));
        }
        if self.commit.is_some() && mode.leads_to(status) == Status::DryRun {
            return Err(Failure::new(
                "C2S-4092",
                "--commit-if-clean, and the migration stays live after this run",
                "use it with --finish",
            ));
        }
        Ok(())
    }
}

/// How long a run may still work before it must go back to live: so that what comes after it, `COMMIT`'s wait for HQ's
/// caches and its last writes, or the way back, still lies within the limit.
pub(crate) fn time_left(limit: Duration, stopped: Duration, commit_wait: Duration) -> Duration {
    let reserve = (limit / RESERVE_SHARE).min(LONGEST_RESERVE);
    limit.saturating_sub(reserve + commit_wait).saturating_sub(stopped)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_way_back_and_the_commit_lie_within_the_limit() {
        // Ten minutes: one is kept.
        assert_eq!(time_left(secs(600), secs(0), secs(0)), secs(540));
        // HQ's caches take an hour: that is kept, and a minute for what is written after it.
        assert_eq!(time_left(secs(7200), secs(100), secs(3660)), secs(3380));
        // A short limit keeps a fifth.
        assert_eq!(time_left(secs(15), secs(2), secs(0)), secs(10));
        assert_eq!(time_left(secs(15), secs(20), secs(0)), secs(0));
    }

    #[test]
    fn limits_belong_to_the_finish_and_commits_to_downtime() {
        let limited = Cutover {
            max_downtime: Some(secs(60)),
            commit: None,
        };
        assert!(limited.check(Mode::Finish, Status::DryRun).is_ok());
        for mode in [Mode::AsItIs, Mode::Live] {
            assert_eq!(limited.check(mode, Status::DryRun).unwrap_err().code, "C2S-4092");
        }
        let committing = Cutover {
            max_downtime: None,
            commit: Some(Accepted::default()),
        };
        assert!(committing.check(Mode::Finish, Status::DryRun).is_ok());
        assert!(committing.check(Mode::AsItIs, Status::NotStarted).is_ok());
        assert!(committing.check(Mode::AsItIs, Status::InProgress).is_ok());
        assert_eq!(
            committing.check(Mode::AsItIs, Status::DryRun).unwrap_err().code,
            "C2S-4092"
        );
    }
}
