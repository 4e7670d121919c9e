//! What is looked up about forms, once for all differences that depend on it.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use docdiff::{FormState, LedgerReferences};
use proto::ids::Domain;
use service::worker::BatchFailure;

use crate::DiffHandler;
use crate::sides::domain_of;

/// Forms that are looked up at once.
const FORMS_AT_ONCE: usize = 2000;

/// The state of a normal form.
const FORM_NORMAL: i16 = 1;
/// The state of a soft-deleted form, a bit of its `state` column.
const FORM_DELETED: i16 = 64;

/// Where forms are.
#[derive(Debug, Default)]
pub(crate) struct Forms {
    sql: HashMap<String, SqlForm>,
    couch: HashSet<String>,
    blobs: HashSet<String>,
}

/// What SQL says of a form.
#[derive(Clone, Copy, Debug)]
struct SqlForm {
    state: i16,
    is_complete: bool,
}

impl Forms {
    /// The states of a form in Couch and in SQL.
    pub(crate) fn states(&self, form_id: &str) -> (FormState, FormState) {
        let couch = if self.couch.contains(form_id) {
            FormState::Present
        } else if self.blobs.contains(form_id) {
            FormState::MissingBlobPresent
        } else {
            FormState::Missing
        };
        let sql = if self.sql.contains_key(form_id) {
            FormState::Present
        } else {
            FormState::Missing
        };
        (couch, sql)
    }

    /// Whether SQL has the form, soft-deleted.
    pub(crate) fn is_deleted_in_sql(&self, form_id: &str) -> bool {
        self.sql.get(form_id).is_some_and(|form| form.state & FORM_DELETED != 0)
    }

    /// Whether SQL has the form as a normal one that was processed completely, or has no such form.
    pub(crate) fn is_processed_or_absent_in_sql(&self, form_id: &str) -> bool {
        self.sql
            .get(form_id)
            .is_none_or(|form| form.is_complete && form.state == FORM_NORMAL)
    }
}

impl DiffHandler {
    /// Looks for these forms on both sides, and for the blobs of those that Couch lacks.
    pub(crate) async fn look_up_forms(&self, ids: HashSet<String>) -> Result<Forms, BatchFailure> {
        let mut ids: Vec<String> = ids.into_iter().collect();
        ids.sort_unstable();
        let mut forms = Forms::default();
        for ids in ids.chunks(FORMS_AT_ONCE) {
            let (in_couch, in_sql) = tokio::join!(self.forms_db.all_docs_exist(ids), self.target.read_forms(ids));
            let (present, absent): (Vec<_>, Vec<_>) = in_couch?.into_iter().partition(|(_, rev)| rev.is_some());
            let absent: Vec<String> = absent.into_iter().map(|(id, _)| id).collect();
            let blobs = self.target.read_blobmeta(&absent).await?;
            forms.couch.extend(present.into_iter().map(|(id, _)| id));
            forms.blobs.extend(blobs.into_iter().map(|row| row.parent_id));
            forms.sql.extend(in_sql?.into_iter().map(|bundle| {
                let form = SqlForm {
                    state: bundle.form.state,
                    is_complete: bundle.form.initial_processing_complete,
                };
                (bundle.form.form_id, form)
            }));
        }
        Ok(forms)
    }

    /// How often each of these Couch forms names each ledger. Forms that are not there, belong to another domain, or
    /// whose XML or blocks cannot be read, are left out: they prove nothing.
    pub(crate) async fn ledger_references(
        &self,
        domain: &Domain,
        form_ids: HashSet<String>,
    ) -> Result<HashMap<String, LedgerReferences>, BatchFailure> {
        let mut ids: Vec<String> = form_ids.into_iter().collect();
        ids.sort_unstable();
        let mut references = HashMap::new();
        self.each_couch_form(&ids, &mut |form_id, form| {
            let is_ours = form
                .document
                .as_ref()
                .is_some_and(|document| domain_of(document) == domain.as_str());
            if is_ours && let Some(counted) = form.xml.as_deref().and_then(count) {
                references.insert(form_id.to_owned(), counted);
            }
        })
        .await?;
        Ok(references)
    }
}

fn count(xml: &[u8]) -> Option<LedgerReferences> {
    // Dates are not counted: any stands for that of blocks without one.
    let instructions = xform::ledger_updates(xml, DateTime::<Utc>::UNIX_EPOCH).ok()?;
    Some(LedgerReferences::of(
        instructions
            .iter()
            .map(|instruction| (instruction.case_id.as_str(), &instruction.update)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forms(state: i16, is_complete: bool) -> Forms {
        Forms {
            sql: HashMap::from([("f".to_owned(), SqlForm { state, is_complete })]),
            ..Forms::default()
        }
    }

    #[test]
    fn a_form_counts_as_processed_if_it_is_normal_and_complete_or_not_there() {
        for (state, is_complete, expected) in [
            (1, true, true),
            (1, false, false),
            (2, true, false),
            (16, true, false),
            (65, true, false),
        ] {
            let forms = forms(state, is_complete);
            assert_eq!(
                forms.is_processed_or_absent_in_sql("f"),
                expected,
                "{state} {is_complete}"
            );
            assert!(forms.is_processed_or_absent_in_sql("g"));
        }
    }

    #[test]
    fn a_form_is_deleted_whatever_it_was_before() {
        for (state, expected) in [(65, true), (66, true), (64, true), (1, false), (2, false), (16, false)] {
            assert_eq!(forms(state, true).is_deleted_in_sql("f"), expected, "{state}");
        }
        assert!(!forms(65, true).is_deleted_in_sql("g"));
    }

    #[test]
    fn where_a_form_is() {
        let set = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<HashSet<_>>();
        let forms = Forms {
            couch: set(&["f", "g"]),
            blobs: set(&["g", "h"]),
            ..forms(1, true)
        };
        for (form_id, expected) in [
            ("f", (FormState::Present, FormState::Present)),
            ("g", (FormState::Present, FormState::Missing)),
            ("h", (FormState::MissingBlobPresent, FormState::Missing)),
            ("i", (FormState::Missing, FormState::Missing)),
        ] {
            assert_eq!(forms.states(form_id), expected, "{form_id}");
        }
    }
}
