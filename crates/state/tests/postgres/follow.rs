//! Following: one reader, changes that go to the domains they concern, and what a domain takes of them.

use std::time::Duration;

use proto::doctype::DocType;
use proto::topology::Stage;
use state::diff_stage::CaseComparison;
use state::follow::{ChangedDoc, FeedLease};
use state::place::{Place, WITNESSES};

use crate::fixture::{Driven, Fixture, LONG, strings};

const SOURCE: &str = "http://couch/hq";

fn doc(id: &str, rev: &str, domain: &str, doc_type: DocType, dated: &str) -> ChangedDoc {
    ChangedDoc {
        doc_id: id.to_owned(),
        rev: Some(rev.to_owned()),
        domain: Some(domain.to_owned()),
        doc_type: Some(doc_type),
        dated: Some(dated.to_owned()),
    }
}

fn gone(id: &str) -> ChangedDoc {
    ChangedDoc {
        doc_id: id.to_owned(),
        rev: Some("9-x".to_owned()),
        ..ChangedDoc::default()
    }
}

fn place(identity: &str, seq: &str, witnesses: &[(&str, &str)]) -> Place {
    Place {
        identity: identity.to_owned(),
        seq: seq.to_owned(),
        witnesses: witnesses
            .iter()
            .map(|(id, rev)| ((*id).to_owned(), (*rev).to_owned()))
            .collect(),
    }
}

/// A live domain whose changes are kept.
async fn followed(fixture: &Fixture, domain: &str) -> Driven {
    let driven = fixture.drive(domain).await;
    let status = state::Status::DryRun;
    let options = serde_json::json!({});
    fixture
        .state
        .mark_started(&driven.lease, status, "0", &options)
        .await
        .unwrap();
    fixture
        .state
        .follow(&driven.lease, SOURCE, &place("couch 1", "1-a", &[]))
        .await
        .unwrap();
    driven
}

async fn reader(fixture: &Fixture) -> FeedLease {
    fixture
        .state
        .take_feed(SOURCE, "test", LONG)
        .await
        .unwrap()
        .expect("nobody reads")
}

async fn record(fixture: &Fixture, lease: &mut FeedLease, page: &[ChangedDoc]) {
    let now = fixture.state.now().await.unwrap();
    fixture
        .state
        .record_changes(lease, LONG, page, "2-b", Some(0), Some(now))
        .await
        .unwrap();
}

/// Changed documents of a domain, as `id/type`.
async fn changed(fixture: &Fixture, driven: &Driven) -> Vec<String> {
    fixture
        .strings(
            "select doc_id || '/' || coalesce(doc_type, '-') from changed_doc where migration_id = $1 order by 1",
            driven,
        )
        .await
}

/// Form batches that wait, as `type: ids`.
async fn batches(fixture: &Fixture, driven: &Driven) -> Vec<String> {
    fixture
        .strings(
            "select doc_type || ': ' || array_to_string(ids, ' ') from batch
             where migration_id = $1 and stage = 'form' and state = 'ready' order by 1",
            driven,
        )
        .await
}

#[tokio::test]
async fn one_reader_at_a_time_and_none_that_lost_its_lease() {
    let fixture = Fixture::new().await;
    followed(&fixture, "a").await;
    let mut first = reader(&fixture).await;
    assert_eq!(first.place, place("couch 1", "1-a", &[]));
    assert!(fixture.state.take_feed(SOURCE, "other", LONG).await.unwrap().is_none());
    record(&fixture, &mut first, &[]).await;
    fixture
        .execute("update change_feed set reader_until = now() - interval '1 second'")
        .await;
    let second = reader(&fixture).await;
    assert_eq!(
        second.place.seq, "2-b",
        "the next one goes on where the first one stood"
    );
    let page = [doc("f", "1-a", "a", DocType::XFormInstance, "2020")];
    let lost = fixture
        .state
        .record_changes(&mut first, LONG, &page, "3-c", None, None)
        .await;
    assert_eq!(lost.unwrap_err().code(), "C2S-1509");
    assert_eq!(
        fixture
            .state
            .restart_feed(&mut first, place("x", "0", &[]))
            .await
            .unwrap_err()
            .code(),
        "C2S-1509"
    );
    fixture.state.drop_feed(&second).await.unwrap();
    assert_eq!(
        reader(&fixture).await.place.seq,
        "2-b",
        "what the loser read was not recorded"
    );
}

#[tokio::test]
async fn a_change_goes_to_its_domain_and_to_those_that_have_the_document_on_record() {
    let fixture = Fixture::new().await;
    let (a, b) = (followed(&fixture, "a").await, followed(&fixture, "b").await);
    let unfollowed = fixture.drive("c").await;
    fixture
        .stage(&b, &[("moved", "1-a", &[]), ("deleted", "1-a", &["k"])])
        .await;
    fixture.replay(&b, &["k"]).await;
    let mut lease = reader(&fixture).await;
    let form = DocType::XFormInstance;
    let mut untyped = doc("user", "1-a", "a", form, "2020");
    untyped.doc_type = None;
    record(
        &fixture,
        &mut lease,
        &[
            doc("new", "1-a", "a", form, "2020"),
            doc("moved", "2-b", "a", form, "2020"),
            doc("other", "1-a", "c", form, "2020"),
            untyped,
            gone("deleted"),
            gone("k"),
            gone("unknown"),
        ],
    )
    .await;
    assert_eq!(
        changed(&fixture, &a).await,
        ["moved/XFormInstance", "new/XFormInstance"]
    );
    assert_eq!(changed(&fixture, &b).await, ["deleted/-", "k/-", "moved/-"]);
    assert_eq!(changed(&fixture, &unfollowed).await, strings(&[]));
}

#[tokio::test]
async fn forms_wait_for_the_cut_off_and_documents_as_they_are_on_record_are_not_staged_again() {
    let fixture = Fixture::new().await;
    let a = followed(&fixture, "a").await;
    fixture
        .stage(
            &a,
            &[("same", "1-a", &[]), ("edited", "1-a", &[]), ("deleted", "1-a", &[])],
        )
        .await;
    let mut lease = reader(&fixture).await;
    let form = DocType::XFormInstance;
    let mut undated = doc("undated", "1-a", "a", form, "");
    undated.dated = None;
    record(
        &fixture,
        &mut lease,
        &[
            doc("same", "1-a", "a", form, "2020-01-01T00:00:00.000000Z"),
            doc(
                "edited",
                "2-b",
                "a",
                DocType::XFormArchived,
                "2020-01-01T00:00:00.000000Z",
            ),
            doc("young", "1-a", "a", form, "2020-01-01T02:00:00.000000Z"),
            doc("odd", "1-a", "a", form, "yesterday"),
            undated,
            gone("deleted"),
        ],
    )
    .await;
    let cutoff = Some("2020-01-01T01:00:00.000000Z");
    let taken = fixture.state.take_changes(&a.lease, cutoff, 100, 10).await.unwrap();
    assert_eq!((taken.looked_at, taken.staged), (4, 3));
    assert_eq!(
        batches(&fixture, &a).await,
        ["XFormArchived: edited", "XFormInstance: deleted undated"]
    );
    assert_eq!(
        fixture
            .state
            .take_changes(&a.lease, cutoff, 100, 10)
            .await
            .unwrap()
            .looked_at,
        0
    );
    assert_eq!(
        fixture
            .state
            .unmet(a.id, &strings(&["same", "young", "never"]))
            .await
            .unwrap(),
        ["never"]
    );
    let later = fixture.state.take_changes(&a.lease, None, 100, 10).await.unwrap();
    assert_eq!((later.looked_at, later.staged), (2, 2));

    // One of them changes again before it is settled.
    record(
        &fixture,
        &mut lease,
        &[doc("young", "2-b", "a", form, "2020-01-01T02:00:00.000000Z")],
    )
    .await;
    let taken = fixture.state.taken_changes(a.id, Some(form), "", 100).await.unwrap();
    assert_eq!(taken, ["odd", "same", "undated"]);
    let missing = strings(&["odd"]);
    fixture
        .state
        .settle_changes(&a.lease, form, &taken, &missing)
        .await
        .unwrap();
    let gone = fixture.state.taken_changes(a.id, None, "", 100).await.unwrap();
    assert_eq!(gone, ["deleted"]);
    fixture.state.settle_gone(&a.lease, &gone, &gone).await.unwrap();
    assert_eq!(
        fixture.state.only_in_sql_after(a.id, "", 10).await.unwrap(),
        ["deleted"],
        "SQL still has it"
    );
    fixture.state.forget_only_in_sql(&a.lease, &gone).await.unwrap();
    assert!(fixture.state.only_in_sql_after(a.id, "", 10).await.unwrap().is_empty());
    assert_eq!(
        changed(&fixture, &a).await,
        ["edited/XFormArchived", "young/XFormInstance"]
    );
    assert_eq!(
        fixture.state.missing_records(a.id, 10).await.unwrap(),
        [("XFormInstance".to_owned(), "odd".to_owned())]
    );
}

#[tokio::test]
async fn cases_are_compared_again_when_their_revision_is_another() {
    let fixture = Fixture::new().await;
    let a = followed(&fixture, "a").await;
    fixture
        .state
        .request_diff(&a.lease, Some(&strings(&["same", "changed", "gone"])))
        .await
        .unwrap();
    let claim = fixture.claimed(&a, Stage::Diff, &["same", "changed", "gone"]).await;
    let compared: Vec<CaseComparison> = ["same", "changed", "gone"]
        .map(|id| CaseComparison {
            case_id: id.to_owned(),
            generation: 0,
            couch_rev: Some("1-a".to_owned()),
            kind: "CommCareCase".to_owned(),
            diffs: None,
            changes: None,
            order: state::case_order::FormOrder::Agreed,
        })
        .into();
    assert_eq!(fixture.state.finish_diffs(&claim, &compared).await.unwrap(), 0);
    let mut lease = reader(&fixture).await;
    let case = DocType::CommCareCase;
    record(
        &fixture,
        &mut lease,
        &[
            doc("same", "1-a", "a", case, "2030"),
            doc("changed", "2-b", "a", case, "2030"),
            doc("new", "1-a", "a", case, "2030"),
            gone("gone"),
        ],
    )
    .await;
    let taken = fixture
        .state
        .take_changes(&a.lease, Some("2020"), 100, 10)
        .await
        .unwrap();
    assert_eq!(
        (taken.looked_at, taken.staged, taken.cases),
        (4, 0, 3),
        "a case waits for no date of its own"
    );
    let pending = "select case_id from case_state where migration_id = $1 and diffed_generation is distinct from generation order by 1";
    assert_eq!(fixture.strings(pending, &a).await, ["changed", "gone", "new"]);
}

#[tokio::test]
async fn cases_that_are_too_young_are_not_cut_before_the_cut_off_has_come_there() {
    let fixture = Fixture::new().await;
    let a = followed(&fixture, "a").await;
    fixture
        .state
        .request_diff(&a.lease, Some(&strings(&["old", "young"])))
        .await
        .unwrap();
    let claim = fixture.claimed(&a, Stage::Diff, &["young"]).await;
    let changed_at = fixture.state.now().await.unwrap();
    let late = [("young".to_owned(), changed_at)].into();
    fixture.state.put_off_diffs(&claim, late).await.unwrap();
    let limits = state::scan::CutLimits {
        cases: 10,
        weight: i64::MAX,
        batches: 5,
    };
    let cut =
        "select array_to_string(ids, ' ') from batch where migration_id = $1 and stage = 'diff' and state = 'ready'";
    for (cutoff, expected) in [(Some(-1), "old"), (Some(0), "old young"), (None, "old young")] {
        let cutoff = cutoff.map(|seconds| changed_at + chrono::Duration::seconds(seconds));
        sqlx::query("update migration set live_cutoff = $1")
            .bind(cutoff)
            .execute(&fixture.sql)
            .await
            .unwrap();
        fixture
            .execute("delete from batch where state = 'ready'; delete from scan_cursor")
            .await;
        fixture.state.cut_diff_batches(&a.lease, &limits).await.unwrap();
        let ids: Vec<String> = fixture.strings(cut, &a).await;
        let mut ids: Vec<&str> = ids.iter().flat_map(|ids| ids.split(' ')).collect();
        ids.sort_unstable();
        assert_eq!(ids.join(" "), expected, "{cutoff:?}");
        let young = fixture.state.young_cases(a.id).await.unwrap();
        assert_eq!(young, i64::from(expected == "old"), "{cutoff:?}");
    }
}

#[tokio::test]
async fn a_feed_that_lost_its_place_is_not_relied_on() {
    let fixture = Fixture::new().await;
    let a = followed(&fixture, "a").await;
    let standing = || async { fixture.state.following(a.id).await.unwrap().expect("it is followed") };
    let before = standing().await;
    assert!(!before.is_whole(), "nothing was looked at yet");
    fixture.state.mark_whole(&a.lease, before.generation).await.unwrap();
    assert!(standing().await.is_whole());
    let b = followed(&fixture, "b").await;
    assert!(
        standing().await.is_whole(),
        "another domain begins where the feed stands"
    );
    assert!(
        !fixture
            .state
            .following(b.id)
            .await
            .unwrap()
            .expect("it is followed")
            .is_whole()
    );
    let mut lease = reader(&fixture).await;
    let anew = place("couch 2", "7-z", &[("w", "1-a")]);
    fixture.state.restart_feed(&mut lease, anew.clone()).await.unwrap();
    assert!(!standing().await.is_whole());
    fixture.state.drop_feed(&lease).await.unwrap();
    let again = fixture
        .state
        .take_feed(SOURCE, "test", Duration::from_secs(5))
        .await
        .unwrap()
        .expect("nobody reads");
    assert_eq!(again.place, anew);
}

#[tokio::test]
async fn the_last_documents_of_the_feed_bear_witness_to_where_it_stands() {
    let fixture = Fixture::new().await;
    followed(&fixture, "a").await;
    let mut lease = reader(&fixture).await;
    let page: Vec<ChangedDoc> = (0..WITNESSES + 5)
        .map(|number| doc(&format!("f{number:02}"), "1-a", "a", DocType::XFormInstance, "2020"))
        .chain([gone("g")])
        .collect();
    record(&fixture, &mut lease, &page).await;
    // A page without documents says nothing.
    record(&fixture, &mut lease, &[]).await;
    fixture.state.drop_feed(&lease).await.unwrap();
    let kept = reader(&fixture).await.place.witnesses;
    assert_eq!(kept, lease.place.witnesses);
    assert_eq!(kept.len(), WITNESSES);
    assert_eq!(kept[0], ("g".to_owned(), "9-x".to_owned()));
    assert_eq!(kept[1], ("f14".to_owned(), "1-a".to_owned()));
}
