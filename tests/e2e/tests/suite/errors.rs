//! What an operator gets wrong, and what is away: one line, a status that says so, and nothing changed.

use anyhow::{Context, Result, ensure};
use e2e::program::Output;
use e2e::world::{Options, World};

use crate::domain;

/// Nothing listens there: the discard port is below the ports that are given out.
const NOWHERE: &str = "127.0.0.1:9";

const COMMAND: &str = "migrate_domain_from_couch_to_sql";

fn one_line(output: &Output, status: i32, parts: &[&str]) -> Result<()> {
    ensure!(
        output.status == Some(status),
        "status {status} expected: {}",
        output.told()
    );
    let lines: Vec<&str> = output.stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    ensure!(lines.len() == 1, "one line expected: {}", output.told());
    for part in parts {
        ensure!(lines[0].contains(part), "{part:?} expected: {}", output.told());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_are_one_line_and_change_nothing() -> Result<()> {
    let generated = domain("known", 60);
    let mut world = World::start(Options::in_process()).await?;
    world.load(&generated).await?;
    let before = world.row_counts().await?;

    for action in ["MIGRATE", "COMMIT", "stats", "reset"] {
        let output = world.domain("unknown", action, &[]).await?;
        one_line(&output, 1, &["C2S-4010", "unknown"])?;
    }
    ensure!(
        world.row_counts().await? == before,
        "an unknown domain has left something"
    );

    let unreachable = [
        ("couch.toml", "source.url", format!("\"http://{NOWHERE}\""), "CouchDB"),
        (
            "target.toml",
            "target.default",
            format!("\"postgres://nobody@{NOWHERE}/hq\""),
            "target database",
        ),
        (
            "state.toml",
            "state.url",
            format!("\"postgres://nobody@{NOWHERE}/state\""),
            "state",
        ),
        (
            "broker.toml",
            "broker.url",
            format!("\"amqp://nobody@{NOWHERE}/v\""),
            "message broker",
        ),
    ];
    for (file, key, value, name) in unreachable {
        let path = world.configuration_with(file, &[(key, &value)])?;
        let output = world
            .coordinator_bare(&["--config", &path, COMMAND, "known", "MIGRATE"], &[])
            .await?;
        one_line(&output, 1, &["C2S-", name]).with_context(|| file.to_owned())?;
        ensure!(
            !output.stderr.contains("nobody"),
            "names of users are nobody's business: {}",
            output.told()
        );
        let after = world.row_counts().await?;
        let changed: Vec<_> = before
            .iter()
            .zip(&after)
            .filter(|(before, after)| before != after)
            .collect();
        ensure!(changed.is_empty(), "{file}: {changed:?}");
    }

    // A database of forms without HQ's view.
    let bare = format!("{}_bare", world.source().forms().name());
    let client = couch::Couch::new(couch::CouchConfig::new(world.source().url().clone()))?;
    client.database(&bare).create().await?;
    let path = world.configuration_with("view.toml", &[("source.forms_db", &format!("\"{bare}\""))])?;
    let output = world
        .coordinator_bare(&["--config", &path, COMMAND, "known", "MIGRATE"], &[])
        .await?;
    one_line(&output, 1, &["C2S-", "by_domain_doc_type_date"])?;
    let path = world.configuration_with("database.toml", &[("source.forms_db", "\"e2e_no_such_database\"")])?;
    let output = world
        .coordinator_bare(&["--config", &path, COMMAND, "known", "MIGRATE"], &[])
        .await?;
    one_line(&output, 1, &["C2S-", "e2e_no_such_database"])?;
    ensure!(
        world.row_counts().await? == before,
        "a run that cannot begin has left something"
    );

    crate::migrate_cleanly(&mut world, "known", &generated.model).await?;
    world.end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn misuse_is_told_with_status_2() -> Result<()> {
    let mut world = World::start(Options::in_process()).await?;
    let before = world.row_counts().await?;
    let missing = world
        .coordinator_bare(&["--config", "/no/such/file.toml", COMMAND, "d", "stats"], &[])
        .await?;
    one_line(&missing, 2, &["C2S-", "/no/such/file.toml"])?;
    let nowhere = world
        .coordinator_bare(&[COMMAND, "d", "stats"], &[("HOME", "/")])
        .await?;
    ensure!(
        nowhere.status == Some(1),
        "the folder's own file is found without --config: {}",
        nowhere.told()
    );

    for (changes, part) in [
        (("source.max_concurency", "3"), "max_concurency"),
        (("source.max_concurrency", "\"many\""), "max_concurrency"),
        (("worker.lease", "\"soon\""), "lease"),
        (("blobs.kind", "\"tape\""), "kind"),
    ] {
        let path = world.configuration_with("wrong.toml", &[changes])?;
        let output = world
            .coordinator_bare(&["--config", &path, COMMAND, "d", "stats"], &[])
            .await?;
        one_line(&output, 2, &["C2S-", part])?;
    }
    for arguments in [
        vec![COMMAND, "d", "Migrate"],
        vec![COMMAND, "d"],
        vec!["no_such_command"],
        vec![COMMAND, "d", "MIGRATE", "--no-such-flag"],
        vec![],
    ] {
        let output = world.coordinator_bare(&arguments, &[]).await?.ended_with(2);
        ensure!(!output.stderr.is_empty(), "{}", output.told());
    }
    let list = world
        .coordinator(&["migrate_multiple_domains_from_couch_to_sql", "/no/such/list"])
        .await?;
    one_line(&list, 2, &["C2S-0107", "/no/such/list"])?;
    ensure!(
        world.row_counts().await? == before,
        "a misused command has changed something"
    );
    world.end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn config_check_reaches_every_server_and_shows_no_password() -> Result<()> {
    let mut world = World::start(Options::default().workers(0)).await?;
    let output = world.coordinator(&["config", "check"]).await?.ok();
    for server in ["state: ok", "target: ok", "couch: ok", "blobs: ok", "broker: ok"] {
        ensure!(output.stdout.contains(server), "{server}: {}", output.told());
    }
    for url in [e2e::environment::postgres()?, e2e::environment::amqp()?] {
        let password = url.password().context("the servers for tests have passwords")?;
        ensure!(
            !output.stdout.contains(password) && !output.stderr.contains(password),
            "a password is shown"
        );
    }
    let path = world.configuration_with("broken.toml", &[("source.url", &format!("\"http://{NOWHERE}\""))])?;
    let output = world
        .coordinator_bare(&["--config", &path, "config", "check"], &[])
        .await?
        .ended_with(1);
    ensure!(
        output.stdout.contains("couch: failed") && output.stdout.contains("target: ok"),
        "{}",
        output.told()
    );
    ensure!(output.stderr.contains("C2S-0109"), "{}", output.told());
    world.end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_store_without_the_forms_xml_is_noticed_before_anything_is_rebuilt() -> Result<()> {
    let mut world = World::start(Options::default().workers(1)).await?;
    world.load(&domain("elsewhere", 60)).await?;
    let empty = world.folder().join("no-blobs");
    std::fs::create_dir(&empty).context("make a folder")?;
    let path = world.configuration_with("elsewhere.toml", &[("blobs.path", &format!("{empty:?}"))])?;
    let before = world.row_counts().await?;
    let output = world
        .coordinator_bare(&["--config", &path, COMMAND, "elsewhere", "MIGRATE"], &[])
        .await?;
    ensure!(output.status == Some(1), "{}", output.told());
    ensure!(output.stderr.contains("C2S-4057"), "{}", output.told());
    ensure!(world.stats("elsewhere").await?["status"] == "not_started");
    let after = world.row_counts().await?;
    ensure!(
        after
            .iter()
            .filter(|(table, _)| !table.starts_with("couch_sql_migration"))
            .eq(before
                .iter()
                .filter(|(table, _)| !table.starts_with("couch_sql_migration"))),
        "the refusal has changed something: {before:?}, {after:?}"
    );
    world.domain("elsewhere", "MIGRATE", &[]).await?.ok();
    world.end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_that_went_back_in_couch_stands_against_commit() -> Result<()> {
    let generated = domain("rewound", 60);
    let mut world = World::start(Options::in_process()).await?;
    world.load(&generated).await?;
    world.domain("rewound", "MIGRATE", &[]).await?.ok();
    let is_normal = |doc: &&serde_json::Value| doc["doc_type"] == "XFormInstance";
    let id = generated.docs.iter().find(is_normal).context("no form")?["_id"].clone();
    let id = id.as_str().context("an id is a text")?;
    let database = world.source().forms().name().to_owned();
    let older = world
        .source()
        .stand_in()
        .get(&database, id)
        .context("the form is gone")?;
    let mut newer = older.clone();
    newer["submit_ip"] = "10.9.9.9".into();
    world.source().stand_in().put(&database, &newer)?;
    let newer = world
        .source()
        .stand_in()
        .get(&database, id)
        .context("the form is gone")?;
    world.domain("rewound", "MIGRATE", &[]).await?.ok();

    // A back-up of the database is put back: the document has its old revision again.
    world.source().stand_in().load(&database, [&older])?;
    world.domain("rewound", "MIGRATE", &[]).await?.ended_with(1);
    let errors = format!("select count(*) from doc_error where doc_id = '{id}' and code = 'C2S-2360'");
    ensure!(world.number(&errors).await? == 1, "nothing is on record");
    let refused = world.domain("rewound", "COMMIT", &[]).await?.ended_with(1);
    ensure!(refused.stderr.contains("C2S-"), "{}", refused.told());

    world.source().stand_in().load(&database, [&newer])?;
    world.domain("rewound", "MIGRATE", &[]).await?.ok();
    ensure!(world.number(&errors).await? == 0, "the error stays");
    world.end()
}
