//! Makes the schema, and refuses one that this program does not know.

use sqlx::migrate::Migrator;
use sqlx::postgres::PgPool;

use crate::StateError;

static MIGRATOR: Migrator = sqlx::migrate!();

/// Creates or upgrades the schema. Two at once wait for each other (sqlx holds an advisory lock).
pub(crate) async fn init(pool: &PgPool) -> Result<(), StateError> {
    sqlx::query("create schema if not exists couch_sql_migration").execute(pool).await?;
    MIGRATOR.run(pool).await.map_err(StateError::Upgrade)
}

/// Refuses a schema that is absent, older than this program, or so new that it asks for a newer program.
pub(crate) async fn check(pool: &PgPool) -> Result<(), StateError> {
    let present: bool = sqlx::query_scalar("select to_regclass('couch_sql_migration._sqlx_migrations') is not null")
        .fetch_one(pool)
        .await?;
    if !present {
        return Err(StateError::NoSchema);
    }
    let found: Option<i64> =
        sqlx::query_scalar("select max(version) from _sqlx_migrations where success").fetch_one(pool).await?;
    let found = found.unwrap_or(0);
    let known = MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or(0);
    if found < known {
        return Err(StateError::OldSchema { found, needed: known });
    }
    let minimum: i64 = sqlx::query_scalar("select max(minimum_version) from schema_compatibility").fetch_one(pool).await?;
    if minimum > known {
        return Err(StateError::NewSchema { found, minimum });
    }
    Ok(())
}
