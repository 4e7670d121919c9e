//! The audit log: who has done what to a domain, and when.

use proto::ids::Domain;
use serde_json::Value;
use sqlx::{Postgres, Transaction};

use crate::run::Operator;
use crate::{MigrationId, State, StateError};

impl State {
    /// Writes to the audit log.
    ///
    /// # Errors
    /// Database errors.
    pub async fn audit(
        &self,
        domain: &Domain,
        operator: &Operator,
        action: &str,
        detail: &Value,
    ) -> Result<(), StateError> {
        sqlx::query("insert into audit_log (domain, who, host, action, detail) values ($1, $2, $3, $4, $5::jsonb)")
            .bind(domain.as_str())
            .bind(&operator.who)
            .bind(&operator.host)
            .bind(action)
            .bind(detail.to_string())
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

/// Writes to the audit log of a migration's domain, in the transaction of what is told there.
pub(crate) async fn audit_in(
    tx: &mut Transaction<'_, Postgres>,
    id: MigrationId,
    operator: &Operator,
    action: &str,
    detail: &Value,
) -> Result<(), StateError> {
    sqlx::query(
        "insert into audit_log (domain, who, host, action, detail)
         select domain, $2, $3, $4, $5::jsonb from migration where id = $1",
    )
    .bind(id.0)
    .bind(&operator.who)
    .bind(&operator.host)
    .bind(action)
    .bind(detail.to_string())
    .execute(&mut **tx)
    .await?;
    Ok(())
}
