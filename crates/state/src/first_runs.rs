//! What first runs took, for estimates of others.

use sqlx::Row;

use crate::{State, StateError};

/// Runs that are looked at: the newest, since machines and programs change.
const NEWEST: i64 = 500;

/// What a first run took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FirstRun {
    /// Forms that it scanned.
    pub forms: i64,
    /// Seconds from its first scan to its end, without the wait for HQ's caches.
    pub seconds: f64,
}

impl State {
    /// Puts on record what a first run took.
    ///
    /// # Errors
    /// Database errors.
    pub async fn record_first_run(&self, run_id: i64, forms: i64, seconds: f64) -> Result<(), StateError> {
        sqlx::query(
            "insert into run_rate (run_id, forms, seconds) values ($1, $2, $3)
             on conflict (run_id) do update set forms = excluded.forms, seconds = excluded.seconds",
        )
        .bind(run_id)
        .bind(forms)
        .bind(seconds)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// What past first runs took, newest first.
    ///
    /// # Errors
    /// Database errors.
    pub async fn first_runs(&self) -> Result<Vec<FirstRun>, StateError> {
        let rows = sqlx::query("select forms, seconds from run_rate order by run_id desc limit $1")
            .bind(NEWEST)
            .fetch_all(&self.pool)
            .await?;
        rows.iter()
            .map(|row| {
                Ok(FirstRun {
                    forms: row.try_get("forms")?,
                    seconds: row.try_get("seconds")?,
                })
            })
            .collect()
    }
}
