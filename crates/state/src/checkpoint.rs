//! Checkpoints of replays, where they are kept.
//!
//! A checkpoint stands for all inputs of its case but those of the case's dirty rows: it is written in the transaction that
//! deletes the dirty rows whose inputs went into it. So long as every dirty row names a form that was staged for the first
//! time, the inputs are those of the checkpoint and the named ones. Everything else that changes an input leaves a dirty row
//! that names none (a form staged anew or taken back, an event, a verdict), and the case is replayed from all of its inputs.
//!
//! It holds at one generation only. If somebody else has replayed the case since the inputs were read, perhaps with inputs
//! whose dirty rows are gone by now, the generation is not the next one, and nothing is kept. No checkpoint is kept for a
//! case of which a form is refused, or about to be, or that has an event: what becomes of these is not told by dirty rows
//! alone.

use std::collections::{BTreeSet, HashMap, HashSet};

use sqlx::{Postgres, Row, Transaction};

use crate::StateError;
use crate::batch::Claim;
use crate::scan::with_buckets;

/// How cases stand before their replay.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Generations of the cases that may get a checkpoint by this replay.
    pub(crate) generations: HashMap<String, i64>,
    /// Cases of which one is on record, whether it holds or not.
    pub(crate) on_record: HashSet<String>,
}

impl Standing {
    /// Takes in how other cases stand.
    pub fn extend(&mut self, other: Self) {
        self.generations.extend(other.generations);
        self.on_record.extend(other.on_record);
    }

    /// Takes in how these cases stood when they were read once more.
    pub fn read_again(&mut self, case_ids: &[String], later: Self) {
        for case_id in case_ids {
            self.generations.remove(case_id);
        }
        self.extend(later);
    }

    /// Whether the case may get a checkpoint by this replay.
    pub fn may_keep(&self, case_id: &str) -> bool {
        self.generations.contains_key(case_id)
    }
}

/// A dirty row, as far as a replay looks at it.
pub(crate) struct DirtyRow {
    pub(crate) id: i64,
    pub(crate) case_id: String,
    pub(crate) form_id: Option<String>,
}

/// A case that can go on from its checkpoint.
pub(crate) struct Growing {
    pub(crate) checkpoint: Vec<u8>,
    /// What is new.
    pub(crate) forms: BTreeSet<String>,
}

/// Reads how these cases stand, and the checkpoints that hold.
pub(crate) async fn standing(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    case_ids: &[String],
) -> Result<(Standing, HashMap<String, Vec<u8>>), StateError> {
    let (buckets, ids) = with_buckets(case_ids);
    let rows = sqlx::query(
        "select i.case_id, coalesce(s.generation, 0) as generation, c.case_id is not null as is_on_record,
                case when c.generation = s.generation then c.payload end as payload
         from unnest($2::smallint[], $3::text[]) i(bucket, case_id)
         left join case_state s on s.migration_id = $1 and s.bucket = i.bucket and s.case_id = i.case_id
         left join case_checkpoint c on c.migration_id = $1 and c.bucket = i.bucket and c.case_id = i.case_id",
    )
    .bind(claim.migration_id.0)
    .bind(&buckets)
    .bind(&ids)
    .fetch_all(&mut **tx)
    .await?;
    let (mut standing, mut checkpoints) = (Standing::default(), HashMap::new());
    for row in &rows {
        let case_id: String = row.try_get("case_id")?;
        if row.try_get("is_on_record")? {
            standing.on_record.insert(case_id.clone());
        }
        if let Some(payload) = row.try_get("payload")? {
            checkpoints.insert(case_id.clone(), payload);
        }
        standing.generations.insert(case_id, row.try_get("generation")?);
    }
    Ok((standing, checkpoints))
}

/// Those of the cases with a checkpoint that have only become dirty by new forms, with these.
pub(crate) fn growing(checkpoints: HashMap<String, Vec<u8>>, dirty: &[DirtyRow]) -> HashMap<String, Growing> {
    let mut forms: HashMap<&str, Option<BTreeSet<String>>> = HashMap::new();
    for row in dirty.iter().filter(|row| checkpoints.contains_key(&row.case_id)) {
        let of_case = forms.entry(&row.case_id).or_insert_with(|| Some(BTreeSet::new()));
        match (&row.form_id, of_case.as_mut()) {
            (Some(form_id), Some(known)) => {
                known.insert(form_id.clone());
            }
            _ => *of_case = None,
        }
    }
    let mut growing = HashMap::new();
    for (case_id, checkpoint) in checkpoints {
        if let Some(Some(forms)) = forms.remove(case_id.as_str()) {
            growing.insert(case_id, Growing { checkpoint, forms });
        }
    }
    growing
}

/// Keeps the checkpoints of cases that nobody else has replayed since they stood so, and removes those on record that do not
/// hold any more. To be called once the generations have risen, with the cases' states locked.
pub(crate) async fn keep(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    standing: &Standing,
    checkpoints: &HashMap<String, Vec<u8>>,
) -> Result<(), StateError> {
    let kept: Vec<(&String, i64, &[u8])> = checkpoints
        .iter()
        .filter_map(|(case_id, payload)| Some((case_id, *standing.generations.get(case_id)?, payload.as_slice())))
        .collect();
    if !kept.is_empty() {
        sqlx::query(
            "insert into case_checkpoint (migration_id, bucket, case_id, generation, payload)
             select $1, i.bucket, i.case_id, s.generation, i.payload
             from unnest($2::smallint[], $3::text[], $4::bigint[], $5::bytea[]) i(bucket, case_id, generation, payload)
             join case_state s on s.migration_id = $1 and s.bucket = i.bucket and s.case_id = i.case_id
                              and s.generation = i.generation + 1
             on conflict (migration_id, bucket, case_id)
             do update set generation = excluded.generation, payload = excluded.payload",
        )
        .bind(claim.migration_id.0)
        .bind(kept.iter().map(|(id, _, _)| proto::bucket::of(id)).collect::<Vec<_>>())
        .bind(kept.iter().map(|(id, _, _)| id.as_str()).collect::<Vec<_>>())
        .bind(kept.iter().map(|(_, generation, _)| *generation).collect::<Vec<_>>())
        .bind(kept.iter().map(|(_, _, payload)| *payload).collect::<Vec<_>>())
        .execute(&mut **tx)
        .await?;
    }
    if !standing.on_record.is_empty() {
        let on_record: Vec<String> = standing.on_record.iter().cloned().collect();
        let (buckets, ids) = with_buckets(&on_record);
        sqlx::query(
            "delete from case_checkpoint c using unnest($2::smallint[], $3::text[]) i(bucket, case_id)
             where c.migration_id = $1 and c.bucket = i.bucket and c.case_id = i.case_id
               and not exists (select from case_state s
                               where s.migration_id = $1 and s.bucket = i.bucket and s.case_id = i.case_id
                                 and s.generation = c.generation)",
        )
        .bind(claim.migration_id.0)
        .bind(&buckets)
        .bind(&ids)
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_grows_while_only_new_forms_come() {
        let checkpoints: HashMap<String, Vec<u8>> = ["grown", "changed", "mixed", "clean"]
            .map(|id| (id.to_owned(), Vec::new()))
            .into();
        let dirty = [
            ("grown", Some("f")),
            ("mixed", Some("f")),
            ("mixed", None),
            ("mixed", Some("g")),
            ("other", Some("f")),
            ("grown", Some("g")),
            ("grown", Some("f")),
            ("changed", None),
        ];
        let dirty: Vec<DirtyRow> = (0..)
            .zip(dirty)
            .map(|(id, (case_id, form_id))| DirtyRow {
                id,
                case_id: case_id.to_owned(),
                form_id: form_id.map(str::to_owned),
            })
            .collect();
        let growing: Vec<(String, Vec<String>)> = growing(checkpoints, &dirty)
            .into_iter()
            .map(|(case_id, case)| (case_id, case.forms.into_iter().collect()))
            .collect();
        assert_eq!(growing, [("grown".to_owned(), vec!["f".to_owned(), "g".to_owned()])]);
    }
}
