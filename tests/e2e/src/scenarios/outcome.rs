//! What came of the scenarios, and the table of it.

use std::fmt::Write as _;
use std::time::Duration;

use super::elsewhere::{Elsewhere, Place};
use super::folder::Folder;

/// What came of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All of it is as expected.
    Ok,
    /// All that can be done today is as expected; steps remain that wait for a command.
    Partly,
    /// Something is not as expected.
    Failed,
    /// A test of its own is about it, which does not run with these.
    ByTest,
    /// It cannot apply here.
    NotApplicable,
}

impl Verdict {
    /// As the table shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Partly => "partly",
            Self::Failed => "failed",
            Self::ByTest => "by test",
            Self::NotApplicable => "not applicable",
        }
    }
}

/// A line of the table.
#[derive(Clone, Debug)]
struct Line {
    name: String,
    verdict: Verdict,
    outcome: &'static str,
    reason: String,
    problems: Vec<String>,
    took: Duration,
    open: bool,
}

/// The table.
#[derive(Clone, Debug, Default)]
pub struct Report {
    lines: Vec<Line>,
    /// How long it all took.
    pub took: Duration,
}

impl Report {
    /// Adds what came of a scenario.
    pub(crate) fn add(&mut self, folder: &Folder, problems: Vec<String>, took: Duration) {
        let described = &folder.description;
        let verdict = if described.not_applicable.is_some() {
            Verdict::NotApplicable
        } else if !problems.is_empty() {
            Verdict::Failed
        } else if described.awaits.is_some() {
            Verdict::Partly
        } else {
            Verdict::Ok
        };
        let awaited = described.awaits.as_ref().map(|what| format!("awaits {what}"));
        let reasons = [&described.not_applicable, &described.reason, &described.open, &awaited];
        let reasons: Vec<&str> = reasons.into_iter().flatten().map(String::as_str).collect();
        self.lines.push(Line {
            name: folder.name.clone(),
            verdict,
            outcome: if verdict == Verdict::NotApplicable {
                "-"
            } else {
                described.outcome.as_str()
            },
            reason: reasons.join("; "),
            problems,
            took,
            open: described.open.is_some(),
        });
    }

    /// Adds scenarios that are tested elsewhere; those that another folder plays are told by that.
    pub fn add_elsewhere(&mut self, list: &[Elsewhere]) {
        for scenario in list {
            let (verdict, reason) = match &scenario.place {
                Place::Folder(_) => continue,
                Place::Test(test) => (Verdict::ByTest, test),
                Place::NotApplicable(why) => (Verdict::NotApplicable, why),
            };
            self.lines.push(Line {
                name: scenario.name.clone(),
                verdict,
                outcome: "-",
                reason: format!("{}: {reason}", scenario.what),
                problems: Vec::new(),
                took: Duration::ZERO,
                open: false,
            });
        }
        self.sort();
    }

    pub(crate) fn sort(&mut self) {
        self.lines.sort_by(|a, b| a.name.cmp(&b.name));
    }

    /// Scenarios with this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.lines.iter().filter(|line| line.verdict == verdict).count()
    }

    /// Scenarios that fail though nothing is known to be wrong, and those that do not though something is.
    pub fn surprises(&self) -> Vec<String> {
        let mut surprises = Vec::new();
        for line in &self.lines {
            let failed = line.verdict == Verdict::Failed;
            if failed && !line.open {
                surprises.push(format!("{}:\n  {}", line.name, line.problems.join("\n  ")));
            }
            if !failed && line.open {
                surprises.push(format!(
                    "{}: is as expected: take `open` out of its scenario.toml",
                    line.name
                ));
            }
        }
        surprises
    }

    /// The table, then what is wrong with those that failed.
    pub fn table(&self, verbose: bool) -> String {
        let width = self.lines.iter().map(|line| line.name.len()).max().unwrap_or_default();
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:width$}  {:14}  {:7}  reason", "name", "result", "outcome");
        for line in &self.lines {
            let row = format!(
                "{:width$}  {:14}  {:7}  {}",
                line.name,
                line.verdict.as_str(),
                line.outcome,
                line.reason
            );
            let _ = writeln!(text, "{}", row.trim_end());
        }
        for line in self.lines.iter().filter(|line| !line.problems.is_empty()) {
            let _ = writeln!(text, "\n{}:", line.name);
            for problem in &line.problems {
                let _ = writeln!(text, "  {problem}");
            }
        }
        if verbose {
            let _ = writeln!(text);
            for line in &self.lines {
                let _ = writeln!(text, "{:width$}  {:.1}s", line.name, line.took.as_secs_f64());
            }
        }
        text
    }

    /// The last line.
    pub fn summary(&self) -> String {
        let failed = self.count(Verdict::Failed);
        let result = if failed == 0 {
            "ok".to_owned()
        } else {
            "failed".to_owned()
        };
        let failures = if failed == 0 {
            String::new()
        } else {
            format!(" failed={failed}")
        };
        format!(
            "scenarios: {result} total={} ok={} partly={} by_test={} not_applicable={}{failures} seconds={}",
            self.lines.len(),
            self.count(Verdict::Ok),
            self.count(Verdict::Partly),
            self.count(Verdict::ByTest),
            self.count(Verdict::NotApplicable),
            self.took.as_secs()
        )
    }
}
