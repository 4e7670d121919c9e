//! Cases.

use std::collections::HashSet;

use docdiff::{UnknownDocType, diff_case, refilter_case};
use serde_json::{Map, Value, json};

use crate::shown::{NONE, case_lines, lines};

/// Lines of two live cases with these fields.
fn live(couch: Value, sql: Value) -> Vec<String> {
    typed("CommCareCase", "CommCareCase", couch, sql)
}

fn typed(couch_type: &str, sql_type: &str, mut couch: Value, mut sql: Value) -> Vec<String> {
    couch["doc_type"] = Value::from(couch_type);
    sql["doc_type"] = Value::from(sql_type);
    case_lines(&couch, &sql)
}

#[test]
fn catalogue_06_deletion_fields_of_a_deleted_case() {
    let couch = json!({"-deletion_id": "abc", "-deletion_date": "123"});
    let sql = json!({"deletion_id": "abc", "deleted_on": "123"});
    assert_eq!(typed("CommCareCase-Deleted", "CommCareCase-Deleted", couch, sql), NONE);
}

#[test]
fn catalogue_07_deletion_id_null() {
    assert_eq!(
        typed(
            "CommCareCase-Deleted",
            "CommCareCase-Deleted",
            json!({}),
            json!({"deletion_id": null})
        ),
        NONE
    );
}

#[test]
fn catalogue_08_deleted_on_that_couch_lacks() {
    let sql = json!({"deleted_on": "2015-01-01T00:00:00.000000Z"});
    assert_eq!(
        typed("CommCareCase-Deleted", "CommCareCase-Deleted", json!({}), sql),
        NONE
    );
}

#[test]
fn catalogue_09_twice_deleted() {
    let couch = json!({"-deletion_id": "abc", "-deletion_date": "123"});
    let sql = json!({"deletion_id": "abc", "deleted_on": "123"});
    assert_eq!(
        typed("CommCareCase-Deleted-Deleted", "CommCareCase-Deleted", couch, sql),
        NONE
    );
}

#[test]
fn catalogue_10_case_rules_and_dates_are_dropped() {
    let couch = json!({
        "doc_type": "CommCareCase", "_rev": "1-a", "initial_processing_complete": true, "@xmlns": "x", "_attachments": {},
        "external_blobs": {}, "#export_tag": "x", "computed_": {}, "version": "2.0", "export_tag": "x",
        "computed_modified_on_": null, "case_id": "c", "@case_id": "c", "owner_id": "", "user_id": null, "opened_on": null,
        "nothing": null, "name": "", "closed_by": "", "referrals": [], "location_": [], "type": null, "external_id": "",
        "indices": [{"doc_type": "CommCareCaseIndex", "identifier": "parent"}],
        "actions": [{"action_type": "create"}], "modified_on": "2015-01-01T00:00:00Z",
        "-deletion_id": "x", "-deletion_date": "y"});
    let sql = json!({
        "doc_type": "CommCareCase", "id": 7, "deleted": false, "case_json": {}, "modified_by": "u", "owner_id": "o",
        "user_id": "u", "opened_on": "2015-01-01T00:00:00.000000Z", "case_attachments": {}, "name": null,
        "closed_by": null, "location_id": null, "type": "", "external_id": null, "deleted_on": null, "backend_id": "sql",
        "indices": [{"case_id": "c", "identifier": "parent", "relationship": "child"}], "actions": [],
        "modified_on": "2015-01-01T00:00:00.000000Z"});
    assert_eq!(case_lines(&couch, &sql), NONE);
}

#[test]
fn catalogue_11_xform_ids_in_another_order() {
    assert_eq!(
        live(
            json!({"xform_ids": ["123", "456"]}),
            json!({"xform_ids": ["456", "123"]})
        ),
        NONE
    );
}

#[test]
fn catalogue_12_xform_ids_of_one_side_only() {
    assert_eq!(
        live(
            json!({"xform_ids": ["123", "456"]}),
            json!({"xform_ids": ["123", "abc"]})
        ),
        [r#"set_mismatch xform_ids/[*] "456" -> "abc""#]
    );
}

#[test]
fn catalogue_13_legacy_user_and_case_ids() {
    let couch = json!({"@user_id": "u", "@case_id": "c"});
    assert_eq!(live(couch, json!({"user_id": "u", "case_id": "c"})), NONE);
}

#[test]
fn catalogue_14_hq_user_id_is_external_id() {
    assert_eq!(
        live(
            json!({"hq_user_id": "123", "external_id": ""}),
            json!({"external_id": "123"})
        ),
        NONE
    );
}

#[test]
fn catalogue_15_hq_user_id_without_external_id() {
    assert_eq!(
        live(json!({"hq_user_id": "123"}), json!({})),
        [r#"missing hq_user_id "123" -> -"#]
    );
}

#[test]
fn catalogue_17_date_modified_is_modified_on() {
    let couch = json!({"@date_modified": "2015-03-23T14:36:53Z"});
    assert_eq!(live(couch, json!({"modified_on": "2015-03-23T14:36:53.073000Z"})), NONE);
}

#[test]
fn catalogue_18_microseconds() {
    let couch = json!({"modified_on": "2015-03-23T14:36:53Z"});
    assert_eq!(live(couch, json!({"modified_on": "2015-03-23T14:36:53.073000Z"})), NONE);
}

fn index(identifier: &str, referenced_id: &str) -> Value {
    json!({"identifier": identifier, "referenced_id": referenced_id, "referenced_type": identifier})
}

fn indices(items: &[Value]) -> Value {
    json!({"indices": items})
}

#[test]
fn catalogue_19_two_indices_reversed() {
    let (a, b) = (index("a", "1"), index("b", "2"));
    assert_eq!(live(indices(&[a.clone(), b.clone()]), indices(&[b, a])), NONE);
}

/// As [`catalogue_19_two_indices_reversed`], with what real documents have beside it.
#[test]
fn two_real_indices_reversed() {
    let with = |mut index: Value, key: &str, value: &str| {
        index[key] = Value::from(value);
        index
    };
    let couch = |identifier, referenced_id| with(index(identifier, referenced_id), "doc_type", "CommCareCaseIndex");
    let sql = |identifier, referenced_id| {
        with(
            with(index(identifier, referenced_id), "case_id", "c"),
            "relationship",
            "child",
        )
    };
    assert_eq!(
        live(
            indices(&[couch("a", "1"), couch("b", "2")]),
            indices(&[sql("b", "2"), sql("a", "1")])
        ),
        NONE
    );
    assert_eq!(
        live(
            indices(&[couch("a", "1"), couch("b", "2")]),
            indices(&[sql("b", "3"), sql("a", "1")])
        ),
        [r#"diff indices/[*]/referenced_id "2" -> "3""#]
    );
}

#[test]
fn catalogue_20_location_that_sql_lacks() {
    assert_eq!(live(json!({"location_": ["a"]}), json!({})), NONE);
}

#[test]
fn catalogue_21_one_identifier_of_two_changed() {
    let couch = indices(&[
        index("a", "1"),
        json!({"identifier": "b", "referenced_id": "2", "referenced_type": "t"}),
    ]);
    let sql = indices(&[
        json!({"identifier": "c", "referenced_id": "2", "referenced_type": "t"}),
        index("a", "1"),
    ]);
    assert_eq!(live(couch, sql), [r#"diff indices/[*]/identifier "b" -> "c""#]);
}

#[test]
fn catalogue_22_relationship_of_one_index() {
    let couch = json!({"indices": [{"doc_type": "CommCareCaseIndex", "identifier": "host", "relationship": "child"}]});
    let sql = json!({"indices": [{"identifier": "host", "relationship": "extension"}]});
    assert_eq!(
        live(couch, sql),
        [r#"diff indices/[*]/relationship "child" -> "extension""#]
    );
}

/// Positional diffs stay as they are where Couch has fewer than two indices.
#[test]
fn one_index_against_two() {
    let (a, b) = (index("a", "1"), index("b", "2"));
    assert_eq!(
        live(indices(std::slice::from_ref(&b)), indices(&[a.clone(), b.clone()])).len(),
        4
    );
    // With two in Couch, order is set aside, and each kind of diff at a path is reported once.
    assert_eq!(
        live(indices(&[b.clone(), a.clone()]), indices(&[])),
        [format!("missing indices/[*] {a} -> -")]
    );
}

#[test]
fn catalogue_23_case_attachments() {
    let couch = json!({"case_attachments": {"xyz": {
        "doc_type": "CommCareCaseAttachment", "identifier": "xyz", "attachment_size": 7, "attachment_name": null,
        "attachment_src": "a.jpg", "attachment_from": "local", "attachment_properties": {"width": 1},
        "server_mime": "image/jpeg", "server_md5": "a", "unexpected": "value", "differs": 1}}});
    let sql = json!({"case_attachments": {"xyz": {
        "name": "xyz", "content_length": 7, "content_type": "image/jpeg", "differs": 2}}});
    assert_eq!(
        live(couch, sql),
        [
            r#"missing case_attachments/xyz/unexpected "value" -> -"#,
            "diff case_attachments/xyz/differs 1 -> 2"
        ]
    );
}

#[test]
fn attachments_of_one_side_only() {
    assert_eq!(
        live(
            json!({"case_attachments": {"a": {}, "b": {}}}),
            json!({"case_attachments": {"b": {}, "c": {"x": 1}}})
        ),
        [
            "missing case_attachments/a {} -> -",
            r#"missing case_attachments/c - -> {"x":1}"#
        ]
    );
    assert_eq!(
        live(json!({}), json!({"case_attachments": {"c": 1}})),
        ["missing case_attachments/c - -> 1"]
    );
    let other_size = |key: &str, size: u32| json!({"case_attachments": {"a": {key: size}}});
    assert_eq!(
        live(other_size("attachment_size", 7), other_size("content_length", 8)),
        ["complex case_attachments/a/attachment_size/content_length 7 -> 8"]
    );
}

#[test]
fn catalogue_24_a_shorter_name() {
    assert_eq!(
        live(json!({"name": "shorter"}), json!({"name": "short"})),
        [r#"diff name "shorter" -> "short""#]
    );
}

#[test]
fn catalogue_25_name_null() {
    assert_eq!(
        live(json!({"name": null}), json!({"name": "x"})),
        [r#"type name null -> "x""#]
    );
}

#[test]
fn catalogue_26_name_missing() {
    assert_eq!(live(json!({}), json!({"name": "x"})), [r#"missing name - -> "x""#]);
}

#[test]
fn catalogue_27_name_of_256_characters() {
    assert_eq!(
        live(json!({"name": "x".repeat(256)}), json!({"name": "x".repeat(255)})),
        NONE
    );
    assert_eq!(
        live(json!({"name": "x".repeat(256)}), json!({"name": "x".repeat(254)})).len(),
        1
    );
}

#[test]
fn catalogue_32_opened_by_without_create_action() {
    let couch = |action: &str| json!({"opened_by": "a", "actions": [{"action_type": action}]});
    assert_eq!(live(couch("update"), json!({"opened_by": "b"})), NONE);
    assert_eq!(
        live(couch("create"), json!({"opened_by": "b"})),
        [r#"diff opened_by "a" -> "b""#]
    );
}

#[test]
fn catalogue_33_opened_by_null_without_create_action() {
    assert_eq!(
        live(json!({"opened_by": null, "actions": []}), json!({"opened_by": "b"})),
        NONE
    );
}

#[test]
fn catalogue_34_closed_by_empty() {
    assert_eq!(live(json!({"closed_by": ""}), json!({"closed_by": "u"})), NONE);
}

#[test]
fn doc_types_without_rules_are_refused() {
    for doc_type in ["XFormInstance", "CommCareUser"] {
        let doc = json!({"doc_type": doc_type});
        assert_eq!(
            diff_case(&doc, &doc, &HashSet::new()),
            Err(UnknownDocType(doc_type.to_owned()))
        );
    }
}

/// Forms without action, which Couch did not record: (Couch's forms, SQL's, those without action) -> lines.
#[test]
fn forms_without_action() {
    let set = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<HashSet<_>>();
    type Ids = &'static [&'static str];
    let table: [(Ids, Ids, Ids, Ids); 6] = [
        (&["a"], &["a", "n"], &["n"], &[]),
        (
            &["a"],
            &["a", "n", "x"],
            &["n"],
            &[r#"set_mismatch xform_ids/[*] "" -> "x""#],
        ),
        // Nothing is left of SQL's side: the diff goes, though Couch has a form that SQL lacks.
        (&["a", "b"], &["a", "n"], &["n"], &[]),
        // SQL's side was empty from the start: the diff stays.
        (
            &["a", "b"],
            &["a"],
            &["n"],
            &[r#"set_mismatch xform_ids/[*] "b" -> """#],
        ),
        (&["a"], &["a", "n"], &[], &[r#"set_mismatch xform_ids/[*] "" -> "n""#]),
        (&["a", "a"], &["a"], &[], &[]),
    ];
    for (couch, sql, without_action, expected) in table {
        let couch = json!({"doc_type": "CommCareCase", "xform_ids": couch});
        let sql = json!({"doc_type": "CommCareCase", "xform_ids": sql});
        assert_eq!(
            lines(&diff_case(&couch, &sql, &set(without_action)).unwrap()),
            expected,
            "{couch} {sql}"
        );
    }
}

#[test]
fn changed_xform_ids_come_last() {
    let couch = json!({"doc_type": "CommCareCase", "xform_ids": ["a"], "weight": "1"});
    let sql = json!({"doc_type": "CommCareCase", "xform_ids": ["b", "n"], "weight": "2"});
    let without_action = HashSet::from(["n".to_owned()]);
    assert_eq!(
        lines(&diff_case(&couch, &sql, &without_action).unwrap()),
        [r#"diff weight "1" -> "2""#, r#"set_mismatch xform_ids/[*] "a" -> "b""#]
    );
}

/// Forms that only SQL knows are reported once, and forgiven when stored diffs are filtered again.
#[test]
fn forms_that_only_sql_has() {
    let couch = json!({"doc_type": "CommCareCase", "xform_ids": ["a"]});
    let sql = json!({"doc_type": "CommCareCase", "xform_ids": ["a", "b"]});
    let stored = diff_case(&couch, &sql, &HashSet::new()).unwrap();
    assert_eq!(lines(&stored), [r#"set_mismatch xform_ids/[*] "" -> "b""#]);
    assert_eq!(refilter_case(&couch, &sql, &stored), Ok(Vec::new()));
}

/// Many differences of one kind cost no more than one look at the whole.
#[test]
fn many_forms_in_another_order() {
    let ids: Vec<String> = (0..20_000).map(|number| format!("form-{number}")).collect();
    let reversed: Vec<&String> = ids.iter().rev().collect();
    assert_eq!(live(json!({"xform_ids": ids}), json!({"xform_ids": reversed})), NONE);
}

#[test]
fn documents_that_are_no_objects_do_not_panic() {
    let couch =
        json!({"doc_type": "CommCareCase", "indices": 1, "actions": 2, "xform_ids": {}, "case_attachments": []});
    for sql in [
        json!(null),
        json!([]),
        json!({"indices": [1, 2], "xform_ids": ["a"], "case_attachments": 5}),
    ] {
        assert!(!case_lines(&couch, &sql).is_empty());
    }
    let odd = Value::Object(Map::from_iter([
        ("doc_type".to_owned(), json!("CommCareCase")),
        ("indices".to_owned(), json!([1, 2])),
    ]));
    let sql = json!({"doc_type": "CommCareCase", "indices": [{"identifier": "a"}]});
    assert!(!case_lines(&odd, &sql).is_empty());
}

#[test]
fn many_forms_in_another_order_and_one_that_sql_lacks() {
    let forms: Vec<String> = (0..50_000).map(|at| format!("form-{at}")).collect();
    let actions: Vec<Value> = forms.iter().map(|id| json!({"xform_id": id})).collect();
    let others: Vec<&String> = forms.iter().rev().filter(|id| *id != "form-7").collect();
    let couch = json!({"_id": "c", "doc_type": "CommCareCase", "xform_ids": forms, "actions": actions});
    let sql = json!({"_id": "c", "doc_type": "CommCareCase", "xform_ids": others, "actions": []});
    let diffs = diff_case(&couch, &sql, &HashSet::new()).unwrap();
    let stored: Vec<Value> = diffs.iter().map(docdiff::Diff::to_json).collect();
    assert_eq!(
        stored,
        [json!({"type": "set_mismatch", "path": ["xform_ids", "[*]"], "old_value": "form-7", "new_value": ""})]
    );
}
