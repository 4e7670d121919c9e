//! What can be wrong with a configuration. No text repeats a value: any of them may be a secret.

use std::path::PathBuf;

use super::keys::{self, KeyKind};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("the configuration file {} is not TOML: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line and reason.
        reason: String,
    },
    /// There is no such key.
    #[error("unknown configuration key {key}{near}")]
    UnknownKey {
        /// The key as written.
        key: String,
        /// The nearest one there is, as `; did you mean …?`, or nothing.
        near: String,
    },
    /// A required key is absent.
    #[error("configuration key {key} is missing: set it in the file, or by the environment variable {variable}")]
    Missing {
        /// The key.
        key: String,
        /// Its environment variable.
        variable: String,
    },
    /// A value of the wrong kind.
    #[error("configuration key {key} must be {expected}")]
    Value {
        /// The key.
        key: String,
        /// What it takes.
        expected: String,
    },
    /// A value of the right kind that cannot work.
    #[error("configuration key {key} {problem}")]
    Unusable {
        /// The key.
        key: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A file that a key names cannot be read.
    #[error("configuration key {key} names the file {}, which cannot be read", path.display())]
    NamedFile {
        /// The key.
        key: String,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl ConfigError {
    /// Every code with its remedy; documentation is checked against this list.
    pub const CODES: [(&'static str, &'static str); 7] = [
        (
            "C2S-1001",
            "name the file with --config or COUCH_SQL_CONFIG; deploy/couch-sql.sample.toml is a start",
        ),
        ("C2S-1002", "correct the file at that line"),
        (
            "C2S-1003",
            "correct or remove the key; docs/configuration.md lists them all",
        ),
        ("C2S-1004", "set the key"),
        (
            "C2S-1005",
            "correct the value; docs/configuration.md says what it takes",
        ),
        ("C2S-1006", "correct the value as the message says"),
        ("C2S-1007", "let the key name a file that this process may read"),
    ];

    const fn index(&self) -> usize {
        match self {
            Self::File { .. } => 0,
            Self::Syntax { .. } => 1,
            Self::UnknownKey { .. } => 2,
            Self::Missing { .. } => 3,
            Self::Value { .. } => 4,
            Self::Unusable { .. } => 5,
            Self::NamedFile { .. } => 6,
        }
    }

    /// Stable code, listed in `docs/errors.md`.
    pub const fn code(&self) -> &'static str {
        Self::CODES[self.index()].0
    }

    /// What a person can do about it, in one line.
    pub const fn remedy(&self) -> &'static str {
        Self::CODES[self.index()].1
    }

    pub(super) fn unknown(key: String, known: &[&str]) -> Self {
        let last = key.rsplit('.').next().unwrap_or(&key);
        let near = known
            .iter()
            .map(|candidate| (distance(last, candidate), candidate))
            .min()
            .filter(|(distance, _)| *distance <= 1 + last.len() / 4)
            .map(|(_, candidate)| format!("; did you mean {candidate}?"))
            .unwrap_or_default();
        Self::UnknownKey { key, near }
    }

    pub(super) fn missing(key: &str) -> Self {
        let variable = keys::find(key).map(keys::Key::variable).unwrap_or_default();
        Self::Missing {
            key: key.to_owned(),
            variable,
        }
    }

    pub(super) fn value(key: &str) -> Self {
        let kind = keys::find(key).map(|key| key.kind);
        let expected = match kind {
            Some(kind) => kind.expects(),
            // Within an entry of the shard table, or a section that is no section.
            None if key.contains('.') => KeyKind::Shards.expects(),
            None => "a section: [name], with keys below".to_owned(),
        };
        Self::Value {
            key: key.to_owned(),
            expected,
        }
    }

    pub(super) fn unusable(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Unusable {
            key: key.into(),
            problem: problem.into(),
        }
    }
}

/// Edits (insert, delete, replace) between two words.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (left, right, edits) in [
            ("", "abc", 3),
            ("url", "url", 0),
            ("urll", "url", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(left, right), edits, "{left} {right}");
            assert_eq!(distance(right, left), edits, "{right} {left}");
        }
    }
}
