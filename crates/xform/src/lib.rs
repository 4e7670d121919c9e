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
//! * [`json_to_xml`] goes the other way, for forms whose XML is lost.
//! * [`CODES`] lists every failure with its remedy.
//!
//! Everything is a function from values to values: no clock, no I/O, no global state. Whatever the input, a call ends in
//! a value or an error; sizes are bounded by the constants of [`limits`]. `docs/document-rules.md` states the rules in
//! prose, with the choices made where HQ's own behaviour is open.

mod blocks;
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
mod rebuild;
mod updates;

pub use datetimes::adjust_datetimes;
pub use document::{form_json, xml_to_json};
pub use error::{CODES, FormError, RoundtripError, XmlError};
pub use ledgers::{LEDGER_XMLNS, has_ledgers};
pub use meta::{extract_meta_instance_id, extract_meta_user_id, metadata_user_id, root_xmlns, scrub_form_meta};
pub use modified::repair_date_modified;
pub use python_text::python_text;
pub use rebuild::json_to_xml;
pub use updates::{CASE_V2_XMLNS, case_updates, has_noop_block};
