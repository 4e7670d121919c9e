//! From a submitted form to what it does to cases.
//!
//! ```text
//! form.xml --decode--> text --document--> form JSON --datetimes, meta--> form JSON as HQ keeps it
//!                                                                            |
//!                            CaseUpdates by case id <--updates-- blocks <----+
//! ```
//!
//! * [`xml_to_json`] reads the XML the way lxml and CommCare's `xml2json` do; [`adjust_datetimes`] and
//!   [`scrub_form_meta`] are the two passes HQ runs over the result; [`form_json`] is all three.
//! * [`case_updates`] finds the case blocks and turns them into [`proto::effects::CaseUpdate`]s in the order in which HQ
//!   applies them.
//! * [`read_form`] reads the XML once for its JSON and its ledger blocks, which JSON does not tell; the blocks become
//!   [`LedgerInstruction`]s ([`ledger_updates`] does both).
//! * [`json_to_xml`] goes the other way, for forms whose XML is lost.
//! * [`CODES`] lists every failure with its remedy.
//!
//! Everything is a function from values to values: no clock, no I/O, no global state. Whatever the input, a call ends in
//! a value or an error; sizes are bounded by the constants of [`limits`]. `docs/document-rules.md` states the rules in
//! prose, with the choices made where HQ's own behaviour is open.

mod allowance;
mod blocks;
mod codes;
mod datetimes;
mod decode;
mod document;
mod error;
mod ledgers;
pub mod limits;
mod markup;
mod meta;
mod modified;
mod namespaces;
mod python_text;
mod quantity;
mod rebuild;
mod updates;

pub use codes::CODES;
pub use datetimes::adjust_datetimes;
pub use document::{ReadForm, form_json, read_form, xml_to_json};
pub use error::{FormError, LedgerError, RoundtripError, XmlError};
pub use ledgers::{LEDGER_XMLNS, LedgerBlocks, LedgerInstruction, ledger_updates};
pub use meta::{extract_meta_instance_id, extract_meta_user_id, metadata_user_id, root_xmlns, scrub_form_meta};
pub use modified::repair_date_modified;
pub use python_text::python_text;
pub use rebuild::json_to_xml;
pub use updates::{CASE_V2_XMLNS, case_updates, has_noop_block};
