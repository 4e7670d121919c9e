//! Values of blocks that are not text, too long, or of no column.

use proto::effects::{BlockVersion, CaseAction, CaseUpdate, FormEffects, KnownProperty as Known, PropertyValue};
use proto::rows::{CaseRow, RejectReason};

use crate::forms::{block, form, json, known, run, text};

fn dynamic(key: &str, value: PropertyValue) -> CaseAction {
    CaseAction::Update {
        known: Vec::new(),
        dynamic: vec![(key.to_owned(), value)],
    }
}

/// A form without any user, whose block has the action.
fn userless(version: BlockVersion, action: CaseAction) -> FormEffects {
    let update = CaseUpdate {
        version,
        user_id: None,
        ..block(vec![action])
    };
    let mut effects = form("f", 0, vec![update]);
    effects.form.user_id = None;
    effects
}

fn case_of(effects: FormEffects) -> CaseRow {
    run(vec![effects]).bundle().case
}

fn refusal(effects: FormEffects) -> RejectReason {
    let replayed = run(vec![effects]).replay();
    assert_eq!(replayed.bundle, None);
    replayed.rejected[0].1
}

#[test]
fn lists_are_stored_as_python_prints_them() {
    let list = || json(r#"["a","it's"]"#);
    let printed = r#"['a', "it's"]"#;
    for property in [Known::Type, Known::Name, Known::OwnerId, Known::ExternalId] {
        let case = case_of(form("f", 0, vec![block(vec![known(&[(property, list())])])]));
        let column = match property {
            Known::Type => Some(case.case_type),
            Known::Name => case.name,
            Known::OwnerId => Some(case.owner_id),
            _ => case.external_id,
        };
        assert_eq!(column.as_deref(), Some(printed), "{property:?}");
    }
    let case = case_of(userless(BlockVersion::V2, known(&[(Known::UserId, list())])));
    assert_eq!(case.modified_by, printed);
}

#[test]
fn a_list_is_cut_by_items_and_must_then_fit() {
    let many = format!("[{}]", vec![r#""a""#; 256].join(","));
    assert_eq!(
        refusal(form("f", 0, vec![block(vec![known(&[(Known::Name, json(&many))])])])),
        RejectReason::ValueTooLong,
        "255 items print to more than 255 characters"
    );
    let two = format!(r#"["{0}","{0}"]"#, "x".repeat(124));
    assert_eq!(
        refusal(form("f", 0, vec![block(vec![known(&[(Known::Name, json(&two))])])])),
        RejectReason::ValueTooLong
    );
    let fitting = format!(r#"["{0}","{0}"]"#, "x".repeat(123));
    let case = case_of(form("f", 0, vec![block(vec![known(&[(Known::Name, json(&fitting))])])]));
    assert_eq!(case.name.map(|name| name.len()), Some(254));
}

#[test]
fn objects_refuse_the_form_where_text_is_needed() {
    let object = || json(r##"{"@a":"1","#text":"b"}"##);
    for action in [
        dynamic("name", object()),
        dynamic("location_id", object()),
        dynamic("hq_user_id", object()),
        known(&[(Known::Name, json(r#"["a",{"@b":"c"}]"#))]),
    ] {
        let effects = form("f", 0, vec![block(vec![action])]);
        assert_eq!(refusal(effects), RejectReason::BadValue);
    }
    let effects = userless(BlockVersion::V2, known(&[(Known::UserId, object())]));
    assert_eq!(refusal(effects), RejectReason::BadValue);
    // With a user of its own, the block overrides what the element says before anything is stored.
    let case = case_of(form("f", 0, vec![block(vec![known(&[(Known::UserId, object())])])]));
    assert_eq!(case.modified_by, "block-user");
}

#[test]
fn a_user_element_counts_where_the_block_has_no_user() {
    let element = || known(&[(Known::UserId, text("element"))]);
    let case = case_of(userless(BlockVersion::V2, element()));
    assert_eq!(
        (
            case.modified_by.as_str(),
            case.owner_id.as_str(),
            case.opened_by.as_deref()
        ),
        ("element", "", Some("")),
        "it opens and owns nothing"
    );
    let case = case_of(userless(
        BlockVersion::V2,
        known(&[(Known::UserId, text("")), (Known::OwnerId, text("o"))]),
    ));
    assert_eq!((case.modified_by.as_str(), case.owner_id.as_str()), ("", "o"));
}

/// Closed by nobody is NULL for a 1.0 block, and the empty text for a 2.0 block.
#[test]
fn nobody_closes() {
    let owned = form("a", 0, vec![block(vec![known(&[(Known::OwnerId, text("o"))])])]);
    for (version, closed_by) in [(BlockVersion::V1, None), (BlockVersion::V2, Some(""))] {
        let mut closing = userless(version, CaseAction::Close);
        closing.form.received_on = crate::forms::minute(1);
        let case = run(vec![owned.clone(), closing]).bundle().case;
        assert!(case.closed);
        assert_eq!(case.closed_by.as_deref(), closed_by, "{version:?}");
    }
}

#[test]
fn a_sync_token_must_fit() {
    let mut effects = form("f", 0, vec![block(vec![CaseAction::Noop])]);
    effects.form.sync_token = Some("x".repeat(256));
    assert_eq!(refusal(effects), RejectReason::ValueTooLong);
}

#[test]
fn the_last_of_two_writings_counts() {
    let both = CaseAction::Update {
        known: vec![(Known::Name, text("known")), (Known::ExternalId, text("known"))],
        dynamic: vec![
            ("name".to_owned(), text("dynamic")),
            ("hq_user_id".to_owned(), text("user")),
        ],
    };
    let case = case_of(form("f", 0, vec![block(vec![both])]));
    assert_eq!(case.name.as_deref(), Some("dynamic"));
    assert_eq!(case.external_id.as_deref(), Some("user"));
    assert_eq!(case.case_json, r#"{"hq_user_id":"user"}"#);
}
