//! Pages of ids within a range, so that several readers can go through a domain side by side.

use proto::ids::Domain;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::error::{Error, Result};
use crate::routing::ShardId;
use crate::target::Target;

/// A form as far as it must be known to say whether Couch should have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormPlace {
    /// Form.
    pub form_id: String,
    /// Its `state`.
    pub state: i16,
}

impl Target {
    /// A page of the domain's forms on one shard, in the order of the database, after an id and up to another (included).
    /// A page with fewer rows than the limit is the last.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn forms_between(
        &self,
        shard: ShardId,
        domain: &Domain,
        after: Option<&str>,
        until: Option<&str>,
        limit: usize,
    ) -> Result<Vec<FormPlace>> {
        let select = "select form_id, state from form_processor_xforminstancesql \
                      where domain = $1 and form_id > $2 and ($3 = '' or form_id <= $3) order by form_id limit $4";
        self.page_between(select, shard, domain, (after, until), limit, |row| {
            Ok(FormPlace {
                form_id: row.try_get(0)?,
                state: row.try_get(1)?,
            })
        })
        .await
    }

    /// A page of the domain's case ids on one shard, as [`Target::forms_between`].
    ///
    /// # Errors
    /// Those of the database.
    pub async fn case_ids_between(
        &self,
        shard: ShardId,
        domain: &Domain,
        after: Option<&str>,
        until: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>> {
        let select = "select case_id from form_processor_commcarecasesql \
                      where domain = $1 and case_id > $2 and ($3 = '' or case_id <= $3) order by case_id limit $4";
        self.page_between(select, shard, domain, (after, until), limit, |row| row.try_get(0))
            .await
    }

    async fn page_between<T>(
        &self,
        select: &str,
        shard: ShardId,
        domain: &Domain,
        (after, until): (Option<&str>, Option<&str>),
        limit: usize,
        read: impl Fn(&Row) -> Result<T, tokio_postgres::Error>,
    ) -> Result<Vec<T>> {
        let failed = Error::during("page through a range");
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        // No id is empty: an empty text is an open end.
        let (after, until) = (after.unwrap_or(""), until.unwrap_or(""));
        let client = self.database(shard)?.client().await?;
        let rows = client
            .query_typed(
                select,
                &[
                    (&domain.as_str(), Type::TEXT),
                    (&after, Type::TEXT),
                    (&until, Type::TEXT),
                    (&limit, Type::INT8),
                ],
            )
            .await
            .map_err(&failed)?;
        rows.iter().map(read).collect::<Result<_, _>>().map_err(&failed)
    }
}
