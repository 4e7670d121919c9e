//! Options that mean something with some actions only. With others they are refused: an operator who gives one expects it to
//! do something.

use clap::ArgMatches;
use clap::parser::ValueSource;

/// (command, option, actions that know it)
const BELONGS: &[(&str, &str, &[&str])] = &[
    (MIGRATE_DOMAIN, "live", &["MIGRATE"]),
    (MIGRATE_DOMAIN, "finish", &["MIGRATE"]),
    (MIGRATE_DOMAIN, "forms", &["MIGRATE"]),
    (MIGRATE_DOMAIN, "rebuild_state", &["MIGRATE"]),
    (MIGRATE_DOMAIN, "stop_on_error", &["MIGRATE"]),
    (MIGRATE_DOMAIN, "detach", &["MIGRATE"]),
    (MIGRATE_DOMAIN, "verbose", &["stats"]),
    (MIGRATE_DOMAIN, "to", &["rewind"]),
    (MIGRATE_DOMAIN, "abort", &["COMMIT"]),
    (MIGRATE_DOMAIN, "follow", &["MIGRATE"]),
    (MIGRATE_DOMAIN, "max_downtime", &["MIGRATE"]),
    (MIGRATE_DOMAIN, "commit_if_clean", &["MIGRATE"]),
    (MIGRATE_DOMAIN, "case_diff", &["MIGRATE"]),
    (MIGRATE_DOMAIN, "patch", &["MIGRATE"]),
    (MIGRATE_DOMAIN, "json", &["stats"]),
    (MIGRATE_DOMAIN, "accept_diffs", &["MIGRATE", "COMMIT"]),
];

const MIGRATE_DOMAIN: &str = "migrate_domain_from_couch_to_sql";

/// What is wrong with a command line that its grammar allows, if anything is.
pub fn complaint(matches: &ArgMatches) -> Option<String> {
    let (command, matches) = matches.subcommand()?;
    let mut action = matches.try_get_raw("action").ok()??;
    let action = action.next()?.to_str()?;
    let is_given = |option: &str| matches.value_source(option) == Some(ValueSource::CommandLine);
    if command == MIGRATE_DOMAIN && action == "MIGRATE" && is_given("accept_diffs") && !is_given("commit_if_clean") {
        return Some("--accept-diffs is not allowed with MIGRATE, unless --commit-if-clean is given".to_owned());
    }
    BELONGS
        .iter()
        .filter(|(of, ..)| *of == command)
        .filter(|(_, option, _)| is_given(option))
        .find(|(.., actions)| !actions.contains(&action))
        .map(|(_, option, actions)| {
            format!(
                "--{} is not allowed with {action}, only with {}",
                option.replace('_', "-"),
                actions.join(", ")
            )
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn complaint_about(line: &str) -> Option<String> {
        let words = format!("coordinator {MIGRATE_DOMAIN} d {line}");
        complaint(&Cli::command().try_get_matches_from(words.split(' ')).unwrap())
    }

    #[test]
    fn options_are_refused_with_actions_that_do_not_know_them() {
        for line in [
            "stats --live",
            "COMMIT --finish",
            "stats --forms=missing",
            "reset --rebuild-state",
            "stats -x",
            "MIGRATE --verbose",
            "MIGRATE --to=case-7",
            "MIGRATE --abort",
            "unfinish --detach",
            "COMMIT --patch",
            "stats --case-diff=patch",
            "MIGRATE --json",
            "info --json",
            "stats --accept-diffs=all",
            "MIGRATE --accept-diffs=all",
            "COMMIT --commit-if-clean",
        ] {
            assert!(complaint_about(line).is_some(), "{line}");
        }
        for line in [
            "MIGRATE --live --stop-on-error --rebuild-state",
            "MIGRATE --forms=missing -x",
            "stats --verbose",
            "rewind --to=case-7",
            "COMMIT --abort --no-input",
            "COMMIT --accept-diffs=all",
            "MIGRATE --commit-if-clean --accept-diffs=all",
            "MIGRATE --patch",
            "stats --json",
        ] {
            assert_eq!(complaint_about(line), None, "{line}");
        }
    }

    #[test]
    fn every_option_named_here_exists() {
        for (command, option, actions) in BELONGS {
            let cli = Cli::command();
            let command = cli.find_subcommand(command).unwrap();
            assert!(
                command.get_arguments().any(|argument| argument.get_id() == option),
                "{option}"
            );
            let known: Vec<String> = command
                .get_arguments()
                .find(|argument| argument.get_id() == "action")
                .unwrap()
                .get_possible_values()
                .iter()
                .map(|value| value.get_name().to_owned())
                .collect();
            for action in *actions {
                assert!(known.iter().any(|name| name == action), "{action}");
            }
        }
    }
}
