//! The command line against the operator's guide: the table of the predecessor's options there is complete and true, and no
//! option of ours is missing from the guide.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use clap::{Command, CommandFactory};

use crate::cli::Cli;

const GUIDE: &str = include_str!("../../../docs/operators-guide.md");
/// Heading of the table.
const TABLE: &str = "### Every option of the predecessor";

/// Every action and option of the predecessor's commands.
const PREDECESSOR: &[(&str, &[&str])] = &[
    (
        "migrate_domain_from_couch_to_sql",
        &[
            "MIGRATE",
            "COMMIT",
            "reset",
            "blow-away",
            "rewind",
            "unfinish",
            "stats",
            "info",
            "diff",
            "--no-input",
            "--debug",
            "--verbose",
            "--state-dir",
            "--live",
            "--finish",
            "--rebuild-state",
            "--case-diff",
            "--forms",
            "--patch",
            "-x",
            "--stop-on-error",
            "--to",
            "--missing-docs",
        ],
    ),
    (
        "migrate_multiple_domains_from_couch_to_sql",
        &["--state-dir", "--strict", "--live", "--resume"],
    ),
    (
        "couch_sql_diff",
        &[
            "cases",
            "forms",
            "patch",
            "show",
            "filter",
            "--no-input",
            "--debug",
            "--state-dir",
            "--select",
            "--changes",
            "--patched",
            "--csv",
            "-x",
            "--stop",
            "-b",
            "--batch-size",
            "--reset",
            "-n",
            "--dry-run",
        ],
    ),
    ("show_started_migrations", &["--stats"]),
];

/// What becomes of an option here: the first word of the table's last column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Here {
    /// It does the same.
    Same,
    /// It is accepted and does something else, or more, or nothing; the table says what.
    Other,
    /// It is refused; the table says what to do instead.
    Refused,
}

fn rows() -> BTreeMap<(String, String), (Here, String)> {
    let from = GUIDE.find(TABLE).expect("the guide has the table");
    let table = GUIDE[from..].lines().skip_while(|line| !line.starts_with('|'));
    let mut rows = BTreeMap::new();
    for line in table.take_while(|line| line.starts_with('|')).skip(2) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [command, option, here] = cells[..] else {
            panic!("three cells are expected: {line}")
        };
        let (word, text) = here.split_once(':').unwrap_or((here, ""));
        let word = match word {
            "same" => Here::Same,
            "other" => Here::Other,
            "refused" => Here::Refused,
            _ => panic!("same, other: or refused: is expected: {line}"),
        };
        assert!(
            word == Here::Same || text.trim().len() > 10,
            "what it does or what to do instead is to be said: {line}"
        );
        let bare = |cell: &str| cell.trim_matches('`').to_owned();
        let known = rows.insert((bare(command), bare(option)), (word, text.to_owned()));
        assert!(known.is_none(), "twice: {line}");
    }
    rows
}

/// Whether our command knows an action, or an option by its long or its short name.
fn knows(command: &Command, option: &str) -> bool {
    if let Some(long) = option.strip_prefix("--") {
        return command
            .get_arguments()
            .any(|argument| argument.get_long() == Some(long));
    }
    if let Some(short) = option.strip_prefix('-') {
        return command
            .get_arguments()
            .any(|argument| argument.get_short() == short.chars().next());
    }
    command
        .get_arguments()
        .filter(|argument| argument.get_id() == "action")
        .flat_map(clap::Arg::get_possible_values)
        .any(|value| value.matches(option, false))
}

#[test]
fn the_table_of_the_predecessors_options_is_complete_and_true() {
    let rows = rows();
    let cli = Cli::command();
    let mut expected = 0;
    for (name, options) in PREDECESSOR {
        let command = cli.find_subcommand(name).unwrap();
        for option in *options {
            expected += 1;
            let (here, _) = rows
                .get(&((*name).to_owned(), (*option).to_owned()))
                .unwrap_or_else(|| panic!("the guide's table has no row for {name} {option}"));
            assert_eq!(
                knows(command, option),
                *here != Here::Refused,
                "{name} {option} stands as {here:?} in the guide's table"
            );
        }
    }
    assert_eq!(
        rows.len(),
        expected,
        "the table has rows of options that the predecessor had not"
    );
}

/// The commands with their names from the top, those without subcommands.
fn leaves(command: &Command, path: &str, into: &mut Vec<(String, Command)>) {
    if command.get_subcommands().next().is_none() {
        into.push((path.to_owned(), command.clone()));
    }
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        leaves(below, format!("{path} {}", below.get_name()).trim(), into);
    }
}

/// The text of all sections whose heading names this command.
fn sections_of(command: &str) -> String {
    GUIDE
        .split("\n### ")
        .skip(1)
        .filter(|section| {
            let heading = section.lines().next().unwrap_or_default();
            let named = heading.trim_start_matches('`').trim_end_matches('`');
            named == command || named.starts_with(&format!("{command} "))
        })
        .map(|section| section.split("\n## ").next().unwrap_or(section))
        .collect()
}

/// Whether a text names an option, and not only one that begins alike.
fn names(text: &str, option: &str) -> bool {
    text.match_indices(option).any(|(at, _)| {
        let next = text[at + option.len()..].chars().next();
        !next.is_some_and(|next| next.is_ascii_alphanumeric() || next == '-')
    })
}

#[test]
fn every_command_and_every_option_is_in_the_guide() {
    let mut commands = Vec::new();
    leaves(&Cli::command(), "", &mut commands);
    assert!(commands.len() > 8, "{commands:?}");
    let preamble = GUIDE
        .split("\n## Commands\n")
        .nth(1)
        .unwrap()
        .split("\n### ")
        .next()
        .unwrap();
    let mut missing = Vec::new();
    for (path, command) in commands {
        let text = sections_of(&path);
        if text.is_empty() {
            missing.push(format!("no section `{path}`"));
            continue;
        }
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            let Some(long) = argument.get_long().filter(|long| !matches!(*long, "help" | "version")) else {
                continue;
            };
            let option = format!("--{long}");
            if !names(&text, &option) && !names(preamble, &option) {
                missing.push(format!("{path} {option}"));
            }
        }
        for action in command
            .get_arguments()
            .filter(|argument| argument.get_id() == "action")
            .flat_map(clap::Arg::get_possible_values)
        {
            if !names(&text, action.get_name()) {
                missing.push(format!("{path} {}", action.get_name()));
            }
        }
    }
    assert!(missing.is_empty(), "not in docs/operators-guide.md: {missing:#?}");
}

#[test]
fn an_option_is_not_named_by_one_that_begins_alike() {
    assert!(names("use --live or not", "--live"));
    assert!(names("`--live`", "--live"));
    assert!(!names("use --live-long", "--live"));
    assert!(!names("use --lively", "--live"));
}
