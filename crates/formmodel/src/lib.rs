//! What becomes of one form document: its SQL rows, and what it does to cases.
//!
//! [`migrate`] takes the Couch document and its `form.xml` and gives a [`MigratedForm`], or says why the form cannot be
//! migrated. It is pure: it knows the rules of HQ's migrator for a form document, and leaves reading XML to `xform` and
//! applying effects to `casemodel`.
//!
//! ```text
//!   Couch document --columns--> FormRow, OperationRow
//!   form.xml --xform--> form JSON --case_updates--> FormEffects per case   (normal, completely processed forms only)
//!                  `--> ledger blocks --ledgers------^
//! ```
//!
//! * `columns`: which column comes from which key of the document.
//! * `dates`: the date-times that Couch documents hold.
//! * `ledgers`: the ledger instructions join what the case blocks do.
//! * `lost_form`: forms that Couch has lost, made of their XML.
//! * `lost_xml`: XML for forms that have lost theirs.
//! * `swapped`: forms that replaced a duplicate, and how their documents are mended.
//! * `system_action`: forms that tell of what HQ did to other documents.

mod columns;
pub mod dates;
mod ledgers;
mod lost_form;
mod lost_xml;
mod swapped;
mod system_action;

use std::borrow::Cow;

use proto::doctype::DocType;
use proto::effects::{AttachmentFacts, FormEffects, FormFacts};
use proto::ids::{CaseId, Domain, FormId};
use proto::rows::FormBundle;
use serde_json::{Map, Value};
use xform::LedgerBlocks;

pub use lost_form::{complete_lost_form, lost_form};
pub use lost_xml::{XmlSource, restore_xml};
pub use swapped::{OPERATION_PREFIX, REPLACED_PREFIX, repaired, replaced_form};
pub use system_action::{ActionFault, SYSTEM_ACTION_XMLNS, SystemAction, system_action};

/// A form, migrated.
#[derive(Clone, Debug)]
pub struct MigratedForm {
    /// Its rows.
    pub bundle: FormBundle,
    /// The form JSON read from the XML; `{}` when the XML cannot be read and the form is not processed.
    pub body: Value,
    /// What it does to each case.
    pub cases: Vec<(CaseId, FormEffects)>,
    /// It has a case block without any action.
    pub has_noop_block: bool,
    /// It is a normal document that carries a problem, or that no case has, and becomes an error form.
    pub is_problem_form: bool,
    /// It was applied although it says that it has a problem, or was never processed.
    pub is_applied_anyway: bool,
    /// It changes ledgers.
    pub has_ledgers: bool,
    /// What HQ did to other documents, if the form tells of that.
    pub action: Option<SystemAction>,
}

/// Whether a form's own word is taken for whether it was applied to cases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Treatment {
    /// A normal form is applied unless it has a problem, or says that it was never processed.
    #[default]
    AsItSays,
    /// A case in Couch proves that it was applied: a normal form is applied, whatever it says.
    Applied,
    /// No case in Couch has it: a normal form that says that it was not processed is an error form, as one with a problem.
    NotApplied,
}

/// Whether a document is a form that HQ has applied, by its own word: normal, without a problem, completely processed.
pub fn is_normal(document: &Value) -> bool {
    document.get("doc_type").and_then(Value::as_str) == Some(DocType::XFormInstance.as_str())
        && !columns::is_truthy(document.get("problem"))
        && !says_unprocessed(document)
}

fn says_unprocessed(document: &Value) -> bool {
    document.get("initial_processing_complete") == Some(&Value::Bool(false))
}

/// Whether a normal document becomes an error form.
fn is_problem_form(document: &Value, treatment: Treatment) -> bool {
    match treatment {
        Treatment::AsItSays => columns::is_truthy(document.get("problem")),
        Treatment::Applied => false,
        Treatment::NotApplied => columns::is_truthy(document.get("problem")) || says_unprocessed(document),
    }
}

impl MigratedForm {
    /// The Couch document as it is to be compared with what the form has become.
    pub fn compared<'a>(&self, document: &'a Value) -> Cow<'a, Value> {
        as_compared(document, self.is_problem_form, self.is_applied_anyway)
    }
}

/// The Couch document of a form as it is to be compared with the form that SQL has, for a reader that did not migrate it.
pub fn compared(document: &Value, treatment: Treatment) -> Cow<'_, Value> {
    let is_normal = document.get("doc_type").and_then(Value::as_str) == Some(DocType::XFormInstance.as_str());
    let is_applied_anyway = is_normal && treatment == Treatment::Applied;
    as_compared(
        document,
        is_normal && is_problem_form(document, treatment),
        is_applied_anyway,
    )
}

/// A normal document that becomes an error form counts as one, and one that was applied anyway as completely processed. Date-times
/// of the form are those in UTC: HQ's migrator adjusts the document that it then compares.
fn as_compared(document: &Value, is_problem_form: bool, is_applied_anyway: bool) -> Cow<'_, Value> {
    let mut changes = Vec::new();
    if is_problem_form {
        changes.push(("doc_type", Value::from(DocType::XFormError.as_str())));
    } else if is_applied_anyway {
        changes.push(("initial_processing_complete", Value::Bool(true)));
    }
    if let Some(form) = document.get("form") {
        let mut adjusted = form.clone();
        if xform::adjust_datetimes(&mut adjusted).is_ok() && adjusted != *form {
            changes.push(("form", adjusted));
        }
    }
    let mut compared = Cow::Borrowed(document);
    for (key, value) in changes {
        if let Some(map) = compared.to_mut().as_object_mut() {
            map.insert(key.to_owned(), value);
        }
    }
    compared
}

/// Why a form cannot be migrated. No variant holds a value of the form.
#[derive(Debug, thiserror::Error)]
pub enum FormFailure {
    /// The document says another domain than the one that is migrated.
    #[error("the document belongs to another domain")]
    OtherDomain,
    /// A required key is absent.
    #[error("the document has no {0}")]
    Absent(&'static str),
    /// A key holds a value of another type than HQ's model allows.
    #[error("the document's {0} is not of the expected type")]
    Unexpected(&'static str),
    /// `form.xml` is nowhere to be found, and nothing can be made in its place.
    #[error("the form has lost its form.xml, and it cannot be rebuilt: {0}")]
    NoXml(#[source] xform::RoundtripError),
    /// The XML of a form that Couch has lost names another form.
    #[error("Couch has lost the form, and the XML that is kept for it says that it is another form's")]
    OtherForm,
    /// A system action that cannot be understood.
    #[error("the form holds a system action that cannot be understood: {0}")]
    SystemAction(#[source] ActionFault),
    /// `form.xml` cannot be read.
    #[error("form.xml cannot be read: {0}")]
    Xml(#[source] xform::XmlError),
    /// A part of the form is in error, and HQ drops the whole form then.
    #[error("{0}")]
    Form(#[source] xform::FormError),
    /// A ledger block is in error, and HQ drops the whole form then.
    #[error("{0}")]
    Ledger(#[source] xform::LedgerError),
}

impl FormFailure {
    /// Stable code, with a page in `docs/errors.md`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::OtherDomain => "C2S-2301",
            Self::Absent(_) => "C2S-2302",
            Self::Unexpected(_) => "C2S-2303",
            Self::NoXml(_) => "C2S-2304",
            Self::OtherForm => "C2S-2393",
            Self::SystemAction(_) => "C2S-2309",
            Self::Xml(error) => error.code(),
            Self::Form(error) => error.code(),
            Self::Ledger(error) => error.code(),
        }
    }
}

impl From<xform::FormError> for FormFailure {
    fn from(error: xform::FormError) -> Self {
        Self::Form(error)
    }
}

impl From<xform::LedgerError> for FormFailure {
    fn from(error: xform::LedgerError) -> Self {
        Self::Ledger(error)
    }
}

/// Migrates a form.
///
/// `doc_type` is the document's type, `xml` the bytes of `form.xml` (or what [`restore_xml`] made in its place),
/// `attachments` the form's other attachments as their blob metadata describes them.
///
/// # Errors
/// See [`FormFailure`]; such a form gets no row.
pub fn migrate(
    domain: &Domain,
    doc_type: DocType,
    document: &Value,
    xml: &[u8],
    attachments: Vec<AttachmentFacts>,
    treatment: Treatment,
) -> Result<MigratedForm, FormFailure> {
    let doc = document.as_object().ok_or(FormFailure::Unexpected("root"))?;
    if doc.get("domain").and_then(Value::as_str) != Some(domain.as_str()) {
        return Err(FormFailure::OtherDomain);
    }
    let is_applied_anyway = doc_type == DocType::XFormInstance && treatment == Treatment::Applied;
    let is_problem_form = doc_type == DocType::XFormInstance && is_problem_form(document, treatment);
    let migrated_as = if is_problem_form { DocType::XFormError } else { doc_type };
    let mut bundle = columns::bundle(domain, migrated_as, doc)?;
    if is_applied_anyway {
        bundle.form.problem = columns::text(doc, "problem")?;
        bundle.form.initial_processing_complete = true;
    }
    let processed = migrated_as == DocType::XFormInstance;

    let (body, blocks) = match xform::read_form(xml) {
        Ok(form) => (form.body, form.ledgers),
        // HQ reads a form whose XML is broken as an empty one. For a form that was never processed that loses nothing.
        Err(_) if !processed => (Value::Object(Map::new()), LedgerBlocks::default()),
        Err(error) => return Err(FormFailure::Xml(error)),
    };
    let mut migrated = MigratedForm {
        bundle,
        body,
        cases: Vec::new(),
        has_noop_block: false,
        is_problem_form,
        is_applied_anyway,
        has_ledgers: false,
        action: None,
    };
    if migrated.bundle.form.xmlns == SYSTEM_ACTION_XMLNS {
        migrated.action = Some(system_action(&migrated.body).map_err(FormFailure::SystemAction)?);
    }
    if processed && migrated.bundle.form.initial_processing_complete {
        add_effects(&mut migrated, blocks, attachments)?;
    }
    Ok(migrated)
}

fn add_effects(
    migrated: &mut MigratedForm,
    blocks: LedgerBlocks,
    attachments: Vec<AttachmentFacts>,
) -> Result<(), FormFailure> {
    let row = &migrated.bundle.form;
    let facts = FormFacts {
        form_id: FormId::new(row.form_id.clone()),
        xmlns: row.xmlns.clone(),
        user_id: row.user_id.clone(),
        received_on: row.received_on,
        sync_token: row.last_sync_token.clone(),
        attachments,
    };
    let updates = xform::case_updates(&migrated.body)?;
    migrated.has_noop_block = xform::has_noop_block(&updates);
    // HQ comes to the ledgers after the case blocks: where both are in error, the blocks' error is the one to report.
    let instructions = blocks.instructions(facts.received_on)?;
    migrated.has_ledgers = !instructions.is_empty();
    migrated.cases = updates
        .into_iter()
        .map(|(case_id, updates)| {
            (
                case_id,
                FormEffects {
                    form: facts.clone(),
                    updates,
                    ledgers: Vec::new(),
                },
            )
        })
        .collect();
    ledgers::add(&mut migrated.cases, &facts, instructions);
    Ok(())
}

#[cfg(test)]
mod tests;
