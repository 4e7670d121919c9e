//! The comparison of forms that are migrated already, by both of their sides as they are stored.

use std::collections::HashMap;

use blobs::{FORM_XML, Wanted, expected_bytes, in_parts};
use couch::{Fetched, Outcome};
use formmodel::Treatment;
use proto::doctype::DocType;
use proto::rows::{BLOB_FORM_XML, BlobMetaRow, FormBundle};
use serde_json::{Map, Value};
use service::worker::BatchFailure;
use state::batch::Claim;
use state::forced::Ruling;
use state::form_diffs::{FormComparison, FormToDiff};

use crate::couch_forms::{blob_of, plain};
use crate::{DiffHandler, FETCH_BYTES, READ_BYTES};

impl DiffHandler {
    /// Compares the forms of a batch, and records what it finds.
    pub(crate) async fn handle_forms(&self, claim: &Claim) -> Result<(), BatchFailure> {
        let forms = self.state.forms_to_diff(claim).await?;
        let rulings = self.state.forced_forms(claim).await?;
        let mut found = Vec::with_capacity(forms.len());
        let ids: Vec<&str> = forms.iter().map(|form| form.form_id.as_str()).collect();
        let mut reader = self.forms_db.bounded_reader(&ids, READ_BYTES);
        let mut left = forms.as_slice();
        while let Some(couch) = reader.next().await? {
            let (read, others) = left.split_at(couch.len());
            left = others;
            for part in self.parts(read, couch).await? {
                self.compare_forms(claim, part, &rulings, &mut found).await?;
            }
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

    /// Forms with what Couch has of them, in parts whose XML is fetched together. What Couch has no longer is not compared:
    /// its record stays as it is.
    async fn parts<'a>(
        &self,
        forms: &'a [FormToDiff],
        couch: Vec<Fetched>,
    ) -> Result<Vec<Vec<InCouch<'a>>>, BatchFailure> {
        let ids: Vec<String> = couch.iter().map(|fetched| fetched.id.clone()).collect();
        let mut rows: HashMap<String, Vec<BlobMetaRow>> = HashMap::new();
        for row in self.target.read_blobmeta(&ids).await? {
            if row.type_code == BLOB_FORM_XML && row.name == FORM_XML {
                rows.entry(row.parent_id.clone()).or_default().push(row);
            }
        }
        let mut present = Vec::with_capacity(forms.len());
        for (form, fetched) in forms.iter().zip(couch) {
            match fetched.outcome {
                Outcome::Found(document) => present.push(InCouch {
                    form,
                    document,
                    xml: rows.remove(&fetched.id).unwrap_or_default(),
                }),
                Outcome::Missing | Outcome::Deleted { .. } => {}
                Outcome::Failed(error) => return Err(error.into()),
            }
        }
        Ok(in_parts(present, InCouch::weight, FETCH_BYTES))
    }

    /// What belongs to another domain in Couch is not compared either.
    async fn compare_forms(
        &self,
        claim: &Claim,
        forms: Vec<InCouch<'_>>,
        rulings: &HashMap<String, Ruling>,
        found: &mut Vec<FormComparison>,
    ) -> Result<(), BatchFailure> {
        let ids: Vec<String> = forms.iter().map(|one| one.form.form_id.clone()).collect();
        let sql: HashMap<String, FormBundle> = self
            .target
            .read_forms(&ids)
            .await?
            .into_iter()
            .map(|bundle| (bundle.form.form_id.clone(), bundle))
            .collect();
        let bodies = self.bodies(&forms).await?;
        let nothing = Value::Object(Map::new());
        for InCouch { form, document, .. } in &forms {
            let text = |key: &str| document.get(key).and_then(Value::as_str);
            let Some(doc_type) = text("doc_type").and_then(DocType::parse) else {
                continue;
            };
            if !is_compared(doc_type) || text("domain") != Some(claim.domain.as_str()) {
                continue;
            }
            let treatment = match rulings.get(&form.form_id) {
                None => Treatment::AsItSays,
                Some(Ruling::Applied) => Treatment::Applied,
                Some(Ruling::NotApplied) => Treatment::NotApplied,
            };
            let sql_json = match sql.get(&form.form_id) {
                None => nothing.clone(),
                Some(bundle) => docdiff::sqljson::form_json(bundle, bodies.get(&form.form_id).unwrap_or(&nothing)),
            };
            let diffs = docdiff::diff_form(&formmodel::compared(document, treatment), &sql_json)
                .map_err(|_| BatchFailure::defect("a form of an unknown type was compared"))?;
            found.push(FormComparison {
                form: (*form).clone(),
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
    async fn bodies(&self, forms: &[InCouch<'_>]) -> Result<HashMap<String, Value>, BatchFailure> {
        let rows: Vec<&BlobMetaRow> = forms.iter().flat_map(|one| &one.xml).collect();
        let wanted: Vec<Wanted> = rows
            .iter()
            .map(|row| Wanted {
                doc_id: row.parent_id.clone(),
                blob: blob_of(row),
            })
            .collect();
        let mut bodies = HashMap::new();
        let read = self.blobs.fetch_many(&self.forms_db, &wanted).await?;
        for ((want, row), read) in wanted.iter().zip(rows).zip(read) {
            let bytes = match read {
                Ok(Some(bytes)) => bytes,
                Ok(None) => continue,
                Err(error) if error.kind() == blobs::ErrorKind::Document => continue,
                Err(error) => return Err(error.into()),
            };
            // Of several rows the first with bytes counts.
            if !bodies.contains_key(&want.doc_id)
                && let Some(xml) = plain(want.blob.key.as_deref(), bytes, std::slice::from_ref(row))
                && let Ok(form) = xform::read_form(&xml)
            {
                bodies.insert(want.doc_id.clone(), form.body);
            }
        }
        Ok(bodies)
    }
}

/// A form that Couch has.
struct InCouch<'a> {
    form: &'a FormToDiff,
    document: Value,
    /// Rows of its XML.
    xml: Vec<BlobMetaRow>,
}

impl InCouch<'_> {
    fn weight(&self) -> usize {
        let rows = self.xml.iter();
        rows.map(|row| expected_bytes(u64::try_from(row.content_length).ok()))
            .fold(0, usize::saturating_add)
    }
}

/// Submission error logs hold no form, and cases are compared as cases.
const fn is_compared(doc_type: DocType) -> bool {
    doc_type.is_form() && !matches!(doc_type, DocType::SubmissionErrorLog)
}
