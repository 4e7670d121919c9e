//! What a comparison of two documents must find: HQ's way of comparing, and its rules, made a second time.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::rules;

/// One plain difference; a side that is not there is `None`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Raw {
    pub(super) kind: &'static str,
    pub(super) path: Vec<String>,
    pub(super) old: Option<Value>,
    pub(super) new: Option<Value>,
}

impl Raw {
    pub(super) fn is_at(&self, path: &[&str]) -> bool {
        self.path.iter().map(String::as_str).eq(path.iter().copied())
    }

    pub(super) fn root(&self) -> &str {
        self.path.first().map_or("", String::as_str)
    }
}

/// What a document pair must be reported with, and what is dropped by which rule.
#[derive(Clone, Debug, Default)]
pub(super) struct Expectation {
    /// Differences that stay, as (kind, path).
    pub(super) found: BTreeSet<(String, String)>,
    /// Names of the rules by the differences that they dropped.
    pub(super) allowed: Vec<(Raw, String)>,
}

impl Expectation {
    pub(super) fn keep(&mut self, kind: &str, path: impl Into<String>) {
        self.found.insert((kind.to_owned(), path.into()));
    }
}

/// What kind of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    Forms,
    Cases,
}

/// Compares a pair of documents. `no_action`: forms that Couch's case need not list.
pub(super) fn expect(group: Group, couch: &Value, sql: &Value, no_action: &BTreeSet<String>) -> Expectation {
    let as_problem = problem_form(group, couch);
    let couch = as_problem.as_ref().unwrap_or(couch);
    let mut raws = Vec::new();
    walk(couch, sql, &mut Vec::new(), &mut raws);
    let mut expectation = Expectation::default();
    let doc_type = couch["doc_type"].as_str().unwrap_or_default();
    let name = match group {
        Group::Forms => "forms",
        Group::Cases => "cases",
    };
    for raw in raws {
        match judge(group, (doc_type, name), couch, sql, &raw, no_action) {
            Judged::Dropped(rule) => expectation.allowed.push((raw, rule)),
            Judged::Stays => expectation.keep(raw.kind, raw.path.join("/")),
            Judged::Replaced(rule, others) if others.is_empty() => expectation.allowed.push((raw, rule)),
            Judged::Replaced(_, others) => others
                .into_iter()
                .for_each(|(kind, path)| expectation.keep(&kind, path)),
        }
    }
    expectation
}

/// A normal form with a problem is migrated as an error form, and compared as one.
fn problem_form(group: Group, couch: &Value) -> Option<Value> {
    let is_empty = match &couch["problem"] {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Bool(true) => false,
    };
    (group == Group::Forms && couch["doc_type"] == "XFormInstance" && !is_empty).then(|| {
        let mut form = couch.clone();
        form["doc_type"] = Value::from("XFormError");
        form
    })
}

enum Judged {
    Dropped(String),
    Stays,
    /// By the rule of this name; perhaps by nothing.
    Replaced(String, Vec<(String, String)>),
}

fn judge(
    group: Group,
    (doc_type, name): (&str, &str),
    couch: &Value,
    sql: &Value,
    raw: &Raw,
    no_action: &BTreeSet<String>,
) -> Judged {
    let dropped = |rule: &str| Judged::Dropped(format!("{name}: {rule}"));
    if let Some(rule) = rules::plain(doc_type, name, raw) {
        return Judged::Dropped(rule.name.clone());
    }
    let last = raw.path.last().map_or("", String::as_str);
    let texts = (
        raw.old.as_ref().and_then(Value::as_str),
        raw.new.as_ref().and_then(Value::as_str),
    );
    match group {
        Group::Forms => {
            let is_supply_point = couch["xmlns"] == "http://commtrack.org/supply_point";
            if raw.kind == "missing" && raw.is_at(&["location_id"]) && raw.new.is_none() && is_supply_point {
                return dropped("location of a supply point");
            }
            let blank = raw.old.is_none() || texts.0 == Some("");
            if matches!(last, "#text" | "@xmlns") && blank {
                return dropped("empty #text or @xmlns");
            }
        }
        Group::Cases => {
            if raw.root() == "actions" {
                return dropped("actions");
            }
            if raw.is_at(&["opened_by"]) && !has_create(couch) {
                return dropped("opened_by without create");
            }
            if let (true, (Some(old), Some(new))) = (raw.is_at(&["name"]), texts)
                && old.chars().count() > 255
                && old.chars().take(255).eq(new.chars())
            {
                return dropped("name of 255 characters");
            }
        }
    }
    if let ("diff", (Some(old), Some(new))) = (raw.kind, texts) {
        if is_datetime(old) && is_datetime(new) {
            return dropped("date-times");
        }
        if new.starts_with('0') && number(old).is_some() && number(old) == number(new) {
            return dropped("leading zeros");
        }
    }
    for (old_name, new_name) in rules::renamed(doc_type, name) {
        if [old_name, new_name].contains(&raw.root())
            && let (Some(old), Some(new)) = (couch.get(old_name), sql.get(new_name))
        {
            let both = |one: &Value, other: &Value| matches!((one.as_str(), other.as_str()), (Some(one), Some(other)) if is_datetime(one) && is_datetime(other));
            let rule = format!("{name}: {old_name} is {new_name}");
            if equal(old, new) || both(old, new) {
                return Judged::Dropped(rule);
            }
            return Judged::Replaced(rule, vec![("complex".to_owned(), format!("{old_name}/{new_name}"))]);
        }
    }
    if group == Group::Cases {
        match raw.root() {
            "xform_ids" if raw.is_at(&["xform_ids", "[*]"]) => return xform_ids(couch, sql, no_action),
            "case_attachments" => return attachments(couch, sql),
            "indices" if list(couch, "indices").len() >= 2 => return indices(couch, sql),
            _ => {}
        }
    }
    Judged::Stays
}

fn has_create(couch: &Value) -> bool {
    list(couch, "actions")
        .iter()
        .any(|action| action["action_type"] == "create")
}

fn list<'a>(document: &'a Value, key: &str) -> &'a [Value] {
    document[key].as_array().map_or(&[], Vec::as_slice)
}

fn xform_ids(couch: &Value, sql: &Value, no_action: &BTreeSet<String>) -> Judged {
    let rule = "cases: order of xform_ids".to_owned();
    let ids =
        |document: &Value| -> BTreeSet<String> { list(document, "xform_ids").iter().map(Value::to_string).collect() };
    let (in_couch, in_sql) = (ids(couch), ids(sql));
    let only_couch = in_couch.difference(&in_sql).count();
    let quoted: BTreeSet<String> = no_action
        .iter()
        .map(|id| Value::from(id.as_str()).to_string())
        .collect();
    let only_sql: Vec<&String> = in_sql.difference(&in_couch).collect();
    let left = only_sql.iter().filter(|id| !quoted.contains(**id)).count();
    // Where only forms without action are left on SQL's side, the whole difference goes.
    if (only_couch == 0 && only_sql.is_empty()) || (!only_sql.is_empty() && left == 0) {
        return Judged::Replaced(rule, Vec::new());
    }
    Judged::Replaced(rule, vec![("set_mismatch".to_owned(), "xform_ids/[*]".to_owned())])
}

fn attachments(couch: &Value, sql: &Value) -> Judged {
    let none = Map::new();
    let of = |document: &'_ Value| {
        document["case_attachments"]
            .as_object()
            .cloned()
            .unwrap_or_else(|| none.clone())
    };
    let (couch, sql) = (of(couch), of(sql));
    let mut others = Vec::new();
    let names: BTreeSet<&String> = couch.keys().chain(sql.keys()).collect();
    for name in names {
        let path = format!("case_attachments/{name}");
        match (couch.get(name), sql.get(name)) {
            (Some(old), Some(new)) => {
                let mut raws = Vec::new();
                walk(old, new, &mut Vec::new(), &mut raws);
                for raw in raws {
                    match judge_attachment(old, new, &raw) {
                        None => {}
                        Some((kind, at)) => others.push((kind, format!("{path}/{at}"))),
                    }
                }
            }
            _ => others.push(("missing".to_owned(), path)),
        }
    }
    Judged::Replaced("cases: attachments by name".to_owned(), others)
}

fn judge_attachment(couch: &Value, sql: &Value, raw: &Raw) -> Option<(String, String)> {
    if rules::plain("", "attachment", raw).is_some() {
        return None;
    }
    for (old_name, new_name) in rules::renamed("", "attachment") {
        if [old_name, new_name].contains(&raw.root())
            && let (Some(old), Some(new)) = (couch.get(old_name), sql.get(new_name))
        {
            return (!equal(old, new)).then(|| ("complex".to_owned(), format!("{old_name}/{new_name}")));
        }
    }
    Some((raw.kind.to_owned(), raw.path.join("/")))
}

/// Two or more indices are compared by their identifiers.
fn indices(couch: &Value, sql: &Value) -> Judged {
    let sorted = |document: &Value| -> Value {
        let mut items = list(document, "indices").to_vec();
        items.sort_by_key(|item| item["identifier"].as_str().unwrap_or_default().to_owned());
        Value::Array(items)
    };
    let mut raws = Vec::new();
    walk(&sorted(couch), &sorted(sql), &mut vec!["indices".to_owned()], &mut raws);
    // The fields that only one side has are no difference, here as elsewhere.
    raws.retain(|raw| rules::plain("CommCareCase", "cases", raw).is_none());
    let others = raws
        .into_iter()
        .map(|raw| (raw.kind.to_owned(), raw.path.join("/")))
        .collect();
    Judged::Replaced("cases: order of indices".to_owned(), others)
}

/// `YYYY-MM-DDTHH:MM:SS`, perhaps a fraction of up to six digits, `Z`.
fn is_datetime(text: &str) -> bool {
    let Some(text) = text.strip_suffix('Z') else {
        return false;
    };
    let (whole, fraction) = text
        .split_once('.')
        .map_or((text, None), |(whole, fraction)| (whole, Some(fraction)));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    fraction.is_none_or(|fraction| digits(fraction) && fraction.len() <= 6)
        && whole.len() == 19
        && chrono::NaiveDateTime::parse_from_str(whole, "%Y-%m-%dT%H:%M:%S").is_ok()
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok()
}

/// Whether Python calls them equal.
pub(super) fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(key, value)| other.get(key).is_some_and(|other| equal(value, other)))
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| equal(one, other))
        }
        _ => match (as_number(one), as_number(other)) {
            (Some(one), Some(other)) => one == other,
            _ => one == other,
        },
    }
}

fn as_number(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
        Value::Number(number) => number.as_f64(),
        _ => None,
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

fn walk(old: &Value, new: &Value, path: &mut Vec<String>, raws: &mut Vec<Raw>) {
    if equal(old, new) {
        return;
    }
    let mut tell = |kind: &'static str| {
        raws.push(Raw {
            kind,
            path: path.clone(),
            old: Some(old.clone()),
            new: Some(new.clone()),
        });
    };
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let only_new = new.keys().filter(|key| !old.contains_key(*key));
            for key in old.keys().chain(only_new) {
                path.push(key.clone());
                walk_sides(old.get(key), new.get(key), path, raws);
                path.pop();
            }
        }
        _ if type_of(old) != type_of(new) => tell("type"),
        (Value::Array(old), Value::Array(new)) => {
            path.push("[*]".to_owned());
            for place in 0..old.len().max(new.len()) {
                walk_sides(old.get(place), new.get(place), path, raws);
            }
            path.pop();
        }
        _ => tell("diff"),
    }
}

fn walk_sides(old: Option<&Value>, new: Option<&Value>, path: &mut Vec<String>, raws: &mut Vec<Raw>) {
    match (old, new) {
        (Some(old), Some(new)) => walk(old, new, path, raws),
        (None, None) => {}
        _ => raws.push(Raw {
            kind: "missing",
            path: path.clone(),
            old: old.cloned(),
            new: new.cloned(),
        }),
    }
}

/// How often each rule name occurs.
pub(super) type Tally = BTreeMap<String, usize>;
