//! What a patch form says of the differences it is made for, and what cannot be patched.

use std::collections::HashMap;

use chrono::{DateTime, NaiveDate, Utc};
use docdiff::{
    CannotPatch, Diff, DirectPatch, LedgerFacts, LedgerStock, PatchEffect, PatchPlan, PatchRecord, PatchSubject,
    RecordedDiff, is_case_patched, is_ledger_patched, plan_patch,
};
use proto::stock::{LedgerRef, StockTransactionRow};
use serde_json::{Value, json};

fn records(list: &[Value]) -> Vec<RecordedDiff> {
    list.iter()
        .map(|record| RecordedDiff::from_json(record).unwrap())
        .collect()
}

fn diff(path: &[&str], old: &Value, new: &Value) -> Value {
    json!({"type": "diff", "path": path, "old_value": old, "new_value": new})
}

fn old_new(path: &str) -> Value {
    diff(&[path], &json!("old"), &json!("new"))
}

fn extra_forms(old: &str, new: &str) -> Value {
    json!({"type": "set_mismatch", "path": ["xform_ids", "[*]"], "old_value": old, "new_value": new})
}

fn fake_case() -> Value {
    json!({"_id": "fake", "domain": "demo", "doc_type": "CommCareCase", "closed": false})
}

fn with(case: &Value, changes: &Value) -> Value {
    let mut case = case.as_object().unwrap().clone();
    case.extend(changes.as_object().unwrap().clone());
    Value::Object(case)
}

fn planned_with(case: &Value, list: &[Value], stock: &HashMap<String, LedgerStock>) -> Result<PatchPlan, CannotPatch> {
    plan_patch(&PatchSubject {
        domain: "demo",
        couch: Some(case),
        records: &records(list),
        stock,
    })
}

fn planned(case: &Value, list: &[Value]) -> Result<PatchPlan, CannotPatch> {
    planned_with(case, list, &HashMap::new())
}

fn xml(plan: &PatchPlan) -> String {
    plan.xml("patch", DateTime::<Utc>::UNIX_EPOCH)
}

/// What an XML reader makes of the text of an element.
fn text_of(xml: &str, name: &str) -> String {
    let (_, rest) = xml.split_once(&format!("<{name}>")).unwrap();
    let (text, _) = rest.split_once(&format!("</{name}>")).unwrap();
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

fn record_of(plan: &PatchPlan) -> PatchRecord {
    PatchRecord::of_form(&json!({"diff": text_of(&xml(plan), "diff")}))
}

/// The JSON in the `diff` element.
fn said(plan: &PatchPlan) -> Value {
    let text = text_of(&xml(plan), "diff");
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    serde_json::from_str(&text).unwrap()
}

/// The case block up to the record.
fn block(plan: &PatchPlan) -> String {
    let content = plan.content();
    content[..content.find("<diff>").unwrap()].to_owned()
}

/// Whether the form, `new`, accounts for these differences, found when it was there.
fn accounts_for(plan: &PatchPlan, list: &[Value]) -> bool {
    let found: Vec<Diff> = list.iter().map(|diff| Diff::from_json(diff).unwrap()).collect();
    is_case_patched("fake", &found, &[("new".to_owned(), record_of(plan))])
}

const EMPTY_BLOCK: &str =
    "<case xmlns=\"http://commcarehq.org/case/transaction/v2\" case_id=\"fake\" user_id=\"\"></case>";

#[test]
fn patch_opened_by() {
    only_recorded("opened_by");
}

#[test]
fn patch_closed_by() {
    only_recorded("closed_by");
}

#[test]
fn patch_modified_by() {
    only_recorded("modified_by");
}

fn only_recorded(property: &str) {
    let plan = planned(&fake_case(), &[old_new(property)]).unwrap();
    assert_eq!(
        said(&plan),
        json!({"case_id": "fake", "diffs": [{"path": [property], "patch": false, "old": "old", "new": "new"}]})
    );
    let known = ["type", "name", "external_id", "user_id", "owner_id", "opened_on"];
    assert!(!known.contains(&property));
    assert_eq!(block(&plan), EMPTY_BLOCK);
    assert_eq!(plan.effects, [PatchEffect::RecordOnly(vec![property.to_owned()])]);
    assert!(accounts_for(&plan, &[old_new(property), extra_forms("", "new")]));
    assert!(
        !accounts_for(&plan, &[old_new(property), extra_forms("old", "new")]),
        "Couch lists a form that it did not when the patch was made"
    );
}

#[test]
fn patch_opened_by_with_xform_ids() {
    let found = [old_new("opened_by"), extra_forms("old", "other")];
    let plan = planned(&fake_case(), &found).unwrap();
    assert_eq!(
        said(&plan)["diffs"],
        json!([
            {"path": ["opened_by"], "patch": false, "old": "old", "new": "new"},
            {"path": ["xform_ids", "[*]"], "patch": false, "old": "old", "new": "other"},
        ])
    );
    assert!(accounts_for(
        &plan,
        &[old_new("opened_by"), extra_forms("old", "new,other")]
    ));
}

#[test]
fn can_patch_opened_by_with_user_id() {
    let plan = planned(&fake_case(), &[old_new("opened_by"), old_new("user_id")]).unwrap();
    assert_eq!(
        said(&plan)["diffs"],
        json!([
            {"path": ["opened_by"], "patch": false, "old": "old", "new": "new"},
            {"path": ["user_id"], "patch": true, "old": "old", "new": "new"},
        ])
    );
    assert!(
        block(&plan).ends_with("<update><case_type/><case_name/><owner_id/></update></case>"),
        "known properties, and no dynamic one: {}",
        block(&plan)
    );
    assert!(accounts_for(&plan, &[old_new("opened_by"), extra_forms("", "new")]));
}

#[test]
fn patch_missing_case_property() {
    let gone = |new: &str| json!({"type": "diff", "path": ["gone"], "new_value": new});
    let plan = planned(&fake_case(), &[gone("new")]).unwrap();
    assert!(block(&plan).contains("<gone/>"), "{}", block(&plan));
    assert!(!accounts_for(&plan, &[gone("new"), extra_forms("", "new")]));
    assert!(accounts_for(&plan, &[gone(""), extra_forms("", "new")]));
}

const LEDGER: &str = "fake/stock/soap";

fn ledger_diff(diff_type: &str, path: &str, old: &Value, new: &Value) -> Value {
    json!({"type": diff_type, "path": {"stock_id": LEDGER, "path": [path]}, "old_value": old, "new_value": new})
}

fn stock(has_state: bool) -> HashMap<String, LedgerStock> {
    let changed = NaiveDate::from_ymd_opt(2014, 8, 4).unwrap().and_hms_opt(18, 25, 0);
    let transaction = StockTransactionRow {
        ledger: LedgerRef {
            case_id: "fake".to_owned(),
            section_id: "stock".to_owned(),
            entry_id: "soap".to_owned(),
        },
        form_id: "f".to_owned(),
        kind: "stockonhand".to_owned(),
        server_date: None,
        quantity: Some("0.00000".to_owned()),
        stock_on_hand: "34.00000".to_owned(),
    };
    let known = LedgerStock {
        state_changed: changed.filter(|_| has_state).map(|changed| changed.and_utc()),
        transactions: vec![transaction],
    };
    HashMap::from([(LEDGER.to_owned(), known)])
}

#[test]
fn patch_ledger_balance() {
    let found = [ledger_diff("diff", "balance", &json!(34), &json!(3))];
    let plan = planned_with(&fake_case(), &found, &stock(true)).unwrap();
    let transactions = json!([{"form_id": "f", "type": "stockonhand", "delta": 0, "balance": 34}]);
    assert_eq!(
        said(&plan),
        json!({"case_id": "fake", "ledgers": {LEDGER: [
            {"path": ["balance"], "patch": true, "old": 34, "new": 3, "couch_transactions": transactions}]}}),
        "and no diffs of the case"
    );
    assert_eq!(
        block(&plan),
        format!(
            "{EMPTY_BLOCK}<balance xmlns=\"http://commcarehq.org/ledger/v1\" date=\"2014-08-04\" entity-id=\"fake\" \
             section-id=\"stock\"><entry id=\"soap\" quantity=\"34\"/></balance>"
        )
    );
}

#[test]
fn a_balance_without_a_stock_state_is_recorded_only() {
    let found = [ledger_diff("diff", "balance", &json!(34), &json!(3))];
    let stock = stock(false);
    let plan = planned_with(&fake_case(), &found, &stock).unwrap();
    assert_eq!(block(&plan), EMPTY_BLOCK);
    assert_eq!(said(&plan)["ledgers"][LEDGER][0]["patch"], json!(false));
    let facts = LedgerFacts {
        ledger: LEDGER,
        has_state: false,
        transactions: &stock[LEDGER].transactions,
    };
    let left: Vec<Diff> = vec![Diff::from_json(&diff(&["balance"], &json!(34), &json!(3))).unwrap()];
    assert!(is_ledger_patched(
        &left,
        &facts,
        &[("patch".to_owned(), record_of(&plan))]
    ));
}

#[test]
fn a_ledger_that_sql_lacks_gets_its_balance() {
    let ledger = json!({"balance": 7, "last_modified": "2015-02-03T23:59:00.000000Z"});
    let found = [ledger_diff(
        "missing",
        "*",
        &json!({"form_state": "missing", "ledger": ledger}),
        &json!({"form_state": "missing"}),
    )];
    let plan = planned_with(&fake_case(), &found, &HashMap::new()).unwrap();
    assert!(
        block(&plan).contains("date=\"2015-02-03\"") && block(&plan).contains("quantity=\"7\""),
        "{}",
        block(&plan)
    );
}

#[test]
fn daily_consumption_is_set_beside_the_form() {
    let found = [ledger_diff(
        "type",
        "daily_consumption",
        &json!("1.50000"),
        &Value::Null,
    )];
    let plan = planned_with(&fake_case(), &found, &HashMap::new()).unwrap();
    assert_eq!(block(&plan), EMPTY_BLOCK);
    assert_eq!(
        plan.direct,
        [DirectPatch {
            ledger: LEDGER.to_owned(),
            daily_consumption: "1.50000".to_owned()
        }]
    );
}

#[test]
fn known_properties_come_from_the_couch_case() {
    let case = with(
        &fake_case(),
        &json!({"name": "Zena & <co>", "type": "old-type", "user_id": "old-user", "owner_id": "",
            "opened_on": "2010-09-08T00:00:00Z", "modified_on": "2015-08-04T18:25:56.656000Z", "external_id": "ext"}),
    );
    let plan = planned(&case, &[diff(&["name"], &json!("Zena & <co>"), &json!("Xeenax"))]).unwrap();
    assert_eq!(
        block(&plan),
        "<case xmlns=\"http://commcarehq.org/case/transaction/v2\" case_id=\"fake\" user_id=\"old-user\" \
         date_modified=\"2015-08-04T18:25:56.656000Z\"><update><case_type>old-type</case_type>\
         <case_name>Zena &amp; &lt;co&gt;</case_name><owner_id>old-user</owner_id><external_id>ext</external_id>\
         <date_opened>2010-09-08T00:00:00.000000Z</date_opened></update></case>"
    );
    assert_eq!(text_of(&xml(&plan), "orx:userID"), "old-user");
}

#[test]
fn a_case_is_closed_only_if_couch_has_closed_it() {
    let found = [diff(&["closed"], &json!(true), &json!(false))];
    let closed = with(&fake_case(), &json!({"closed": true}));
    assert!(block(&planned(&closed, &found).unwrap()).contains("<close/>"));
    assert!(!block(&planned(&fake_case(), &found).unwrap()).contains("<close/>"));
    // Nothing opens it again.
    let plan = planned(&fake_case(), &[diff(&["closed"], &json!(false), &json!(true))]).unwrap();
    assert_eq!(said(&plan)["diffs"][0]["patch"], json!(false));
    assert_eq!(block(&plan), EMPTY_BLOCK);
}

#[test]
fn a_case_that_sql_lacks_is_made_whole() {
    let case = with(
        &fake_case(),
        &json!({"name": "n", "type": "t", "owner_id": "o", "closed": true, "age": "7", "count": 3, "alive": true,
            "nothing": null, "-internal": "x", "actions": [], "xform_ids": ["b", "a", "b"], "referrals": [],
            "indices": [
                {"identifier": "parent", "referenced_type": "house", "referenced_id": "p", "relationship": "child"},
                {"identifier": "host", "referenced_type": "h", "referenced_id": "q", "relationship": "extension"}]}),
    );
    let missing = json!({"type": "missing", "path": ["*"], "old_value": "*"});
    let plan = planned(&case, std::slice::from_ref(&missing)).unwrap();
    assert_eq!(
        block(&plan),
        "<case xmlns=\"http://commcarehq.org/case/transaction/v2\" case_id=\"fake\" user_id=\"\">\
         <create><case_type>t</case_type><case_name>n</case_name><owner_id>o</owner_id></create>\
         <update><age>7</age><alive>True</alive><count>3</count></update>\
         <index><host case_type=\"h\" relationship=\"extension\">q</host><parent case_type=\"house\">p</parent></index>\
         <close/></case>"
    );
    assert_eq!(plan.effects[0], PatchEffect::Create);
    assert_eq!(
        said(&plan)["diffs"],
        json!([
            {"path": ["*"], "patch": true, "old": "*"},
            {"path": ["xform_ids", "[*]"], "patch": false, "old": "a,b", "new": ""},
        ])
    );
    assert!(accounts_for(&plan, &[extra_forms("b,a", "new")]));
    assert!(
        !accounts_for(&plan, &[extra_forms("a,b,c", "new")]),
        "a form came to Couch alone since"
    );
    let odd = with(&case, &json!({"list": ["a"]}));
    assert_eq!(
        planned(&odd, std::slice::from_ref(&missing)),
        Err(CannotPatch::Value("list".to_owned()))
    );
}

#[test]
fn indices_are_set_and_removed() {
    let couch = json!({"doc_type": "CommCareCaseIndex", "identifier": "parent", "referenced_type": "household",
        "referenced_id": "a53346d5", "relationship": "child"});
    let at = |old: Option<&Value>, new: Option<&Value>| {
        let mut diff = json!({"type": "missing", "path": ["indices", "[*]"]});
        if let Some(old) = old {
            diff["old_value"] = old.clone();
        }
        if let Some(new) = new {
            diff["new_value"] = new.clone();
        }
        diff
    };
    let set = planned(&fake_case(), &[at(Some(&couch), None)]).unwrap();
    assert!(
        block(&set).contains("<index><parent case_type=\"household\">a53346d5</parent></index>"),
        "{}",
        block(&set)
    );
    let removed = planned(&fake_case(), &[at(None, Some(&couch))]).unwrap();
    assert!(
        block(&removed).contains("<index><parent case_type=\"\"/></index>"),
        "{}",
        block(&removed)
    );
    for found in [
        at(Some(&couch), Some(&couch)),
        at(Some(&json!("parent")), None),
        diff(&["indices", "[*]", "identifier"], &json!("a"), &json!("b")),
    ] {
        let refused = planned(&fake_case(), &[found]).unwrap_err();
        assert_eq!(refused.code(), "C2S-2346", "{refused}");
    }
}

#[test]
fn what_cannot_be_patched() {
    let number = diff(&["age"], &json!(7), &json!("7"));
    for (found, code) in [
        (vec![], "C2S-2342"),
        (vec![old_new("actions")], "C2S-2343"),
        (vec![old_new("domain")], "C2S-2343"),
        (vec![old_new("case_id")], "C2S-2343"),
        (
            vec![json!({"type": "missing", "path": ["*"], "new_value": "present"})],
            "C2S-2343",
        ),
        (
            vec![
                old_new("age"),
                json!({"type": "missing", "path": ["*"], "old_value": "*"}),
            ],
            "C2S-2343",
        ),
        (vec![number], "C2S-2344"),
        (vec![diff(&["a", "b"], &json!("1"), &json!("2"))], "C2S-2344"),
        (
            vec![diff(&["?"], &json!({"forms": {"f": "missing"}}), &json!({}))],
            "C2S-2344",
        ),
        (vec![old_new("case_type")], "C2S-2345"),
        (
            vec![ledger_diff("type", "location_id", &json!("loc"), &Value::Null)],
            "C2S-2347",
        ),
        (
            vec![ledger_diff("diff", "daily_consumption", &json!("1"), &json!("2"))],
            "C2S-2347",
        ),
        (
            vec![ledger_diff("diff", "domain", &json!("a"), &json!("b"))],
            "C2S-2347",
        ),
        (vec![old_new("@odd")], "C2S-2348"),
        (vec![old_new("1st")], "C2S-2348"),
        (vec![diff(&["age"], &json!("a\u{1}"), &json!("b"))], "C2S-2348"),
    ] {
        let refused = planned(&fake_case(), &found).unwrap_err();
        assert_eq!(refused.code(), code, "{found:?}: {refused}");
    }
    let elsewhere = with(&fake_case(), &json!({"domain": "other"}));
    assert_eq!(planned(&elsewhere, &[old_new("age")]), Err(CannotPatch::OtherDomain));
    let absent = plan_patch(&PatchSubject {
        domain: "demo",
        couch: None,
        records: &records(&[old_new("age")]),
        stock: &HashMap::new(),
    });
    assert_eq!(absent, Err(CannotPatch::NoCouchCase));
}

/// Old names and what HQ keeps in columns are recorded and not written, whatever their values are.
#[test]
fn static_properties_are_never_dynamic() {
    for name in [
        "closed_on",
        "deleted",
        "deleted_on",
        "deletion_id",
        "location_id",
        "modified_on",
        "opened_by",
        "server_modified_on",
        "-deletion_date",
        "-deletion_id",
        "@date_modified",
        "@user_id",
        "hq_user_id",
        "#text",
    ] {
        let plan = planned(&fake_case(), &[diff(&[name], &json!(null), &json!(1))]).unwrap();
        assert_eq!(block(&plan), EMPTY_BLOCK, "{name}");
    }
}

#[test]
fn the_record_holds_any_text() {
    let value = "a & b < c > d \" é \u{1f600} &amp; \r\n\u{1}";
    let entry = diff(&["external_id"], &json!(value), &json!("x"));
    let plan = planned(&fake_case(), std::slice::from_ref(&entry)).unwrap();
    assert!(plan.content().is_ascii());
    assert_eq!(said(&plan)["diffs"][0]["old"], json!(value));
    assert!(accounts_for(&plan, &[entry, extra_forms("", "new")]));
}

#[test]
fn a_change_keeps_its_reason() {
    let mut change = old_new("opened_by");
    change["reason"] = json!("rebuild case");
    let plan = planned(&fake_case(), &[change]).unwrap();
    assert_eq!(said(&plan)["diffs"][0]["reason"], json!("rebuild case"));
}
