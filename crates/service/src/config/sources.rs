//! Where values come from: defaults, the file, the environment, files that hold secrets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::error::Kind as Fault;
use figment::providers::{Format, Serialized, Toml};
use figment::value::Value;
use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use url::Url;

use super::keys::{self, KEYS, Key, KeyDefault, KeyKind};
use super::{Config, ConfigError, Effective, Origin};

/// The layers, each over the one before it.
pub(super) struct Layers {
    defaults: Figment,
    file: Figment,
    file_path: PathBuf,
    /// Key path to (variable, value).
    environment: BTreeMap<String, (String, Value)>,
}

impl Layers {
    pub(super) fn new(
        path: Option<&Path>,
        content: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let file_path = path.map(Path::to_owned).unwrap_or_default();
        let file = Figment::from(Toml::string(content));
        if let Err(error) = file.extract::<Value>() {
            return Err(ConfigError::Syntax {
                path: file_path,
                reason: without_source_lines(&error.to_string()),
            });
        }
        let mut variables = BTreeMap::new();
        for (variable, text) in environment {
            let path = variable
                .trim_start_matches(keys::VARIABLE_PREFIX)
                .to_lowercase()
                .replacen("__", ".", 1);
            let Some(key) = keys::find(&path) else {
                let known: Vec<String> = KEYS.iter().map(Key::variable).collect();
                let known: Vec<&str> = known.iter().map(String::as_str).collect();
                return Err(ConfigError::unknown(variable, &known));
            };
            let value = parse(key, &text).ok_or_else(|| ConfigError::value(&path))?;
            variables.insert(path, (variable, value));
        }
        Ok(Self {
            defaults: Figment::from(Toml::string(&defaults())),
            file,
            file_path,
            environment: variables,
        })
    }

    pub(super) fn extract<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        let mut merged = self.defaults.clone().merge(self.file.clone());
        for (path, (_, value)) in &self.environment {
            merged = merged.merge(Serialized::default(path, value));
        }
        merged.extract().map_err(|error| translate(&error))
    }

    /// What is in force, fit to be shown.
    pub(super) fn effective(&self) -> Vec<Effective> {
        KEYS.iter()
            .map(|key| {
                let path = key.path();
                let (value, origin) = if let Some((variable, value)) = self.environment.get(&path) {
                    (Some(value.clone()), Origin::Environment(variable.clone()))
                } else if let Ok(value) = self.file.find_value(&path) {
                    (Some(value), Origin::File(self.file_path.clone()))
                } else {
                    (self.defaults.find_value(&path).ok(), Origin::Default)
                };
                Effective {
                    key: path,
                    value: value.map(|value| shown(key, &value)),
                    origin,
                }
            })
            .collect()
    }
}

/// The defaults of all keys as TOML, with every section present.
fn defaults() -> String {
    let mut text = String::new();
    for (section, _) in keys::SECTIONS {
        text.push_str(&format!("[{section}]\n"));
        for key in KEYS.iter().filter(|key| key.section == section) {
            if let KeyDefault::Value(value) = key.default {
                text.push_str(&format!("{} = {value}\n", key.name));
            }
        }
    }
    text
}

/// The value of an environment variable, by what its key takes: a password of digits is text, not a number.
fn parse(key: &Key, text: &str) -> Option<Value> {
    match key.kind {
        KeyKind::Text
        | KeyKind::Secret
        | KeyKind::Url
        | KeyKind::Path
        | KeyKind::Duration
        | KeyKind::Choice(_)
        | KeyKind::Address => Some(Value::from(text)),
        KeyKind::Count => text.trim().parse::<u64>().ok().map(Value::from),
        KeyKind::Flag => text.trim().parse::<bool>().ok().map(Value::from),
        KeyKind::List | KeyKind::Shards => Figment::from(Toml::string(&format!("value = {text}")))
            .find_value("value")
            .ok(),
    }
}

/// The parser quotes the line at fault, which may hold a password; position and reason are enough.
fn without_source_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains('|')).map(str::trim).collect();
    let reason = lines
        .iter()
        .skip(1)
        .copied()
        .find(|line| !line.is_empty())
        .unwrap_or_default();
    let position = lines.first().copied().unwrap_or_default();
    let position = position.split_once("at ").map_or(position, |(_, position)| position);
    format!("{position}: {reason}")
}

fn translate(error: &figment::Error) -> ConfigError {
    let path = error.path.join(".");
    let below = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    match &error.kind {
        Fault::UnknownField(name, known) => ConfigError::unknown(below(name), known),
        Fault::MissingField(name) => ConfigError::missing(&below(name)),
        _ => ConfigError::value(&path),
    }
}

fn shown(key: &Key, value: &Value) -> String {
    match key.kind {
        KeyKind::Secret => "***".to_owned(),
        KeyKind::Url => value
            .as_str()
            .map_or_else(|| "***".to_owned(), |text| quoted(&shown_url(text))),
        KeyKind::Shards => shown_shards(value),
        _ => shown_value(value),
    }
}

fn shown_value(value: &Value) -> String {
    match value {
        Value::String(_, text) => quoted(text),
        Value::Num(_, number) => number.to_i128().map(|number| number.to_string()).unwrap_or_default(),
        Value::Bool(_, flag) => flag.to_string(),
        Value::Array(_, values) => {
            format!("[{}]", values.iter().map(shown_value).collect::<Vec<_>>().join(", "))
        }
        Value::Char(_, _) | Value::Dict(_, _) | Value::Empty(_, _) => "***".to_owned(),
    }
}

fn shown_shards(value: &Value) -> String {
    let entries = value.as_array().unwrap_or_default().iter().map(|entry| {
        let fields = entry.as_dict().map(|fields| {
            fields.iter().map(|(name, value)| {
                let value = match name.as_str() {
                    "range" | "password_file" => shown_value(value),
                    "url" => quoted(&value.as_str().map_or_else(|| "***".to_owned(), shown_url)),
                    _ => "***".to_owned(),
                };
                format!("{name} = {value}")
            })
        });
        format!("{{ {} }}", fields.into_iter().flatten().collect::<Vec<_>>().join(", "))
    });
    format!("[{}]", entries.collect::<Vec<_>>().join(", "))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A URL without what may be a secret.
fn shown_url(text: &str) -> String {
    let Ok(mut url) = Url::parse(text) else {
        return "***".to_owned();
    };
    if url.password().is_some() && url.set_password(Some("***")).is_err() {
        return "***".to_owned();
    }
    url.to_string()
}

impl Config {
    /// Reads the files that hold secrets.
    pub(super) fn read_secrets(&mut self) -> Result<(), ConfigError> {
        read_secret(
            "source.password",
            &mut self.source.password,
            self.source.password_file.as_deref(),
        )?;
        read_secret(
            "blobs.secret_key",
            &mut self.blobs.secret_key,
            self.blobs.secret_key_file.as_deref(),
        )?;
        read_secret(
            "target.password",
            &mut self.target.password,
            self.target.password_file.as_deref(),
        )?;
        for (position, shard) in self.target.shards.iter_mut().enumerate() {
            let key = format!("target.shards[{position}].password");
            read_secret(&key, &mut shard.password, shard.password_file.as_deref())?;
        }
        read_secret(
            "state.password",
            &mut self.state.password,
            self.state.password_file.as_deref(),
        )?;
        read_secret(
            "broker.password",
            &mut self.broker.password,
            self.broker.password_file.as_deref(),
        )
    }

    /// Moves passwords from URLs to where secrets are, unless another is given there.
    pub(super) fn take_passwords_out_of_urls(&mut self) {
        let name = percent_decode_str(self.source.url.username())
            .decode_utf8_lossy()
            .into_owned();
        take_password(&mut self.source.url, &mut self.source.password);
        if !name.is_empty() && self.source.url.set_username("").is_ok() {
            self.source.username.get_or_insert(name);
        }
        // A shard's own password wins over the default database's, wherever it was written.
        take_password(&mut self.target.default, &mut self.target.password);
        for shard in &mut self.target.shards {
            take_password(&mut shard.url, &mut shard.password);
            if shard.password.is_none() {
                shard.password.clone_from(&self.target.password);
            }
        }
        take_password(&mut self.state.url, &mut self.state.password);
        take_password(&mut self.broker.url, &mut self.broker.password);
    }
}

fn read_secret(key: &str, secret: &mut Option<SecretString>, file: Option<&Path>) -> Result<(), ConfigError> {
    let Some(path) = file else { return Ok(()) };
    if secret.is_some() {
        return Err(ConfigError::unusable(
            key,
            format!("is set twice: remove it or {key}_file"),
        ));
    }
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::NamedFile {
        key: format!("{key}_file"),
        path: path.to_owned(),
        source,
    })?;
    // Editors end the last line; passwords do not.
    *secret = Some(SecretString::from(text.trim_end_matches(['\r', '\n'])));
    Ok(())
}

fn take_password(url: &mut Url, secret: &mut Option<SecretString>) {
    let Some(password) = url.password() else { return };
    let password = percent_decode_str(password).decode_utf8_lossy().into_owned();
    // Fails for URLs that cannot have one, and those had none.
    if url.set_password(None).is_ok() {
        secret.get_or_insert_with(|| SecretString::from(password));
    }
}
