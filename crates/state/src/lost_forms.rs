//! Forms that Couch has lost, and that are made of their XML.
//!
//! A driver puts such a form on record; from then on a form worker that does not find its document makes one of the XML. If
//! the document comes back, it counts: every revision of Couch's is newer than [`LOST_REV`]. If it goes once more after that,
//! the form is buried as any other, and what is on record here goes with it.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{Postgres, Transaction};

use crate::batch::Claim;
use crate::migration::DriverLease;
use crate::{MigrationId, State, StateError};

/// The revision under which a form without a document is on record: older than any of Couch's.
pub const LOST_REV: &str = "0-xml";

/// A form that Couch has lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostForm {
    /// Form.
    pub form_id: String,
    /// When it was received, by the case that has applied it; none: when its blob was made.
    pub received_on: Option<DateTime<Utc>>,
}

impl State {
    /// Puts lost forms on record. The first date that anyone gave for a form stands.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn record_lost_forms(&self, held: &DriverLease, forms: &[LostForm]) -> Result<(), StateError> {
        if forms.is_empty() {
            return Ok(());
        }
        let mut tx = self.driver_tx(held).await?;
        sqlx::query(
            "insert into lost_form as l (migration_id, form_id, received_on)
             select $1, form_id, received_on from unnest($2::text[], $3::timestamptz[]) i(form_id, received_on)
             on conflict (migration_id, form_id) do update set received_on = coalesce(l.received_on, excluded.received_on)",
        )
        .bind(held.migration_id.0)
        .bind(forms.iter().map(|form| form.form_id.as_str()).collect::<Vec<_>>())
        .bind(forms.iter().map(|form| form.received_on).collect::<Vec<_>>())
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }

    /// The forms of a batch that are to be made of their XML when Couch has no document of them, with the dates of their
    /// receipt. One that Couch has had since it was put on record is not among them.
    ///
    /// # Errors
    /// Database errors.
    pub async fn lost_forms(&self, claim: &Claim) -> Result<HashMap<String, Option<DateTime<Utc>>>, StateError> {
        let rows: Vec<(String, Option<DateTime<Utc>>)> = sqlx::query_as(
            "select l.form_id, l.received_on from lost_form l
             left join doc_revision d on d.migration_id = $1 and d.doc_id = l.form_id
             where l.migration_id = $1 and l.form_id = any($2) and (d.doc_id is null or d.deleted or d.rev = $3)",
        )
        .bind(claim.migration_id.0)
        .bind(&claim.ids)
        .bind(LOST_REV)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().collect())
    }

    /// Which of these forms were made of their XML.
    ///
    /// # Errors
    /// Database errors.
    pub async fn lost_forms_among(&self, id: MigrationId, form_ids: &[String]) -> Result<Vec<String>, StateError> {
        if form_ids.is_empty() {
            return Ok(Vec::new());
        }
        Ok(sqlx::query_scalar(
            "select doc_id from doc_revision
             where migration_id = $1 and doc_id = any($2) and rev = $3 and not deleted order by 1",
        )
        .bind(id.0)
        .bind(form_ids)
        .bind(LOST_REV)
        .fetch_all(&self.pool)
        .await?)
    }
}

/// Forms that are buried are to be made of their XML no more, unless a driver says so anew.
pub(crate) async fn forget(
    tx: &mut Transaction<'_, Postgres>,
    id: MigrationId,
    buried: &[String],
) -> Result<(), StateError> {
    if buried.is_empty() {
        return Ok(());
    }
    sqlx::query("delete from lost_form where migration_id = $1 and form_id = any($2)")
        .bind(id.0)
        .bind(buried)
        .execute(&mut **tx)
        .await?;
    Ok(())
}
