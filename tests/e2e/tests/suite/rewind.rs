//! Going back over what was done: `rewind`, `--rebuild-state`, `--stop-on-error`.

use anyhow::{Context, Result, ensure};
use e2e::world::{Options, World};
use generator::malformed;

use crate::{assert_clean, domain};

const FORMS: &str = "form_processor_xforminstancesql";

/// Spoils a column of every main form in SQL that nothing but another writing of the form mends.
async fn spoil(world: &World) -> Result<()> {
    world
        .target()
        .batch_execute(&format!("update {FORMS} set xmlns = 'spoilt'"))
        .await?;
    Ok(())
}

/// The forms that the main scan goes over.
async fn main_forms(world: &World) -> Result<Vec<String>> {
    let rows = world
        .state()
        .query("select doc_id from doc_revision where doc_type = 'XFormInstance'", &[])
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Main forms of Couch whose rows are still spoilt, and those that are not.
async fn spoilt(world: &World) -> Result<(Vec<String>, Vec<String>)> {
    let rows = world
        .target()
        .query(
            &format!("select form_id, xmlns = 'spoilt' from {FORMS} where form_id = any($1)"),
            &[&main_forms(world).await?],
        )
        .await?;
    let (mut spoilt, mut mended) = (Vec::new(), Vec::new());
    for row in rows {
        let list = if row.get(1) { &mut spoilt } else { &mut mended };
        list.push(row.get(0));
    }
    Ok((spoilt, mended))
}

async fn rewind(world: &mut World, to: &str) -> Result<String> {
    let output = world.domain("again", "rewind", &[&format!("--to={to}")]).await?.ok();
    let saved = output.stdout.lines().find_map(|line| line.split("saved as ").nth(1));
    Ok(saved.with_context(|| output.told())?.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rewind_has_the_forms_from_there_on_looked_at_again_and_no_others() -> Result<()> {
    let generated = domain("again", 200);
    let mut world = World::start(Options::in_process()).await?;
    world.load(&generated).await?;
    let early = world
        .domain("again", "rewind", &["--to=2020-01-01"])
        .await?
        .ended_with(1);
    ensure!(early.stderr.contains("C2S-4006"), "{}", early.told());
    world.domain("again", "MIGRATE", &[]).await?.ok();
    for (to, code, status) in [
        ("2999-01-01", "C2S-4115", 1),
        ("resume-1", "C2S-4116", 1),
        ("then", "C2S-0130", 2),
    ] {
        let refused = world
            .domain("again", "rewind", &[&format!("--to={to}")])
            .await?
            .ended_with(status);
        ensure!(refused.stderr.contains(code), "{}", refused.told());
    }

    spoil(&world).await?;
    let middle: String = world
        .target()
        .query_one(
            &format!(
                "select to_char(received_on at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') from {FORMS}
                 where form_id = any($1) order by received_on offset 80 limit 1"
            ),
            &[&main_forms(&world).await?],
        )
        .await?
        .get(0);
    let saved = rewind(&mut world, &middle).await?;
    let commit = world.domain("again", "COMMIT", &[]).await?.ended_with(1);
    ensure!(
        commit.stderr.contains("C2S-4040"),
        "nothing counts as finished: {}",
        commit.told()
    );
    world.domain("again", "MIGRATE", &[]).await?;
    let (still, mended) = spoilt(&world).await?;
    ensure!(
        !still.is_empty() && !mended.is_empty(),
        "{} spoilt, {} mended",
        still.len(),
        mended.len()
    );
    let late = world
        .target()
        .query_one(
            &format!("select count(*) from {FORMS} where form_id = any($2) and xmlns = 'spoilt' and received_on >= $1::text::timestamptz"),
            &[&middle, &main_forms(&world).await?],
        )
        .await?
        .get::<_, i64>(0);
    ensure!(late == 0, "{late} forms from {middle} on were not looked at");
    let early = world
        .target()
        .query_one(
            &format!("select count(*) from {FORMS} where form_id = any($2) and xmlns <> 'spoilt' and received_on < $1::text::timestamptz"),
            &[&middle, &main_forms(&world).await?],
        )
        .await?
        .get::<_, i64>(0);
    ensure!(early == 0, "{early} forms before {middle} were looked at");

    // Back over the last forms that touch five cases.
    spoil(&world).await?;
    rewind(&mut world, "case-5").await?;
    world.domain("again", "MIGRATE", &[]).await?;
    let (still, mended) = spoilt(&world).await?;
    let touched = world
        .state()
        .query_one("select count(*) from staged_update where form_id = any($1)", &[&mended])
        .await?
        .get::<_, i64>(0);
    ensure!((5..15).contains(&touched), "{touched} cases in {} forms", mended.len());
    ensure!(still.len() > mended.len());

    // From the place where the first rewind had left off, which is the end.
    spoil(&world).await?;
    rewind(&mut world, &saved).await?;
    world.domain("again", "MIGRATE", &[]).await?;
    ensure!(spoilt(&world).await?.1.is_empty(), "forms were looked at again");

    rewind(&mut world, "1990-01-01").await?;
    world.domain("again", "MIGRATE", &["--rebuild-state"]).await?;
    ensure!(
        spoilt(&world).await?.0.is_empty(),
        "all forms were to be looked at again"
    );
    world.end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rebuild_state_does_again_what_the_record_and_the_databases_do_not_agree_on() -> Result<()> {
    let generated = domain("restored", 200);
    let mut world = World::start(Options::in_process()).await?;
    world.load(&generated).await?;
    world.domain("restored", "MIGRATE", &[]).await?.ok();
    let forms: Vec<String> = world
        .state()
        .query(
            "select form_id from staged_update group by form_id order by form_id limit 3",
            &[],
        )
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    let [gone, forgotten, other] = &forms[..] else {
        anyhow::bail!("three forms are needed")
    };
    // A form and a case that SQL has lost; a form that the record has lost; a form of another revision.
    world
        .target()
        .batch_execute(&format!(
            "begin; delete from form_processor_xformoperationsql where form_id = '{gone}';
             delete from {FORMS} where form_id = '{gone}'; commit"
        ))
        .await?;
    let case: String = world
        .state()
        .query_one(
            "select case_id from staged_update where form_id = any($1) order by case_id limit 1",
            &[&forms],
        )
        .await?
        .get(0);
    let mut sql = "begin;".to_owned();
    for table in [
        "ledgertransaction",
        "ledgervalue",
        "casetransaction",
        "caseattachmentsql",
        "commcarecaseindexsql",
    ] {
        sql.push_str(&format!("delete from form_processor_{table} where case_id = '{case}';"));
    }
    sql.push_str(&format!(
        "delete from form_processor_commcarecasesql where case_id = '{case}'; commit"
    ));
    world.target().batch_execute(&sql).await?;
    world
        .state()
        .batch_execute(&format!(
            "delete from doc_revision where doc_id = '{forgotten}';
             delete from staged_update where form_id = '{forgotten}';
             update doc_revision set rev = '0-of-a-back-up', rev_number = 0 where doc_id = '{other}'"
        ))
        .await?;

    world.domain("restored", "MIGRATE", &["--rebuild-state"]).await?.ok();
    assert_clean(&world.stats("restored").await?, &generated.model)?;
    world.assert_same_rows("restored", &generated.model).await?;
    let staged = world
        .number(&format!(
            "select count(*) from staged_update where form_id = '{forgotten}'"
        ))
        .await?;
    ensure!(staged > 0, "nothing is staged for {forgotten}");
    let revision = world
        .text(&format!("select rev from doc_revision where doc_id = '{other}'"))
        .await?;
    ensure!(revision.as_deref() != Some("0-of-a-back-up"));
    world.end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_on_error_ends_the_run_and_keeps_what_is_on_record() -> Result<()> {
    let mut generated = domain("strict", 300);
    let spoilt = malformed::unknown_relationship(&generator::Options::new("strict", 300, 7));
    generated.docs.extend(spoilt.docs.clone());
    generated.blobs.extend(spoilt.blobs.clone());
    generated.blobmeta.extend(spoilt.blobmeta.clone());
    let mut world = World::start(Options::in_process()).await?;
    world.load(&generated).await?;
    let stopped = world.domain("strict", "MIGRATE", &["-x"]).await?.ended_with(1);
    ensure!(
        stopped.stderr.contains("C2S-4114") && stopped.stderr.contains(&spoilt.form_id),
        "{}",
        stopped.told()
    );
    ensure!(world.text("select state from run").await?.as_deref() == Some("failed"));
    ensure!(
        world
            .number("select count(*) from batch where state = 'claimed'")
            .await?
            == 0,
        "the batches in flight were waited for"
    );
    ensure!(world.number("select count(*) from doc_revision").await? > 0);

    world.domain("strict", "MIGRATE", &[]).await?.ended_with(1);
    let stats = world.stats("strict").await?;
    ensure!(stats["errors"] == 1, "{stats}");
    ensure!(world.text("select phase from migration").await?.as_deref() == Some("finished"));
    world.end()
}
