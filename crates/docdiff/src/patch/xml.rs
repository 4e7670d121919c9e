//! The XML of patch forms.

use std::fmt::Write;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::block::{Block, Index, Property};
use super::ledgers::Balance;
use super::{CannotPatch, PATCH_DEVICE, PATCH_XMLNS, PatchPlan};
use crate::datetime::couch_date;
use crate::python::is_truthy;
use crate::sqljson;

const CASE_XMLNS: &str = "http://commcarehq.org/case/transaction/v2";
const LEDGER_XMLNS: &str = "http://commcarehq.org/ledger/v1";

/// The whole form around a plan.
pub(super) fn form(plan: &PatchPlan, form_id: &str, time: DateTime<Utc>) -> String {
    let time = date_text(time);
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <system version=\"1\" uiVersion=\"1\" xmlns=\"{PATCH_XMLNS}\" xmlns:orx=\"http://openrosa.org/jr/xforms\">\n  \
         <orx:meta xmlns:cc=\"http://commcarehq.org/xforms\">\n    \
         <orx:deviceID>{PATCH_DEVICE}</orx:deviceID>\n    \
         <orx:timeStart>{time}</orx:timeStart>\n    \
         <orx:timeEnd>{time}</orx:timeEnd>\n    \
         <orx:username></orx:username>\n    \
         <orx:userID>{user}</orx:userID>\n    \
         <orx:instanceID>{id}</orx:instanceID>\n    \
         <cc:appVersion/>\n  \
         </orx:meta>\n  {body}\n</system>\n",
        user = escaped(&plan.user_id),
        id = escaped(form_id),
        body = plan.body,
    )
}

/// The case block, with known properties from the Couch case.
pub(super) fn case_block(case_id: &str, couch: &Map<String, Value>, block: &Block<'_>) -> Result<String, CannotPatch> {
    let text = |key: &str| couch.get(key).and_then(Value::as_str).unwrap_or_default();
    let date = |key: &str| couch_date(text(key));
    let user_id = text("user_id");
    let mut out = format!("<case xmlns=\"{CASE_XMLNS}\"");
    attribute(&mut out, "case_id", case_id)?;
    attribute(&mut out, "user_id", user_id)?;
    if let Some(modified) = date("modified_on") {
        attribute(&mut out, "date_modified", &date_text(modified))?;
    }
    out.push('>');
    let owner_id = Some(text("owner_id")).filter(|owner| !owner.is_empty());
    let base = [
        ("case_type", text("type")),
        ("case_name", text("name")),
        ("owner_id", owner_id.unwrap_or(user_id)),
    ];
    if block.creates {
        out.push_str("<create>");
        elements(&mut out, &base)?;
        out.push_str("</create>");
    }
    if let Some(properties) = &block.update {
        out.push_str("<update>");
        if !block.creates {
            elements(&mut out, &base)?;
        }
        if let Some(external) = couch.get("external_id").filter(|external| is_truthy(external)) {
            element(&mut out, "external_id", external.as_str().unwrap_or_default())?;
        }
        if let Some(opened) = date("opened_on") {
            element(&mut out, "date_opened", &date_text(opened))?;
        }
        for (name, value) in properties {
            match value {
                Property::Text(text) => element(&mut out, name, text)?,
                Property::Printed(value) => element(&mut out, name, &printed(value))?,
            }
        }
        out.push_str("</update>");
    }
    if !block.indices.is_empty() {
        out.push_str("<index>");
        for entry in &block.indices {
            index(&mut out, entry)?;
        }
        out.push_str("</index>");
    }
    if block.closes {
        out.push_str("<close/>");
    }
    out.push_str("</case>");
    Ok(out)
}

/// A ledger's balance.
pub(super) fn balance(case_id: &str, balance: &Balance) -> Result<String, CannotPatch> {
    let mut out = format!("<balance xmlns=\"{LEDGER_XMLNS}\"");
    attribute(&mut out, "date", &balance.date.to_string())?;
    attribute(&mut out, "entity-id", case_id)?;
    attribute(&mut out, "section-id", &balance.section_id)?;
    out.push_str("><entry");
    attribute(&mut out, "id", &balance.entry_id)?;
    attribute(&mut out, "quantity", &balance.quantity)?;
    out.push_str("/></balance>");
    Ok(out)
}

fn index(out: &mut String, index: &Index<'_>) -> Result<(), CannotPatch> {
    let name = index.identifier;
    check_name(name)?;
    let _ = write!(out, "<{name}");
    attribute(out, "case_type", index.referenced_type)?;
    if index.is_extension {
        attribute(out, "relationship", "extension")?;
    }
    if index.referenced_id.is_empty() {
        out.push_str("/>");
    } else {
        check_text(name, index.referenced_id)?;
        let _ = write!(out, ">{}</{name}>", escaped(index.referenced_id));
    }
    Ok(())
}

fn elements(out: &mut String, list: &[(&str, &str)]) -> Result<(), CannotPatch> {
    list.iter().try_for_each(|(name, text)| element(out, name, text))
}

fn element(out: &mut String, name: &str, text: &str) -> Result<(), CannotPatch> {
    check_name(name)?;
    check_text(name, text)?;
    if text.is_empty() {
        let _ = write!(out, "<{name}/>");
    } else {
        let _ = write!(out, "<{name}>{}</{name}>", escaped(text));
    }
    Ok(())
}

fn attribute(out: &mut String, name: &str, text: &str) -> Result<(), CannotPatch> {
    check_text(name, text)?;
    let _ = write!(out, " {name}=\"{}\"", escaped_attribute(text));
    Ok(())
}

/// As Python prints a value that is no text.
fn printed(value: &Value) -> String {
    match value {
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        other => other.to_string(),
    }
}

/// A text as it stands in an element. A carriage return is written by its number: a reader of XML would change it.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\r' => out.push_str("&#13;"),
            c => out.push(c),
        }
    }
    out
}

/// A text as it stands in an attribute, where a reader of XML would also change tabs and line ends.
fn escaped_attribute(text: &str) -> String {
    let text = escaped(text).replace('"', "&quot;");
    text.replace('\t', "&#9;").replace('\n', "&#10;")
}

/// JSON with all other characters than ASCII by their numbers.
pub(super) fn ascii_json(value: &Value) -> String {
    let json = value.to_string();
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if (' '..='~').contains(&c) {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

fn check_name(name: &str) -> Result<(), CannotPatch> {
    let mut chars = name.chars();
    let begins = chars.next().is_some_and(|c| c.is_alphabetic() || c == '_');
    if begins && chars.all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.')) {
        Ok(())
    } else {
        Err(CannotPatch::Unwritable(name.to_owned()))
    }
}

fn check_text(name: &str, text: &str) -> Result<(), CannotPatch> {
    let is_held =
        |c: char| !matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}');
    if text.chars().all(is_held) {
        Ok(())
    } else {
        Err(CannotPatch::Unwritable(name.to_owned()))
    }
}

fn date_text(date: DateTime<Utc>) -> String {
    match sqljson::date(date) {
        Value::String(text) => text,
        other => other.to_string(),
    }
}
