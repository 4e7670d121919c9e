//! Recorded differences are selected by type and by document, read in order, and counted no further than asked.

use state::records::RecordFilter;
use state::records::RecordTable;

use crate::fixture::{Driven, Fixture, strings};

async fn with_records() -> (Fixture, Driven) {
    let (fixture, driven) = Fixture::with_domain().await;
    for (kind, id) in [
        ("CommCareCase", "a"),
        ("CommCareCase", "b"),
        ("CommCareCase-Deleted", "a"),
        ("XFormInstance", "f"),
    ] {
        sqlx::query("insert into doc_diff (migration_id, kind, doc_id, diffs) values ($1, $2, $3, '[]')")
            .bind(driven.id.0)
            .bind(kind)
            .bind(id)
            .execute(&fixture.sql)
            .await
            .unwrap();
    }
    sqlx::query("insert into doc_change (migration_id, kind, doc_id, diffs, reason) values ($1, 'CommCareCase', 'c', '[]', 'why')")
        .bind(driven.id.0)
        .execute(&fixture.sql)
        .await
        .unwrap();
    (fixture, driven)
}

fn filter(kinds: &[&str], documents: &[(&str, &str)]) -> RecordFilter {
    RecordFilter {
        kinds: strings(kinds),
        documents: documents
            .iter()
            .map(|(kind, id)| ((*kind).to_owned(), (*id).to_owned()))
            .collect(),
    }
}

#[tokio::test]
async fn whole_types_and_single_documents_are_selected_together() {
    let (fixture, driven) = with_records().await;
    for (filter, expected) in [
        (
            filter(&[], &[]),
            &[
                "CommCareCase/a",
                "CommCareCase/b",
                "CommCareCase-Deleted/a",
                "XFormInstance/f",
            ][..],
        ),
        (
            filter(&["CommCareCase"], &[("XFormInstance", "f"), ("XFormInstance", "g")]),
            &["CommCareCase/a", "CommCareCase/b", "XFormInstance/f"],
        ),
        (
            filter(&[], &[("CommCareCase-Deleted", "a")]),
            &["CommCareCase-Deleted/a"],
        ),
        (filter(&["XFormError"], &[]), &[]),
    ] {
        let found = fixture
            .state
            .records_after(driven.id, RecordTable::Diffs, &filter, None, 10)
            .await
            .unwrap();
        let mut told: Vec<String> = found
            .iter()
            .map(|record| format!("{}/{}", record.kind, record.doc_id))
            .collect();
        told.sort();
        let mut expected = strings(expected);
        expected.sort();
        assert_eq!(told, expected, "{filter:?}");
    }
}

#[tokio::test]
async fn pages_follow_each_other_and_counts_end_where_asked() {
    let (fixture, driven) = with_records().await;
    let all = RecordFilter::default();
    let (mut after, mut met): (Option<(String, String)>, usize) = (None, 0);
    loop {
        let place = after.as_ref().map(|(kind, id)| (kind.as_str(), id.as_str()));
        let page = fixture
            .state
            .records_after(driven.id, RecordTable::Diffs, &all, place, 3)
            .await
            .unwrap();
        let Some(last) = page.last() else { break };
        after = Some((last.kind.clone(), last.doc_id.clone()));
        met += page.len();
    }
    assert_eq!(met, 4);
    let state = &fixture.state;
    for (table, at_most, expected) in [
        (RecordTable::Diffs, 10, 4),
        (RecordTable::Diffs, 3, 3),
        (RecordTable::Changes, 10, 1),
    ] {
        assert_eq!(
            state.count_records(driven.id, table, &all, at_most).await.unwrap(),
            expected
        );
    }
    let changes = state
        .records_after(driven.id, RecordTable::Changes, &all, None, 10)
        .await
        .unwrap();
    assert_eq!(changes[0].reason.as_deref(), Some("why"));
}
