//! Which command is allowed in which state of a migration, and what the operator reads when it is not.

use state::Status;
use state::migration::{CommitStep, Migration};

use crate::failure::Failure;

/// A command that changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `MIGRATE`, in a mode.
    Migrate(Mode),
    /// `unfinish`.
    Unfinish,
    /// `COMMIT`.
    Commit,
    /// `COMMIT --abort`.
    AbortCommit,
    /// `uncommit`.
    Uncommit,
    /// `reset`.
    Reset,
    /// `couch_sql_diff cases`, `forms` and `filter`.
    DiffCases,
    /// `couch_sql_diff patch`.
    Patch,
    /// `rewind`.
    Rewind,
    /// `rules add` and `rules remove`.
    ChangeRules,
}

/// How a `MIGRATE` is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// No switch: begins with downtime; a live migration stays live.
    #[default]
    AsItIs,
    /// `--live`: submissions go on.
    Live,
    /// `--finish`: the last run of a live migration; submissions are refused from now on.
    Finish,
}

impl Mode {
    /// Its name among a run's arguments.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AsItIs => "as_it_is",
            Self::Live => "live",
            Self::Finish => "finish",
        }
    }

    /// The mode of that name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::AsItIs, Self::Live, Self::Finish]
            .into_iter()
            .find(|mode| mode.as_str() == text)
    }

    /// The status that a run in this mode brings a migration to. Once live it stays live until it is finished.
    pub const fn leads_to(self, status: Status) -> Status {
        match (self, status) {
            (Self::Live, Status::NotStarted) | (Self::AsItIs | Self::Live, Status::DryRun) => Status::DryRun,
            _ => Status::InProgress,
        }
    }
}

/// What a command needs to know of the world to be allowed.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The migration's row, if the domain has one.
    pub migration: Option<&'a Migration>,
    /// Whether the Domain document says SQL.
    pub on_sql: bool,
}

/// Allows a command or refuses it.
///
/// # Errors
/// The refusal, with what to do instead.
pub fn allow(command: Command, situation: Situation<'_>) -> Result<(), Failure> {
    let status = situation
        .migration
        .map_or(Status::NotStarted, |migration| migration.status);
    let step = situation.migration.and_then(|migration| migration.commit_step);
    let purging = situation.migration.is_some_and(|migration| migration.purging);
    // A commit that was interrupted after the switch must be allowed to go on, and only that.
    let commit_is_open = step.is_some_and(|step| step < CommitStep::Done);
    if commit_is_open && !matches!(command, Command::Commit | Command::AbortCommit) {
        return Err(Failure::new(
            "C2S-4001",
            "a COMMIT of this domain has begun and was not finished",
            "run COMMIT again to finish it, or COMMIT --abort to go back to Couch",
        ));
    }
    let taking_back = situation
        .migration
        .is_some_and(|migration| migration.uncommit_step.is_some());
    if taking_back && command != Command::Uncommit {
        return Err(Failure::new(
            "C2S-4096",
            "an uncommit of this domain has begun and was not finished",
            "run uncommit again to finish it",
        ));
    }
    if command == Command::Uncommit {
        return if taking_back || (status == Status::Complete && situation.on_sql) {
            Ok(())
        } else {
            Err(Failure::new(
                "C2S-4093",
                "there is no COMMIT of this domain that could be taken back",
                "only a domain that this system has committed, and that is on SQL, can be taken back",
            ))
        };
    }
    if status == Status::Complete || (situation.on_sql && !commit_is_open) {
        return Err(Failure::new(
            "C2S-4002",
            "the domain is on SQL already",
            "there is nothing to migrate, and nothing that may be reset",
        ));
    }
    if purging && command != Command::Reset {
        return Err(Failure::new(
            "C2S-4003",
            "a reset of this domain was interrupted",
            "run reset again to finish it",
        ));
    }
    match (command, status) {
        (Command::Migrate(Mode::Live), Status::InProgress) => Err(Failure::new(
            "C2S-4052",
            "the migration is in progress, and HQ refuses submissions",
            "`unfinish` takes it back to live",
        )),
        (Command::Migrate(Mode::Finish), Status::NotStarted) => Err(Failure::new(
            "C2S-4053",
            "there is no live migration to finish",
            "MIGRATE without switches migrates with downtime; MIGRATE --live begins a live migration",
        )),
        (Command::Migrate(_) | Command::Reset | Command::ChangeRules, _) => Ok(()),
        (Command::AbortCommit, _) if commit_is_open => Ok(()),
        (Command::AbortCommit, _) => Err(Failure::new(
            "C2S-4004",
            "no COMMIT of this domain has begun",
            "there is nothing to abort",
        )),
        (Command::Commit, Status::InProgress) => Ok(()),
        (Command::Commit, Status::DryRun) => Err(Failure::new(
            "C2S-4005",
            "the migration is live",
            "finish it first: MIGRATE --finish",
        )),
        (Command::DiffCases | Command::Patch | Command::Rewind, Status::InProgress | Status::DryRun)
        | (Command::Unfinish, Status::InProgress) => Ok(()),
        (Command::Unfinish, Status::DryRun) => Err(Failure::new(
            "C2S-4054",
            "the migration is live already",
            "there is nothing to take back",
        )),
        (
            Command::Commit
            | Command::DiffCases
            | Command::Patch
            | Command::Rewind
            | Command::Unfinish
            | Command::Uncommit,
            _,
        ) => Err(Failure::new(
            "C2S-4006",
            "the domain is not being migrated",
            "start with MIGRATE",
        )),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use proto::ids::{Domain, Epoch};
    use state::snapshot::UncommitStep;
    use state::{MigrationId, Phase};

    use super::*;

    pub(crate) fn migration(status: Status, step: Option<CommitStep>, purging: bool) -> Migration {
        Migration {
            id: MigrationId(1),
            domain: Domain::new("demo"),
            epoch: Epoch(1),
            status,
            phase: Phase::Idle,
            purging,
            options: serde_json::Value::Null,
            progress_set_at: None,
            started_at: None,
            finished_at: None,
            commit_step: step,
            commit_rev: None,
            uncommit_step: None,
            live_cutoff: None,
            driver: None,
        }
    }

    #[test]
    fn commands_by_state() {
        use Command::{AbortCommit, Commit, DiffCases, Reset, Unfinish};
        const MIGRATE: Command = Command::Migrate(Mode::AsItIs);
        const LIVE: Command = Command::Migrate(Mode::Live);
        const FINISH: Command = Command::Migrate(Mode::Finish);
        let cases: [(_, _, _, _, &[_]); 8] = [
            (
                Status::NotStarted,
                None,
                false,
                false,
                &[
                    (MIGRATE, None),
                    (Reset, None),
                    (Commit, Some("C2S-4006")),
                    (DiffCases, Some("C2S-4006")),
                    (LIVE, None),
                    (FINISH, Some("C2S-4053")),
                    (Unfinish, Some("C2S-4006")),
                ],
            ),
            (
                Status::InProgress,
                None,
                false,
                false,
                &[
                    (MIGRATE, None),
                    (Reset, None),
                    (Commit, None),
                    (AbortCommit, Some("C2S-4004")),
                    (LIVE, Some("C2S-4052")),
                    (FINISH, None),
                    (Unfinish, None),
                ],
            ),
            (
                Status::DryRun,
                None,
                false,
                false,
                &[
                    (MIGRATE, None),
                    (Reset, None),
                    (Commit, Some("C2S-4005")),
                    (DiffCases, None),
                ],
            ),
            // The domain is on SQL: nothing may touch it.
            (
                Status::Complete,
                Some(CommitStep::Done),
                true,
                false,
                &[
                    (MIGRATE, Some("C2S-4002")),
                    (Reset, Some("C2S-4002")),
                    (Commit, Some("C2S-4002")),
                    (DiffCases, Some("C2S-4002")),
                ],
            ),
            (
                Status::NotStarted,
                None,
                true,
                false,
                &[
                    (MIGRATE, Some("C2S-4002")),
                    (Reset, Some("C2S-4002")),
                    (Commit, Some("C2S-4002")),
                    (DiffCases, Some("C2S-4002")),
                ],
            ),
            // A commit was interrupted, before and after the switch: forward or abort.
            (
                Status::InProgress,
                Some(CommitStep::Intent),
                false,
                false,
                &[
                    (MIGRATE, Some("C2S-4001")),
                    (Reset, Some("C2S-4001")),
                    (Commit, None),
                    (AbortCommit, None),
                ],
            ),
            (
                Status::InProgress,
                Some(CommitStep::Fenced),
                true,
                false,
                &[
                    (MIGRATE, Some("C2S-4001")),
                    (Reset, Some("C2S-4001")),
                    (Commit, None),
                    (AbortCommit, None),
                ],
            ),
            (
                Status::NotStarted,
                None,
                false,
                true,
                &[
                    (MIGRATE, Some("C2S-4003")),
                    (Reset, None),
                    (Commit, Some("C2S-4003")),
                    (DiffCases, Some("C2S-4003")),
                ],
            ),
        ];
        for (status, step, on_sql, purging, expected) in cases {
            let migration = migration(status, step, purging);
            for &(command, refusal) in expected {
                let got = allow(
                    command,
                    Situation {
                        migration: Some(&migration),
                        on_sql,
                    },
                );
                assert_eq!(
                    got.err().map(|failure| failure.code),
                    refusal,
                    "{command:?} in {status} {step:?} {on_sql} {purging}"
                );
            }
        }
        assert!(
            allow(
                MIGRATE,
                Situation {
                    migration: None,
                    on_sql: false
                }
            )
            .is_ok()
        );
        assert_eq!(
            allow(
                Reset,
                Situation {
                    migration: None,
                    on_sql: true
                }
            )
            .unwrap_err()
            .code,
            "C2S-4002"
        );
    }

    #[test]
    fn only_what_was_committed_is_taken_back_and_then_nothing_else_is_allowed() {
        use Command::{AbortCommit, Commit, Reset, Uncommit};
        let code = |command, migration: Option<&Migration>, on_sql| {
            allow(command, Situation { migration, on_sql })
                .err()
                .map(|failure| failure.code)
        };
        let committed = migration(Status::Complete, Some(CommitStep::Done), false);
        assert_eq!(code(Uncommit, Some(&committed), true), None);
        // Somebody else has taken it back.
        assert_eq!(code(Uncommit, Some(&committed), false), Some("C2S-4093"));
        // Somebody else has committed it.
        assert_eq!(code(Uncommit, None, true), Some("C2S-4093"));
        for status in [Status::NotStarted, Status::DryRun, Status::InProgress] {
            assert_eq!(
                code(Uncommit, Some(&migration(status, None, false)), false),
                Some("C2S-4093")
            );
        }
        let open = migration(Status::InProgress, Some(CommitStep::Fenced), false);
        assert_eq!(code(Uncommit, Some(&open), true), Some("C2S-4001"));

        for (step, on_sql) in [
            (UncommitStep::Intent, true),
            (UncommitStep::Blocked, true),
            (UncommitStep::Blocked, false),
            (UncommitStep::Switched, false),
        ] {
            let half = Migration {
                uncommit_step: Some(step),
                ..committed.clone()
            };
            assert_eq!(code(Uncommit, Some(&half), on_sql), None, "{step:?}");
            for other in [Command::Migrate(Mode::AsItIs), Commit, AbortCommit, Reset] {
                assert_eq!(
                    code(other, Some(&half), on_sql),
                    Some("C2S-4096"),
                    "{other:?} at {step:?}"
                );
            }
        }
    }

    #[test]
    fn a_live_migration_stays_live_until_it_is_finished() {
        use Mode::{AsItIs, Finish, Live};
        use Status::{DryRun, InProgress, NotStarted};
        for (mode, from, to) in [
            (AsItIs, NotStarted, InProgress),
            (AsItIs, DryRun, DryRun),
            (AsItIs, InProgress, InProgress),
            (Live, NotStarted, DryRun),
            (Live, DryRun, DryRun),
            (Finish, DryRun, InProgress),
            (Finish, InProgress, InProgress),
        ] {
            assert_eq!(mode.leads_to(from), to, "{mode:?} from {from}");
        }
        for mode in [AsItIs, Live, Finish] {
            assert_eq!(Mode::parse(mode.as_str()), Some(mode));
        }
    }
}
