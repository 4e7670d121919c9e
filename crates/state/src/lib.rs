//! The state schema, `couch_sql_migration`: every fact about the progress of every migration.
//!
//! PostgreSQL is the truth and the broker only carries hints, so each function here is one transaction that moves a
//! migration from one consistent state to the next, or changes nothing.
//!
//! * [`schema`]: makes and checks the schema.
//! * [`migration`]: the row of a domain, its lease and its epoch.
//! * [`run`]: commands on record, and the audit log; [`lists`]: lists of domains, and fair shares.
//! * [`batch`]: batch rows: claims, renewals, releases, splits; `dispatch`: what the driver asks of them.
//! * [`scan`]: cursors that move with the batches that a scan found, and cutting batches out of pending cases.
//! * [`form_stage`], [`case_stage`], [`diff_stage`]: what each worker reads and the one transaction it ends with;
//!   `removal`: what a case worker puts on record before it removes the row of a form; `burial`: documents that a form
//!   worker finds gone; [`unusable`]: documents that no stage can take; `checkpoint`: what replays of large cases go on from.
//! * [`look`]: the look for documents that only one side has. [`patch`]: patch forms, and records that cannot be patched.
//! * [`follow`]: what a followed domain takes of the changes of its source; module `feed`: the feed as its one reader sees it;
//!   [`place`]: a place in it.
//! * [`rewind`]: sending a scan back, and checking what is on record; `first_runs`: what first runs took.
//! * [`stats`]: what the operator is shown; [`records`]: recorded differences as they are selected;
//!   [`report`]: what a report tells beside that. [`pace`]: how fast the work goes.
//! * [`form_diffs`]: forms that are compared again. [`operator_rules`]: ignore rules of one domain, and what they set aside.
//! * [`commit`], [`reset`]: the two ends of a migration. [`changed`]: what a commit asks about the source. [`snapshot`]: what it is
//!   taken back by.
//!
//! # Order of locks
//! Transactions that meet on the same rows wait for each other, and none waits in a circle, since all of them lock in this
//! order; within a table in the order of the key, in one pass:
//!
//! 1. `migration`: a worker's transaction `for key share`, a driver's `for share`; a reset `for update`.
//! 2. `batch`: the worker's own. Others are inserted at any time. Whoever changes rows of others changes such as nobody
//!    holds, in a transaction that locks nothing after them but `doc_error`.
//! 3. `scan_cursor`: the driver's alone. `change_feed`: its reader's alone. `changed_doc`, by migration and document: the
//!    feed's reader, and drivers, who take changes and settle them.
//! 4. `doc_revision`, by document (`revisions`): whoever decides about forms or copied cases. It guards what is staged of
//!    the document, its verdict, its `patch_form` and `lost_form`, its blob changes, and all that is recorded of a form.
//! 5. `case_state`, by bucket and case (`scan::lock_case_states`): whoever decides about cases. It guards the dirty rows that
//!    were read, checkpoints, events and orders, refusals of patches, and all that is recorded of a case.
//! 6. `patch_form`, by form, where somebody puts forms on record or takes them off.
//! 7. `operator_rule`, by name: last, together with what a rule sets aside.
//!
//! Rows that one of these guards are locked after it in any order. `dirty_case` is insert-only but for the rows that were
//! read, and is never waited for.

mod again;
mod audit;
pub mod batch;
pub mod blob_change;
mod burial;
mod case_inputs;
pub mod case_order;
pub mod case_stage;
pub mod changed;
mod checkpoint;
pub mod commit;
mod deleted_case;
mod diff_request;
pub mod diff_stage;
mod dispatch;
pub mod error;
mod feed;
pub mod first_runs;
pub mod follow;
pub mod forced;
pub mod form_diffs;
pub mod form_stage;
pub mod lists;
mod live;
pub mod look;
pub mod lost_forms;
pub mod migration;
pub mod names;
pub mod only_in_sql;
pub mod operator_rules;
mod outcome;
mod overtaken;
pub mod pace;
pub mod patch;
mod patch_outcome;
pub mod place;
pub mod records;
mod removal;
pub mod report;
pub mod reset;
mod revisions;
pub mod rewind;
mod rewound;
pub mod run;
pub mod scan;
pub mod schema;
pub mod snapshot;
pub mod stats;
pub mod unusable;

use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};

pub use error::{Kind, StateError};
pub use migration::{Migration, MigrationId, Phase, Status};

/// The PostgreSQL schema that holds everything.
pub const SCHEMA: &str = "couch_sql_migration";

/// Where the state is.
#[derive(Clone, Debug)]
pub struct StateConfig {
    /// `postgres://user@host/database?sslmode=…`.
    pub url: String,
    /// Password, when it is not in the URL.
    pub password: Option<SecretString>,
    /// Certificate authority for `sslmode=verify-*`.
    pub ca_file: Option<std::path::PathBuf>,
    /// Connections at most.
    pub max_connections: u32,
}

/// The state schema.
#[derive(Clone, Debug)]
pub struct State {
    pool: PgPool,
}

impl State {
    /// Connects and checks that the schema is one that this program knows.
    ///
    /// # Errors
    /// [`StateError::Unreachable`], or a schema that is absent, older or too new.
    pub async fn connect(config: &StateConfig) -> Result<Self, StateError> {
        let state = Self::connect_unchecked(config).await?;
        schema::check(&state.pool).await?;
        Ok(state)
    }

    /// Connects without looking at the schema: for `coordinator init`.
    ///
    /// # Errors
    /// [`StateError::Unreachable`] or [`StateError::BadUrl`].
    pub async fn connect_unchecked(config: &StateConfig) -> Result<Self, StateError> {
        // sqlx reads any scheme, and would look for the host of another kind of database.
        if !["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| config.url.starts_with(scheme))
        {
            return Err(StateError::BadUrl);
        }
        let mut options = PgConnectOptions::from_str(&config.url).map_err(|_| StateError::BadUrl)?;
        if let Some(password) = &config.password {
            options = options.password(password.expose_secret());
        }
        if let Some(ca_file) = &config.ca_file {
            options = options.ssl_root_cert(ca_file);
        }
        let options = options
            .application_name("couch-sql")
            .options([("search_path", SCHEMA), ("idle_in_transaction_session_timeout", "60s")]);
        // One connection by hand first: a pool only says that it timed out, and takes its time to say so.
        let first = PgConnection::connect_with(&options)
            .await
            .map_err(StateError::Unreachable)?;
        drop(first.close().await);
        let pool = PgPoolOptions::new()
            .max_connections(config.max_connections)
            .acquire_timeout(Duration::from_secs(20))
            .connect_with(options)
            .await
            .map_err(StateError::Unreachable)?;
        Ok(Self { pool })
    }

    /// Creates or upgrades the schema.
    ///
    /// # Errors
    /// Whatever the database says.
    pub async fn init(&self) -> Result<(), StateError> {
        schema::init(&self.pool).await
    }

    /// Answers when the database does.
    ///
    /// # Errors
    /// Whatever the database says.
    pub async fn ping(&self) -> Result<(), StateError> {
        sqlx::query("select 1").execute(&self.pool).await?;
        Ok(())
    }
}
