//! Documents that differ are reported, and no others.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use e2e::world::{Options, World};
use generator::damage::{self, How, Reported};

use crate::domain;

/// A document on record as different, missing or changed.
type Record = (String, String);

async fn on_record(world: &World, tables: &[&str]) -> Result<BTreeSet<Record>> {
    let mut found = BTreeSet::new();
    for table in tables {
        for row in world
            .state()
            .query(&format!("select kind, doc_id from {table}"), &[])
            .await?
        {
            found.insert((row.get(0), row.get(1)));
        }
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seeded_damage_is_reported_exactly() -> Result<()> {
    let mut generated = domain("damaged", 1000);
    let mut reported: Vec<Reported> = damage::remove_form(&mut generated, 3);
    for seed in 0..3 {
        reported.extend(damage::change_property(&mut generated, seed));
        reported.extend(damage::extra_index(&mut generated, seed));
        reported.extend(damage::change_form_answer(&mut generated, seed));
    }
    ensure!(
        reported.iter().any(|report| matches!(report.how, How::FormGone(_))),
        "no form was removed"
    );
    ensure!(reported.len() >= 10, "too little damage: {reported:?}");

    let mut world = World::start(Options::default()).await?;
    world.load(&generated).await?;
    let output = world.domain("damaged", "MIGRATE", &[]).await?.ended_with(1);

    let expected: BTreeSet<Record> = reported
        .iter()
        .map(|report| (report.doc_type.to_owned(), report.doc_id.clone()))
        .collect();
    let found = on_record(&world, &["doc_diff", "doc_change", "missing_doc", "doc_error"]).await?;
    let unknown: Vec<_> = found.difference(&expected).collect();
    let silent: Vec<_> = expected.difference(&found).collect();
    ensure!(
        unknown.is_empty() && silent.is_empty(),
        "reported in error {unknown:?}, not reported {silent:?}"
    );
    ensure!(on_record(&world, &["doc_error"]).await?.is_empty());

    for report in &reported {
        let diffs = world
            .state()
            .query_opt(
                "select diffs from doc_diff where doc_id = $1 union all select diffs from doc_change where doc_id = $1",
                &[&report.doc_id],
            )
            .await?
            .map(|row| row.get::<_, String>(0));
        match &report.how {
            How::FormDiffers(path) | How::CaseDiffers(path) => {
                let diffs = diffs.with_context(|| format!("{report:?} has no diff"))?;
                ensure!(
                    path.iter().all(|part| diffs.contains(&format!("\"{part}\""))),
                    "{report:?} not in {diffs}"
                );
            }
            // The case has the form among its ids, or is missing altogether.
            How::FormGone(form_id) => {
                let missing = on_record(&world, &["missing_doc"]).await?;
                let is_missing = missing.contains(&(report.doc_type.to_owned(), report.doc_id.clone()));
                let named = diffs.is_some_and(|diffs| diffs.contains(form_id) || diffs.contains("missing"));
                ensure!(is_missing || named, "{report:?}");
            }
        }
    }
    let shown = world
        .coordinator(&["couch_sql_diff", "damaged", "show", "--csv"])
        .await?
        .ok();
    for (kind, id) in on_record(&world, &["doc_diff"]).await? {
        ensure!(
            shown.stdout.contains(&kind) && shown.stdout.contains(&id),
            "{kind} {id} not in {}",
            shown.told()
        );
    }
    ensure!(output.stdout.contains("CommCareCase with diffs"), "{}", output.told());
    world.end()
}
