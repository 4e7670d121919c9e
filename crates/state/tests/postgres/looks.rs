//! A look for missing documents goes by ranges, each with a place of its own, and forgets what the one before had found.

use proto::doctype::DocType;
use state::look::{Look, LookedAt, ONLY_IN_SQL};
use state::scan::Cursor;
use state::{Phase, State};

use crate::fixture::{Driven, Fixture, strings};

const FORMS: Look = Look::Couch(DocType::XFormInstance);

fn at(scanned: i64, complete: bool) -> Cursor {
    Cursor {
        after_key: Some("[]".to_owned()),
        after_id: Some("x".to_owned()),
        complete,
        scanned,
    }
}

async fn found(fixture: &Fixture, driven: &Driven, look: Look, range: &str, cursor: &Cursor, missing: &[(&str, &str)]) {
    let missing: Vec<(String, String)> = missing
        .iter()
        .map(|(kind, id)| ((*kind).to_owned(), (*id).to_owned()))
        .collect();
    fixture
        .state
        .record_looks(
            &driven.lease,
            &[LookedAt {
                look,
                range: range.to_owned(),
                cursor: cursor.clone(),
                missing,
            }],
        )
        .await
        .unwrap();
}

async fn stood(state: &State, driven: &Driven, look: &str) -> Vec<(String, Cursor)> {
    let mut looks = state.looks(driven.id).await.unwrap();
    looks.remove(look).unwrap_or_default()
}

async fn listed(fixture: &Fixture, driven: &Driven) -> Vec<String> {
    let listed = fixture.state.missing_after(driven.id, ("", ""), 10).await.unwrap();
    listed.into_iter().map(|(kind, id)| format!("{kind} {id}")).collect()
}

#[tokio::test]
async fn ranges_go_on_where_they_stood_and_documents_are_counted_when_all_are_through() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    let name = FORMS.name();
    assert!(stood(state, &driven, &name).await.is_empty());
    state
        .begin_looks(&driven.lease, &[(FORMS, strings(&["..2017", "2017.."]))])
        .await
        .unwrap();
    found(
        &fixture,
        &driven,
        FORMS,
        "..2017",
        &at(5, true),
        &[("XFormInstance", "a")],
    )
    .await;
    found(
        &fixture,
        &driven,
        FORMS,
        "2017..",
        &at(2, false),
        &[("XFormInstance", "b")],
    )
    .await;
    assert_eq!(
        stood(state, &driven, &name).await,
        [("..2017".to_owned(), at(5, true)), ("2017..".to_owned(), at(2, false))]
    );
    let docs = async || {
        let stats = state.type_stats(driven.id).await.unwrap();
        let (_, forms) = stats
            .into_iter()
            .find(|(kind, _)| *kind == DocType::XFormInstance)
            .unwrap();
        (forms.docs, forms.missing)
    };
    assert_eq!(docs().await, (0, 2), "not counted before all ranges are through");
    found(
        &fixture,
        &driven,
        FORMS,
        "2017..",
        &at(7, true),
        &[("XFormInstance", "b")],
    )
    .await;
    assert_eq!(docs().await, (12, 2));

    // Another look of the same type forgets these, and those of other types stay.
    let errors = Look::Couch(DocType::XFormError);
    state
        .begin_looks(&driven.lease, &[(errors, strings(&[".."]))])
        .await
        .unwrap();
    found(&fixture, &driven, errors, "..", &at(1, true), &[("XFormError", "e")]).await;
    state
        .begin_looks(&driven.lease, &[(FORMS, strings(&[".."]))])
        .await
        .unwrap();
    assert_eq!(listed(&fixture, &driven).await, ["XFormError e"]);
    assert_eq!(
        stood(state, &driven, &name).await,
        [("..".to_owned(), Cursor::default())]
    );
}

#[tokio::test]
async fn what_sql_has_after_all_goes_off_the_list() {
    let (fixture, driven) = Fixture::with_domain().await;
    let missing = [("XFormInstance", "a"), ("XFormInstance", "b")];
    found(&fixture, &driven, FORMS, "..", &at(2, true), &missing).await;
    let there = [("XFormInstance".to_owned(), "a".to_owned())];
    assert_eq!(fixture.state.forget_missing(&driven.lease, &there).await.unwrap(), 1);
    assert_eq!(listed(&fixture, &driven).await, ["XFormInstance b"]);
}

#[tokio::test]
async fn forms_that_only_sql_has_are_diffs_until_a_look_finds_otherwise() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    fixture
        .execute(&format!(
            "insert into doc_diff (migration_id, kind, doc_id, diffs) values ({}, 'XFormInstance', 'known', '[1]')",
            driven.id.0
        ))
        .await;
    state
        .begin_looks(&driven.lease, &[(Look::SqlForms, strings(&[".."]))])
        .await
        .unwrap();
    let only = [("XFormInstance", "known"), ("XFormError", "stray")];
    found(&fixture, &driven, Look::SqlForms, "..", &at(2, true), &only).await;
    let diffs = "select kind || ' ' || doc_id || ' ' || diffs from doc_diff where migration_id = $1 order by 1";
    let stray = format!("XFormError stray {ONLY_IN_SQL}");
    assert_eq!(
        fixture.strings(diffs, &driven).await,
        [stray.as_str(), "XFormInstance known [1]"]
    );
    // It is not sent through the form stage: Couch never had it, and that would delete its row.
    assert_eq!(state.requeue_failed(&driven.lease, 10).await.unwrap(), 1);
    state
        .begin_looks(&driven.lease, &[(Look::SqlForms, strings(&[".."]))])
        .await
        .unwrap();
    assert_eq!(fixture.strings(diffs, &driven).await, ["XFormInstance known [1]"]);
}

#[tokio::test]
async fn forms_that_only_sql_has_are_set_aside_once_and_forgotten_by_the_next_look() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    let rule = [("strays".to_owned(), "{}".to_owned())];
    let operator = crate::fixture::operator();
    state.add_rules(&driven.lease, &rule, &operator).await.unwrap();
    let stray = state::operator_rules::Ignored {
        kind: "XFormError".to_owned(),
        doc_id: "stray".to_owned(),
        rule: "strays".to_owned(),
        diffs: ONLY_IN_SQL.to_owned(),
        count: 1,
        reason: None,
    };
    // An interrupted look finds it again.
    for _ in 0..2 {
        let ignored = std::slice::from_ref(&stray);
        state.set_aside_only_in_sql(&driven.lease, ignored).await.unwrap();
    }
    let counts = state.ignored_counts(driven.id).await.unwrap();
    assert_eq!((counts.len(), counts[0].documents, counts[0].diffs), (1, 1, 1));
    state
        .begin_looks(&driven.lease, &[(Look::SqlForms, strings(&[".."]))])
        .await
        .unwrap();
    assert!(state.ignored_counts(driven.id).await.unwrap().is_empty());
    // What comes back with the rule's removal is what a look makes and takes away.
    state.set_aside_only_in_sql(&driven.lease, &[stray]).await.unwrap();
    let names = strings(&["strays"]);
    state.remove_rules(&driven.lease, &names, &operator).await.unwrap();
    let diffs = "select diffs from doc_diff where migration_id = $1";
    assert_eq!(fixture.strings(diffs, &driven).await, [ONLY_IN_SQL]);
}

#[tokio::test]
async fn cases_that_only_sql_has_are_to_be_compared() {
    let (fixture, driven) = Fixture::with_domain().await;
    let only = [("CommCareCase", "c")];
    found(&fixture, &driven, Look::SqlCases, "..", &at(1, true), &only).await;
    assert_eq!(fixture.state.pending_cases(driven.id).await.unwrap(), (0, 1));
}

/// It forgets what the one before had found: until it is through, a COMMIT must not take the migration for finished.
#[tokio::test]
async fn a_migration_is_not_finished_while_a_look_is_on() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    state.set_phase(&driven.lease, Phase::Finished).await.unwrap();
    state
        .begin_looks(&driven.lease, &[(FORMS, strings(&[".."]))])
        .await
        .unwrap();
    let migration = state.migration(&driven.domain).await.unwrap().unwrap();
    assert_eq!((migration.phase, migration.finished_at), (Phase::Missing, None));
}

#[tokio::test]
async fn a_range_with_nothing_in_it_was_looked_at_all_the_same() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    let name = FORMS.name();
    let moved = async || {
        let ranges = stood(state, &driven, &name).await;
        ranges.iter().map(|(_, cursor)| cursor.has_moved()).collect::<Vec<_>>()
    };
    state
        .begin_looks(&driven.lease, &[(FORMS, strings(&["a", "b", "c"]))])
        .await
        .unwrap();
    assert_eq!(moved().await, [false, false, false]);
    let empty = Cursor {
        complete: true,
        ..Cursor::default()
    };
    found(&fixture, &driven, FORMS, "a", &empty, &[]).await;
    // The first of several shards had nothing.
    let next_shard = Cursor {
        after_key: Some("1".to_owned()),
        ..Cursor::default()
    };
    found(&fixture, &driven, FORMS, "b", &next_shard, &[]).await;
    assert_eq!(moved().await, [true, true, false]);
}
