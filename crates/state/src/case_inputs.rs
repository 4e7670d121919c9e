//! Reading the inputs of replays.

use std::collections::{HashMap, HashSet};

use sqlx::postgres::PgRow;
use sqlx::{Postgres, Row, Transaction};

use crate::batch::{Claim, check_claim};
use crate::checkpoint::{self, DirtyRow, Growing, Standing};
use crate::patch_outcome::LEDGER_CORRECTION;
use crate::scan::with_buckets;
use crate::{State, StateError, names};

/// Durable inputs of the replays of a batch.
#[derive(Clone, Debug, Default)]
pub struct CaseInputs {
    /// Dirty rows, read before the rest.
    pub dirty: Vec<i64>,
    /// Staged effects of accepted forms: case, form, encoded `FormEffects`. Of a case with a checkpoint here only those that
    /// came after it.
    pub staged: Vec<(String, String, Vec<u8>)>,
    /// Of which writing of each form the staged effects are.
    pub staged_as: HashMap<String, i64>,
    /// The same of forms that this very case refused, to be judged again: another form may have come or gone meanwhile.
    pub refused: Vec<(String, String, Vec<u8>)>,
    /// Of the accepted forms, as (case, form), those whose row somebody has begun to remove since this very case refused
    /// them, and has not come to the verdict.
    pub removing: Vec<(String, String)>,
    /// The same of patch forms: nobody can write their rows anew, so that the case refuses them in any event.
    pub removing_patches: Vec<(String, String)>,
    /// Events: case, encoded `CaseEvent`.
    pub events: Vec<(String, Vec<u8>)>,
    /// What patch forms set in ledgers beside themselves: case, patch form, encoded `CaseEvent`.
    pub corrections: Vec<(String, String, Vec<u8>)>,
    /// Checkpoints of the cases to which nothing but new forms has come since.
    pub checkpoints: HashMap<String, Vec<u8>>,
    /// How the cases stand: to be handed on with the results.
    pub standing: Standing,
}

impl CaseInputs {
    /// How many staged effects were read.
    pub fn forms(&self) -> usize {
        self.staged.len() + self.refused.len()
    }

    fn add(&mut self, row: &PgRow) -> Result<(), StateError> {
        let case_id: String = row.try_get("case_id")?;
        if row.try_get("is_judged")? {
            self.standing.generations.remove(&case_id);
        }
        let Some(payload) = row.try_get::<Option<Vec<u8>>, _>("payload")? else {
            return Ok(());
        };
        let form_id: String = row.try_get("form_id")?;
        self.staged_as.insert(form_id.clone(), row.try_get("begun")?);
        if row.try_get("removing")? {
            let list = if row.try_get("is_patch")? {
                &mut self.removing_patches
            } else {
                &mut self.removing
            };
            list.push((case_id.clone(), form_id.clone()));
        }
        let list = if row.try_get("refused")? {
            &mut self.refused
        } else {
            &mut self.staged
        };
        list.push((case_id, form_id, payload));
        Ok(())
    }
}

/// Staged effects with what is on record of their forms. The payload of a form that another case has refused is left out.
macro_rules! staged {
    ($of:literal) => {
        concat!(
            "select s.case_id, s.form_id, s.begun, v.form_id is not null as is_judged,
                    case when v.form_id is null or v.removing or v.case_id = s.case_id then s.payload end as payload,
                    v.form_id is not null and not v.removing as refused,
                    v.form_id is not null and v.removing and v.case_id = s.case_id as removing, p.form_id is not null as is_patch
             from ",
            $of,
            " left join form_verdict v on v.migration_id = $1 and v.form_id = s.form_id
             left join patch_form p on p.migration_id = $1 and p.form_id = v.form_id"
        )
    };
}

impl State {
    /// The ids of the dirty rows of these cases, then the inputs of their replays. Of a case with a checkpoint that holds, and
    /// to which nothing but new forms has come since, these are the checkpoint and the new forms.
    ///
    /// # Errors
    /// [`StateError::LostClaim`], [`StateError::EpochOver`].
    pub async fn case_inputs(&self, claim: &Claim, case_ids: &[String]) -> Result<CaseInputs, StateError> {
        // What did not work the first time is done the long way.
        let may_go_on = claim.attempt <= 1;
        self.read_inputs(claim, case_ids, may_go_on).await
    }

    /// As [`State::case_inputs`], with all inputs of every case.
    ///
    /// # Errors
    /// [`StateError::LostClaim`], [`StateError::EpochOver`].
    pub async fn all_case_inputs(&self, claim: &Claim, case_ids: &[String]) -> Result<CaseInputs, StateError> {
        self.read_inputs(claim, case_ids, false).await
    }

    async fn read_inputs(&self, claim: &Claim, case_ids: &[String], may_go_on: bool) -> Result<CaseInputs, StateError> {
        // Read committed: each statement sees what is committed when it starts, so what the first one saw as dirty is
        // among what the later ones read, as an input or in a checkpoint.
        let mut tx = self.pool.begin().await?;
        check_claim(&mut tx, claim).await?;
        let dirty = dirty_rows(&mut tx, claim, case_ids).await?;
        let (standing, checkpoints) = checkpoint::standing(&mut tx, claim, case_ids).await?;
        let mut inputs = CaseInputs {
            dirty: dirty.iter().map(|row| row.id).collect(),
            standing,
            ..CaseInputs::default()
        };
        read_events(&mut tx, claim, case_ids, &mut inputs).await?;
        if may_go_on {
            let mut growing = checkpoint::growing(checkpoints, &dirty);
            growing.retain(|case_id, _| inputs.standing.may_keep(case_id));
            read_new(&mut tx, claim, growing, &mut inputs).await?;
        }
        let whole: Vec<String> = case_ids
            .iter()
            .filter(|case_id| !inputs.checkpoints.contains_key(*case_id))
            .cloned()
            .collect();
        if !whole.is_empty() {
            let (buckets, ids) = with_buckets(&whole);
            let rows = sqlx::query(staged!(
                "unnest($2::smallint[], $3::text[]) i(bucket, case_id)
                 join staged_update s on s.migration_id = $1 and s.bucket = i.bucket and s.case_id = i.case_id"
            ))
            .bind(claim.migration_id.0)
            .bind(&buckets)
            .bind(&ids)
            .fetch_all(&mut *tx)
            .await?;
            metrics::counter!(names::REPLAY_INPUTS, "from" => "start").increment(rows.len() as u64);
            inputs.staged.reserve(rows.len());
            rows.iter().try_for_each(|row| inputs.add(row))?;
        }
        tx.commit().await?;
        Ok(inputs)
    }
}

async fn dirty_rows(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    case_ids: &[String],
) -> Result<Vec<DirtyRow>, StateError> {
    let (buckets, ids) = with_buckets(case_ids);
    let rows: Vec<(i64, String, Option<String>)> = sqlx::query_as(
        "select d.id, d.case_id, d.form_id from unnest($2::smallint[], $3::text[]) i(bucket, case_id)
         join dirty_case d on d.migration_id = $1 and d.bucket = i.bucket and d.case_id = i.case_id",
    )
    .bind(claim.migration_id.0)
    .bind(&buckets)
    .bind(&ids)
    .fetch_all(&mut **tx)
    .await?;
    let dirty = rows
        .into_iter()
        .map(|(id, case_id, form_id)| DirtyRow { id, case_id, form_id });
    Ok(dirty.collect())
}

/// Reads events. A case that has one neither has nor gets a checkpoint.
async fn read_events(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    case_ids: &[String],
    inputs: &mut CaseInputs,
) -> Result<(), StateError> {
    let (buckets, ids) = with_buckets(case_ids);
    let rows: Vec<(String, String, Vec<u8>)> = sqlx::query_as(
        "select e.case_id, e.kind, e.payload from unnest($2::smallint[], $3::text[]) i(bucket, case_id)
         join case_event e on e.migration_id = $1 and e.bucket = i.bucket and e.case_id = i.case_id
         order by e.case_id, e.kind",
    )
    .bind(claim.migration_id.0)
    .bind(&buckets)
    .bind(&ids)
    .fetch_all(&mut **tx)
    .await?;
    for (case_id, kind, payload) in rows {
        inputs.standing.generations.remove(&case_id);
        match kind.strip_prefix(LEDGER_CORRECTION) {
            Some(form_id) => inputs.corrections.push((case_id, form_id.to_owned(), payload)),
            None => inputs.events.push((case_id, payload)),
        }
    }
    Ok(())
}

/// Reads what is new to cases that can go on from their checkpoints. A case of which a new form has been taken back or judged
/// meanwhile cannot.
async fn read_new(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    mut growing: HashMap<String, Growing>,
    inputs: &mut CaseInputs,
) -> Result<(), StateError> {
    let new: Vec<(&str, &str)> = growing
        .iter()
        .flat_map(|(case_id, case)| case.forms.iter().map(|form_id| (case_id.as_str(), form_id.as_str())))
        .collect();
    if new.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query(staged!(
        "unnest($2::smallint[], $3::text[], $4::text[]) i(bucket, case_id, form_id)
         join staged_update s on s.migration_id = $1 and s.bucket = i.bucket and s.case_id = i.case_id
                             and s.form_id = i.form_id"
    ))
    .bind(claim.migration_id.0)
    .bind(
        new.iter()
            .map(|(case_id, _)| proto::bucket::of(case_id))
            .collect::<Vec<_>>(),
    )
    .bind(new.iter().map(|(case_id, _)| *case_id).collect::<Vec<_>>())
    .bind(new.iter().map(|(_, form_id)| *form_id).collect::<Vec<_>>())
    .fetch_all(&mut **tx)
    .await?;
    metrics::counter!(names::REPLAY_INPUTS, "from" => "checkpoint").increment(rows.len() as u64);
    let mut found: HashMap<String, usize> = HashMap::new();
    let mut judged: HashSet<String> = HashSet::new();
    for row in &rows {
        let case_id: String = row.try_get("case_id")?;
        if row.try_get("is_judged")? {
            judged.insert(case_id.clone());
        }
        *found.entry(case_id).or_default() += 1;
    }
    growing.retain(|case_id, case| found.get(case_id) == Some(&case.forms.len()) && !judged.contains(case_id));
    for row in &rows {
        if growing.contains_key(row.try_get::<&str, _>("case_id")?) {
            inputs.add(row)?;
        }
    }
    inputs.checkpoints = growing
        .into_iter()
        .map(|(case_id, case)| (case_id, case.checkpoint))
        .collect();
    Ok(())
}
