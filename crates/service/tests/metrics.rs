//! What the sources record, the list of metrics, and their documentation say the same.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use metrics::Unit;
use service::names::{ALL, MetricKind};

/// Name, type, unit, labels.
type Line = (String, String, String, Vec<String>);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn listed() -> BTreeSet<Line> {
    let lines = ALL.iter().map(|metric| {
        let kind = match metric.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        let unit = match metric.unit {
            Unit::Seconds => "seconds",
            Unit::Bytes => "bytes",
            _ => "",
        };
        let labels = metric.labels.iter().map(|label| (*label).to_owned());
        (
            metric.name.to_owned(),
            kind.to_owned(),
            unit.to_owned(),
            labels.collect(),
        )
    });
    lines.collect()
}

#[test]
fn the_page_of_metrics_has_every_metric_with_its_type_unit_and_labels() {
    let page = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let mut documented = BTreeSet::new();
    for line in page.lines().filter(|line| line.starts_with("| `c2s_")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, unit, labels, meaning] = cells[..] else {
            panic!("a line of five cells: {line}");
        };
        assert!(!meaning.is_empty(), "{line}");
        let plain = |text: &str| text.trim_matches('`').to_owned();
        let labels = labels
            .split(", ")
            .filter(|label| !label.is_empty())
            .map(plain)
            .collect();
        let is_new = documented.insert((plain(name), kind.to_owned(), unit.to_owned(), labels));
        assert!(is_new, "{name} is there twice");
    }
    assert_eq!(documented, listed());
}

/// Text of the sources of crates and services, by file. A crate is the folder above `src`.
fn sources() -> Vec<(PathBuf, String)> {
    let mut folders: Vec<PathBuf> = Vec::new();
    for group in ["crates", "services"] {
        let crates = fs::read_dir(root().join(group)).unwrap();
        folders.extend(crates.map(|entry| entry.unwrap().path().join("src")));
    }
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                files.push((path, text));
            }
        }
    }
    files
}

fn crate_of(path: &Path) -> PathBuf {
    let source = path.ancestors().find(|folder| folder.ends_with("src")).unwrap();
    source.parent().unwrap().to_owned()
}

/// `pub const NAME: &str = "c2s_…";` by crate and constant.
fn constants(sources: &[(PathBuf, String)]) -> BTreeMap<(PathBuf, String), String> {
    let mut constants = BTreeMap::new();
    for (path, text) in sources {
        for line in text.lines() {
            let Some((constant, name)) = line
                .trim()
                .strip_prefix("pub const ")
                .and_then(|rest| rest.split_once(": &str = \"c2s_"))
            else {
                continue;
            };
            let name = format!("c2s_{}", name.trim_end_matches("\";"));
            constants.insert((crate_of(path), constant.to_owned()), name);
        }
    }
    constants
}

/// What is between the parentheses of each call of the macro.
fn calls<'a>(text: &'a str, called: &str) -> Vec<&'a str> {
    let mut calls = Vec::new();
    for (start, _) in text.match_indices(called) {
        let arguments = &text[start + called.len()..];
        let mut depth = 1;
        let end = arguments.find(|c| {
            depth += match c {
                '(' => 1,
                ')' => -1,
                _ => 0,
            };
            depth == 0
        });
        calls.push(&arguments[..end.unwrap()]);
    }
    calls
}

#[test]
fn what_the_sources_record_is_what_is_listed() {
    let sources = sources();
    let constants = constants(&sources);
    let units: BTreeMap<String, String> = listed().into_iter().map(|line| (line.0, line.2)).collect();
    let mut recorded = BTreeSet::new();
    for (path, text) in &sources {
        for kind in ["counter", "gauge", "histogram"] {
            for call in calls(text, &format!("{kind}!(")) {
                let mut arguments = call.split(',').map(str::trim);
                let constant = arguments.next().unwrap().rsplit("::").next().unwrap();
                if constant == "metric.name" {
                    continue; // The list tells the recorder what they mean.
                }
                // Those of its own crate, or else of this one.
                let own = constants.get(&(crate_of(path), constant.to_owned()));
                let shared = constants.get(&(root().join("crates/service"), constant.to_owned()));
                let name = own.or(shared);
                let name = name.unwrap_or_else(|| panic!("{}: {kind} of {constant}", path.display()));
                let labels = arguments
                    .filter_map(|argument| argument.split_once("=>"))
                    .map(|(label, _)| label.trim().trim_matches('"').to_owned());
                let unit = units.get(name).unwrap_or_else(|| panic!("{name} is not listed"));
                recorded.insert((name.clone(), kind.to_owned(), unit.clone(), labels.collect::<Vec<_>>()));
            }
        }
    }
    assert_eq!(recorded, listed());
    let named: BTreeSet<&String> = constants.values().collect();
    assert_eq!(named.len(), constants.len(), "a name stands twice");
}
