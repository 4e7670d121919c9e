//! What must be written so that stored rows become the wanted ones. Pure: rows in, lists of inserts, updates and deletes
//! out. A stored row that is equal to a wanted one is never touched, so that it keeps its id.

use std::collections::{HashMap, VecDeque};

use bytes::BytesMut;
use proto::rows::{
    AttachmentRow, CaseRow, FormRow, IndexRow, LedgerTransactionRow, LedgerValueRow, OperationRow, TransactionRow,
};

use crate::copy::microseconds;
use crate::table::{Owner, Stored, TableRow, encoded};

/// What is to be done to one table.
#[derive(Debug)]
pub(crate) struct Changes<'a, T> {
    pub(crate) insert: Vec<(Owner<'a>, &'a T)>,
    pub(crate) update: Vec<(i64, Owner<'a>, &'a T)>,
    pub(crate) delete: Vec<i64>,
    pub(crate) unchanged: u64,
}

impl<T> Default for Changes<'_, T> {
    fn default() -> Self {
        Self {
            insert: Vec::new(),
            update: Vec::new(),
            delete: Vec::new(),
            unchanged: 0,
        }
    }
}

/// How a stored row is known to be the earlier form of a wanted one, when the two are not equal.
pub(crate) trait Matched: TableRow + 'static {
    /// Keys by which rows of one document are matched, the best first. Rows with equal keys are matched in the order of
    /// their ids. Without keys a row is only ever equal or another one.
    const KEYS: &'static [fn(&Self) -> String];
}

impl Matched for FormRow {
    const KEYS: &'static [fn(&Self) -> String] = &[|_| String::new()];
}

impl Matched for CaseRow {
    const KEYS: &'static [fn(&Self) -> String] = &[|_| String::new()];
}

impl Matched for IndexRow {
    const KEYS: &'static [fn(&Self) -> String] = &[|row| row.identifier.clone()];
}

impl Matched for AttachmentRow {
    const KEYS: &'static [fn(&Self) -> String] = &[|row| row.attachment_id.to_string(), |row| row.name.clone()];
}

impl Matched for TransactionRow {
    /// The form, and not the type, which is part of the table's unique key: a replay that comes to another type updates
    /// the row instead of adding a second. NULs separate, since no text of a row has one.
    const KEYS: &'static [fn(&Self) -> String] = &[|row| match &row.form_id {
        Some(form_id) => format!("form\0{form_id}"),
        None => format!(
            "rebuild\0{}\0{}\0{}",
            microseconds(row.server_date),
            row.kind,
            row.details
        ),
    }];
}

impl Matched for LedgerValueRow {
    const KEYS: &'static [fn(&Self) -> String] = &[|row| format!("{}\0{}", row.section_id, row.entry_id)];
}

impl Matched for LedgerTransactionRow {
    const KEYS: &'static [fn(&Self) -> String] = &[];
}

impl<'a, T: Matched> Changes<'a, T> {
    /// Adds what makes the stored rows of one document the wanted ones. `stored` is in the order of ids.
    pub(crate) fn of_set(&mut self, owner: Owner<'a>, stored: &[Stored<T>], wanted: &'a [T]) {
        if stored.is_empty() {
            self.insert.extend(wanted.iter().map(|row| (owner, row)));
            return;
        }
        let mut equal: HashMap<BytesMut, VecDeque<usize>> = HashMap::with_capacity(stored.len());
        for (index, row) in stored.iter().enumerate() {
            let bytes = encoded(
                &row.row,
                Owner {
                    id: &row.owner,
                    domain: &row.domain,
                },
            );
            equal.entry(bytes).or_default().push_back(index);
        }
        let mut free = vec![true; stored.len()];
        // Where each wanted row went, so that inserts stay in the wanted order.
        let mut settled = vec![false; wanted.len()];
        for (row, settled) in wanted.iter().zip(&mut settled) {
            if let Some(index) = equal.get_mut(&encoded(row, owner)).and_then(VecDeque::pop_front) {
                free[index] = false;
                *settled = true;
                self.unchanged += 1;
            }
        }
        for key in T::KEYS {
            let mut by_key: HashMap<String, VecDeque<usize>> = HashMap::new();
            for (index, row) in stored.iter().enumerate().filter(|(index, _)| free[*index]) {
                by_key.entry(key(&row.row)).or_default().push_back(index);
            }
            for (row, settled) in wanted.iter().zip(&mut settled).filter(|(_, settled)| !**settled) {
                if let Some(index) = by_key.get_mut(&key(row)).and_then(VecDeque::pop_front) {
                    free[index] = false;
                    *settled = true;
                    self.update.push((stored[index].id, owner, row));
                }
            }
        }
        self.insert.extend(
            wanted
                .iter()
                .zip(settled)
                .filter(|(_, settled)| !settled)
                .map(|(row, _)| (owner, row)),
        );
        self.delete
            .extend(stored.iter().zip(free).filter(|(_, free)| *free).map(|(row, _)| row.id));
    }
}

impl<'a> Changes<'a, OperationRow> {
    /// Adds what makes the stored operations of one form the wanted ones, in order: what agrees from the start stays,
    /// the rest is replaced, so that ids go on ascending in the order of the history.
    pub(crate) fn of_sequence(
        &mut self,
        owner: Owner<'a>,
        stored: &[Stored<OperationRow>],
        wanted: &'a [OperationRow],
    ) {
        let agree = stored
            .iter()
            .zip(wanted)
            .take_while(|(stored, wanted)| encoded(&stored.row, owner) == encoded(*wanted, owner))
            .count();
        self.unchanged += agree as u64;
        self.delete.extend(stored[agree..].iter().map(|row| row.id));
        self.insert.extend(wanted[agree..].iter().map(|row| (owner, row)));
    }
}

/// Stored rows by document, each list in the order of ids.
pub(crate) fn by_owner<T>(stored: Vec<Stored<T>>) -> HashMap<String, Vec<Stored<T>>> {
    let mut groups: HashMap<String, Vec<Stored<T>>> = HashMap::new();
    for row in stored {
        match groups.get_mut(&row.owner) {
            Some(group) => group.push(row),
            None => {
                groups.insert(row.owner.clone(), vec![row]);
            }
        }
    }
    for group in groups.values_mut() {
        group.sort_by_key(|row| row.id);
    }
    groups
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use chrono::{DateTime, TimeZone, Utc};

    use super::*;

    const OWNER: Owner<'static> = Owner { id: "c", domain: "d" };

    fn at(second: i64) -> DateTime<Utc> {
        Utc.timestamp_opt(1_500_000_000 + second, 0).unwrap()
    }

    fn transaction(form_id: Option<&str>, second: i64, kind: i16) -> TransactionRow {
        TransactionRow {
            form_id: form_id.map(str::to_owned),
            sync_log_id: None,
            server_date: at(second),
            client_date: None,
            kind,
            revoked: false,
            details: "{}".to_owned(),
        }
    }

    fn stored<T: Clone>(rows: &[T]) -> Vec<Stored<T>> {
        (1..)
            .zip(rows)
            .map(|(id, row)| Stored {
                id,
                owner: "c".to_owned(),
                domain: String::new(),
                row: row.clone(),
            })
            .collect()
    }

    fn ids<T>(changes: &Changes<'_, T>) -> (usize, Vec<i64>, Vec<i64>, u64) {
        (
            changes.insert.len(),
            changes.update.iter().map(|(id, _, _)| *id).collect(),
            changes.delete.clone(),
            changes.unchanged,
        )
    }

    #[test]
    fn equal_rows_are_left_alone_whatever_their_order() {
        let old = [
            transaction(Some("a"), 1, 129),
            transaction(None, 2, 2),
            transaction(None, 2, 2),
        ];
        let new = [old[2].clone(), old[0].clone(), old[1].clone()];
        let mut changes = Changes::default();
        changes.of_set(OWNER, &stored(&old), &new);
        assert_eq!(ids(&changes), (0, vec![], vec![], 3));
    }

    #[test]
    fn transactions_are_matched_by_form_and_rebuilds_as_a_multiset() {
        let old = [
            transaction(Some("a"), 1, 129),
            transaction(Some("b"), 2, 1),
            transaction(None, 3, 2),
            transaction(None, 3, 2),
        ];
        let new = [
            transaction(Some("a"), 1, 65),
            transaction(None, 3, 2),
            transaction(Some("c"), 4, 1),
        ];
        let mut changes = Changes::default();
        changes.of_set(OWNER, &stored(&old), &new);
        // a changes its type in place, b and one of the equal rebuilds vanish, c is new.
        assert_eq!(ids(&changes), (1, vec![1], vec![2, 4], 1));
        assert_eq!(changes.insert[0].1.form_id.as_deref(), Some("c"));
    }

    /// Rows that an earlier writer doubled, because the type is part of the unique key.
    #[test]
    fn of_two_rows_for_one_form_the_equal_one_stays() {
        let old = [transaction(Some("a"), 1, 1), transaction(Some("a"), 1, 65)];
        let new = [transaction(Some("a"), 1, 65)];
        let mut changes = Changes::default();
        changes.of_set(OWNER, &stored(&old), &new);
        assert_eq!(ids(&changes), (0, vec![], vec![1], 1));
    }

    #[test]
    fn times_are_compared_as_the_database_holds_them() {
        let old = [transaction(Some("a"), 1, 1)];
        let mut finer = old[0].clone();
        finer.server_date += chrono::TimeDelta::nanoseconds(999);
        let new = [finer];
        let mut changes = Changes::default();
        changes.of_set(OWNER, &stored(&old), &new);
        assert_eq!(ids(&changes), (0, vec![], vec![], 1));
    }

    #[test]
    fn history_keeps_its_order() {
        let operation = |operation: &str, second| OperationRow {
            user_id: None,
            operation: operation.to_owned(),
            date: at(second),
        };
        let (archive, unarchive, edit) = (operation("archive", 1), operation("unarchive", 2), operation("edit", 3));
        let old = [archive.clone(), unarchive.clone()];
        for (new, expected) in [
            (vec![archive.clone(), unarchive.clone()], (0, vec![], vec![], 2)),
            (
                vec![archive.clone(), unarchive.clone(), edit.clone()],
                (1, vec![], vec![], 2),
            ),
            (vec![archive.clone()], (0, vec![], vec![2], 1)),
            (
                vec![archive.clone(), edit.clone(), unarchive.clone()],
                (2, vec![], vec![2], 1),
            ),
            (
                vec![archive.clone(), archive.clone(), unarchive.clone()],
                (2, vec![], vec![2], 1),
            ),
            (vec![], (0, vec![], vec![1, 2], 0)),
        ] {
            let mut changes = Changes::default();
            changes.of_sequence(OWNER, &stored(&old), &new);
            assert_eq!(ids(&changes), expected);
        }
    }
}
