//! A scenario's folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use figment::Figment;
use figment::providers::{Format, Toml};
use serde::Deserialize;
use serde_json::Value;

use super::changes::Changes;

/// What stands for the domain's name in every file of a folder, so that ids of different scenarios never meet.
const DOMAIN_SIGN: &str = "$$";
/// What stands for the name of the Couch database of forms, which is in the keys of very old blobs.
const DATABASE_SIGN: &str = "$@";
/// Before a number of minutes and a closing parenthesis: the time so long before the scenarios were read.
const AGO_SIGN: &str = "$ago(";

/// How the outcome compares with that of HQ's own migrator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The same rows and the same records.
    #[default]
    Same,
    /// Deliberately others; the reason is given.
    Differs,
}

impl Outcome {
    /// As the table shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Differs => "differs",
        }
    }
}

/// `scenario.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// What it is about, in a line.
    pub title: String,
    /// Compared with HQ's own migrator.
    #[serde(default)]
    pub outcome: Outcome,
    /// Why the outcome differs.
    pub reason: Option<String>,
    /// Why it cannot apply here. It then has no steps.
    pub not_applicable: Option<String>,
    /// What its remaining steps wait for.
    pub awaits: Option<String>,
    /// What is wrong here at present: the scenario must fail, and the table says so.
    pub open: Option<String>,
    /// The domain keeps attachments of cases.
    #[serde(default)]
    pub case_attachments: bool,
    /// The domain must not be migrated.
    #[serde(default)]
    pub restricted: bool,
    /// What happens, in order. Absent: `MIGRATE`, which finds nothing to report and leaves `expected.json`.
    #[serde(default)]
    pub steps: Vec<Step>,
}

/// A step: what changes in the source comes first, then the command, then what must be true.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// A folder with input as the scenario's own: documents that come, change or, with `_deleted`, go.
    pub input: Option<PathBuf>,
    /// Ids of documents that vanish from Couch.
    #[serde(default)]
    pub purge: Vec<String>,
    /// Statements on the target.
    #[serde(default)]
    pub sql: Vec<String>,
    /// An action on the domain with its flags, such as `COMMIT --accept-diffs=all`, or `couch_sql_diff cases` with its own.
    pub run: Option<String>,
    /// Sends so many Ctrl-C while the command waits for its first page of documents.
    #[serde(default)]
    pub interrupt: usize,
    /// Its exit status.
    #[serde(default)]
    pub status: i32,
    /// Texts that it must write, to either output.
    #[serde(default)]
    pub says: Vec<String>,
    /// What changes while the command runs.
    pub meanwhile: Option<Meanwhile>,
    /// File with what must be true then.
    pub expect: Option<PathBuf>,
}

impl Step {
    /// What changes before the command.
    pub(super) fn changes(&self) -> Changes<'_> {
        Changes {
            input: self.input.as_deref(),
            purge: &self.purge,
            sql: &self.sql,
        }
    }
}

/// Changes at a moment in a command's work.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meanwhile {
    /// The moment.
    pub when: Moment,
    /// Id of the document whose moment it is. A form is read to be migrated, a case to be compared.
    pub of: String,
    /// As of a step.
    pub input: Option<PathBuf>,
    /// As of a step.
    #[serde(default)]
    pub purge: Vec<String>,
    /// As of a step.
    #[serde(default)]
    pub sql: Vec<String>,
}

impl Meanwhile {
    pub(super) fn changes(&self) -> Changes<'_> {
        Changes {
            input: self.input.as_deref(),
            purge: &self.purge,
            sql: &self.sql,
        }
    }
}

/// A moment in the way of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// Its id was found, and a worker is about to read it.
    Scanned,
    /// A worker has read it, and has done nothing with it yet.
    Read,
}

/// A scenario.
#[derive(Clone, Debug)]
pub struct Folder {
    /// As in the catalogue.
    pub name: String,
    /// Its domain.
    pub domain: String,
    /// What it is.
    pub description: Description,
    path: PathBuf,
    forms_db: String,
    began: DateTime<Utc>,
}

impl Folder {
    fn read(path: PathBuf) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = path.join("scenario.toml");
        ensure!(file.is_file(), "there is no {}", file.display());
        let description: Description = Figment::from(Toml::file(&file))
            .extract()
            .with_context(|| format!("in {}", file.display()))?;
        let mut folder = Self {
            domain: name.replace('_', "-"),
            name,
            description,
            path,
            forms_db: String::new(),
            began: Utc::now(),
        };
        folder.check()?;
        if folder.plays() && folder.description.steps.is_empty() {
            folder.description.steps.push(Step {
                run: Some("MIGRATE".to_owned()),
                expect: Some("expected.json".into()),
                ..Step::default()
            });
        }
        Ok(folder)
    }

    fn check(&self) -> Result<()> {
        let described = &self.description;
        let name = &self.name;
        ensure!(
            (described.outcome == Outcome::Differs) == described.reason.is_some(),
            "{name}: `reason` belongs to `outcome = \"differs\"`"
        );
        ensure!(
            described.not_applicable.is_none() || described.steps.is_empty(),
            "{name} is not applicable and has steps"
        );
        ensure!(
            self.plays() || described.not_applicable.is_some() || described.awaits.is_some(),
            "{name} has neither expectations nor a reason for having none"
        );
        let expects =
            !self.plays() || described.steps.is_empty() || described.steps.iter().any(|step| step.expect.is_some());
        ensure!(expects, "{name}: no step expects anything");
        Ok(())
    }

    /// Whether there is anything to run: not if it cannot apply, or waits for a command with all that it has.
    pub(crate) fn plays(&self) -> bool {
        let has_steps = !self.description.steps.is_empty() || self.path.join("expected.json").is_file();
        self.description.not_applicable.is_none() && has_steps
    }

    /// Path of a file of this folder; none if there is no such file or folder.
    pub(crate) fn file(&self, part: &Path) -> Option<PathBuf> {
        let path = self.path.join(part);
        path.exists().then_some(path)
    }

    /// JSON of a file of this folder, in this domain.
    pub(crate) fn json(&self, part: &Path) -> Result<Value> {
        let path = self.path.join(part);
        let content = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&self.in_domain(&content)).with_context(|| format!("{} is no JSON", path.display()))
    }

    /// Tells it the name of the Couch database of forms.
    pub(crate) fn set_forms_db(&mut self, name: &str) {
        name.clone_into(&mut self.forms_db);
    }

    /// A text with the names of this domain and of the database, and times before now, where their signs stand.
    pub(crate) fn in_domain(&self, text: &str) -> String {
        let text = text
            .replace(DOMAIN_SIGN, &self.domain)
            .replace(DATABASE_SIGN, &self.forms_db);
        let mut parts = text.split(AGO_SIGN);
        let mut dated = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let minutes = part
                .split_once(')')
                .and_then(|(number, rest)| Some((number.parse().ok()?, rest)));
            if let Some((minutes, rest)) = minutes {
                let time = self.began - TimeDelta::minutes(minutes);
                dated.push_str(&time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string());
                dated.push_str(rest);
            } else {
                dated.push_str(AGO_SIGN);
                dated.push_str(part);
            }
        }
        dated
    }

    /// Bytes with the name of this domain where the sign stands.
    pub(crate) fn bytes_in_domain(&self, bytes: &[u8]) -> Vec<u8> {
        let sign = DOMAIN_SIGN.as_bytes();
        let mut replaced = Vec::with_capacity(bytes.len());
        let mut rest = bytes;
        while let Some(place) = rest.windows(sign.len()).position(|window| window == sign) {
            replaced.extend_from_slice(&rest[..place]);
            replaced.extend_from_slice(self.domain.as_bytes());
            rest = &rest[place + sign.len()..];
        }
        replaced.extend_from_slice(rest);
        replaced
    }
}

/// The folder of all scenarios.
pub fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("scenarios")
}

/// All scenarios, by name.
///
/// # Errors
/// A folder cannot be read, or is not as it should be.
pub fn all() -> Result<Vec<Folder>> {
    let home = home();
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(&home).with_context(|| format!("cannot read {}", home.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            folders.push(Folder::read(entry.path())?);
        }
    }
    folders.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(folders)
}
