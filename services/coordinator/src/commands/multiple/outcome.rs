//! What became of the domains of a list: a table for people, or JSON.

use std::collections::BTreeSet;
use std::fmt;

use proto::doctype::DocType;
use proto::ids::Domain;
use serde_json::{Value, json};
use state::stats::TypeStats;

use crate::failure::Exit;

/// Width of the first column.
const NAME_WIDTH: usize = 30;

/// What became of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Became {
    /// It is on SQL, by this list.
    Migrated,
    /// It was on SQL before.
    OnSqlAlready,
    /// It is live.
    Live,
    /// It has differences; what was done with it.
    Differences(AfterDifferences),
    /// There is no such domain.
    Unknown,
    /// A command of its own has begun it, or it is not in a state for this list.
    LeftAlone(String),
    /// Another list has ended it, since this one began.
    ByAnother { by: String, result: String, well: bool },
    /// Its run goes on without this command.
    Detached,
    /// The operator stopped it, or it was not begun.
    Stopped,
    /// It failed.
    Failed { code: String, what: String },
}

/// What was done with a domain that has differences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterDifferences {
    Reset,
    TakenBackToLive,
    LeftAsItIs,
}

impl Became {
    /// Whether nothing is left to do.
    fn is_well(&self) -> bool {
        match self {
            Self::Migrated | Self::OnSqlAlready | Self::Live => true,
            Self::ByAnother { well, .. } => *well,
            _ => false,
        }
    }

    /// One word for programs.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Migrated => "migrated",
            Self::OnSqlAlready => "on_sql_already",
            Self::Live => "live",
            Self::Differences(_) => "has_diffs",
            Self::Unknown => "unknown",
            Self::LeftAlone(_) => "left_alone",
            Self::ByAnother { .. } => "by_another_list",
            Self::Detached => "goes_on",
            Self::Stopped => "stopped",
            Self::Failed { .. } => "failed",
        }
    }

    /// What another list may take over as it is; `None` when it is to try for itself.
    pub(super) fn for_others(&self) -> Option<String> {
        let lasts = matches!(
            self,
            Self::Migrated | Self::OnSqlAlready | Self::Live | Self::Differences(_) | Self::Failed { .. }
        );
        lasts.then(|| format!("{}{}", if self.is_well() { "+" } else { "-" }, self.words()))
    }

    /// From what another list has put on record.
    pub(super) fn of_another(by: String, recorded: &str) -> Self {
        let well = recorded.starts_with('+');
        Self::ByAnother {
            by,
            result: recorded.trim_start_matches(['+', '-']).to_owned(),
            well,
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Migrated => "migrated".to_owned(),
            Self::OnSqlAlready => "on SQL already".to_owned(),
            Self::Live => "live".to_owned(),
            Self::Differences(AfterDifferences::Reset) => "C2S-4050: has diffs; it was reset".to_owned(),
            Self::Differences(AfterDifferences::TakenBackToLive) => "has diffs; it is live again".to_owned(),
            Self::Differences(AfterDifferences::LeftAsItIs) => "has diffs; left as it is".to_owned(),
            Self::Unknown => "C2S-4010: there is no such domain".to_owned(),
            Self::LeftAlone(why) => why.clone(),
            Self::ByAnother { by, result, .. } => format!("{result} (by {by})"),
            Self::Detached => "goes on without this command".to_owned(),
            Self::Stopped => "C2S-4051: stopped by operator".to_owned(),
            Self::Failed { code, what } => {
                if what.contains(code.as_str()) {
                    what.clone()
                } else {
                    format!("{code}: {what}")
                }
            }
        }
    }
}

/// Counts of a domain, when its run had ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) types: Vec<(DocType, TypeStats)>,
    pub(super) pending: i64,
    pub(super) errors: i64,
}

impl Counts {
    fn total(&self) -> TypeStats {
        self.types.iter().fold(TypeStats::default(), |sum, (_, row)| TypeStats {
            docs: sum.docs + row.docs,
            diffs: sum.diffs + row.diffs,
            missing: sum.missing + row.missing,
            changes: sum.changes + row.changes,
        })
    }
}

/// A domain's part of the summary.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) domain: Domain,
    pub(super) result: Became,
    pub(super) seconds: f64,
    pub(super) counts: Option<Counts>,
    /// Whether HQ refuses submissions to it, which somebody has to end.
    pub(super) without_submissions: bool,
}

impl Row {
    fn words(&self) -> String {
        let mut words = self.result.words();
        if self.without_submissions {
            words.push_str("; HQ refuses its submissions");
        }
        words
    }

    pub(super) fn not_begun(domain: &Domain) -> Self {
        Self {
            domain: domain.clone(),
            result: Became::Stopped,
            seconds: 0.0,
            counts: None,
            without_submissions: false,
        }
    }

    fn to_json(&self) -> Value {
        let total = self.counts.as_ref().map(Counts::total).unwrap_or_default();
        let types: Vec<Value> = self
            .counts
            .iter()
            .flat_map(|counts| &counts.types)
            .filter(|(_, row)| *row != TypeStats::default())
            .map(|(kind, row)| {
                json!({"doc_type": kind.as_str(), "docs": row.docs, "diffs": row.diffs, "missing": row.missing, "changes": row.changes})
            })
            .collect();
        json!({
            "domain": self.domain.as_str(),
            "result": self.result.word(),
            "detail": self.words(),
            "ok": self.result.is_well(),
            "submissions_refused": self.without_submissions,
            "seconds": (self.seconds * 10.0).round() / 10.0,
            "docs": total.docs,
            "diffs": total.diffs,
            "missing": total.missing,
            "changes": total.changes,
            "pending": self.counts.as_ref().map_or(0, |counts| counts.pending),
            "errors": self.counts.as_ref().map_or(0, |counts| counts.errors),
            "doc_types": types,
        })
    }
}

/// The summary, while it grows.
#[derive(Debug)]
pub(super) struct Report {
    rows: Vec<Row>,
    of: usize,
    waited_for: BTreeSet<String>,
}

impl Report {
    pub(super) fn new(of: usize) -> Self {
        Self {
            rows: Vec::new(),
            of,
            waited_for: BTreeSet::new(),
        }
    }

    /// Adds a domain, and tells whoever watches.
    pub(super) fn add(&mut self, row: Row) {
        eprintln!(
            "{}: {} ({:.1} s; {} of {})",
            row.domain,
            row.words(),
            row.seconds,
            self.rows.len() + 1,
            self.of
        );
        self.rows.push(row);
    }

    /// Whether this is the first that is heard of waiting for this domain.
    pub(super) fn waits_for(&mut self, domain: &Domain) -> bool {
        self.waited_for.insert(domain.as_str().to_owned())
    }

    /// The summary when all is over, by domain.
    pub(super) fn ended(mut self) -> Self {
        self.rows.sort_by(|a, b| a.domain.cmp(&b.domain));
        self
    }

    pub(super) fn exit(&self, stopped: bool) -> Exit {
        if stopped {
            Exit::Stopped
        } else if self.rows.iter().all(|row| row.result.is_well()) {
            Exit::Clean
        } else {
            Exit::Differences
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let well = self.rows.iter().filter(|row| row.result.is_well()).count();
        json!({
            "domains": self.rows.iter().map(Row::to_json).collect::<Vec<_>>(),
            "ok": well,
            "not_ok": self.rows.len() - well,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:NAME_WIDTH$} {:>9} {:>7} {:>7} {:>13} {:>9}  Result",
            "Domain / Doc Type", "Docs", "Diffs", "Missing", "Changes", "Seconds"
        )?;
        for row in &self.rows {
            let total = row.counts.as_ref().map(Counts::total);
            let pending = row.counts.as_ref().map_or(0, |counts| counts.pending);
            writeln!(
                f,
                "{}{:>9.1}  {}",
                cells(row.domain.as_str(), total, pending),
                row.seconds,
                row.words()
            )?;
            for (kind, stats) in row.counts.iter().flat_map(|counts| &counts.types) {
                if stats.diffs + stats.missing + stats.changes > 0 {
                    writeln!(f, "{}", cells(&format!("  {kind}"), Some(*stats), 0).trim_end())?;
                }
            }
        }
        let failed: Vec<&Row> = self.rows.iter().filter(|row| !row.result.is_well()).collect();
        if failed.is_empty() {
            return writeln!(f, "All migrations successful!");
        }
        writeln!(f, "Errors:")?;
        for row in failed {
            writeln!(f, "{}: {}", row.domain, row.words())?;
        }
        Ok(())
    }
}

/// The cells of a line up to Changes; `?` where nothing is known.
fn cells(name: &str, stats: Option<TypeStats>, pending: i64) -> String {
    let Some(stats) = stats else {
        return format!("{name:NAME_WIDTH$} {:>9} {:>7} {:>7} {:>13} ", "?", "?", "?", "?");
    };
    let blank = |count: i64| if count == 0 { String::new() } else { count.to_string() };
    let changes = match (stats.changes, pending) {
        (changes, 0) => blank(changes),
        (0, pending) => format!("{pending} pending"),
        (changes, pending) => format!("{changes} + {pending} pending"),
    };
    format!(
        "{name:NAME_WIDTH$} {:>9} {:>7} {:>7} {changes:>13} ",
        stats.docs,
        blank(stats.diffs),
        blank(stats.missing)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(domain: &str, result: Became, counts: Option<Counts>) -> Row {
        Row {
            domain: Domain::new(domain),
            result,
            seconds: 2.0,
            counts,
            without_submissions: false,
        }
    }

    fn counts(diffs: i64, changes: i64, pending: i64) -> Counts {
        let case = TypeStats {
            docs: 7,
            diffs,
            changes,
            missing: 0,
        };
        let form = TypeStats {
            docs: 20,
            ..TypeStats::default()
        };
        Counts {
            types: vec![(DocType::XFormInstance, form), (DocType::CommCareCase, case)],
            pending,
            errors: 0,
        }
    }

    fn report(rows: Vec<Row>) -> Report {
        let mut report = Report::new(rows.len());
        report.rows = rows;
        report.ended()
    }

    #[test]
    fn the_table_has_a_line_for_a_domain_and_one_for_each_type_with_something() {
        let report = report(vec![
            row(
                "two",
                Became::Differences(AfterDifferences::Reset),
                Some(counts(3, 1, 2)),
            ),
            row("one", Became::Migrated, Some(counts(0, 0, 0))),
            row("odd", Became::Unknown, None),
        ]);
        let text = report.to_string();
        let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[1][..7], ["odd", "?", "?", "?", "?", "2.0", "C2S-4010:"]);
        assert_eq!(words[2], ["one", "27", "2.0", "migrated"]);
        assert_eq!(words[3][..8], ["two", "27", "3", "1", "+", "2", "pending", "2.0"]);
        assert_eq!(words[4], ["CommCareCase", "7", "3", "1"]);
        assert_eq!(text.lines().nth(5), Some("Errors:"));
        assert!(text.ends_with("two: C2S-4050: has diffs; it was reset\n"), "{text}");
        assert_eq!(report.exit(false), Exit::Differences);
        assert_eq!(report.exit(true), Exit::Stopped);
    }

    #[test]
    fn what_is_on_sql_already_is_no_failure() {
        let done = report(vec![
            row("a", Became::OnSqlAlready, None),
            row("b", Became::of_another("them".to_owned(), "+migrated"), None),
            row("c", Became::Live, None),
        ]);
        assert_eq!(done.exit(false), Exit::Clean);
        assert!(done.to_string().ends_with("All migrations successful!\n"));
        for bad in [
            Became::Unknown,
            Became::LeftAlone("in progress".to_owned()),
            Became::Detached,
            Became::Stopped,
            Became::of_another("them".to_owned(), "-has diffs"),
        ] {
            assert_eq!(
                report(vec![row("a", bad.clone(), None)]).exit(false),
                Exit::Differences,
                "{bad:?}"
            );
        }
    }

    #[test]
    fn another_list_takes_over_what_lasts_and_tries_the_rest_for_itself() {
        let diffs = Became::Differences(AfterDifferences::Reset);
        let recorded = diffs.for_others().unwrap_or_default();
        assert_eq!(
            Became::of_another("x".to_owned(), &recorded),
            Became::ByAnother {
                by: "x".to_owned(),
                result: "C2S-4050: has diffs; it was reset".to_owned(),
                well: false
            }
        );
        assert_eq!(Became::Stopped.for_others(), None);
        assert_eq!(Became::Detached.for_others(), None);
        assert_eq!(Became::LeftAlone(String::new()).for_others(), None);
    }
}
