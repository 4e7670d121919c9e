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
        for (case_id, listed) in &searched {
            let is_named = named.contains(case_id);
            found.insert((*case_id).to_owned(), absence(listed, &forms, is_named));
        }
        Ok(found)
    }

    /// Which of the cases are named by one of their forms. A form that Couch lacks, or whose XML is lost or cannot be read,
    /// counts as naming every case.
    async fn named_by_forms<'a>(&self, searched: &'a [Listed<'a>]) -> Result<HashSet<&'a str>, BatchFailure> {
        let mut search = Search::new(searched);
        while let Some(ids) = search.next_forms() {
            self.each_couch_form(&ids, &mut |form_id, form| search.take(form_id, form))
                .await?;
        }
        Ok(search.named)
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

/// The search for a form of each case that names it: few forms first, then more of those cases that are still open.
struct Search<'a> {
    open: Vec<&'a Listed<'a>>,
    named: HashSet<&'a str>,
    /// The cases that wait for each of the forms being read.
    asked: HashMap<&'a str, Vec<&'a str>>,
    looked_at: usize,
    count: usize,
}

impl<'a> Search<'a> {
    fn new(searched: &'a [Listed<'a>]) -> Self {
        Self {
            open: searched.iter().collect(),
            named: HashSet::new(),
            asked: HashMap::new(),
            looked_at: 0,
            count: FIRST_FORMS,
        }
    }

    /// The forms to be read next; none when the search has ended.
    fn next_forms(&mut self) -> Option<Vec<String>> {
        self.open
            .retain(|(case_id, listed)| !self.named.contains(case_id) && self.looked_at < listed.len());
        if self.open.is_empty() {
            return None;
        }
        self.asked.clear();
        for listed in &self.open {
            let (case_id, forms) = *listed;
            for form_id in forms.iter().skip(self.looked_at).take(self.count) {
                self.asked.entry(*form_id).or_default().push(*case_id);
            }
        }
        self.looked_at += self.count;
        self.count = self.count.saturating_mul(GROWTH);
        let mut ids: Vec<String> = self.asked.keys().map(|id| (*id).to_owned()).collect();
        ids.sort_unstable();
        Some(ids)
    }

    /// A form that was read.
    fn take(&mut self, form_id: &str, form: &CouchForm) {
        let cases = named_cases(form);
        for case_id in self.asked.get(form_id).into_iter().flatten() {
            if cases.as_ref().is_none_or(|cases| cases.contains(*case_id)) {
                self.named.insert(*case_id);
            }
        }
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    const BLOCK: &str = r#"<case xmlns="http://commcarehq.org/case/transaction/v2" case_id="c" user_id="u"
        date_modified="2020-03-02T09:00:00Z"><update><age>30</age></update></case>"#;
    const LEDGER: &str = r#"<balance xmlns="http://commcarehq.org/ledger/v1" entity-id="l" section-id="stock">
        <entry id="soap" quantity="5"/></balance>"#;

    fn form(blocks: &str) -> CouchForm {
        CouchForm {
            document: Some(json!({})),
            xml: Some(Bytes::from(format!(r#"<data xmlns="http://visit">{blocks}</data>"#))),
        }
    }

    #[test]
    fn a_form_names_the_cases_of_its_blocks_and_ledgers() {
        let ids = |ids: &[&str]| Some(ids.iter().map(|id| (*id).to_owned()).collect::<HashSet<_>>());
        assert_eq!(named_cases(&form("<note/>")), ids(&[]));
        assert_eq!(named_cases(&form(BLOCK)), ids(&["c"]));
        assert_eq!(named_cases(&form(LEDGER)), ids(&["l"]));
        assert_eq!(named_cases(&form(&[BLOCK, LEDGER].concat())), ids(&["c", "l"]));
    }

    #[test]
    fn nobody_can_tell_what_lost_or_unreadable_xml_names() {
        let lost = CouchForm {
            document: Some(json!({})),
            xml: None,
        };
        let block = BLOCK.replace(r#"case_id="c""#, r#"case_id="""#);
        let ledger = LEDGER
            .replace(r#"id="soap" "#, "")
            .replace("balance", "transfer")
            .replace("entity-id", "src");
        for unclear in [CouchForm::default(), lost, form("<open>"), form(&block), form(&ledger)] {
            assert_eq!(named_cases(&unclear), None, "{unclear:?}");
            let listed = [("c", vec!["f"])];
            let mut search = Search::new(&listed);
            assert_eq!(search.next_forms().unwrap(), ["f"]);
            search.take("f", &unclear);
            assert!(search.named.contains("c"), "it counts as naming every case");
        }
    }

    #[test]
    fn more_forms_are_read_as_long_as_none_has_named_the_case() {
        let ids: Vec<String> = (0..40).map(|at| format!("f{at:02}")).collect();
        let all: Vec<&str> = ids.iter().map(String::as_str).collect();
        let listed = [("c", all.clone()), ("never", all.clone()), ("short", all[..1].to_vec())];
        let mut search = Search::new(&listed);
        let mut rounds = Vec::new();
        while let Some(forms) = search.next_forms() {
            for form_id in &forms {
                search.take(form_id, &form(if form_id == "f05" { BLOCK } else { "" }));
            }
            rounds.push(forms);
        }
        // One form, then ten times as many, then a hundred times, of which no more than these are left.
        let sizes: Vec<usize> = rounds.iter().map(Vec::len).collect();
        assert_eq!(sizes, [1, 10, 29]);
        assert_eq!(rounds.concat(), ids);
        assert_eq!(search.named, HashSet::from(["c"]));
    }

    #[test]
    fn a_case_is_searched_no_further_once_it_is_named() {
        let listed = [("c", vec!["f", "g"])];
        let mut search = Search::new(&listed);
        assert_eq!(search.next_forms().unwrap(), ["f"]);
        search.take("f", &form(BLOCK));
        assert_eq!(search.next_forms(), None);
    }
}
