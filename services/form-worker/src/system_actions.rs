//! Looks again at the documents that system actions tell of: what was done to them is done in Couch already, and what Couch
//! says of them now is what becomes of them.

use std::collections::{BTreeSet, HashMap};

use couch::Outcome;
use formmodel::MigratedForm;
use serde_json::Value;
use service::worker::BatchFailure;
use state::batch::Claim;
use state::form_stage::FormResults;

use crate::FormHandler;
use crate::plan::Candidate;
use crate::read::failed_candidate;

/// What is known of a document that an action names.
struct Named {
    /// Its revision in Couch; none if it is not there.
    rev: Option<String>,
    /// The domain it belongs to, in Couch or else in SQL; none if it is in neither.
    domain: Option<String>,
}

impl FormHandler {
    /// Has the documents that the actions among the forms name looked at again where they have changed. An action about
    /// another domain's document is in error, and its form with it.
    pub(crate) async fn follow_actions(
        &self,
        claim: &Claim,
        forms: Vec<(Candidate, MigratedForm)>,
        results: &mut FormResults,
    ) -> Result<Vec<(Candidate, MigratedForm)>, BatchFailure> {
        let ids: BTreeSet<String> = forms
            .iter()
            .filter_map(|(_, form)| form.action.as_ref())
            .flat_map(|action| action.documents.iter().cloned())
            .collect();
        if ids.is_empty() {
            return Ok(forms);
        }
        let named = self.look_up(&ids.into_iter().collect::<Vec<_>>()).await?;
        let mut passed = Vec::with_capacity(forms.len());
        for (candidate, form) in forms {
            let documents = form.action.iter().flat_map(|action| &action.documents);
            let found: Vec<(&String, &Named)> = documents.filter_map(|id| named.get_key_value(id)).collect();
            let is_foreign = |named: &Named| {
                named
                    .domain
                    .as_ref()
                    .is_some_and(|domain| domain != claim.domain.as_str())
            };
            if found.iter().any(|(_, named)| is_foreign(named)) {
                let why = "the form tells of something that was done to a document of another domain".to_owned();
                results.failed.push(failed_candidate(&candidate, "C2S-2309", why));
                continue;
            }
            results
                .named
                .extend(found.into_iter().map(|(id, named)| (id.clone(), named.rev.clone())));
            passed.push((candidate, form));
        }
        Ok(passed)
    }

    async fn look_up(&self, ids: &[String]) -> Result<HashMap<String, Named>, BatchFailure> {
        let mut named = HashMap::with_capacity(ids.len());
        let mut absent = Vec::new();
        for document in self.forms_db.bulk_get(ids).await? {
            match document.outcome {
                Outcome::Found(found) => {
                    let text = |key: &str| found.get(key).and_then(Value::as_str).map(str::to_owned);
                    let (rev, domain) = (text("_rev"), text("domain"));
                    named.insert(document.id, Named { rev, domain });
                }
                Outcome::Missing | Outcome::Deleted { .. } => absent.push(document.id),
                // It cannot be read: whoever migrates it will say so.
                Outcome::Failed(error) if error.kind() == couch::ErrorKind::Document => {}
                Outcome::Failed(error) => return Err(error.into()),
            }
        }
        let mut owners = self.target.existing_forms(&absent).await?;
        owners.extend(self.target.existing_cases(&absent).await?);
        for id in absent {
            let domain = owners.remove(&id);
            named.insert(id, Named { rev: None, domain });
        }
        Ok(named)
    }
}
