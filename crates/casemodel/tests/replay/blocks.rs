//! What case blocks do to the columns and properties of a case.

use crate::forms::{at, attachment, block, create, form, json, known, minute, run, text, update};
use casemodel::Mode;
use proto::effects::{BlockVersion, CaseAction, CaseUpdate, FormEffects, KnownProperty as Known, PropertyValue};
use proto::rows::{CaseRow, RejectReason};

fn case_of(forms: Vec<FormEffects>) -> CaseRow {
    run(forms).bundle().case
}

#[test]
fn the_first_block_of_any_kind_makes_the_case() {
    let case = case_of(vec![form("f", 5, vec![block(vec![CaseAction::Noop])])]);
    let expected = CaseRow {
        case_id: "c-1".to_owned(),
        domain: "demo".to_owned(),
        case_type: String::new(),
        name: None,
        owner_id: "block-user".to_owned(),
        opened_on: Some(minute(600)),
        opened_by: Some("block-user".to_owned()),
        modified_on: minute(600),
        server_modified_on: minute(5),
        modified_by: "block-user".to_owned(),
        closed: false,
        closed_on: None,
        closed_by: None,
        deleted: false,
        deleted_on: None,
        deletion_id: None,
        external_id: None,
        location_id: None,
        case_json: "{}".to_owned(),
    };
    assert_eq!(case, expected);
}

#[test]
fn create_writes_known_properties_even_when_empty() {
    let case = case_of(vec![form(
        "f",
        0,
        vec![block(vec![create(&[
            (Known::Type, "child"),
            (Known::Name, ""),
            (Known::ExternalId, ""),
            (Known::OwnerId, "owner"),
            (Known::OpenedOn, "2019-02-01T10:00:00+02:00"),
        ])])],
    )]);
    assert_eq!(case.case_type, "child");
    assert_eq!(case.name.as_deref(), Some(""));
    assert_eq!(case.external_id.as_deref(), Some(""));
    assert_eq!(case.owner_id, "owner");
    assert_eq!(case.opened_on, Some(at("2019-02-01T08:00:00Z")));
}

#[test]
fn a_second_create_writes_again() {
    let first = create(&[(Known::Type, "a"), (Known::Name, "n"), (Known::OwnerId, "o")]);
    let second = create(&[(Known::Type, "b"), (Known::OwnerId, "p")]);
    let case = case_of(vec![
        form("f", 0, vec![block(vec![first])]),
        form("g", 1, vec![block(vec![second])]),
    ]);
    assert_eq!(
        (case.case_type.as_str(), case.name.as_deref(), case.owner_id.as_str()),
        ("b", Some("n"), "p")
    );
}

/// Which keys of an update go where.
#[test]
fn update_keys() {
    let dynamic = update(&[
        ("weight", "11.5"),
        ("location_id", "loc"),
        ("name", "Mina"),
        ("case_id", "x"),
        ("@case_id", "x"),
        ("date_modified", "x"),
        ("case_type", "x"),
        ("case_name", "x"),
        ("date_opened", "x"),
        ("supply_point_location_id", "x"),
        ("@xmlns", "x"),
        ("hq_user_id", "user-9"),
        ("type", "kept as a property"),
        ("closed", "1"),
        ("opened_on", "never"),
        ("#text", "t"),
    ]);
    let case = case_of(vec![form("f", 0, vec![block(vec![dynamic])])]);
    assert_eq!(case.location_id.as_deref(), Some("loc"));
    assert_eq!(case.name.as_deref(), Some("Mina"));
    assert_eq!(case.external_id.as_deref(), Some("user-9"));
    assert_eq!(case.case_type, "");
    assert!(!case.closed);
    assert_eq!(
        case.case_json,
        r##"{"weight":"11.5","hq_user_id":"user-9","type":"kept as a property","closed":"1","opened_on":"never","#text":"t"}"##
    );
}

#[test]
fn properties_keep_the_place_of_their_first_writing() {
    let case = case_of(vec![
        form("f", 0, vec![block(vec![update(&[("a", "1"), ("b", "1")])])]),
        form("g", 1, vec![block(vec![update(&[("b", "2"), ("c", "é")])])]),
        form("h", 2, vec![block(vec![update(&[("a", "3")])])]),
    ]);
    assert_eq!(case.case_json, r#"{"a":"3","b":"2","c":"\u00e9"}"#);
}

#[test]
fn objects_stay_objects_in_properties() {
    let dynamic = vec![("village".to_owned(), json(r##"{"@code": "7", "#text": "north"}"##))];
    let case = case_of(vec![form(
        "f",
        0,
        vec![block(vec![CaseAction::Update {
            known: Vec::new(),
            dynamic,
        }])],
    )]);
    assert_eq!(case.case_json, r##"{"village":{"@code":"7","#text":"north"}}"##);
}

#[test]
fn close_takes_date_and_user_of_its_block_and_repeats_overwrite() {
    let later = CaseUpdate {
        modified_on: Some(minute(700)),
        ..block(vec![CaseAction::Close])
    };
    let case = case_of(vec![
        form("f", 0, vec![block(vec![CaseAction::Close])]),
        form(
            "g",
            1,
            vec![CaseUpdate {
                user_id: Some("other".to_owned()),
                ..later
            }],
        ),
        form("h", 2, vec![block(vec![update(&[("a", "1")])])]),
    ]);
    assert!(case.closed);
    assert_eq!(case.closed_on, Some(minute(700)));
    assert_eq!(case.closed_by.as_deref(), Some("other"));
}

/// (version, block's user, form's user) -> (owner and opener, modifier)
#[test]
fn the_user_of_a_block() {
    let some = |text: &str| Some(text.to_owned());
    for (version, block_user, form_user, owner, modifier) in [
        (BlockVersion::V2, some("b"), some("f"), "b", "b"),
        (BlockVersion::V2, some(""), some("f"), "f", "f"),
        (BlockVersion::V2, None, some("f"), "f", "f"),
        (BlockVersion::V1, None, some("f"), "f", "f"),
        (BlockVersion::V2, None, None, "", ""),
        (BlockVersion::V2, Some(String::new()), some(""), "", ""),
    ] {
        let update = CaseUpdate {
            version,
            user_id: block_user.clone(),
            ..block(vec![CaseAction::Close])
        };
        let mut effects = form("f", 0, vec![update]);
        effects.form.user_id.clone_from(&form_user);
        let case = case_of(vec![effects]);
        let what = format!("{version:?} {block_user:?} {form_user:?}");
        assert_eq!(case.owner_id, owner, "{what}");
        assert_eq!(case.opened_by.as_deref(), Some(owner), "{what}");
        assert_eq!(case.closed_by.as_deref(), Some(owner), "{what}");
        assert_eq!(case.modified_by, modifier, "{what}");
    }
}

#[test]
fn the_user_of_the_block_overrides_a_user_element() {
    let user = vec![(Known::UserId, text("element"))];
    let case = case_of(vec![form("f", 0, vec![block(vec![CaseAction::Create(user.clone())])])]);
    assert_eq!(case.modified_by, "block-user");

    let mut effects = form(
        "f",
        0,
        vec![CaseUpdate {
            user_id: None,
            ..block(vec![CaseAction::Create(user)])
        }],
    );
    effects.form.user_id = None;
    assert_eq!(case_of(vec![effects]).modified_by, "element");
}

#[test]
fn opening_describes_the_first_block_applied() {
    let first = CaseUpdate {
        user_id: Some("first".to_owned()),
        ..block(vec![CaseAction::Noop])
    };
    let creating = CaseUpdate {
        modified_on: Some(minute(700)),
        ..block(vec![create(&[(Known::Type, "t"), (Known::OwnerId, "")])])
    };
    let case = case_of(vec![form("f", 0, vec![first]), form("g", 1, vec![creating])]);
    assert_eq!(case.opened_on, Some(minute(600)));
    assert_eq!(case.opened_by.as_deref(), Some("first"));
    assert_eq!(case.owner_id, "block-user", "a blank owner is replaced right away");
}

#[test]
fn modified_on_never_moves_back_and_falls_back_to_received_on() {
    let early = CaseUpdate {
        modified_on: Some(minute(1)),
        ..block(vec![CaseAction::Noop])
    };
    let undated = CaseUpdate {
        modified_on: None,
        ..block(vec![CaseAction::Noop])
    };
    let case = case_of(vec![
        form("f", 0, vec![block(vec![CaseAction::Noop])]),
        form("g", 9, vec![early]),
    ]);
    assert_eq!(case.modified_on, minute(600));
    assert_eq!(case.server_modified_on, minute(9));
    let case = case_of(vec![form("f", 7, vec![undated])]);
    assert_eq!((case.modified_on, case.opened_on), (minute(7), Some(minute(7))));
}

#[test]
fn four_properties_are_cut_to_255_characters() {
    let long = "é".repeat(256);
    let cut = "é".repeat(255);
    let case = case_of(vec![form(
        "f",
        0,
        vec![block(vec![create(&[
            (Known::Type, &long),
            (Known::Name, &long),
            (Known::OwnerId, &long),
            (Known::ExternalId, &long),
        ])])],
    )]);
    assert_eq!(case.case_type, cut);
    assert_eq!(case.name, Some(cut.clone()));
    assert_eq!(case.owner_id, cut);
    assert_eq!(case.external_id, Some(cut));
}

#[test]
fn a_repeated_element_is_stored_as_python_prints_the_list() {
    let case = case_of(vec![form(
        "f",
        0,
        vec![block(vec![known(&[(Known::Name, json(r#"["a","b"]"#))])])],
    )]);
    assert_eq!(case.name.as_deref(), Some("['a', 'b']"));
}

fn one(action: CaseAction) -> FormEffects {
    form("bad", 1, vec![block(vec![action])])
}

fn without_user(version: BlockVersion) -> FormEffects {
    let update = CaseUpdate {
        version,
        user_id: None,
        ..block(vec![CaseAction::Noop])
    };
    let mut effects = form("bad", 1, vec![update]);
    effects.form.user_id = None;
    effects
}

fn by_user(user: &str) -> FormEffects {
    form(
        "bad",
        1,
        vec![CaseUpdate {
            user_id: Some(user.to_owned()),
            ..block(vec![CaseAction::Noop])
        }],
    )
}

/// A form in error leaves no trace, wherever in the form the error is, and the other forms are applied as without it.
#[test]
fn forms_in_error() {
    let long = "x".repeat(256);
    let dynamic = |key: &str, value: PropertyValue| CaseAction::Update {
        known: Vec::new(),
        dynamic: vec![("before".to_owned(), text("1")), (key.to_owned(), value)],
    };
    let object = || json(r#"{"@a":"1"}"#);
    let table: Vec<(&str, FormEffects, RejectReason)> = vec![
        (
            "date_opened of no date",
            one(create(&[(Known::OpenedOn, "soon")])),
            RejectReason::BadOpenedOn,
        ),
        (
            "empty date_opened",
            one(create(&[(Known::OpenedOn, "")])),
            RejectReason::BadOpenedOn,
        ),
        (
            "date_opened object",
            one(known(&[(Known::OpenedOn, object())])),
            RejectReason::BadOpenedOn,
        ),
        (
            "name object",
            one(known(&[(Known::Name, object())])),
            RejectReason::BadValue,
        ),
        (
            "type object",
            one(known(&[(Known::Type, object())])),
            RejectReason::BadValue,
        ),
        (
            "owner object",
            one(known(&[(Known::OwnerId, object())])),
            RejectReason::BadValue,
        ),
        (
            "external id object",
            one(known(&[(Known::ExternalId, object())])),
            RejectReason::BadValue,
        ),
        (
            "location object",
            one(dynamic("location_id", object())),
            RejectReason::BadValue,
        ),
        (
            "long name in update",
            one(dynamic("name", text(&long))),
            RejectReason::ValueTooLong,
        ),
        (
            "long location",
            one(dynamic("location_id", text(&long))),
            RejectReason::ValueTooLong,
        ),
        (
            "long hq_user_id",
            one(dynamic("hq_user_id", text(&long))),
            RejectReason::ValueTooLong,
        ),
        ("long user", by_user(&long), RejectReason::ValueTooLong),
        (
            "NUL in name",
            one(create(&[(Known::Name, "a\0")])),
            RejectReason::UnstorableText,
        ),
        ("NUL in user", by_user("a\0"), RejectReason::UnstorableText),
        (
            "long index",
            one(crate::forms::index("parent", &long)),
            RejectReason::ValueTooLong,
        ),
        (
            "attachment that the form lacks",
            one(attachment("photo", Some("p.jpg"), None)),
            RejectReason::AttachmentNotFound,
        ),
    ];
    let good = |id, received| form(id, received, vec![block(vec![update(&[(id, "1")])])]);
    let mut without = run(vec![good("f", 0), good("g", 2)]);
    without.case_attachments = true;
    for (what, bad, reason) in table {
        let mut with = without.clone();
        with.forms.push(bad);
        let replayed = with.replay();
        assert_eq!(with.rejected(), [("bad".to_owned(), reason)], "{what}");
        assert_eq!(replayed.bundle, Some(without.bundle()), "{what}");
    }
}

#[test]
fn nul_in_a_property_is_stored() {
    let case = case_of(vec![form("f", 0, vec![block(vec![update(&[("a", "x\0y")])])])]);
    assert_eq!(case.case_json, r#"{"a":"x\u0000y"}"#);
}

#[test]
fn a_v1_block_without_any_user_leaves_a_new_case_without_owner() {
    assert_eq!(
        run(vec![without_user(BlockVersion::V1)]).rejected(),
        [("bad".to_owned(), RejectReason::NoOwner)]
    );
    assert_eq!(run(vec![without_user(BlockVersion::V1)]).replay().bundle, None);
    assert_eq!(run(vec![without_user(BlockVersion::V2)]).rejected(), []);
    // With an owner already there, nothing is missing.
    let owned = form("f", 0, vec![block(vec![create(&[(Known::OwnerId, "o")])])]);
    assert_eq!(run(vec![owned, without_user(BlockVersion::V1)]).rejected(), []);
}

#[test]
fn an_error_in_the_only_form_leaves_no_case() {
    let replayed = run(vec![one(create(&[(Known::OpenedOn, "soon")]))]).replay();
    assert_eq!(replayed.bundle, None);
    assert_eq!(replayed.rejected.len(), 1);
}

#[test]
fn a_form_that_depends_on_a_rejected_one_is_seen_without_it() {
    let making = form(
        "a",
        0,
        vec![block(vec![
            create(&[(Known::OpenedOn, "soon")]),
            crate::forms::index("p", "h"),
        ])],
    );
    let closing = form("b", 1, vec![block(vec![CaseAction::Close])]);
    let replayed = run(vec![making, closing]).replay();
    let bundle = replayed.bundle.unwrap();
    assert!(bundle.indices.is_empty());
    assert_eq!(bundle.case.opened_on, Some(minute(600)));
    assert_eq!(bundle.transactions.len(), 1);
}

/// What a rebuild gives otherwise than processing.
#[test]
fn a_rebuild_leaves_empty_texts() {
    let mut replay = run(vec![form(
        "f",
        0,
        vec![block(vec![update(&[("location_id", "loc"), ("a", "1")])])],
    )]);
    let processed = replay.bundle();
    replay.mode = Mode::AsRebuilt;
    let rebuilt = replay.bundle();
    assert_eq!(
        (
            &processed.case.name,
            &processed.case.external_id,
            &processed.case.closed_by
        ),
        (&None, &None, &None)
    );
    let empty = Some(String::new());
    assert_eq!(
        (&rebuilt.case.name, &rebuilt.case.external_id, &rebuilt.case.closed_by),
        (&empty, &empty, &empty)
    );
    let same = CaseRow {
        name: None,
        external_id: None,
        closed_by: None,
        ..rebuilt.case.clone()
    };
    assert_eq!(same, processed.case);
    assert_eq!(rebuilt.transactions, processed.transactions);
}
