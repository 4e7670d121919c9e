//! The comparison of forms that are migrated already, by both of their sides as they are stored.

use std::collections::{HashMap, HashSet};

use blobs::{BlobRef, FORM_XML, Wanted};
use couch::Outcome;
use formmodel::Treatment;
use proto::doctype::DocType;
use proto::rows::{BLOB_FORM_XML, FormBundle};
use serde_json::{Map, Value};
use service::worker::BatchFailure;
use state::batch::Claim;
use state::form_diffs::{FormComparison, FormToDiff};

use crate::DiffHandler;
use crate::couch_forms::plain;

/// Forms compared at once: bounds the memory of a batch, whatever its documents weigh on average.
const FORMS_AT_ONCE: usize = 50;

impl DiffHandler {
    /// Compares the forms of a batch, and records what it finds.
    pub(crate) async fn handle_forms(&self, claim: &Claim) -> Result<(), BatchFailure> {
        let forms = self.state.forms_to_diff(claim).await?;
        let applied: HashSet<String> = self.state.forced_forms(claim).await?.into_iter().collect();
        let mut found = Vec::with_capacity(forms.len());
        for forms in forms.chunks(FORMS_AT_ONCE) {
            self.compare_forms(claim, forms, &applied, &mut found).await?;
        }
        let rules = service::operator_rules::of_domain(&self.state, claim.migration_id).await?;
        let mut ignored = Vec::new();
        for one in &mut found {
            ignored.extend(service::operator_rules::sort_out(
                &rules,
                &one.kind,
                &one.form.form_id,
                &mut one.diffs,
            )?);
        }
        let moved = self.state.finish_form_diffs(claim, &found, &ignored).await?;
        if moved > 0 {
            tracing::info!(moved, "forms were migrated again while they were compared");
        }
        Ok(())
    }

    /// What Couch has no longer, or has in another domain, is not compared: its record stays as it is.
    async fn compare_forms(
        &self,
        claim: &Claim,
        forms: &[FormToDiff],
        applied: &HashSet<String>,
        found: &mut Vec<FormComparison>,
    ) -> Result<(), BatchFailure> {
        let ids: Vec<String> = forms.iter().map(|form| form.form_id.clone()).collect();
        let (couch, sql) = tokio::join!(self.forms_db.bulk_get(&ids), self.target.read_forms(&ids));
        let sql: HashMap<String, FormBundle> = sql?
            .into_iter()
            .map(|bundle| (bundle.form.form_id.clone(), bundle))
            .collect();
        let bodies = self.bodies(&ids).await?;
        let mut documents: HashMap<String, Value> = HashMap::new();
        for fetched in couch? {
            match fetched.outcome {
                Outcome::Found(document) => drop(documents.insert(fetched.id, document)),
                Outcome::Missing | Outcome::Deleted { .. } => {}
                Outcome::Failed(error) => return Err(error.into()),
            }
        }
        let nothing = Value::Object(Map::new());
        for form in forms {
            let Some(document) = documents.get(&form.form_id) else {
                continue;
            };
            let text = |key: &str| document.get(key).and_then(Value::as_str);
            let Some(doc_type) = text("doc_type").and_then(DocType::parse) else {
                continue;
            };
            if !is_compared(doc_type) || text("domain") != Some(claim.domain.as_str()) {
                continue;
            }
            let treatment = if applied.contains(&form.form_id) {
                Treatment::Applied
            } else {
                Treatment::AsItSays
            };
            let sql_json = match sql.get(&form.form_id) {
                None => nothing.clone(),
                Some(bundle) => docdiff::sqljson::form_json(bundle, bodies.get(&form.form_id).unwrap_or(&nothing)),
            };
            let diffs = docdiff::diff_form(&formmodel::compared(document, treatment), &sql_json)
                .map_err(|_| BatchFailure::defect("a form of an unknown type was compared"))?;
            found.push(FormComparison {
                form: form.clone(),
                kind: doc_type.as_str().to_owned(),
                rev: text("_rev").map(str::to_owned),
                diffs: (!diffs.is_empty())
                    .then(|| diffs.iter().map(docdiff::Diff::to_json).collect::<Value>().to_string()),
            });
        }
        Ok(())
    }

    /// What the XML of each form says that SQL's own metadata leads to. A form without readable XML is an empty one, as HQ
    /// shows it.
    async fn bodies(&self, ids: &[String]) -> Result<HashMap<String, Value>, BatchFailure> {
        let mut metas = self.target.read_blobmeta(ids).await?;
        metas.retain(|row| row.type_code == BLOB_FORM_XML && row.name == FORM_XML);
        let wanted: Vec<Wanted> = metas
            .iter()
            .map(|row| Wanted {
                doc_id: row.parent_id.clone(),
                blob: BlobRef {
                    name: FORM_XML.to_owned(),
                    key: Some(row.key.clone()),
                    content_type: row.content_type.clone(),
                    content_length: None,
                    blobmeta_id: None,
                },
            })
            .collect();
        let mut bodies = HashMap::new();
        for (want, read) in wanted.iter().zip(self.blobs.fetch_many(&self.forms_db, &wanted).await?) {
            let bytes = match read {
                Ok(Some(bytes)) => bytes,
                Ok(None) => continue,
                Err(error) if error.kind() == blobs::ErrorKind::Document => continue,
                Err(error) => return Err(error.into()),
            };
            // Of several rows the first with bytes counts.
            if !bodies.contains_key(&want.doc_id)
                && let Some(xml) = plain(want.blob.key.as_deref(), bytes, &metas)
                && let Ok(form) = xform::read_form(&xml)
            {
                bodies.insert(want.doc_id.clone(), form.body);
            }
        }
        Ok(bodies)
    }
}

/// Submission error logs hold no form, and cases are compared as cases.
const fn is_compared(doc_type: DocType) -> bool {
    doc_type.is_form() && !matches!(doc_type, DocType::SubmissionErrorLog)
}
