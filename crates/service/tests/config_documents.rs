//! Sample file, documentation, list of keys and types say the same.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;

use secrecy::ExposeSecret;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
use service::config::keys::{self, KEYS, KeyDefault, SECTIONS};
use service::config::{
    BlobsConfig, BrokerConfig, Config, ConfigError, DriverConfig, HqConfig, LiveConfig, SourceConfig, StateConfig,
    TargetConfig, TelemetryConfig, WorkerConfig,
};

fn read(toml: &str) -> Result<Config, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("couch-sql.toml");
    std::fs::write(&path, toml).unwrap();
    Config::read(Some(&path), [])
}

fn repository(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read_to_string(root.join(path)).unwrap()
}

#[test]
fn the_example_of_the_sample_file_is_complete() {
    let config = read(&repository("deploy/couch-sql.sample.toml")).unwrap();
    assert_eq!(
        config.target.default.as_str(),
        "postgres://hq@pg0.example/commcarehq?sslmode=verify-full"
    );
}

/// The sample with every commented key taken in must be a configuration too.
#[test]
fn the_sample_shows_every_key_with_a_value_that_works() {
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "word\n").unwrap();
    let mut section = String::new();
    let mut shown = BTreeSet::new();
    let mut toml = String::new();
    for line in repository("deploy/couch-sql.sample.toml").lines() {
        let line = line
            .strip_prefix("# ")
            .or_else(|| line.strip_prefix('#'))
            .unwrap_or(line);
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
            toml.push_str(&format!("[{name}]\n"));
        } else if let Some((name, _)) = line.split_once(" = ")
            && keys::find(&format!("{section}.{name}")).is_some()
        {
            assert!(
                shown.insert(format!("{section}.{name}")),
                "{section}.{name} is in the sample twice"
            );
            let names_file = name.ends_with("_file");
            match (names_file, name) {
                (true, _) => toml.push_str(&format!("{name} = {:?}\n", secret.display().to_string())),
                // In place of its file.
                (false, "password" | "secret_key") => {}
                _ => toml.push_str(&format!("{line}\n")),
            }
        }
    }
    let known: BTreeSet<String> = KEYS.iter().map(keys::Key::path).collect();
    assert_eq!(shown, known);
    let config = read(&toml).unwrap_or_else(|error| panic!("{error}\n{toml}"));
    assert_eq!(config.state.password.unwrap().expose_secret(), "word");
}

#[test]
fn the_sample_shows_the_defaults() {
    let sample = repository("deploy/couch-sql.sample.toml");
    for key in KEYS {
        // An empty list shows nothing: the sample has an example there.
        if let KeyDefault::Value(value) = key.default
            && value != "[]"
        {
            let line = format!("{} = {value}", key.name);
            assert!(
                sample.lines().any(|l| l.trim_start_matches(['#', ' ']) == line),
                "no line `{line}`"
            );
        }
    }
}

#[test]
fn the_documentation_has_the_tables_of_the_list() {
    let text = repository("docs/configuration.md");
    for (section, about) in SECTIONS {
        let expected = format!("## [{section}]\n\n{about}\n\n{}", keys::markdown(section));
        assert!(
            text.contains(&expected),
            "docs/configuration.md should have this section:\n\n{expected}"
        );
    }
    assert_eq!(text.matches("\n## [").count(), SECTIONS.len());
}

/// The names of a struct's fields, as its own reader asks for them.
fn fields<T: DeserializeOwned>() -> BTreeSet<String> {
    #[derive(Debug)]
    struct Asked(&'static [&'static str]);
    impl std::fmt::Display for Asked {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("asked")
        }
    }
    impl std::error::Error for Asked {}
    impl serde::de::Error for Asked {
        fn custom<M: std::fmt::Display>(_: M) -> Self {
            Self(&[])
        }
    }
    struct Asking;
    impl<'de> Deserializer<'de> for Asking {
        type Error = Asked;
        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Asked> {
            Err(Asked::custom("not a struct"))
        }
        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Asked> {
            Err(Asked(fields))
        }
        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }
    let asked = T::deserialize(Asking).err().expect("there is nothing to read");
    asked.0.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn the_list_of_keys_is_that_of_the_types() {
    for (section, fields) in [
        ("source", fields::<SourceConfig>()),
        ("blobs", fields::<BlobsConfig>()),
        ("target", fields::<TargetConfig>()),
        ("state", fields::<StateConfig>()),
        ("broker", fields::<BrokerConfig>()),
        ("live", fields::<LiveConfig>()),
        ("worker", fields::<WorkerConfig>()),
        ("driver", fields::<DriverConfig>()),
        ("hq", fields::<HqConfig>()),
        ("telemetry", fields::<TelemetryConfig>()),
    ] {
        let listed: BTreeSet<String> = KEYS
            .iter()
            .filter(|key| key.section == section)
            .map(|key| key.name.to_owned())
            .collect();
        assert!(!fields.is_empty(), "{section}");
        assert_eq!(listed, fields, "[{section}]");
    }
    let sections: BTreeSet<String> = SECTIONS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(sections, fields::<Config>());
}
