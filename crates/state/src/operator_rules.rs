//! Ignore rules that operators have added for a domain, and the differences that those have set aside.
//!
//! A difference is never gone: it stands in `ignored_diff` with the name of its rule, and comes back with the rule's removal.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::{Postgres, Row, Transaction};

use crate::audit::audit_in;
use crate::migration::DriverLease;
use crate::outcome::lock_documents;
use crate::run::Operator;
use crate::{MigrationId, State, StateError};

/// Documents of which records are put back at once.
const AT_ONCE: i64 = 500;

/// A rule on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRecord {
    /// Its name.
    pub name: String,
    /// The rule, as JSON text.
    pub rule: String,
    /// Who added it.
    pub added_by: String,
    /// When.
    pub added_at: DateTime<Utc>,
}

/// Differences of a document that a rule has set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignored {
    /// Kind under which the document is recorded.
    pub kind: String,
    /// Document.
    pub doc_id: String,
    /// Name of the rule.
    pub rule: String,
    /// JSON text: the list of them.
    pub diffs: String,
    /// How many.
    pub count: i32,
    /// Reasons, when they are changes.
    pub reason: Option<String>,
}

/// What a rule has set aside, in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnoredCount {
    /// Name of the rule.
    pub rule: String,
    /// Kind of the documents.
    pub kind: String,
    /// Documents.
    pub documents: i64,
    /// Differences.
    pub diffs: i64,
}

impl State {
    /// The rules of a domain, by name.
    ///
    /// # Errors
    /// Database errors.
    pub async fn operator_rules(&self, id: MigrationId) -> Result<Vec<RuleRecord>, StateError> {
        let rows = sqlx::query(
            "select name, rule, added_by, added_at from operator_rule where migration_id = $1 order by name collate \"C\"",
        )
        .bind(id.0)
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(RuleRecord {
                    name: row.try_get("name")?,
                    rule: row.try_get("rule")?,
                    added_by: row.try_get("added_by")?,
                    added_at: row.try_get("added_at")?,
                })
            })
            .collect()
    }

    /// Adds rules, as (name, JSON text), and says so in the audit log. Gives the names that are taken; when there are any,
    /// nothing is added.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn add_rules(
        &self,
        held: &DriverLease,
        rules: &[(String, String)],
        operator: &Operator,
    ) -> Result<Vec<String>, StateError> {
        let (names, texts): (Vec<&str>, Vec<&str>) =
            rules.iter().map(|(name, rule)| (name.as_str(), rule.as_str())).unzip();
        let mut tx = self.driver_tx(held).await?;
        let taken: Vec<String> =
            sqlx::query_scalar("select name from operator_rule where migration_id = $1 and name = any($2) order by 1")
                .bind(held.migration_id.0)
                .bind(&names)
                .fetch_all(&mut *tx)
                .await?;
        if taken.is_empty() {
            sqlx::query(
                "insert into operator_rule (migration_id, name, rule, added_by)
                 select $1, name, rule, $4 from unnest($2::text[], $3::text[]) i(name, rule)",
            )
            .bind(held.migration_id.0)
            .bind(&names)
            .bind(&texts)
            .bind(&operator.who)
            .execute(&mut *tx)
            .await?;
            let rules: Vec<Value> = texts
                .iter()
                .map(|rule| serde_json::from_str(rule).unwrap_or(Value::Null))
                .collect();
            audit_in(
                &mut tx,
                held.migration_id,
                operator,
                "rules add",
                &json!({"rules": rules}),
            )
            .await?;
        }
        tx.commit().await?;
        Ok(taken)
    }

    /// Removes rules, says so in the audit log, and puts back what they had set aside. Gives how many records were put back. If it is interrupted,
    /// the rules are gone and the rest is put back by the next call with the same names.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn remove_rules(
        &self,
        held: &DriverLease,
        names: &[String],
        operator: &Operator,
    ) -> Result<u64, StateError> {
        let mut tx = self.driver_tx(held).await?;
        sqlx::query("delete from operator_rule where migration_id = $1 and name = any($2)")
            .bind(held.migration_id.0)
            .bind(names)
            .execute(&mut *tx)
            .await?;
        audit_in(
            &mut tx,
            held.migration_id,
            operator,
            "rules remove",
            &json!({"rules": names}),
        )
        .await?;
        tx.commit().await?;
        let mut total = 0;
        loop {
            let mut tx = self.driver_tx(held).await?;
            let back = put_back(&mut tx, held.migration_id, names).await?;
            tx.commit().await?;
            total += back;
            if back == 0 {
                return Ok(total);
            }
        }
    }

    /// What each rule has set aside.
    ///
    /// # Errors
    /// Database errors.
    pub async fn ignored_counts(&self, id: MigrationId) -> Result<Vec<IgnoredCount>, StateError> {
        let rows = sqlx::query(
            "select rule, kind, count(distinct doc_id) as documents, sum(diff_count)::bigint as diffs
             from ignored_diff where migration_id = $1 group by rule, kind order by rule collate \"C\", kind collate \"C\"",
        )
        .bind(id.0)
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(IgnoredCount {
                    rule: row.try_get("rule")?,
                    kind: row.try_get("kind")?,
                    documents: row.try_get("documents")?,
                    diffs: row.try_get("diffs")?,
                })
            })
            .collect()
    }
}

/// Puts some of what these rules had set aside back where it would stand without them. Lists are JSON texts and not empty,
/// so that two are joined at their brackets.
async fn put_back(tx: &mut Transaction<'_, Postgres>, id: MigrationId, names: &[String]) -> Result<u64, StateError> {
    let documents: Vec<(String, String)> = sqlx::query_as(
        "select distinct kind, doc_id from ignored_diff where migration_id = $1 and rule = any($2)
         order by kind, doc_id limit $3",
    )
    .bind(id.0)
    .bind(names)
    .bind(AT_ONCE)
    .fetch_all(&mut **tx)
    .await?;
    lock_documents(
        tx,
        id,
        documents.iter().map(|(kind, doc_id)| (kind.as_str(), doc_id.as_str())),
    )
    .await?;
    if documents.is_empty() {
        return Ok(0);
    }
    let (kinds, ids): (Vec<String>, Vec<String>) = documents.into_iter().unzip();
    let back = sqlx::query_scalar::<_, i64>(
        "with gone as (
             delete from ignored_diff
             where migration_id = $1 and rule = any($2)
               and (kind, doc_id) in (select * from unnest($3::text[], $4::text[]))
             returning kind, doc_id, is_change, diffs, reason),
         joined as (
             select kind, doc_id, is_change,
                    '[' || string_agg(substr(diffs, 2, length(diffs) - 2), ',') || ']' as diffs,
                    string_agg(distinct reason, ', ') as reason
             from gone group by kind, doc_id, is_change),
         diffs as (
             insert into doc_diff as d (migration_id, kind, doc_id, diffs)
             select $1, kind, doc_id, diffs from joined where not is_change
             on conflict (migration_id, kind, doc_id) do update
             set diffs = left(d.diffs, -1) || ',' || substr(excluded.diffs, 2)),
         changes as (
             insert into doc_change as d (migration_id, kind, doc_id, diffs, reason)
             select $1, kind, doc_id, diffs, reason from joined where is_change
             on conflict (migration_id, kind, doc_id) do update
             set diffs = left(d.diffs, -1) || ',' || substr(excluded.diffs, 2),
                 reason = case when position(excluded.reason in d.reason) > 0 then d.reason
                               else d.reason || ', ' || excluded.reason end)
         select count(*) from gone",
    )
    .bind(id.0)
    .bind(names)
    .bind(&kinds)
    .bind(&ids)
    .fetch_one(&mut **tx)
    .await?;
    Ok(back.unsigned_abs())
}

/// Which records of a document are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Cases,
    Forms,
}

/// Puts in the place of what was set aside of these documents what is set aside now. Only what belongs to one of the
/// documents is taken.
pub(crate) async fn replace_ignored(
    tx: &mut Transaction<'_, Postgres>,
    id: MigrationId,
    of: Of,
    documents: &[&str],
    ignored: &[Ignored],
) -> Result<(), StateError> {
    let sql = match of {
        Of::Cases => {
            "delete from ignored_diff where migration_id = $1 and doc_id = any($2) and kind like 'CommCareCase%'"
        }
        Of::Forms => {
            "delete from ignored_diff where migration_id = $1 and doc_id = any($2) and kind not like 'CommCareCase%'"
        }
    };
    sqlx::query(sql).bind(id.0).bind(documents).execute(&mut **tx).await?;
    let known: std::collections::HashSet<&str> = documents.iter().copied().collect();
    let ignored: Vec<&Ignored> = ignored
        .iter()
        .filter(|one| known.contains(one.doc_id.as_str()))
        .collect();
    add_ignored(tx, id, &ignored).await
}

/// Adds to what is set aside. The rules stay until the transaction ends: whoever removes one waits, and then puts back what
/// stands here too. One that has gone since it was read sets nothing aside any more.
///
/// # Errors
/// [`StateError::RulesChanged`]: the documents must be compared by the rules of now.
pub(crate) async fn add_ignored(
    tx: &mut Transaction<'_, Postgres>,
    id: MigrationId,
    ignored: &[&Ignored],
) -> Result<(), StateError> {
    if ignored.is_empty() {
        return Ok(());
    }
    let rules: BTreeSet<&str> = ignored.iter().map(|one| one.rule.as_str()).collect();
    let standing: Vec<String> = sqlx::query_scalar(
        "select name from operator_rule where migration_id = $1 and name = any($2) order by name for share",
    )
    .bind(id.0)
    .bind(rules.iter().copied().collect::<Vec<_>>())
    .fetch_all(&mut **tx)
    .await?;
    if standing.len() < rules.len() {
        return Err(StateError::RulesChanged);
    }
    sqlx::query(
        "insert into ignored_diff as d (migration_id, kind, doc_id, rule, is_change, diffs, diff_count, reason)
         select $1, kind, doc_id, rule, reason is not null, diffs, diff_count, coalesce(reason, '')
         from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::integer[], $7::text[])
              i(kind, doc_id, rule, diffs, diff_count, reason)
         on conflict (migration_id, kind, doc_id, rule, is_change) do update
         set diffs = left(d.diffs, -1) || ',' || substr(excluded.diffs, 2),
             diff_count = d.diff_count + excluded.diff_count",
    )
    .bind(id.0)
    .bind(ignored.iter().map(|one| one.kind.as_str()).collect::<Vec<_>>())
    .bind(ignored.iter().map(|one| one.doc_id.as_str()).collect::<Vec<_>>())
    .bind(ignored.iter().map(|one| one.rule.as_str()).collect::<Vec<_>>())
    .bind(ignored.iter().map(|one| one.diffs.as_str()).collect::<Vec<_>>())
    .bind(ignored.iter().map(|one| one.count).collect::<Vec<_>>())
    .bind(ignored.iter().map(|one| one.reason.as_deref()).collect::<Vec<_>>())
    .execute(&mut **tx)
    .await?;
    Ok(())
}
