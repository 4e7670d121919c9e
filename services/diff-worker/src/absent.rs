//! Cases that SQL lacks, and cases that neither side has: what their forms say of it.

use std::collections::{BTreeMap, HashMap, HashSet};

use docdiff::{AbsentFrom, FormInCase, missing_document, missing_with_forms, reason_of_absence};
use service::worker::BatchFailure;
use state::batch::Claim;

use crate::DiffHandler;
use crate::compare::{Findings, Found};
use crate::couch_forms::CouchForm;
use crate::lookup::Forms;
use crate::sides::{Sides, listed_forms};

/// Forms of a case that are read at first. Nearly every form that a case lists names the case: the first one decides.
const FIRST_FORMS: usize = 1;
/// By how much more forms are read each time when those before did not name the case.
const GROWTH: usize = 10;

/// A case, and the forms that its Couch document lists.
type Listed<'a> = (&'a str, Vec<&'a str>);

impl DiffHandler {
    /// Cases that Couch has and SQL lacks.
    pub(crate) async fn judge_absent(&self, sides: &Sides, case_ids: Vec<&str>) -> Result<Findings, BatchFailure> {
        let forms_of = |case_id: &str| sides.couch.get(case_id).into_iter().flat_map(listed_forms);
        let listed = case_ids.iter().flat_map(|case_id| forms_of(case_id));
        let forms = self.look_up_forms(listed.map(str::to_owned).collect()).await?;
        let mut found = Findings::new();
        let mut searched = Vec::new();
        for case_id in case_ids {
            let listed: Vec<&str> = forms_of(case_id).collect();
            if listed.iter().all(|form_id| forms.is_deleted_in_sql(form_id)) {
                found.insert(case_id.to_owned(), absence(&listed, &forms, false));
            } else {
                searched.push((case_id, listed));
            }
        }
        let named = self.named_by_forms(&searched).await?;
        for (case_id, listed) in searched {
            let is_named = named.contains(case_id);
            found.insert(case_id.to_owned(), absence(&listed, &forms, is_named));
        }
        Ok(found)
    }

    /// Which of the cases are named by one of their forms. A form that Couch lacks, or whose XML is lost or cannot be read,
    /// counts as naming every case.
    async fn named_by_forms<'a>(&self, searched: &[Listed<'a>]) -> Result<HashSet<&'a str>, BatchFailure> {
        let mut named = HashSet::new();
        let mut open: Vec<&Listed<'a>> = searched.iter().collect();
        let (mut looked_at, mut count) = (0, FIRST_FORMS);
        while !open.is_empty() {
            let mut asked: HashMap<&str, Vec<&'a str>> = HashMap::new();
            for (case_id, listed) in &open {
                for form_id in listed.iter().skip(looked_at).take(count) {
                    asked.entry(form_id).or_default().push(case_id);
                }
            }
            let mut ids: Vec<String> = asked.keys().map(|id| (*id).to_owned()).collect();
            ids.sort_unstable();
            self.each_couch_form(&ids, &mut |form_id, form| {
                let named_cases = named_cases(form);
                for case_id in asked.get(form_id).into_iter().flatten() {
                    if named_cases.as_ref().is_none_or(|cases| cases.contains(*case_id)) {
                        named.insert(*case_id);
                    }
                }
            })
            .await?;
            looked_at += count;
            count = count.saturating_mul(GROWTH);
            open.retain(|(case_id, listed)| !named.contains(case_id) && looked_at < listed.len());
        }
        Ok(named)
    }

    /// Cases that are on record here, and that neither side has.
    pub(crate) async fn judge_nowhere(&self, claim: &Claim, case_ids: Vec<String>) -> Result<Findings, BatchFailure> {
        if case_ids.is_empty() {
            return Ok(Findings::new());
        }
        let naming = self.state.forms_naming(claim.migration_id, &case_ids).await?;
        let forms = self
            .look_up_forms(naming.iter().map(|(_, form_id)| form_id.clone()).collect())
            .await?;
        let mut by_case: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (case_id, form_id) in &naming {
            if forms.is_processed_or_absent_in_sql(form_id) {
                by_case.entry(case_id).or_default().push(form_id);
            }
        }
        Ok(by_case
            .into_iter()
            .map(|(case_id, form_ids)| (case_id.to_owned(), Found::diffs(vec![missing_with_forms(form_ids)])))
            .collect())
    }
}

/// Ids of the cases that a form names; `None` if nobody can tell.
fn named_cases(form: &CouchForm) -> Option<HashSet<String>> {
    let xml = form.xml.as_deref()?;
    let read = xform::read_form(xml).ok()?;
    let updates = xform::case_updates(&read.body).ok()?;
    // Dates do not decide which cases are named.
    let ledgers = read.ledgers.instructions(chrono::DateTime::UNIX_EPOCH).ok()?;
    let by_blocks = updates.into_iter().map(|(case_id, _)| case_id.as_str().to_owned());
    let by_ledgers = ledgers
        .into_iter()
        .map(|instruction| instruction.case_id.as_str().to_owned());
    Some(by_blocks.chain(by_ledgers).collect())
}

fn absence(listed: &[&str], forms: &Forms, is_named: bool) -> Found {
    let listed: Vec<FormInCase> = listed
        .iter()
        .map(|form_id| FormInCase {
            is_deleted: forms.is_deleted_in_sql(form_id),
            names_case: is_named,
        })
        .collect();
    Found::judged(vec![missing_document(AbsentFrom::Sql)], reason_of_absence(&listed))
}
