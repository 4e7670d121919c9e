//! The indices of a case between two saves.

use proto::effects::IndexChange;
use proto::rows::{IndexRow, RejectReason};

use crate::columns;

/// Index rows as saved, and what has been done to them since.
///
/// It keeps two of HQ's ways. Only saved rows can be removed, so that an index which is made and removed between two saves
/// stays. And a save inserts before it deletes, so that a saved index which is removed and set again between two saves
/// violates the unique key (case, identifier): HQ loses the form, here it is refused and recorded.
pub(crate) struct IndexSession {
    saved: Vec<Saved>,
    made: Vec<IndexRow>,
}

struct Saved {
    row: IndexRow,
    fate: Fate,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Untouched,
    Updated,
    Removed,
}

impl IndexSession {
    /// A session that starts from the saved rows.
    pub(crate) fn over(saved: Vec<IndexRow>) -> Self {
        let saved = saved
            .into_iter()
            .map(|row| Saved {
                row,
                fate: Fate::Untouched,
            })
            .collect();
        Self {
            saved,
            made: Vec::new(),
        }
    }

    /// Applies one entry of an `index` part. An entry without a referenced case removes the index.
    pub(crate) fn change(&mut self, change: &IndexChange) {
        let removes = change.referenced_id.is_empty();
        let live = self
            .saved
            .iter_mut()
            .find(|saved| saved.row.identifier == change.identifier && saved.fate != Fate::Removed);
        if let Some(saved) = live {
            if removes {
                saved.fate = Fate::Removed;
            } else {
                saved.fate = Fate::Updated;
                set(&mut saved.row, change);
            }
            return;
        }
        if removes {
            return;
        }
        match self.made.iter_mut().find(|row| row.identifier == change.identifier) {
            Some(row) => set(row, change),
            None => self.made.push(IndexRow {
                identifier: change.identifier.clone(),
                referenced_id: change.referenced_id.clone(),
                referenced_type: change.referenced_type.clone(),
                relationship: change.relationship,
            }),
        }
    }

    /// The rows after a save.
    pub(crate) fn save(self) -> Result<Vec<IndexRow>, RejectReason> {
        self.rows(|fate| fate != Fate::Removed)
    }

    /// The rows after the save of a rebuild, which also removes what the replay did not touch.
    pub(crate) fn save_touched(self) -> Result<Vec<IndexRow>, RejectReason> {
        self.rows(|fate| fate == Fate::Updated)
    }

    fn rows(self, stays: impl Fn(Fate) -> bool) -> Result<Vec<IndexRow>, RejectReason> {
        let Self { saved, made } = self;
        if made
            .iter()
            .any(|row| saved.iter().any(|saved| saved.row.identifier == row.identifier))
        {
            return Err(RejectReason::IndexConflict);
        }
        let kept = saved
            .into_iter()
            .filter(|saved| stays(saved.fate))
            .map(|saved| saved.row);
        let rows: Vec<IndexRow> = kept.chain(made).collect();
        for row in &rows {
            columns::fits(&row.identifier)?;
            columns::fits(&row.referenced_id)?;
            columns::fits(&row.referenced_type)?;
        }
        Ok(rows)
    }
}

/// The identifier never changes.
fn set(row: &mut IndexRow, change: &IndexChange) {
    change.referenced_type.clone_into(&mut row.referenced_type);
    change.referenced_id.clone_into(&mut row.referenced_id);
    row.relationship = change.relationship;
}

#[cfg(test)]
mod tests {
    use proto::effects::Relationship;

    use super::*;

    fn change(identifier: &str, referenced_id: &str) -> IndexChange {
        IndexChange {
            identifier: identifier.to_owned(),
            referenced_type: "household".to_owned(),
            referenced_id: referenced_id.to_owned(),
            relationship: Relationship::Child,
        }
    }

    fn row(identifier: &str, referenced_id: &str) -> IndexRow {
        IndexRow {
            identifier: identifier.to_owned(),
            referenced_id: referenced_id.to_owned(),
            referenced_type: "household".to_owned(),
            relationship: Relationship::Child,
        }
    }

    /// (identifier, referenced case)
    type Pairs<'a> = &'a [(&'a str, &'a str)];

    #[test]
    fn changes_between_two_saves() {
        // (what it shows, saved, changes, rows afterwards)
        let table: [(&str, Pairs<'_>, Pairs<'_>, Result<Pairs<'_>, RejectReason>); 11] = [
            ("new index", &[], &[("parent", "a")], Ok(&[("parent", "a")])),
            ("removal of what is not there", &[], &[("parent", "")], Ok(&[])),
            ("update", &[("parent", "a")], &[("parent", "b")], Ok(&[("parent", "b")])),
            (
                "removal",
                &[("parent", "a"), ("host", "h")],
                &[("parent", "")],
                Ok(&[("host", "h")]),
            ),
            (
                "made and removed: stays",
                &[],
                &[("parent", "a"), ("parent", "")],
                Ok(&[("parent", "a")]),
            ),
            (
                "made, removed, set: last set",
                &[],
                &[("p", "a"), ("p", ""), ("p", "b")],
                Ok(&[("p", "b")]),
            ),
            ("set and removed", &[("p", "a")], &[("p", "b"), ("p", "")], Ok(&[])),
            ("removed twice", &[("p", "a")], &[("p", ""), ("p", "")], Ok(&[])),
            (
                "removed and set",
                &[("p", "a")],
                &[("p", ""), ("p", "b")],
                Err(RejectReason::IndexConflict),
            ),
            (
                "removed, set, removed",
                &[("p", "a")],
                &[("p", ""), ("p", "b"), ("p", "")],
                Err(RejectReason::IndexConflict),
            ),
            (
                "others keep their place",
                &[("p", "a"), ("q", "b")],
                &[("r", "c"), ("p", "d")],
                Ok(&[("p", "d"), ("q", "b"), ("r", "c")]),
            ),
        ];
        for (what, saved, changes, expected) in table {
            let mut session = IndexSession::over(saved.iter().map(|(i, r)| row(i, r)).collect());
            for (identifier, referenced_id) in changes {
                session.change(&change(identifier, referenced_id));
            }
            let expected = expected.map(|rows| rows.iter().map(|(i, r)| row(i, r)).collect::<Vec<_>>());
            assert_eq!(session.save(), expected, "{what}");
        }
    }

    #[test]
    fn a_rebuild_removes_what_it_did_not_touch() {
        let mut session = IndexSession::over(vec![row("parent", "a"), row("host", "h")]);
        session.change(&change("host", "h"));
        assert_eq!(session.save_touched(), Ok(vec![row("host", "h")]));
    }

    #[test]
    fn texts_must_fit() {
        let mut session = IndexSession::over(Vec::new());
        session.change(&change("parent", &"x".repeat(256)));
        assert_eq!(session.save(), Err(RejectReason::ValueTooLong));
    }
}
