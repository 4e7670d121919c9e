//! Makes the schema, and refuses one that this program does not know.

use sqlx::migrate::Migrator;
use sqlx::postgres::PgPool;

use crate::StateError;

static MIGRATOR: Migrator = sqlx::migrate!();

/// Key of the lock under which the schema is created; any number that no other program uses.
const CREATION_LOCK: i64 = 0x6332_735f_696e_6974;

/// Creates or upgrades the schema. Two at once wait for each other: here, since `if not exists` alone lets both try, and
/// then in sqlx, which holds a lock of its own while it upgrades.
pub(crate) async fn init(pool: &PgPool) -> Result<(), StateError> {
    let mut tx = pool.begin().await?;
    sqlx::query("select pg_advisory_xact_lock($1)")
        .bind(CREATION_LOCK)
        .execute(&mut *tx)
        .await?;
    sqlx::query("create schema if not exists couch_sql_migration")
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
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
    let found: Option<i64> = sqlx::query_scalar("select max(version) from _sqlx_migrations where success")
        .fetch_one(pool)
        .await?;
    let found = found.unwrap_or(0);
    let known = MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or(0);
    if found < known {
        return Err(StateError::OldSchema { found, needed: known });
    }
    let minimum: i64 = sqlx::query_scalar("select max(minimum_version) from schema_compatibility")
        .fetch_one(pool)
        .await?;
    if minimum > known {
        return Err(StateError::NewSchema { found, minimum });
    }
    Ok(())
}
