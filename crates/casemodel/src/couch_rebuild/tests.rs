#![allow(clippy::unwrap_used)]

use chrono::{TimeDelta, Utc};
use proto::effects::{
    AttachmentChange, BlockVersion, CaseAction, IndexChange, KnownProperty, PropertyValue, Relationship,
};

use super::*;

fn at(minute: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::minutes(minute)
}

fn text(text: &str) -> PropertyValue {
    PropertyValue::Text(text.to_owned())
}

fn update(properties: &[(&str, &str)]) -> CaseAction {
    CaseAction::Update {
        known: Vec::new(),
        dynamic: properties
            .iter()
            .map(|(key, value)| ((*key).to_owned(), text(value)))
            .collect(),
    }
}

fn create(name: &str) -> CaseAction {
    CaseAction::Create(vec![
        (KnownProperty::Type, text("person")),
        (KnownProperty::Name, text(name)),
        (KnownProperty::OwnerId, text("owner")),
    ])
}

/// A form with one block, whose phone wrote it when it was received.
fn form(id: &str, minute: i64, actions: Vec<CaseAction>) -> CouchForm {
    CouchForm {
        form_id: id.to_owned(),
        received_on: at(minute),
        user_id: Some("user".to_owned()),
        updates: vec![CaseUpdate {
            version: BlockVersion::V2,
            user_id: None,
            modified_on: Some(at(minute)),
            actions,
        }],
        changes_ledgers: false,
        attachments: Vec::new(),
    }
}

fn by(user: &str, form: CouchForm) -> CouchForm {
    CouchForm {
        user_id: Some(user.to_owned()),
        ..form
    }
}

/// The same form, written on the phone at another time than it was received.
fn written(minute: i64, mut form: CouchForm) -> CouchForm {
    form.updates[0].modified_on = Some(at(minute));
    form
}

fn case() -> Value {
    json!({"_id": "c", "doc_type": "CommCareCase", "domain": "d", "actions": [], "xform_ids": []})
}

fn rebuilt(case: &Value, forms: Vec<CouchForm>) -> Value {
    rebuild(case, forms).unwrap()
}

#[test]
fn what_was_altered_by_hand_goes_and_what_no_action_names_stays() {
    let altered = json!({
        "_id": "c", "_rev": "3-x", "doc_type": "CommCareCase", "domain": "d", "name": "altered", "type": "altered",
        "owner_id": "altered", "user_id": "altered", "external_id": "altered", "opened_by": "altered", "closed": true,
        "closed_by": "altered", "closed_on": "1970-01-01T09:00:00Z", "opened_on": "1970-01-01T09:00:00Z",
        "modified_on": "1970-01-01T09:00:00Z", "server_modified_on": "1970-01-01T08:00:00.000000Z", "age": "altered",
        "former": "of an action that no form makes any more", "foreign": "of no action",
        "indices": [{"identifier": "parent", "referenced_id": "h"}],
        "case_attachments": {"photo": {"identifier": "photo"}},
        "xform_ids": ["gone"],
        "actions": [{"action_type": "update", "xform_id": "gone", "updated_unknown_properties": {"former": "1"}}],
    });
    let forms = vec![
        form("g", 2, vec![update(&[("age", "27")])]),
        form("f", 1, vec![create("Asha")]),
    ];
    assert_eq!(
        rebuilt(&altered, forms),
        json!({
            "_id": "c", "_rev": "3-x", "doc_type": "CommCareCase", "domain": "d", "name": "Asha", "type": "person",
            "owner_id": "owner", "user_id": "user", "external_id": "", "opened_by": "altered", "closed": false,
            "closed_by": "", "closed_on": null, "opened_on": "1970-01-01T00:01:00.000000Z",
            "modified_on": "1970-01-01T00:02:00.000000Z", "server_modified_on": "1970-01-01T08:00:00.000000Z",
            "age": "27", "foreign": "of no action", "indices": [], "case_attachments": {}, "xform_ids": ["f", "g"],
            "actions": [
                {"action_type": "create", "xform_id": "f"}, {"action_type": "update", "xform_id": "g"},
                {"action_type": "rebuild", "xform_id": null},
            ],
        })
    );
}

#[test]
fn who_opened_the_case_is_filled_in_where_nobody_is_named() {
    let forms = || {
        vec![
            by("first", form("f", 1, vec![create("Asha")])),
            by("second", form("g", 2, vec![create("Asha")])),
        ]
    };
    for (opened_by, expected) in [
        (json!(null), "first"),
        (json!(""), "first"),
        (json!("altered"), "altered"),
    ] {
        let mut case = case();
        case["opened_by"] = opened_by;
        assert_eq!(rebuilt(&case, forms())["opened_by"], expected);
    }
    assert_eq!(rebuilt(&case(), forms())["opened_by"], "first");
    let updated = by("first", form("f", 1, vec![update(&[("age", "27")])]));
    assert_eq!(
        rebuilt(&case(), vec![updated])["opened_by"],
        json!(null),
        "only a create opens"
    );
}

#[test]
fn the_user_of_a_block_wins_over_that_of_its_form() {
    let block_of = |user: Option<&str>| {
        let mut form = by("former", form("f", 1, vec![create("Asha"), CaseAction::Close]));
        form.updates[0].user_id = user.map(str::to_owned);
        let mut case = rebuilt(&case(), vec![form]);
        ["opened_by", "closed_by", "user_id"].map(|field| case[field].take())
    };
    assert_eq!(block_of(Some("blocker")), ["blocker", "blocker", "blocker"]);
    for nobody in [None, Some("")] {
        assert_eq!(block_of(nobody), ["former", "former", "former"]);
    }
}

#[test]
fn a_block_without_a_date_is_of_the_time_of_receipt() {
    let mut undated = form("f", 7, vec![create("Asha"), CaseAction::Close]);
    undated.updates[0].modified_on = None;
    let case = rebuilt(&case(), vec![undated]);
    for field in ["opened_on", "closed_on", "modified_on"] {
        assert_eq!(case[field], "1970-01-01T00:07:00.000000Z", "{field}");
    }
}

/// A name that a block uses for itself is never written, so that the old value shows whether it was reset.
#[test]
fn a_property_that_a_new_action_names_is_reset() {
    let mut altered = case();
    altered["date_opened"] = json!("altered");
    altered["case_name"] = json!("altered");
    let named = form("f", 1, vec![create("Asha"), update(&[("date_opened", "x")])]);
    let case = rebuilt(&altered, vec![named]);
    assert_eq!(case.get("date_opened"), None);
    assert_eq!(case["case_name"], "altered", "no action names it");
}

#[test]
fn actions_of_one_form_go_by_their_types() {
    let index = CaseAction::Index(vec![IndexChange {
        identifier: "parent".to_owned(),
        referenced_type: "household".to_owned(),
        referenced_id: "h".to_owned(),
        relationship: Relationship::Child,
    }]);
    let attachment = CaseAction::Attachment(vec![AttachmentChange {
        identifier: "photo".to_owned(),
        src: None,
        from: None,
        name: None,
    }]);
    let backwards = vec![
        attachment,
        CaseAction::Close,
        index,
        update(&[("age", "27")]),
        create("Asha"),
    ];
    let mut form = form("f", 1, backwards);
    form.changes_ledgers = true;
    let case = rebuilt(&case(), vec![form]);
    let types: Vec<&Value> = case["actions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|action| &action["action_type"])
        .collect();
    assert_eq!(
        types,
        [
            "create",
            "update",
            "index",
            "close",
            "attachment",
            "commtrack",
            "rebuild"
        ]
    );
}

/// Of the last of two forms, by Couch's order, is the age.
fn age_after(first: CouchForm, second: CouchForm) -> Value {
    let mut forms = vec![form("create", 0, vec![create("Asha")]), second, first];
    forms[1].updates[0].actions = vec![update(&[("age", "second")])];
    forms[2].updates[0].actions = vec![update(&[("age", "first")])];
    rebuilt(&case(), forms)["age"].take()
}

#[test]
fn the_phone_decides_for_one_user_within_twelve_hours() {
    let hours = 12 * 60;
    let pair = |gap: i64, other_user: &str| {
        let first = written(5, form("f", 10, Vec::new()));
        let second = written(4, form("g", 10 + gap, Vec::new()));
        age_after(by("user", first), by(other_user, second))
    };
    assert_eq!(pair(1, "user"), "first", "written later, received earlier");
    assert_eq!(pair(hours, "user"), "first");
    assert_eq!(pair(hours + 1, "user"), "second", "too far apart");
    assert_eq!(pair(1, "another"), "second", "the phones of two users do not agree");
}

#[test]
fn forms_of_equal_dates_stay_in_the_order_of_their_ids() {
    let forms = vec![
        form("b", 1, vec![update(&[("age", "b")])]),
        form("c", 1, vec![create("Asha"), update(&[("age", "c")])]),
        form("a", 1, vec![update(&[("age", "a")])]),
    ];
    let case = rebuilt(&case(), forms);
    // A create goes before updates of the same moment; then the order of ids.
    assert_eq!(case["age"], "c");
    assert_eq!(case["xform_ids"], json!(["c", "a", "b"]));
}

#[test]
fn a_block_without_parts_and_a_ledger_list_their_form() {
    let mut ledger = form("ledger", 9, Vec::new());
    ledger.updates.clear();
    ledger.changes_ledgers = true;
    let forms = vec![
        form("f", 1, vec![create("Asha")]),
        by("other", form("noop", 2, vec![CaseAction::Noop])),
        ledger,
    ];
    let case = rebuilt(&case(), forms);
    assert_eq!(case["xform_ids"], json!(["f", "noop", "ledger"]));
    assert_eq!(case["user_id"], "other", "a ledger changes no user");
    assert_eq!(case["modified_on"], "1970-01-01T00:02:00.000000Z", "and no date");
}

#[test]
fn a_case_without_forms_counts_as_deleted() {
    let case = rebuilt(&case(), Vec::new());
    assert_eq!(case["doc_type"], "CommCareCase-Deleted");
    assert_eq!((&case["xform_ids"], &case["name"]), (&json!([]), &json!("")));
}

#[test]
fn a_case_that_was_deleted_explicitly_stays_deleted() {
    let deleted = |action_type: &str| {
        json!({"_id": "c", "doc_type": "CommCareCase-Deleted", "domain": "d",
            "actions": [{"action_type": action_type, "xform_id": "f"}]})
    };
    let forms = || vec![form("f", 1, vec![create("Asha")])];
    assert_eq!(rebuilt(&deleted("create"), forms())["doc_type"], "CommCareCase-Deleted");
    assert_eq!(rebuilt(&deleted("rebuild"), forms())["doc_type"], "CommCareCase");
}

#[test]
fn indices_and_closing() {
    let index = |identifier: &str, referenced_id: &str| {
        CaseAction::Index(vec![IndexChange {
            identifier: identifier.to_owned(),
            referenced_type: "household".to_owned(),
            referenced_id: referenced_id.to_owned(),
            relationship: Relationship::Extension,
        }])
    };
    let forms = vec![
        form("f", 1, vec![create("Asha"), index("parent", "h"), index("host", "x")]),
        by(
            "closer",
            form(
                "g",
                2,
                vec![
                    index("parent", ""),
                    index("none", ""),
                    index("host", "y"),
                    CaseAction::Close,
                ],
            ),
        ),
    ];
    let case = rebuilt(&case(), forms);
    assert_eq!(
        case["indices"],
        json!([{"doc_type": "CommCareCaseIndex", "identifier": "host", "referenced_type": "household",
            "referenced_id": "y", "relationship": "extension"}])
    );
    assert_eq!(
        (&case["closed"], &case["closed_by"], &case["closed_on"]),
        (&json!(true), &json!("closer"), &json!("1970-01-01T00:02:00.000000Z"))
    );
}

#[test]
fn an_update_writes_fields_of_its_name_and_never_those_of_a_block() {
    let named =
        |properties: &[(&str, &str)]| rebuild(&case(), vec![form("f", 1, vec![create("Asha"), update(properties)])]);
    let case = named(&[
        ("type", "child"),
        ("name", "Mina"),
        ("case_name", "x"),
        ("date_opened", "x"),
    ])
    .unwrap();
    assert_eq!((&case["type"], &case["name"]), (&json!("child"), &json!("Mina")));
    assert_eq!((case.get("case_name"), case.get("date_opened")), (None, None));
    for field in ["closed", "opened_on", "actions", "_id"] {
        assert_eq!(named(&[(field, "x")]), Err(CouchRebuildError::BadValue), "{field}");
    }
    let opened = |date: &str| {
        let known = CaseAction::Create(vec![(KnownProperty::OpenedOn, text(date))]);
        rebuild(&self::case(), vec![form("f", 1, vec![known])])
    };
    assert_eq!(
        opened("2020-02-03").unwrap()["opened_on"],
        "2020-02-03T00:00:00.000000Z"
    );
    assert_eq!(opened("soon"), Err(CouchRebuildError::BadValue));
}

#[test]
fn attachments_are_those_of_the_form() {
    let attach = |src: Option<&str>| {
        CaseAction::Attachment(vec![AttachmentChange {
            identifier: "photo".to_owned(),
            src: src.map(str::to_owned),
            from: src.map(|_| "local".to_owned()),
            name: None,
        }])
    };
    let with = |actions| CouchForm {
        attachments: vec![("a.jpg".to_owned(), Some(7))],
        ..form("f", 1, actions)
    };
    let case = rebuilt(&case(), vec![with(vec![create("Asha"), attach(Some("a.jpg"))])]);
    assert_eq!(case["case_attachments"]["photo"]["attachment_size"], 7);
    let removed = form("g", 2, vec![attach(None)]);
    let case = rebuilt(&self::case(), vec![with(vec![attach(Some("a.jpg"))]), removed]);
    assert_eq!(case["case_attachments"], json!({}));
    let lost = with(vec![attach(Some("b.jpg"))]);
    assert_eq!(
        rebuild(&self::case(), vec![lost]),
        Err(CouchRebuildError::AttachmentNotFound)
    );
}

#[test]
fn a_case_with_many_actions_is_rebuilt() {
    let count = 50_000;
    let forms: Vec<CouchForm> = (0..count)
        .map(|at| {
            let mut form = form(
                &format!("form-{at:06}"),
                at / 3,
                vec![update(&[("age", &at.to_string())])],
            );
            // The phone's clock goes back and forth.
            form.updates[0].modified_on = Some(self::at(at / 3 - at % 7));
            form
        })
        .collect();
    let case = rebuilt(&case(), forms);
    assert_eq!(
        case["xform_ids"].as_array().unwrap().len(),
        usize::try_from(count).unwrap()
    );
}
