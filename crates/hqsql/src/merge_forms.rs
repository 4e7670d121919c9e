//! Merging forms with their operations.

use std::collections::HashSet;
use std::ops::AddAssign;

use proto::ids::Domain;
use proto::rows::{FormBundle, FormRow, OperationRow};
use tokio_postgres::types::Type;
use tracing::Instrument;

use crate::changes::{Changes, by_owner};
use crate::error::{Error, Result};
use crate::metric::Step;
use crate::table::{Lock, Owner, Stored, TableRow, check_form};
use crate::transaction::FencedTx;

/// What a merge did, in rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MergeCounts {
    /// Forms or cases that were absent.
    pub inserted: u64,
    /// Forms or cases that differed.
    pub updated: u64,
    /// Cases that were to be absent and were there.
    pub deleted: u64,
    /// Forms or cases that were equal; their children may differ all the same.
    pub unchanged: u64,
    /// Child rows inserted.
    pub children_inserted: u64,
    /// Child rows updated.
    pub children_updated: u64,
    /// Child rows deleted.
    pub children_deleted: u64,
}

impl AddAssign for MergeCounts {
    fn add_assign(&mut self, other: Self) {
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.deleted += other.deleted;
        self.unchanged += other.unchanged;
        self.children_inserted += other.children_inserted;
        self.children_updated += other.children_updated;
        self.children_deleted += other.children_deleted;
    }
}

impl MergeCounts {
    pub(crate) fn of_parents<T>(changes: &Changes<'_, T>) -> Self {
        Self {
            inserted: changes.insert.len() as u64,
            updated: changes.update.len() as u64,
            deleted: changes.delete.len() as u64,
            unchanged: changes.unchanged,
            ..Self::default()
        }
    }

    pub(crate) fn of_children<T>(changes: &Changes<'_, T>) -> Self {
        Self {
            children_inserted: changes.insert.len() as u64,
            children_updated: changes.update.len() as u64,
            children_deleted: changes.delete.len() as u64,
            ..Self::default()
        }
    }
}

/// Ids of stored documents that another domain owns.
pub(crate) fn foreign<T>(stored: &[Stored<T>], domain: &Domain) -> Vec<String> {
    let mut ids: Vec<_> = stored
        .iter()
        .filter(|row| row.domain != domain.as_str())
        .map(|row| row.owner.clone())
        .collect();
    ids.sort_unstable();
    ids
}

impl FencedTx {
    /// Makes the rows of these forms and their operations the given ones. Forms that exist and are equal are not touched;
    /// nothing else is looked at.
    ///
    /// # Errors
    /// Nothing has been written when it is one of these: [`Error::Row`] for a value that cannot be stored,
    /// [`Error::ForeignParent`] when another domain owns one of the ids, [`Error::Misplaced`] for a form of another domain
    /// or shard. After an error of the database the transaction is only good for a rollback.
    pub async fn merge_forms(&self, forms: &[FormBundle]) -> Result<MergeCounts> {
        let _step = Step::start("merge");
        let span = tracing::info_span!("merge", what = "forms", documents = forms.len());
        self.merge_forms_inner(forms).instrument(span).await
    }

    async fn merge_forms_inner(&self, forms: &[FormBundle]) -> Result<MergeCounts> {
        self.check_place(forms.iter().map(owner))?;
        for bundle in forms {
            check_form(bundle).map_err(|source| Error::Row {
                document: bundle.form.form_id.clone(),
                source,
            })?;
        }
        let ids: Vec<&str> = forms.iter().map(|bundle| bundle.form.form_id.as_str()).collect();
        let stored: Vec<Stored<FormRow>> = self.stored(&FormRow::TABLE, &ids, Lock::None).await?;
        let foreign = foreign(&stored, self.domain());
        if !foreign.is_empty() {
            return Err(Error::ForeignParent { ids: foreign });
        }
        // A form that is absent has no operations: the foreign key says so.
        let existing: Vec<&str> = stored.iter().map(|row| row.owner.as_str()).collect();
        let mut operations = by_owner(
            self.stored::<OperationRow>(&OperationRow::TABLE, &existing, Lock::None)
                .await?,
        );
        let mut stored = by_owner(stored);

        let mut form_changes = Changes::default();
        let mut operation_changes = Changes::default();
        for bundle in forms {
            let (id, owner) = (&bundle.form.form_id, owner(bundle));
            form_changes.of_set(
                owner,
                &stored.remove(id).unwrap_or_default(),
                std::slice::from_ref(&bundle.form),
            );
            operation_changes.of_sequence(owner, &operations.remove(id).unwrap_or_default(), &bundle.operations);
        }
        // Two sessions that insert the same new forms then wait for each other in one direction only.
        form_changes.insert.sort_unstable_by_key(|(owner, _)| owner.id);

        self.delete_and_update(&operation_changes).await?;
        self.delete_and_update(&form_changes).await?;
        self.insert(&FormRow::TABLE, &form_changes.insert).await?;
        self.insert(&OperationRow::TABLE, &operation_changes.insert).await?;
        let mut counts = MergeCounts::of_parents(&form_changes);
        counts += MergeCounts::of_children(&operation_changes);
        Ok(counts)
    }

    /// Deletes those of these forms that the domain owns, with their operations; blob metadata stays. Returns how many
    /// forms there were.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn delete_forms(&self, domain: &Domain, ids: &[String]) -> Result<u64> {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let stored: Vec<Stored<FormRow>> = self.stored(&FormRow::TABLE, &ids, Lock::ForUpdate).await?;
        let own: HashSet<&str> = stored
            .iter()
            .filter(|row| row.domain == domain.as_str())
            .map(|row| row.owner.as_str())
            .collect();
        let own: Vec<&str> = own.into_iter().collect();
        if own.is_empty() {
            return Ok(0);
        }
        let failed = Error::during("delete forms");
        for table in [OperationRow::TABLE, FormRow::TABLE] {
            let delete = format!("delete from {} where {} = any ($1)", table.name, table.key());
            self.client()?
                .execute_typed(&delete, &[(&own, Type::TEXT_ARRAY)])
                .await
                .map_err(&failed)?;
        }
        Ok(own.len() as u64)
    }
}

fn owner(bundle: &FormBundle) -> Owner<'_> {
    Owner {
        id: &bundle.form.form_id,
        domain: &bundle.form.domain,
    }
}
