//! What must hold of every generated domain.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use generator::{GeneratedDomain, Model, Options, by_domain_design_doc, damage, generate, malformed, stream};
use quick_xml::events::Event;
use serde_json::Value;

fn sample(forms: usize) -> GeneratedDomain {
    generate(&Options::new("sample", forms, 42))
}

fn text<'a>(doc: &'a Value, key: &str) -> &'a str {
    doc[key].as_str().unwrap_or_default()
}

fn docs_of<'a>(domain: &'a GeneratedDomain, doc_type: &str) -> Vec<&'a Value> {
    domain.docs.iter().filter(|doc| doc["doc_type"] == doc_type).collect()
}

fn xform_ids(doc: &Value) -> BTreeSet<&str> {
    doc["xform_ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap())
        .collect()
}

#[test]
fn the_same_options_give_the_same_bytes() {
    let (first, second) = (sample(300), sample(300));
    assert_eq!(first.docs, second.docs);
    assert_eq!(first.blobs, second.blobs);
    assert_eq!(first.model, second.model);
    assert_eq!(
        first.docs.iter().map(Value::to_string).collect::<Vec<_>>(),
        second.docs.iter().map(Value::to_string).collect::<Vec<_>>()
    );
    assert_ne!(first.docs, generate(&Options::new("sample", 300, 43)).docs);
}

#[test]
fn domains_of_one_seed_share_no_ids() {
    let ids = |name| -> BTreeSet<String> {
        generate(&Options::new(name, 100, 1))
            .docs
            .iter()
            .map(|doc| text(doc, "_id").to_owned())
            .collect()
    };
    assert!(ids("one").is_disjoint(&ids("two")));
}

#[test]
fn the_stream_is_the_domain_in_small_pieces() {
    let options = Options::new("sample", 2000, 5);
    let whole = generate(&options);
    let mut model = Model::default();
    let (mut docs, mut blobs, mut blobmeta, mut largest) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for piece in stream(&options) {
        largest = largest.max(piece.model.forms.len());
        docs.extend(piece.docs);
        blobs.extend(piece.blobs);
        blobmeta.extend(piece.blobmeta);
        model.absorb(piece.model);
    }
    assert_eq!(docs, whole.docs);
    assert_eq!(blobs, whole.blobs);
    assert_eq!(blobmeta, whole.blobmeta);
    assert_eq!(model, whole.model);
    assert!(largest <= options.hub_forms, "{largest} forms in one piece");
}

#[test]
fn the_number_of_forms_is_met_exactly() {
    for forms in [0, 1, 2, 7, 60, 333, 1000] {
        let domain = sample(forms);
        assert_eq!(domain.model.forms.len(), forms);
        let counted: usize = domain.model.doc_counts.values().sum();
        assert_eq!(counted, domain.docs.len());
        let ids: BTreeSet<&str> = domain.docs.iter().map(|doc| text(doc, "_id")).collect();
        assert_eq!(ids.len(), domain.docs.len());
    }
}

#[test]
fn every_document_type_occurs_even_in_a_small_domain() {
    let domain = sample(100);
    for doc_type in [
        "XFormInstance",
        "XFormArchived",
        "XFormDeprecated",
        "XFormDuplicate",
        "XFormError",
        "SubmissionErrorLog",
        "XFormInstance-Deleted",
        "HQSubmission",
        "CommCareCase",
        "CommCareCase-Deleted",
    ] {
        let docs = docs_of(&domain, doc_type).len();
        assert!(docs > 0, "no {doc_type}");
        assert_eq!(domain.model.doc_counts.get(doc_type), Some(&docs));
    }
}

#[test]
fn documents_are_of_realistic_size_and_proportion() {
    let domain = sample(4000);
    let forms = docs_of(&domain, "XFormInstance");
    let json: usize = forms.iter().map(|doc| doc.to_string().len()).sum::<usize>() / forms.len();
    let xml: Vec<usize> = domain.blobs.iter().map(|(_, bytes)| bytes.len()).collect();
    let xml = xml.iter().sum::<usize>() / xml.len();
    let ratio = domain.model.forms.len() * 10 / domain.model.cases.len();
    assert!((2500..5000).contains(&json), "form JSON {json}");
    assert!((1800..4000).contains(&xml), "blobs {xml}");
    assert!((24..45).contains(&ratio), "{ratio} tenths of a form per case");
    let most = domain.model.cases.values().map(|case| case.transactions.len()).max();
    assert!(most >= Some(250), "no case of hundreds of forms: {most:?}");
}

#[test]
fn xml_is_well_formed_and_is_what_the_metadata_says() {
    let domain = sample(600);
    let blobs: BTreeMap<&str, &[u8]> = domain
        .blobs
        .iter()
        .map(|(key, bytes)| (key.as_str(), bytes.as_slice()))
        .collect();
    assert_eq!(blobs.len(), domain.blobs.len(), "a key is used twice");
    let logs: BTreeSet<&str> = docs_of(&domain, "SubmissionErrorLog")
        .iter()
        .map(|doc| text(doc, "_id"))
        .collect();
    for row in &domain.model.blobmeta_after {
        let bytes = blobs[row.key.as_str()];
        assert_eq!(i64::try_from(bytes.len()).unwrap(), row.content_length);
        assert_eq!(row.type_code, if row.name == "form.xml" { 2 } else { 3 });
        if row.name != "form.xml" || logs.contains(row.parent_id.as_str()) {
            continue;
        }
        let mut reader = quick_xml::Reader::from_str(std::str::from_utf8(bytes).unwrap());
        reader.config_mut().check_end_names = true;
        let mut depth = 0_i32;
        loop {
            match reader.read_event().unwrap() {
                Event::Start(_) => depth += 1,
                Event::End(_) => depth -= 1,
                Event::Eof => break,
                _ => {}
            }
        }
        assert_eq!(depth, 0);
    }
}

#[test]
fn blob_references_lead_to_metadata_or_are_to_be_inserted() {
    let domain = sample(1500);
    let before: BTreeMap<&str, i16> = domain
        .blobmeta
        .iter()
        .map(|row| (row.key.as_str(), row.type_code))
        .collect();
    let (mut inserted, mut retyped) = (0, 0);
    for row in &domain.model.blobmeta_after {
        match before.get(row.key.as_str()) {
            None => {
                inserted += 1;
                assert_eq!(row.created_on, None);
            }
            Some(code) if *code != row.type_code => retyped += 1,
            Some(_) => {}
        }
    }
    assert!(inserted > 0 && retyped > 0, "{inserted} inserted, {retyped} retyped");
    for doc in domain.docs.iter().filter(|doc| doc.get("form").is_some()) {
        for (name, entry) in doc["external_blobs"].as_object().unwrap() {
            let key = text(entry, "key");
            assert_eq!(before.contains_key(key), !entry["blobmeta_id"].is_null(), "{name}");
        }
    }
}

#[test]
fn live_cases_and_their_documents_name_the_same_forms() {
    let domain = sample(3000);
    let normal: BTreeSet<&str> = docs_of(&domain, "XFormInstance")
        .iter()
        .map(|doc| text(doc, "_id"))
        .collect();
    let mut idle = 0;
    for doc in docs_of(&domain, "CommCareCase") {
        let case = &domain.model.cases[text(doc, "_id")];
        let sql: BTreeSet<&str> = case
            .transactions
            .iter()
            .filter_map(|row| row.form_id.as_deref())
            .collect();
        let couch = xform_ids(doc);
        assert!(couch.is_subset(&sql));
        assert!(sql.is_subset(&normal));
        // Only a form that merely names the case is unknown to Couch.
        for row in case
            .transactions
            .iter()
            .filter(|row| !couch.contains(row.form_id.as_deref().unwrap()))
        {
            assert_eq!(row.kind, 1);
            idle += 1;
        }
        assert_eq!(
            case.server_modified_on,
            case.transactions.iter().map(|row| row.server_date).max()
        );
        assert_eq!(Some(case.modified_by.as_str()), doc["user_id"].as_str());
        assert_eq!(doc["closed"], case.closed);
        assert_eq!(doc["indices"].as_array().unwrap().len(), case.indices.len());
        for (key, value) in &case.case_json {
            assert_eq!(doc.get(key), Some(value), "{key}");
        }
    }
    assert!(idle > 0, "no block without a part");
}

#[test]
fn live_cases_differ_from_their_documents_only_where_it_is_forgiven() {
    let domain = sample(3000);
    let (mut cut, mut uncreated) = (0, 0);
    for doc in docs_of(&domain, "CommCareCase") {
        let case = &domain.model.cases[text(doc, "_id")];
        let created = doc["actions"]
            .as_array()
            .unwrap()
            .iter()
            .any(|action| action["action_type"] == "create");
        let name = case.name.clone().unwrap_or_default();
        if text(doc, "name") != name {
            assert!(text(doc, "name").chars().count() > 255 && text(doc, "name").starts_with(&name));
            assert_eq!(name.chars().count(), 255);
            cut += 1;
        }
        assert_eq!(text(doc, "type"), case.case_type);
        if created {
            assert_eq!(text(doc, "owner_id"), case.owner_id);
            assert_eq!(Some(text(doc, "opened_by")), case.opened_by.as_deref());
        } else {
            assert_eq!((text(doc, "owner_id"), doc["opened_on"].is_null()), ("", true));
            uncreated += 1;
        }
        let external = case.external_id.clone().unwrap_or_default();
        assert!([text(doc, "external_id"), text(doc, "hq_user_id")].contains(&external.as_str()));
        assert_eq!(text(doc, "closed_by"), case.closed_by.clone().unwrap_or_default());
        assert_eq!(
            doc.get("location_id").and_then(Value::as_str),
            case.location_id.as_deref()
        );
        let indices = |identifier: &str| case.indices.iter().find(|row| row.identifier == identifier);
        for index in doc["indices"].as_array().unwrap() {
            let row = indices(text(index, "identifier")).unwrap();
            assert_eq!(text(index, "referenced_id"), row.referenced_id);
            assert_eq!(text(index, "relationship") == "extension", row.relationship_id == 2);
        }
    }
    assert!(cut > 0 && uncreated > 0, "{cut} cut, {uncreated} uncreated");
}

#[test]
fn deleted_cases_come_in_both_kinds() {
    let domain = generate(&Options::new("sample", 3000, 8));
    let (mut copied, mut marked) = (0, 0);
    for doc in docs_of(&domain, "CommCareCase-Deleted") {
        let case = &domain.model.cases[text(doc, "_id")];
        assert!(case.deleted && case.deleted_on.is_some());
        assert_eq!(Some(text(doc, "-deletion_id")), case.deletion_id.as_deref());
        let live = case
            .transactions
            .iter()
            .filter_map(|row| row.form_id.as_ref())
            .all(|form_id| domain.model.forms[form_id].state == 1);
        if live {
            marked += 1;
            assert_eq!(case.server_modified_on, None);
            assert!(case.transactions.iter().all(|row| row.client_date.is_some()));
        } else {
            copied += 1;
            assert!(case.transactions.iter().all(|row| row.client_date.is_none()));
            assert!(case.server_modified_on.is_some());
        }
    }
    assert!(copied > 0 && marked > 0, "{copied} copied, {marked} marked");
}

#[test]
fn forms_that_never_reached_their_cases_left_no_trace() {
    let domain = sample(2000);
    let mut ineffective = 0;
    for doc in &domain.docs {
        ineffective += usize::from(doc.get("form").is_some() && doc["form"].to_string().contains("never_applied"));
        assert!(doc.get("never_applied").is_none());
    }
    assert!(ineffective > 10);
    assert!(
        domain
            .model
            .cases
            .values()
            .all(|case| !case.case_json.contains_key("never_applied"))
    );
    assert!(
        domain
            .model
            .cases
            .values()
            .all(|case| !case.case_json.contains_key("before_correction"))
    );
}

#[test]
fn edited_forms_and_their_old_versions_name_each_other() {
    let domain = sample(2000);
    let deprecated = docs_of(&domain, "XFormDeprecated");
    assert!(!deprecated.is_empty());
    for doc in deprecated {
        let old = &domain.model.forms[text(doc, "_id")];
        let new = &domain.model.forms[old.orig_id.as_deref().unwrap()];
        assert_eq!(new.deprecated_form_id.as_deref(), Some(old.form_id.as_str()));
        assert_eq!((old.state, new.state), (4, 1));
        assert_eq!(old.received_on, new.received_on);
        assert_eq!(new.operations.len(), 1);
        assert_eq!(text(&doc["form"]["meta"], "instanceID"), new.form_id);
    }
}

#[test]
fn many_forms_share_one_moment_and_keep_their_order() {
    let domain = sample(3000);
    let mut at: BTreeMap<_, usize> = BTreeMap::new();
    for form in domain.model.forms.values() {
        *at.entry(form.received_on).or_default() += 1;
    }
    assert!(at.values().max() > Some(&50), "{:?}", at.values().max());
    // In the documents, actions stand in the order of receipt, then of form ids.
    for doc in docs_of(&domain, "CommCareCase") {
        let order: Vec<(&str, &str)> = doc["actions"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|action| action["xform_id"].is_string())
            .map(|action| (text(action, "server_date"), text(action, "xform_id")))
            .collect();
        assert!(order.is_sorted());
    }
}

/// HQ orders the actions of one worker that arrive within twelve hours by the phone's clock: the story must not depend on it.
#[test]
fn phone_order_contradicts_server_order_only_far_apart() {
    let domain = sample(3000);
    let mut contradictions = 0;
    for case in domain.model.cases.values().filter(|case| !case.deleted) {
        let mut rows = case.transactions.clone();
        rows.sort_by(|a, b| (a.server_date, &a.form_id).cmp(&(b.server_date, &b.form_id)));
        for pair in rows.windows(2) {
            if pair[0].client_date > pair[1].client_date {
                contradictions += 1;
                assert!(pair[1].server_date - pair[0].server_date > chrono::Duration::hours(12));
            }
        }
    }
    assert!(contradictions > 0);
}

#[test]
fn form_json_holds_utc_and_xml_the_zone_of_the_phone() {
    let domain = sample(400);
    let form = docs_of(&domain, "XFormInstance")
        .into_iter()
        .find(|doc| doc["form"]["meta"]["timeEnd"].is_string())
        .unwrap();
    let end = text(&form["form"]["meta"], "timeEnd");
    assert!(
        end.ends_with('Z') && end.len() == "2015-08-04T18:25:56.656000Z".len(),
        "{end}"
    );
    let zoned = domain
        .blobs
        .iter()
        .any(|(_, bytes)| String::from_utf8_lossy(bytes).contains("+05:30"));
    assert!(zoned);
}

#[test]
fn case_attachments_are_written_where_the_domain_has_them() {
    let mut options = Options::new("photos", 800, 6);
    assert!(
        generate(&options)
            .model
            .cases
            .values()
            .all(|case| case.attachments.is_empty())
    );
    options.case_attachments = true;
    let domain = generate(&options);
    let keys: BTreeSet<&str> = domain.blobs.iter().map(|(key, _)| key.as_str()).collect();
    let attachments: Vec<_> = domain.model.cases.values().flat_map(|case| &case.attachments).collect();
    assert!(!attachments.is_empty());
    assert!(attachments.iter().all(|row| keys.contains(row.blob_id.as_str())));
}

#[test]
fn old_blob_references_have_a_key_made_of_database_and_document() {
    let options = Options {
        couch_db: Some("commcarehq".to_owned()),
        ..Options::new("old", 400, 2)
    };
    let domain = generate(&options);
    let blobs: BTreeSet<&str> = domain.blobs.iter().map(|(key, _)| key.as_str()).collect();
    let mut old = 0;
    for doc in domain.docs.iter().filter(|doc| doc.get("form").is_some()) {
        for entry in doc["external_blobs"]
            .as_object()
            .unwrap()
            .values()
            .filter(|entry| entry["id"].is_string())
        {
            old += 1;
            let key = format!("commcarehq/{}/{}", text(doc, "_id"), text(entry, "id"));
            assert!(blobs.contains(key.as_str()), "{key}");
        }
    }
    assert!(old > 0);
}

#[test]
fn damage_names_what_it_hurt() {
    let mut domain = sample(500);
    let before = domain.docs.clone();
    let removed = damage::remove_form(&mut domain, 1);
    assert!(!removed.is_empty());
    assert_eq!(domain.docs.len(), before.len() - 1);
    let mut hurt = BTreeSet::new();
    for reported in [
        damage::change_property(&mut domain, 2),
        damage::extra_index(&mut domain, 3),
        damage::change_form_answer(&mut domain, 4),
    ] {
        assert_eq!(reported.len(), 1);
        hurt.insert(reported[0].doc_id.clone());
    }
    let changed: BTreeSet<String> = domain
        .docs
        .iter()
        .filter(|doc| !before.contains(doc))
        .map(|doc| text(doc, "_id").to_owned())
        .collect();
    assert_eq!(changed, hurt);
}

#[test]
fn malformed_forms_are_documents_of_the_domain_with_their_faults() {
    let options = Options::new("sample", 100, 42);
    let all = malformed::all(&options);
    let ids: BTreeSet<&str> = all.iter().map(|form| form.form_id.as_str()).collect();
    assert_eq!(ids.len(), all.len());
    let domain = generate(&options);
    for form in &all {
        assert_eq!(form.docs.len(), 1, "{}", form.fault);
        assert_eq!(text(&form.docs[0], "domain"), "sample");
        assert!(!domain.model.forms.contains_key(&form.form_id));
    }
    let (form, cases) = malformed::case_of_other_domain(&options);
    assert_eq!(cases.len(), 1);
    assert!(form.docs[0].to_string().contains(&cases[0].case_id));
    assert_ne!(cases[0].domain, "sample");
    assert_ne!(text(&malformed::other_domain(&options).docs[0], "domain"), "sample");
}

#[test]
fn the_design_document_counts_rows_of_the_view() {
    let design = by_domain_design_doc();
    assert_eq!(design["_id"], "_design/by_domain_doc_type_date");
    assert_eq!(design["views"]["view"]["reduce"], "_count");
}
