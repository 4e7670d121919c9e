//! The configuration file of a world.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

/// Keys with their values, as TOML.
#[derive(Clone, Debug, Default)]
pub struct Settings(BTreeMap<String, BTreeMap<String, String>>);

impl Settings {
    /// Settings that suit a test: nobody else uses the servers, nobody caches anything, and what died is noticed soon.
    pub fn for_tests() -> Self {
        let mut settings = Self::default();
        for (key, value) in [
            ("source.max_requests_per_second", "10000"),
            ("source.timeout", "\"20s\""),
            ("live.minimum_age", "\"0s\""),
            ("worker.lease", "\"5s\""),
            // So few that replays of ordinary cases go on from checkpoints too.
            ("worker.checkpoint_from", "3"),
            ("hq.cache_wait", "\"0s\""),
            // Small enough that a small domain has many batches.
            ("driver.scan_page", "200"),
            ("driver.scan_window", "400"),
            ("driver.form_batch", "100"),
            ("driver.case_batch", "50"),
            ("driver.diff_batch", "50"),
            ("target.max_connections", "4"),
            ("state.max_connections", "4"),
        ] {
            settings.set(key, value);
        }
        settings
    }

    /// Settings that suit a measurement: the defaults, but for what only matters beside a running HQ.
    pub fn for_measurements() -> Self {
        let mut settings = Self::default();
        for (key, value) in [
            ("source.max_requests_per_second", "100000"),
            ("live.minimum_age", "\"0s\""),
            ("hq.cache_wait", "\"0s\""),
        ] {
            settings.set(key, value);
        }
        settings
    }

    /// Sets a key, `section.name`, to a value in TOML.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        let (section, name) = key.split_once('.').unwrap_or(("", key));
        self.0
            .entry(section.to_owned())
            .or_default()
            .insert(name.to_owned(), value.into());
    }

    /// Sets a key to a text.
    pub fn set_text(&mut self, key: &str, text: &str) {
        self.set(key, quoted(text));
    }

    /// Writes the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = String::new();
        for (section, keys) in &self.0 {
            text.push_str(&format!("[{section}]\n"));
            for (name, value) in keys {
                text.push_str(&format!("{name} = {value}\n"));
            }
            text.push('\n');
        }
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// A basic string of TOML.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
