//! Merging cases with their indices, attachments, transactions and ledgers.

use std::collections::HashMap;

use proto::rows::{AttachmentRow, CaseBundle, CaseRow, IndexRow, LedgerTransactionRow, LedgerValueRow, TransactionRow};
use tracing::Instrument;

use crate::changes::{Changes, Matched, by_owner};
use crate::error::{Error, Result};
use crate::merge_forms::{MergeCounts, foreign};
use crate::metric::Step;
use crate::table::{Lock, Owner, Stored, TableRow, check_case};
use crate::transaction::FencedTx;

impl FencedTx {
    /// Makes the rows of these cases and their children the given ones, and deletes the cases in `absent`. Equal rows are
    /// not touched. Existing cases are locked until the end of the transaction.
    ///
    /// Ids in `absent` that another domain owns, or nobody, are left alone.
    ///
    /// # Errors
    /// Nothing has been written when it is one of these: [`Error::Row`] for a value that cannot be stored,
    /// [`Error::ForeignParent`] when another domain owns one of the cases, [`Error::Misplaced`] for a case of another
    /// domain or shard, [`Error::Unreadable`] for a stored index that no version of HQ writes. After an error of the
    /// database the transaction is only good for a rollback.
    pub async fn merge_cases(&self, cases: &[CaseBundle], absent: &[String]) -> Result<MergeCounts> {
        let _step = Step::start("merge");
        let span = tracing::info_span!("merge", what = "cases", documents = cases.len() + absent.len());
        self.merge_cases_inner(cases, absent).instrument(span).await
    }

    async fn merge_cases_inner(&self, cases: &[CaseBundle], absent: &[String]) -> Result<MergeCounts> {
        let gone = absent.iter().map(|id| Owner {
            id,
            domain: self.domain().as_str(),
        });
        self.check_place(cases.iter().map(owner).chain(gone))?;
        for bundle in cases {
            check_case(bundle).map_err(|source| Error::Row {
                document: bundle.case.case_id.clone(),
                source,
            })?;
        }
        let ids: Vec<&str> = cases
            .iter()
            .map(|bundle| bundle.case.case_id.as_str())
            .chain(absent.iter().map(String::as_str))
            .collect();
        let stored: Vec<Stored<CaseRow>> = self.stored(&CaseRow::TABLE, &ids, Lock::ForUpdate).await?;
        let (absent_stored, stored): (Vec<_>, Vec<_>) = {
            let absent: std::collections::HashSet<&str> = absent.iter().map(String::as_str).collect();
            stored.into_iter().partition(|row| absent.contains(row.owner.as_str()))
        };
        let foreign = foreign(&stored, self.domain());
        if !foreign.is_empty() {
            return Err(Error::ForeignParent { ids: foreign });
        }
        let absent_stored: Vec<_> = absent_stored
            .into_iter()
            .filter(|row| row.domain == self.domain().as_str())
            .collect();

        // Only of cases that exist and are the domain's: others have no children, or none of ours.
        let existing: Vec<&str> = stored
            .iter()
            .chain(&absent_stored)
            .map(|row| row.owner.as_str())
            .collect();
        let (indices, attachments, transactions, values, ledger_transactions) = tokio::try_join!(
            self.stored::<IndexRow>(&IndexRow::TABLE, &existing, Lock::None),
            self.stored::<AttachmentRow>(&AttachmentRow::TABLE, &existing, Lock::None),
            self.stored::<TransactionRow>(&TransactionRow::TABLE, &existing, Lock::None),
            self.stored::<LedgerValueRow>(&LedgerValueRow::TABLE, &existing, Lock::None),
            self.stored::<LedgerTransactionRow>(&LedgerTransactionRow::TABLE, &existing, Lock::None),
        )?;
        let indices = children(cases, |case| &case.indices, indices);
        let attachments = children(cases, |case| &case.attachments, attachments);
        let transactions = children(cases, |case| &case.transactions, transactions);
        let values = children(cases, |case| &case.ledger_values, values);
        let ledger_transactions = children(cases, |case| &case.ledger_transactions, ledger_transactions);

        let mut parents = Changes::default();
        let mut by_case = by_owner(stored);
        for bundle in cases {
            let stored = by_case.remove(&bundle.case.case_id).unwrap_or_default();
            parents.of_set(owner(bundle), &stored, std::slice::from_ref(&bundle.case));
        }
        parents.delete.extend(absent_stored.iter().map(|row| row.id));
        parents.insert.sort_unstable_by_key(|(owner, _)| owner.id);

        self.delete_and_update(&indices).await?;
        self.delete_and_update(&attachments).await?;
        self.delete_and_update(&transactions).await?;
        self.delete_and_update(&values).await?;
        self.delete_and_update(&ledger_transactions).await?;
        self.delete_and_update(&parents).await?;
        self.insert(&CaseRow::TABLE, &parents.insert).await?;
        self.insert(&IndexRow::TABLE, &indices.insert).await?;
        self.insert(&AttachmentRow::TABLE, &attachments.insert).await?;
        self.insert(&TransactionRow::TABLE, &transactions.insert).await?;
        self.insert(&LedgerValueRow::TABLE, &values.insert).await?;
        self.insert(&LedgerTransactionRow::TABLE, &ledger_transactions.insert)
            .await?;

        let mut counts = MergeCounts::of_parents(&parents);
        counts += MergeCounts::of_children(&indices);
        counts += MergeCounts::of_children(&attachments);
        counts += MergeCounts::of_children(&transactions);
        counts += MergeCounts::of_children(&values);
        counts += MergeCounts::of_children(&ledger_transactions);
        Ok(counts)
    }
}

/// Changes of one child table. What is stored under no case of the batch belongs to a case that goes away.
fn children<'a, T: Matched>(
    cases: &'a [CaseBundle],
    wanted: fn(&CaseBundle) -> &Vec<T>,
    stored: Vec<Stored<T>>,
) -> Changes<'a, T> {
    let mut groups: HashMap<String, Vec<Stored<T>>> = by_owner(stored);
    let mut changes = Changes::default();
    for bundle in cases {
        changes.of_set(
            owner(bundle),
            &groups.remove(&bundle.case.case_id).unwrap_or_default(),
            wanted(bundle),
        );
    }
    changes.delete.extend(groups.into_values().flatten().map(|row| row.id));
    changes
}

fn owner(bundle: &CaseBundle) -> Owner<'_> {
    Owner {
        id: &bundle.case.case_id,
        domain: &bundle.case.domain,
    }
}
