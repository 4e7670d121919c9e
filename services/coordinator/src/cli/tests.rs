#![allow(clippy::unwrap_used)]
use clap::CommandFactory;

use super::*;

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn the_predecessors_commands_are_understood() {
    for line in [
        "coordinator migrate_domain_from_couch_to_sql d stats",
        "coordinator migrate_domain_from_couch_to_sql d MIGRATE --no-input --state-dir /x",
        "coordinator migrate_domain_from_couch_to_sql d COMMIT --accept-diffs=CommCareCase",
        "coordinator migrate_domain_from_couch_to_sql d MIGRATE --live",
        "coordinator migrate_domain_from_couch_to_sql d MIGRATE --live --follow",
        "coordinator migrate_domain_from_couch_to_sql d MIGRATE --finish",
        "coordinator migrate_domain_from_couch_to_sql d MIGRATE --finish --max-downtime 10m --commit-if-clean",
        "coordinator forecast d --json",
        "coordinator uncommit d --no-input",
        "coordinator migrate_domain_from_couch_to_sql d MIGRATE --forms=missing",
        "coordinator migrate_domain_from_couch_to_sql d MIGRATE --patch",
        "coordinator migrate_domain_from_couch_to_sql d MIGRATE --forms=missing --case-diff=patch",
        "coordinator migrate_domain_from_couch_to_sql d MIGRATE --case-diff=asap",
        "coordinator couch_sql_diff d patch --select=a,b --dry-run",
        "coordinator couch_sql_diff d show --patched --select=cases:a",
        "coordinator migrate_domain_from_couch_to_sql d unfinish",
        "coordinator migrate_multiple_domains_from_couch_to_sql --live list.txt",
        "coordinator show_started_migrations --stats",
        "coordinator migrate_domain_from_couch_to_sql d reset",
        "coordinator migrate_domain_from_couch_to_sql d blow-away",
        "coordinator migrate_multiple_domains_from_couch_to_sql list.txt",
        "coordinator couch_sql_diff d show --select=CommCareCase:a,b --changes --csv",
        "coordinator couch_sql_diff d cases --select=pending",
        "coordinator couch_sql_diff d cases -x --debug --no-input -b 10",
        "coordinator couch_sql_diff d cases --reset=prepare",
        "coordinator couch_sql_diff d forms --select=with-diffs",
        "coordinator couch_sql_diff d filter --select=CommCareCase --changes -n -x",
        "coordinator migrate_domain_from_couch_to_sql d MIGRATE --missing-docs=rebuild",
        "coordinator migrate_domain_from_couch_to_sql d stats --missing-docs=recheck",
        "coordinator report d --output ./reports --values",
        "coordinator rules --json",
        "coordinator rules add d ./rules.toml",
        "coordinator rules remove d a b",
        "coordinator rules show d --json",
    ] {
        Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    assert!(Cli::try_parse_from(["coordinator", "migrate_domain_from_couch_to_sql", "d", "migrate"]).is_err());
    for excluded in ["--forms=missing", "--case-diff=none"] {
        let line = [
            "coordinator",
            "migrate_domain_from_couch_to_sql",
            "d",
            "MIGRATE",
            "--patch",
            excluded,
        ];
        assert!(Cli::try_parse_from(line).is_err(), "{excluded}");
    }
}
