//! `couch_sql_diff DOMAIN forms`: compares migrated forms again, by both of their sides as they are stored.

use std::sync::Arc;

use proto::ids::Domain;
use tokio_util::sync::CancellationToken;

use super::cases::{may_compare, run};
use crate::commands::{ids_of, migration_of};
use crate::context::Context;
use crate::driver::{Compared, Pace};
use crate::failure::{Exit, Failure, Result};

/// The forms of `--select`: `with-diffs`, ids, or a path (`/…` or `./…`) to a file with one id a line.
///
/// # Errors
/// `C2S-0123` when there is none, `C2S-0107` when the file cannot be read.
pub fn selected(text: Option<&str>) -> Result<Compared> {
    match text {
        None => Err(Failure::new(
            "C2S-0123",
            "`forms` compares the forms of --select, and there is none",
            "--select=with-diffs, --select=id1,id2, or --select=./file-of-ids",
        )),
        Some("with-diffs") => Ok(Compared::FormsWithDiffs),
        Some(ids) => Ok(Compared::Forms(ids_of(ids)?)),
    }
}

/// Compares forms again. The exit status says whether differences are on record afterwards. If it is interrupted, what is
/// left is compared by the next command that compares.
///
/// # Errors
/// The refusal, or what went wrong.
pub async fn forms(
    context: &Arc<Context>,
    domain: &Domain,
    what: &Compared,
    pace: Pace,
    stop: CancellationToken,
) -> Result<Exit> {
    may_compare(context, domain).await?;
    if let Compared::Forms(ids) = what {
        let migration = migration_of(context, domain).await?;
        let unknown = context.state.unknown_forms(migration.id, ids).await?;
        if unknown > 0 {
            eprintln!(
                "nothing is on record of {unknown} of the {} forms that were named",
                ids.len()
            );
        }
    }
    run(context, domain, what, pace, stop).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn selections() {
        assert_eq!(selected(None).unwrap_err().code, "C2S-0123");
        assert_eq!(selected(Some("with-diffs")).unwrap(), Compared::FormsWithDiffs);
        assert_eq!(selected(Some("a")).unwrap(), Compared::Forms(vec!["a".to_owned()]));
        assert_eq!(selected(Some("./no-such-file")).unwrap_err().code, "C2S-0107");
    }
}
