//! Patch forms: what those of a batch of cases recorded, read from their XML, all of them together.

use std::collections::{HashMap, HashSet};

use blobs::{expected_bytes, in_parts};
use docdiff::{
    Diff, LedgerFacts, LedgerVerdict, PATCH_XMLNS, PatchRecord, is_case_patched, is_ledger_patched,
    possible_patch_forms,
};
use hqsql::StockStates;
use proto::rows::{BlobMetaRow, CaseBundle};
use proto::stock::{LedgerRef, StockTransactionRow};
use service::worker::BatchFailure;
use state::batch::Claim;

use crate::couch_forms::{plain, xml_row};
use crate::ledgers::Differences;
use crate::sides::{Look, Sides, listed_forms};
use crate::{DiffHandler, FETCH_BYTES};

/// Forms whose rows are read at once.
const FORMS_AT_ONCE: usize = 200;

/// A bit of a transaction's type: a form touched the case.
const FORM_TRANSACTION: i16 = 1;

/// What the patch forms of a batch of cases recorded, and what else it takes to say whether a document is patched.
#[derive(Debug, Default)]
pub(crate) struct Patches {
    /// By form.
    records: HashMap<String, PatchRecord>,
    /// By case with ledgers that differ: its patch forms, the newest first.
    of_case: HashMap<String, Vec<(String, PatchRecord)>>,
    has_state: HashSet<LedgerRef>,
    transactions: HashMap<LedgerRef, Vec<StockTransactionRow>>,
}

impl Patches {
    /// Whether the differences of a case are what patch forms have left.
    pub(crate) fn account_for(&self, case_id: &str, diffs: &[Diff]) -> bool {
        let Some(form_ids) = possible_patch_forms(diffs) else {
            return false;
        };
        let patches: Vec<(String, PatchRecord)> = form_ids
            .into_iter()
            .filter_map(|form_id| Some((form_id.to_owned(), self.records.get(form_id)?.clone())))
            .collect();
        is_case_patched(case_id, diffs, &patches)
    }

    /// Whether the differences of a ledger are what patch forms have left.
    pub(crate) fn account_for_ledger(&self, verdict: &LedgerVerdict) -> bool {
        let Some(patches) = self.of_case.get(&verdict.ledger.case_id) else {
            return false;
        };
        let facts = LedgerFacts {
            ledger: &verdict.ledger.to_string(),
            has_state: self.has_state.contains(&verdict.ledger),
            transactions: self.transactions.get(&verdict.ledger).map_or(&[], Vec::as_slice),
        };
        is_ledger_patched(&verdict.diffs, &facts, patches)
    }
}

impl DiffHandler {
    /// Reads the patch forms that may account for what was found.
    pub(crate) async fn read_patches(
        &self,
        claim: &Claim,
        sides: &Sides,
        looks: &[(&str, Look)],
        ledgers: &Differences,
    ) -> Result<Patches, BatchFailure> {
        let mut wanted: HashSet<String> = HashSet::new();
        for (case_id, look) in looks {
            if let Look::Differ(diffs) = look {
                // What rules of operators drop may be all that a patch form would not have left.
                let open = match possible_patch_forms(diffs) {
                    None if !sides.rules.is_empty() => sides.ruled(case_id, diffs.clone()).open,
                    _ => Vec::new(),
                };
                let forms = possible_patch_forms(diffs).or_else(|| possible_patch_forms(&open));
                wanted.extend(forms.unwrap_or_default().into_iter().map(str::to_owned));
            }
        }
        let mut of_ledgers: Vec<(&str, Vec<&str>)> = Vec::new();
        for case_id in ledgers.keys() {
            let forms = forms_of_sql_only(sides, case_id);
            wanted.extend(forms.iter().map(|form_id| (*form_id).to_owned()));
            of_ledgers.push((case_id, forms));
        }
        let mut ids: Vec<String> = wanted.into_iter().collect();
        ids.sort_unstable();
        let mut patches = Patches::default();
        for ids in ids.chunks(FORMS_AT_ONCE) {
            patches.records.extend(self.patch_records(claim, ids).await?);
        }
        for (case_id, forms) in of_ledgers {
            let patch = |form_id: &str| Some((form_id.to_owned(), patches.records.get(form_id)?.clone()));
            let forms: Vec<_> = forms.into_iter().filter_map(patch).collect();
            if !forms.is_empty() {
                patches.of_case.insert(case_id.to_owned(), forms);
            }
        }
        self.read_facts(&mut patches).await?;
        Ok(patches)
    }

    /// The patch forms among these forms. They are those that are on record as ours: anybody can submit a form that looks
    /// like one. One whose XML cannot be read recorded nothing.
    async fn patch_records(&self, claim: &Claim, ids: &[String]) -> Result<Vec<(String, PatchRecord)>, BatchFailure> {
        let ours = self.state.patch_forms_among(claim.migration_id, ids).await?;
        let forms = self.target.read_forms(&ours).await?;
        let ids: Vec<String> = forms
            .into_iter()
            .filter(|bundle| bundle.form.xmlns == PATCH_XMLNS && bundle.form.domain == claim.domain.as_str())
            .map(|bundle| bundle.form.form_id)
            .collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut rows: HashMap<String, Vec<BlobMetaRow>> = HashMap::new();
        for row in self.target.read_blobmeta(&ids).await? {
            rows.entry(row.parent_id.clone()).or_default().push(row);
        }
        let wanted: Vec<(&str, &BlobMetaRow)> = rows
            .iter()
            .filter_map(|(form_id, rows)| Some((form_id.as_str(), xml_row(rows)?)))
            .collect();
        let mut records: HashMap<&str, PatchRecord> = HashMap::new();
        let weight = |(_, row): &(&str, &BlobMetaRow)| expected_bytes(u64::try_from(row.content_length).ok());
        for part in in_parts(wanted, weight, FETCH_BYTES) {
            let keys = part.iter().map(|(_, row)| row.key.clone()).collect();
            for ((form_id, row), bytes) in part.iter().zip(self.blobs.get_many(keys).await) {
                let bytes = match bytes {
                    Ok(bytes) => bytes,
                    Err(error) if error.kind() == blobs::ErrorKind::Document => None,
                    Err(error) => return Err(error.into()),
                };
                let xml = bytes.and_then(|bytes| plain(Some(&row.key), bytes, std::slice::from_ref(*row)));
                if let Some(body) = xml.and_then(|xml| xform::form_json(&xml).ok()) {
                    records.insert(form_id, PatchRecord::of_form(&body));
                }
            }
        }
        Ok(ids
            .iter()
            .map(|id| (id.clone(), records.remove(id.as_str()).unwrap_or_default()))
            .collect())
    }

    /// What HQ's stock tables say of the ledgers of cases with patch forms.
    async fn read_facts(&self, patches: &mut Patches) -> Result<(), BatchFailure> {
        let mut case_ids: Vec<String> = patches.of_case.keys().cloned().collect();
        if case_ids.is_empty() {
            return Ok(());
        }
        case_ids.sort_unstable();
        let (states, transactions) = tokio::join!(
            self.target.stock_states(&case_ids, StockStates::WithArchived),
            self.target.stock_transactions(&case_ids),
        );
        patches.has_state = states?.into_iter().map(|state| state.ledger).collect();
        for row in transactions? {
            patches.transactions.entry(row.ledger.clone()).or_default().push(row);
        }
        Ok(())
    }
}

/// Forms of the SQL case that the Couch case does not list, the newest first: only among them are patch forms, which Couch
/// never sees.
fn forms_of_sql_only<'a>(sides: &'a Sides, case_id: &str) -> Vec<&'a str> {
    let couch: HashSet<&str> = sides.couch.get(case_id).into_iter().flat_map(listed_forms).collect();
    let rows = sides
        .sql
        .get(case_id)
        .into_iter()
        .flat_map(|bundle: &CaseBundle| &bundle.transactions);
    let mut forms: Vec<&str> = rows
        .filter(|row| row.kind & FORM_TRANSACTION != 0 && !row.revoked)
        .filter_map(|row| row.form_id.as_deref())
        .filter(|form_id| !couch.contains(form_id))
        .collect();
    forms.reverse();
    forms
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use docdiff::OperatorRules;
    use proto::ids::Domain;
    use serde_json::{Value, json};

    use super::*;
    use crate::sides::Ruled;

    fn diffs(list: &[Value]) -> Vec<Diff> {
        list.iter().map(|diff| Diff::from_json(diff).unwrap()).collect()
    }

    #[test]
    fn what_a_rule_drops_does_not_keep_a_case_from_being_patched() {
        let rule = json!({"name": "moved", "documents": "cases", "path": ["clinic_code"], "reason": "moved elsewhere"});
        let sides = Sides {
            domain: Domain::new("d"),
            couch: HashMap::new(),
            sql: HashMap::new(),
            no_action: HashSet::new(),
            couch_stock: false,
            rules: Arc::new(OperatorRules::from_json([&rule]).unwrap()),
        };
        // The patch form knew of the age alone: the rule had dropped the other difference before.
        let said = json!({"case_id": "c", "diffs": [{"path": ["age"], "patch": true, "old": "1", "new": "2"}]});
        let record = PatchRecord::of_form(&json!({"diff": said.to_string()}));
        let patches = Patches {
            records: [("patch".to_owned(), record)].into(),
            ..Patches::default()
        };
        let clinic_code = json!({"type": "diff", "path": ["clinic_code"], "old_value": "1", "new_value": "2"});
        let forms =
            json!({"type": "set_mismatch", "path": ["xform_ids", "[*]"], "old_value": "", "new_value": "patch"});
        let left = diffs(&[clinic_code.clone(), forms.clone()]);
        assert!(!patches.account_for("c", &left), "without the rule it is not patched");
        let Ruled { open, dropped } = sides.ruled("c", left);
        assert_eq!((open.clone(), dropped), (diffs(&[forms]), diffs(&[clinic_code])));
        assert!(patches.account_for("c", &open));
    }
}
