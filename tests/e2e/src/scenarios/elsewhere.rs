//! Scenarios of the catalogues that go by numbers there: where each is tested, if not by a folder of its name.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use figment::Figment;
use figment::providers::{Format, Toml};
use serde::Deserialize;

use super::folder::home;

/// The list, in the folder of all scenarios.
const LIST: &str = "elsewhere.toml";

/// A scenario that has no folder of its name.
#[derive(Clone, Debug)]
pub struct Elsewhere {
    /// The catalogue and its number there.
    pub name: String,
    /// What it is about.
    pub what: String,
    /// Where it is tested.
    pub place: Place,
}

/// Where a scenario is tested.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// By a test: its file, two colons, its name.
    Test(String),
    /// By the scenario of this name.
    Folder(String),
    /// Nowhere, for this reason.
    NotApplicable(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    what: String,
    test: Option<String>,
    folder: Option<String>,
    not_applicable: Option<String>,
}

impl Elsewhere {
    /// What is wrong with it: a test or a folder that is not there.
    ///
    /// # Errors
    /// The file of a test cannot be read.
    pub fn problem(&self) -> Result<Option<String>> {
        let is_there = match &self.place {
            Place::NotApplicable(_) => true,
            Place::Folder(name) => home().join(name).join("scenario.toml").is_file(),
            Place::Test(test) => {
                let (file, name) = test
                    .split_once("::")
                    .with_context(|| format!("{}: {test} is no file::name", self.name))?;
                let path = home().join("../..").join(file);
                let code = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
                is_test(&code, name)
            }
        };
        Ok((!is_there).then(|| format!("{}: {:?} is not there", self.name, self.place)))
    }
}

/// Whether a file has a test of this name: a function that stands right below the attribute that makes it one.
fn is_test(code: &str, name: &str) -> bool {
    let mut marked = false;
    for line in code.lines().map(str::trim) {
        let is_it = [format!("fn {name}("), format!("async fn {name}(")]
            .iter()
            .any(|start| line.starts_with(start));
        if is_it {
            return marked;
        }
        marked = matches!(line, "#[test]" | "#[tokio::test]") || (marked && line.starts_with("#["));
    }
    false
}

/// All of them, in the order of their names.
///
/// # Errors
/// The list is not as it should be.
pub fn elsewhere() -> Result<Vec<Elsewhere>> {
    read(&home().join(LIST))
}

fn read(path: &Path) -> Result<Vec<Elsewhere>> {
    let catalogues: BTreeMap<String, BTreeMap<String, Entry>> = Figment::from(Toml::file_exact(path))
        .extract()
        .with_context(|| format!("in {}", path.display()))?;
    let mut list = Vec::new();
    for (catalogue, entries) in catalogues {
        for (number, entry) in entries {
            let name = format!("{catalogue}_{number}");
            let place = match (entry.test, entry.folder, entry.not_applicable) {
                (Some(test), None, None) => Place::Test(test),
                (None, Some(folder), None) => Place::Folder(folder),
                (None, None, Some(reason)) => Place::NotApplicable(reason),
                _ => bail!("{name} needs one of `test`, `folder` and `not_applicable`"),
            };
            list.push(Elsewhere {
                name,
                what: entry.what,
                place,
            });
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_stands_below_its_attribute() {
        let code =
            "fn helper() {}\n#[test]\nfn first() {}\n\n    #[tokio::test]\n    #[cfg(unix)]\n    async fn second() {\n";
        for (name, expected) in [("first", true), ("second", true), ("helper", false), ("firs", false)] {
            assert_eq!(is_test(code, name), expected, "{name}");
        }
    }
}
