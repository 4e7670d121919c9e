//! Merging cases with their indices, attachments, transactions and ledgers.

use std::collections::{HashMap, HashSet};

use proto::rows::{AttachmentRow, CaseBundle, CaseRow, IndexRow, LedgerTransactionRow, LedgerValueRow, TransactionRow};
use tracing::Instrument;

use crate::changes::{Changes, Matched, by_owner};
use crate::error::{Error, Result};
use crate::merge_forms::{MergeCounts, foreign};
use crate::metric::Step;
use crate::table::{Lock, Owner, Stored, TableRow, check_case, encoded};
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
        self.merge(cases, absent, Transactions::All).instrument(span).await
    }

    /// As [`FencedTx::merge_cases`], for cases that are stored, whose transactions, their own and those of their ledgers, are
    /// given for some forms only. Those of other forms are neither read nor touched; everything else is whole.
    ///
    /// # Errors
    /// The same, and [`Error::Misplaced`] for a case that is not stored.
    pub async fn grow_cases(&self, cases: &[CaseBundle]) -> Result<MergeCounts> {
        let _step = Step::start("merge");
        let span = tracing::info_span!("merge", what = "grown cases", documents = cases.len());
        self.merge(cases, &[], Transactions::OfGivenForms)
            .instrument(span)
            .await
    }

    /// Which of these cases are stored exactly so. Their rows are locked until the end of the transaction.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn stored_as(&self, cases: &[CaseRow]) -> Result<HashSet<String>> {
        let ids: Vec<&str> = cases.iter().map(|case| case.case_id.as_str()).collect();
        let stored: Vec<Stored<CaseRow>> = self.stored(&CaseRow::TABLE, &ids, Lock::ForUpdate).await?;
        let stored: HashMap<&str, &Stored<CaseRow>> = stored.iter().map(|row| (row.owner.as_str(), row)).collect();
        let is_stored = |case: &&CaseRow| {
            let wanted = Owner {
                id: &case.case_id,
                domain: &case.domain,
            };
            stored.get(case.case_id.as_str()).is_some_and(|found| {
                let owner = Owner {
                    id: &found.owner,
                    domain: &found.domain,
                };
                encoded(&found.row, owner) == encoded(*case, wanted)
            })
        };
        Ok(cases
            .iter()
            .filter(is_stored)
            .map(|case| case.case_id.clone())
            .collect())
    }

    async fn merge(&self, cases: &[CaseBundle], absent: &[String], which: Transactions) -> Result<MergeCounts> {
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
            self.stored_transactions::<TransactionRow>(&existing, cases, which),
            self.stored::<LedgerValueRow>(&LedgerValueRow::TABLE, &existing, Lock::None),
            self.stored_transactions::<LedgerTransactionRow>(&existing, cases, which),
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
        if which == Transactions::OfGivenForms
            && let Some((absent, _)) = parents.insert.first()
        {
            return Err(Error::Misplaced {
                document: absent.id.to_owned(),
                why: "it is to grow, and is not stored",
            });
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

/// Which transactions of its cases a merge is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transactions {
    /// All.
    All,
    /// Those of the forms that it is given transactions of.
    OfGivenForms,
}

impl FencedTx {
    async fn stored_transactions<T: TableRow>(
        &self,
        existing: &[&str],
        cases: &[CaseBundle],
        which: Transactions,
    ) -> Result<Vec<Stored<T>>> {
        match which {
            Transactions::All => self.stored(&T::TABLE, existing, Lock::None).await,
            Transactions::OfGivenForms => {
                let of_forms = cases.iter().flat_map(|bundle| {
                    let rows = bundle.transactions.iter();
                    rows.filter_map(|row| Some((bundle.case.case_id.as_str(), row.form_id.as_deref()?)))
                });
                self.stored_of_forms(&of_forms.collect::<Vec<_>>()).await
            }
        }
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
