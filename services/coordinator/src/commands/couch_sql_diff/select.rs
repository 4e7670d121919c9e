//! `--select` of `show` and `filter`: which records.

use std::collections::BTreeSet;

use docdiff::LEDGER_KIND;
use proto::doctype::DocType;
use state::records::RecordFilter;

use crate::commands::output::uncell;
use crate::failure::{Failure, Result};

/// Types under which cases are on record; their ledgers stand with them.
const CASE_TYPES: [DocType; 2] = [DocType::CommCareCase, DocType::CommCareCaseDeleted];

/// Which records, and which ledgers in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// The records to read.
    pub(super) filter: RecordFilter,
    /// What of them is wanted.
    pub(super) parts: Parts,
}

/// Which parts of a record are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Parts {
    /// The document and its ledgers.
    #[default]
    All,
    /// Its ledgers only; these, unless there are none.
    Ledgers(BTreeSet<String>),
}

impl Parts {
    /// Whether an entry is wanted: one of a ledger, or of the document itself.
    pub(super) fn wants(&self, ledger: Option<&str>) -> bool {
        match (self, ledger) {
            (Self::All, _) => true,
            (Self::Ledgers(ledgers), Some(ledger)) => ledgers.is_empty() || ledgers.contains(ledger),
            (Self::Ledgers(_), None) => false,
        }
    }
}

impl Selection {
    /// `TYPE`, `TYPE1,TYPE2`, `TYPE:id1,id2`, `forms`, `cases`, `stock state`, or a CSV file (`/…`, `./…` or `….csv`) with
    /// the columns type and id: a row without an id selects the whole type.
    ///
    /// # Errors
    /// `C2S-0105` for something else, `C2S-0107` when the file cannot be read.
    pub fn parse(text: Option<&str>) -> Result<Self> {
        let Some(text) = text else { return Ok(Self::default()) };
        if text.starts_with('/') || text.starts_with("./") || text.ends_with(".csv") {
            let file = std::fs::File::open(text).map_err(|error| unreadable(text, &error))?;
            return Self::of_csv(text, file);
        }
        let (kinds, ids) = text
            .split_once(':')
            .map_or((text, None), |(kinds, ids)| (kinds, Some(ids)));
        let ids: Option<Vec<&str>> = ids.map(|ids| words(ids).collect());
        let mut choice = Choice::default();
        for kind in words(kinds) {
            match &ids {
                None => choice.whole(kind)?,
                Some(ids) => ids.iter().try_for_each(|id| choice.document(kind, id))?,
            }
        }
        choice.into_selection()
    }

    /// The first row may be a heading, and further columns are left aside: what `show --csv` prints can be given back.
    fn of_csv(path: &str, csv: impl std::io::Read) -> Result<Self> {
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .trim(csv::Trim::All)
            .from_reader(csv);
        let mut choice = Choice::default();
        for (number, row) in reader.records().enumerate() {
            let row = row.map_err(|error| unreadable(path, &error))?;
            let kind = row.get(0).map_or("", uncell);
            if kind.is_empty() || (number == 0 && kind == "doc_type") {
                continue;
            }
            match row.get(1).map(uncell).filter(|id| !id.is_empty()) {
                None => choice.whole(kind)?,
                Some(id) => choice.document(kind, id)?,
            }
        }
        choice.into_selection()
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty())
}

fn unreadable(path: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::new("C2S-0107", format!("{path} cannot be read: {error}"), "check the path")
}

/// A selection while it is read.
#[derive(Default)]
struct Choice {
    kinds: BTreeSet<&'static str>,
    documents: BTreeSet<(&'static str, String)>,
    all_ledgers: bool,
    ledgers: BTreeSet<String>,
}

impl Choice {
    fn whole(&mut self, kind: &str) -> Result<()> {
        if kind == LEDGER_KIND {
            self.all_ledgers = true;
        } else {
            self.kinds.extend(types(kind)?.into_iter().map(DocType::as_str));
        }
        Ok(())
    }

    fn document(&mut self, kind: &str, id: &str) -> Result<()> {
        if kind == LEDGER_KIND {
            self.ledgers.insert(id.to_owned());
            return Ok(());
        }
        for kind in types(kind)? {
            self.documents.insert((kind.as_str(), id.to_owned()));
        }
        Ok(())
    }

    /// A selection that names nothing is refused: an empty filter stands for all records.
    fn into_selection(mut self) -> Result<Selection> {
        let wants_documents = !self.kinds.is_empty() || !self.documents.is_empty();
        let wants_ledgers = self.all_ledgers || !self.ledgers.is_empty();
        if !wants_documents && !wants_ledgers {
            return Err(Failure::new(
                "C2S-0105",
                "--select names no documents",
                "name some, or leave --select out for all records",
            ));
        }
        let parts = match (wants_documents, wants_ledgers) {
            (_, false) => Parts::All,
            (false, true) => Parts::Ledgers(if self.all_ledgers {
                BTreeSet::new()
            } else {
                self.ledgers.clone()
            }),
            (true, true) => {
                return Err(Failure::new(
                    "C2S-0105",
                    "--select: `stock state` cannot be selected beside document types",
                    "ledgers are shown with their cases; select them alone, or select the cases",
                ));
            }
        };
        if self.all_ledgers {
            self.kinds.extend(CASE_TYPES.map(DocType::as_str));
        }
        for ledger in &self.ledgers {
            let case_id = ledger.split('/').next().unwrap_or_default();
            self.documents
                .extend(CASE_TYPES.map(|kind| (kind.as_str(), case_id.to_owned())));
        }
        Ok(Selection {
            filter: RecordFilter {
                kinds: self.kinds.into_iter().map(str::to_owned).collect(),
                documents: self
                    .documents
                    .into_iter()
                    .map(|(kind, id)| (kind.to_owned(), id))
                    .collect(),
            },
            parts,
        })
    }
}

fn types(kind: &str) -> Result<Vec<DocType>> {
    match (kind, DocType::parse(kind)) {
        ("forms", _) => Ok(DocType::FORMS.to_vec()),
        ("cases", _) => Ok(CASE_TYPES.to_vec()),
        (_, Some(kind)) => Ok(vec![kind]),
        (_, None) => Err(Failure::new(
            "C2S-0105",
            format!("--select: {kind} is not a document type"),
            "use a document type, TYPE:id1,id2, forms, cases, or a path to a CSV file",
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn documents(of: &[(&str, &str)]) -> Vec<(String, String)> {
        of.iter()
            .map(|(kind, id)| ((*kind).to_owned(), (*id).to_owned()))
            .collect()
    }

    #[test]
    fn types_ids_and_groups_of_types() {
        assert_eq!(Selection::parse(None).unwrap(), Selection::default());
        let two = Selection::parse(Some("CommCareCase, XFormError")).unwrap();
        assert_eq!(two.filter.kinds, ["CommCareCase", "XFormError"]);
        let ids = Selection::parse(Some("CommCareCase:a, b")).unwrap();
        assert_eq!(ids.filter.kinds, Vec::<String>::new());
        assert_eq!(
            ids.filter.documents,
            documents(&[("CommCareCase", "a"), ("CommCareCase", "b")])
        );
        assert_eq!(Selection::parse(Some("forms")).unwrap().filter.kinds.len(), 8);
        assert_eq!(
            Selection::parse(Some("cases:x")).unwrap().filter.documents,
            documents(&[("CommCareCase", "x"), ("CommCareCase-Deleted", "x")])
        );
        assert_eq!(Selection::parse(Some("Case")).unwrap_err().code, "C2S-0105");
    }

    #[test]
    fn a_selection_that_names_nothing_is_not_one_of_everything() {
        for nothing in [
            "",
            ",",
            " , ",
            ":",
            "CommCareCase:",
            "CommCareCase: ,",
            "stock state:",
            ":a",
        ] {
            assert_eq!(
                Selection::parse(Some(nothing)).unwrap_err().code,
                "C2S-0105",
                "{nothing:?}"
            );
        }
        for nothing in ["", "doc_type,doc_id,user_id\n", ",a\n"] {
            let read = Selection::of_csv("x.csv", nothing.as_bytes());
            assert_eq!(read.unwrap_err().code, "C2S-0105", "{nothing:?}");
        }
    }

    #[test]
    fn ledgers_are_found_in_the_records_of_their_cases() {
        let one = Selection::parse(Some("stock state:c/stock/p")).unwrap();
        assert_eq!(
            one.filter.documents,
            documents(&[("CommCareCase", "c"), ("CommCareCase-Deleted", "c")])
        );
        assert_eq!(one.parts, Parts::Ledgers(["c/stock/p".to_owned()].into()));
        let all = Selection::parse(Some("stock state")).unwrap();
        assert_eq!(all.filter.kinds, ["CommCareCase", "CommCareCase-Deleted"]);
        assert_eq!(all.parts, Parts::Ledgers(BTreeSet::new()));
        let both = Selection::parse(Some("CommCareCase,stock state"));
        assert_eq!(both.unwrap_err().code, "C2S-0105");
    }

    #[test]
    fn a_csv_file_names_documents_and_whole_types() {
        let csv =
            "doc_type,doc_id,user_id\nCommCareCase,b,u\nCommCareCase,a\nXFormInstance\nCommCareCase,b,u,more\n,\n";
        let read = Selection::of_csv("x.csv", csv.as_bytes()).unwrap();
        assert_eq!(read.filter.kinds, ["XFormInstance"]);
        assert_eq!(
            read.filter.documents,
            documents(&[("CommCareCase", "a"), ("CommCareCase", "b")])
        );
        let wrong = Selection::of_csv("x.csv", "Case,a\n".as_bytes());
        assert_eq!(wrong.unwrap_err().code, "C2S-0105");
        assert_eq!(Selection::parse(Some("./no-such-file")).unwrap_err().code, "C2S-0107");
    }
}
