//! What must hold for any input.

use chrono::{DateTime, Utc};
use proto::effects::CaseUpdate;
use proto::ids::CaseId;
use serde_json::{Value, json};
use xform::limits::{MAX_ID_CHARS, MAX_LEDGER_ID_CHARS, MAX_LEDGER_INSTRUCTIONS, MAX_LEDGER_TYPE_CHARS};
use xform::{CODES, LedgerInstruction, RoundtripError, XmlError};

use crate::inputs::{Input, Kind};

/// An input as our code gets to see it.
#[derive(Clone, Debug)]
pub enum Subject {
    /// Bytes of `form.xml`.
    Xml(Vec<u8>),
    /// JSON of a document, read already.
    Json(Value),
    /// Texts, one a line.
    Dates(String),
}

impl Subject {
    /// What becomes of an input; `None` for one that is stopped before it reaches our code.
    pub fn of(input: Input) -> Option<Self> {
        match input.kind {
            Kind::Xml => Some(Self::Xml(input.bytes)),
            Kind::Json => serde_json::from_slice(&input.bytes).ok().map(Self::Json),
            Kind::Dates => Some(Self::Dates(String::from_utf8_lossy(&input.bytes).into_owned())),
        }
    }
}

/// Reads a subject in every way there is. The text says which rule is broken.
///
/// # Errors
/// A rule is broken.
pub fn check(subject: &Subject) -> Result<(), String> {
    match subject {
        Subject::Xml(bytes) => xml(bytes),
        Subject::Json(form) => any_form(form),
        Subject::Dates(text) => dates(text),
    }
}

fn ensure(holds: bool, rule: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(rule.to_owned()) }
}

fn known_code(code: &str) -> Result<(), String> {
    ensure(
        CODES.iter().any(|entry| entry.0 == code),
        "the code of a failure is listed",
    )
}

fn received_on() -> DateTime<Utc> {
    DateTime::from_timestamp(1_500_000_000, 0).unwrap_or_default()
}

fn xml(bytes: &[u8]) -> Result<(), String> {
    // One copy of the form at a time: this, too, counts as memory that the input takes.
    let unconverted = xform::xml_to_json(bytes).err();
    match (xform::read_form(bytes), &unconverted) {
        (Ok(form), None) => {
            ledgers(form.ledgers.instructions(received_on()))?;
            read_form(form.body)?;
        }
        (Err(error), Some(other)) => ensure(error == *other, "both readers fail alike")?,
        (Err(error @ XmlError::Value(_)), None) => known_code(error.code())?,
        _ => return Err("what is converted, and that alone, is read unless a value is bad".to_owned()),
    }
    match xform::xml_to_json(bytes) {
        Ok(form) => writes_back(&form),
        Err(error) => known_code(error.code()),
    }
}

/// Whatever was read can be written, and reads as the same again.
fn writes_back(form: &Value) -> Result<(), String> {
    match xform::json_to_xml(form) {
        Ok(_) | Err(RoundtripError::Unreadable(XmlError::TooLarge { .. })) => Ok(()),
        Err(error) => Err(format!("a form that was read can be written: {error}")),
    }
}

/// A form as it comes out of [`xform::read_form`].
fn read_form(mut form: Value) -> Result<(), String> {
    effects(&form)?;
    let before = form.clone();
    let adjusted = xform::adjust_datetimes(&mut form);
    ensure(
        adjusted.is_ok() && form == before,
        "date-times are adjusted once and for all",
    )?;
    xform::scrub_form_meta(&mut form);
    ensure(form == before, "meta is scrubbed once and for all")
}

/// JSON of any origin.
fn any_form(form: &Value) -> Result<(), String> {
    match xform::json_to_xml(form) {
        Ok(xml) => ensure(
            xform::xml_to_json(&xml).is_ok_and(|again| again == *form),
            "written XML reads back as the same",
        )?,
        Err(error) => known_code(error.code())?,
    }
    effects(form)?;
    let mut adjusted = form.clone();
    if let Err(error) = xform::adjust_datetimes(&mut adjusted) {
        return known_code(error.code());
    }
    xform::scrub_form_meta(&mut adjusted);
    effects(&adjusted)
}

fn effects(form: &Value) -> Result<(), String> {
    match xform::case_updates(form) {
        Ok(updates) => cases(&updates)?,
        Err(error) => known_code(error.code())?,
    }
    for found in [xform::extract_meta_user_id(form), xform::extract_meta_instance_id(form)] {
        if let Err(error) = found {
            known_code(error.code())?;
        }
    }
    let _ = (xform::metadata_user_id(form), xform::root_xmlns(form));
    Ok(())
}

fn cases(updates: &[(CaseId, Vec<CaseUpdate>)]) -> Result<(), String> {
    ensure(
        updates.windows(2).all(|pair| pair[0].0 < pair[1].0),
        "cases are in the order of their ids, each once",
    )?;
    ensure(
        updates.iter().all(|(id, updates)| {
            (1..=MAX_ID_CHARS).contains(&id.as_str().chars().count())
                && !updates.is_empty()
                && updates.iter().all(|update| !update.actions.is_empty())
        }),
        "a case has an id that can be stored, and updates with actions",
    )
}

fn ledgers(found: Result<Vec<LedgerInstruction>, xform::LedgerError>) -> Result<(), String> {
    let instructions = match found {
        Ok(instructions) => instructions,
        Err(error) => return known_code(error.code()),
    };
    ensure(
        instructions.len() <= MAX_LEDGER_INSTRUCTIONS,
        "there are no more ledger instructions than allowed",
    )?;
    let fits = |id: &str, least: usize, most: usize| (least..=most).contains(&id.chars().count());
    ensure(
        instructions.iter().all(|LedgerInstruction { case_id, update }| {
            let user_defined_type = update.user_defined_type.as_deref();
            fits(case_id, 1, MAX_ID_CHARS)
                && fits(&update.section_id, 0, MAX_LEDGER_ID_CHARS)
                && fits(&update.entry_id, 1, MAX_LEDGER_ID_CHARS)
                && user_defined_type.is_none_or(|name| fits(name, 1, MAX_LEDGER_TYPE_CHARS))
                && update
                    .quantity
                    .bytes()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'-'))
                && update.quantity.parse::<f64>().is_ok_and(f64::is_finite)
        }),
        "a ledger instruction can be stored",
    )
}

fn dates(text: &str) -> Result<(), String> {
    for line in text.lines() {
        let mut value = Value::from(line);
        if xform::adjust_datetimes(&mut value).is_ok() && value != line {
            let adjusted = value.as_str().unwrap_or_default();
            let is_canonical = DateTime::parse_from_rfc3339(adjusted)
                .is_ok_and(|found| found.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string() == adjusted);
            ensure(is_canonical, "an adjusted date-time is in the one form that there is")?;
        }
        let block = json!({"case": {"case_id": "c", "date_modified": line, "@date_modified": line}});
        effects(&block)?;
        if let Some(repaired) = xform::repair_date_modified(line) {
            ensure(
                xform::repair_date_modified(&repaired).is_none(),
                "a repaired date needs no repair",
            )?;
        }
        if !line.contains(['<', '&', '"']) {
            let form = format!(
                "<d xmlns:l='http://commcarehq.org/ledger/v1'><l:balance entity-id='c' section-id='s' date=\"{line}\">\
                 <entry id='p' quantity=\"{line}\"/><entry id='q' quantity='1'/></l:balance></d>"
            );
            match xform::ledger_updates(form.as_bytes(), received_on()) {
                Ok(found) => ledgers(Ok(found))?,
                Err(error) => known_code(error.code())?,
            }
        }
    }
    Ok(())
}
