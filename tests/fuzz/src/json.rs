//! Form JSON that never was XML, as a document of CouchDB may hold it.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Map, Value, json};

use crate::forms;
use crate::inputs::{Input, Kind};

const KEYS: &[&str] = &[
    "a",
    "case",
    "case_id",
    "@case_id",
    "@xmlns",
    "@date_modified",
    "date_modified",
    "@user_id",
    "create",
    "update",
    "close",
    "index",
    "attachment",
    "@case_type",
    "@relationship",
    "@src",
    "#text",
    "#type",
    "#other",
    "meta",
    "Meta",
    "uid",
    "userID",
    "",
    "a b",
    "@",
    "@{u}a",
    "@{",
    "@xmlns:p",
    "é",
    "<",
    "balance",
    "case_name",
    "owner_id",
];

/// A form that was made or read, with some of its values replaced.
pub(crate) fn form(rng: &mut StdRng, seed: &Input) -> Vec<u8> {
    let read = match seed.kind {
        Kind::Json if rng.random_bool(0.5) => serde_json::from_slice(&seed.bytes).ok(),
        Kind::Xml if rng.random_bool(0.3) => xform::form_json(&seed.bytes).ok(),
        _ => xform::form_json(&forms::form(rng)).ok(),
    };
    let mut form = read.unwrap_or_else(|| value(rng, 0));
    for _ in 0..rng.random_range(0..6) {
        replace(rng, &mut form, 0);
    }
    form.to_string().into_bytes()
}

/// Replaces one value somewhere inside.
fn replace(rng: &mut StdRng, inside: &mut Value, depth: usize) {
    if depth > 0 && rng.random_bool(0.2) {
        *inside = value(rng, depth);
        return;
    }
    match inside {
        Value::Object(object) if !object.is_empty() => {
            let at = rng.random_range(0..object.len());
            match rng.random_range(0..8) {
                0 => {
                    let (key, other) = (key(rng), value(rng, depth));
                    object.insert(key, other);
                }
                1 => {
                    let name = object.keys().nth(at).cloned().unwrap_or_default();
                    object.shift_remove(&name);
                }
                _ => {
                    if let Some(child) = object.values_mut().nth(at) {
                        replace(rng, child, depth + 1);
                    }
                }
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let at = rng.random_range(0..items.len());
            replace(rng, &mut items[at], depth + 1);
        }
        other => *other = value(rng, depth),
    }
}

fn key(rng: &mut StdRng) -> String {
    KEYS.choose(rng).copied().unwrap_or_default().to_owned()
}

fn value(rng: &mut StdRng, depth: usize) -> Value {
    match rng.random_range(0..12) {
        0 => Value::Null,
        1 => json!(rng.random_bool(0.5)),
        2 => json!(rng.random::<i64>()),
        3 => json!(1e300),
        4..6 => forms::date(rng).into(),
        6 => "x".repeat(rng.random_range(0..600)).into(),
        7 | 8 if depth < 100 => (0..rng.random_range(0..4)).map(|_| value(rng, depth + 1)).collect(),
        9..12 if depth < 100 => (0..rng.random_range(0..6))
            .map(|_| (key(rng), value(rng, depth + 1)))
            .collect::<Map<_, _>>()
            .into(),
        _ => "c-1".into(),
    }
}
