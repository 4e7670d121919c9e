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
    tools_find_the_same(&mut world, &reported).await?;
    many_are_summed_up_and_each_is_printed_once(&mut world).await?;
    world.end()
}

const RECORDS: [&str; 3] = ["doc_diff", "doc_change", "missing_doc"];

/// Forms that are compared again, documents that are looked for again, and an operator's rule that comes and goes leave the
/// records as they were.
async fn tools_find_the_same(world: &mut World, reported: &[Reported]) -> Result<()> {
    let before = on_record(world, &RECORDS).await?;
    world
        .coordinator(&["couch_sql_diff", "damaged", "forms", "--select=with-diffs"])
        .await?
        .ended_with(1);
    ensure!(on_record(world, &RECORDS).await? == before, "forms differ otherwise");
    let looked = world
        .domain("damaged", "stats", &["--missing-docs=rebuild", "--json"])
        .await?
        .ok();
    ensure!(on_record(world, &RECORDS).await? == before, "{}", looked.told());

    let form = reported
        .iter()
        .find(|report| matches!(report.how, How::FormDiffers(_)))
        .context("no form was changed")?;
    let diffs: String = world
        .state()
        .query_one("select diffs from doc_diff where doc_id = $1", &[&form.doc_id])
        .await?
        .get(0);
    let diffs: Vec<serde_json::Value> = serde_json::from_str(&diffs)?;
    let rules = world.folder().join("rules.toml");
    let rule = |number: usize, path: &serde_json::Value| {
        format!("[[rule]]\nname = \"known-{number}\"\ndocuments = \"forms\"\npath = {path}\nreason = \"a test\"\n")
    };
    let text: String = diffs
        .iter()
        .enumerate()
        .map(|(number, diff)| rule(number, &diff["path"]))
        .collect();
    std::fs::write(&rules, text)?;
    let rules = rules.to_string_lossy().into_owned();
    world.coordinator(&["rules", "add", "damaged", &rules]).await?.ok();
    world.coordinator(&["couch_sql_diff", "damaged", "filter"]).await?.ok();
    let record = (form.doc_type.to_owned(), form.doc_id.clone());
    ensure!(!on_record(world, &["doc_diff"]).await?.contains(&record), "{record:?}");
    ensure!(
        on_record(world, &["ignored_diff"]).await?.contains(&record),
        "{record:?}"
    );
    let stats = world.stats("damaged").await?;
    ensure!(stats["ignored_by_operator_rules"][0]["rule"] == "known-0", "{stats}");

    let folder = world.folder().to_string_lossy().into_owned();
    world
        .coordinator(&["report", "damaged", "--output", &folder])
        .await?
        .ok();
    let report = std::fs::read_to_string(world.folder().join("damaged-migration.json"))?;
    let report: serde_json::Value = serde_json::from_str(&report)?;
    ensure!(report["operator_rules"][0]["ignored"][0]["documents"] != 0, "{report}");
    ensure!(world.folder().join("damaged-migration.html").exists());

    world.coordinator(&["rules", "remove", "damaged", "--all"]).await?.ok();
    ensure!(
        on_record(world, &RECORDS).await? == before,
        "a removed rule gives back what it hid"
    );
    Ok(())
}

/// More documents of one type than anybody reads: they are summed up, unless asked for; pages of any size print each once.
async fn many_are_summed_up_and_each_is_printed_once(world: &mut World) -> Result<()> {
    let diffs = r#"[{"type":"diff","path":["form","note"],"old_value":"a","new_value":"b"}]"#;
    world
        .state()
        .execute(
            "insert into doc_diff (migration_id, kind, doc_id, diffs)
             select id, 'XFormDuplicate', 'many-' || to_char(n, 'FM0000'), $1 from migration, generate_series(1, 1500) n",
            &[&diffs],
        )
        .await?;
    let show = ["couch_sql_diff", "damaged", "show"];
    let summary = world
        .coordinator(&[&show[..], &["--select=XFormDuplicate"]].concat())
        .await?
        .ok();
    ensure!(
        summary.stdout.starts_with("1500 differences in 1500 documents\n")
            && summary
                .stdout
                .contains("XFormDuplicate diff [form/note]: 1500 documents")
            && summary.stdout.lines().count() < 20,
        "{}",
        summary.told()
    );
    for (flags, expected) in [
        (&["--select=XFormDuplicate", "--csv", "--batch-size", "400"][..], 1500),
        (&["--select=XFormDuplicate,HQSubmission", "--all", "-b", "499"], 1500),
        (&["--select=XFormDuplicate:many-0007,many-1500", "--json"], 2),
        (
            &["--select=forms", "--path=form/note", "--diff-type=missing", "--json"],
            0,
        ),
    ] {
        let printed = world.coordinator(&[&show[..], flags].concat()).await?.ok();
        let ids: Vec<&str> = printed
            .stdout
            .split(['"', ',', ' ', '\n'])
            .filter(|word| word.starts_with("many-"))
            .collect();
        let each: BTreeSet<&str> = ids.iter().copied().collect();
        ensure!(
            (ids.len(), each.len()) == (expected, expected),
            "{flags:?}: {} of {expected}, {} of them different",
            ids.len(),
            each.len()
        );
    }
    Ok(())
}
