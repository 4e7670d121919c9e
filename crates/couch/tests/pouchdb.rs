//! The client against PouchDB Server, a third party's idea of the protocol. `C2S_TEST_POUCHDB_URL` says where it is.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use couch::{AttachmentsOutcome, Couch, CouchConfig, Database, InlineAttachment, Outcome, ViewPage, WriteOutcome};
use serde_json::{Value, json};

const DESIGN: &str = "by_domain_doc_type_date";

/// A fresh database with this name part.
async fn fresh(name: &str) -> Database {
    let url = std::env::var("C2S_TEST_POUCHDB_URL").expect(
        "C2S_TEST_POUCHDB_URL is not set: it must name a running PouchDB Server, as `cargo xtask test` provides it",
    );
    let couch = Couch::new(CouchConfig::new(url.parse().expect("C2S_TEST_POUCHDB_URL is a URL"))).unwrap();
    assert!(!couch.ping().await.unwrap().version.is_empty());
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let database = couch.database(&format!("c2s_{name}_{nanos}"));
    assert!(!database.exists().await.unwrap());
    assert_eq!(database.info().await.unwrap_err().code(), "C2S-1106");
    database.create().await.unwrap();
    database.create().await.unwrap();
    database
}

async fn write(database: &Database, documents: &[Value]) {
    for written in database.bulk_docs(documents).await.unwrap() {
        assert!(matches!(written.outcome, WriteOutcome::Written { .. }), "{written:?}");
    }
}

fn form(id: &str, date: &str) -> Value {
    json!({"_id": id, "doc_type": "XFormInstance", "domain": "demo", "received_on": date, "form": {"#type": "data"}})
}

fn design() -> Value {
    let map = "function (doc) { if (doc.domain) { emit([doc.domain, doc.doc_type, doc.received_on], null); } }";
    json!({"_id": format!("_design/{DESIGN}"),
           "views": {"view": {"map": map, "reduce": "_count"}, "map_only": {"map": map}}})
}

#[tokio::test]
async fn pages_pass_through_groups_of_equal_keys() {
    let database = fresh("pages").await;
    let mut documents = vec![design()];
    let mut expected = Vec::new();
    for (date, size) in [
        ("2019-01-01T00:00:00Z", 2),
        ("2019-01-02T00:00:00Z", 31),
        ("2019-01-03T00:00:00Z", 1),
    ] {
        for number in 0..size {
            let id = format!("{}{number:02}", if number < size / 2 { "Z" } else { "a" });
            documents.push(form(&format!("{date}-{id}"), date));
            expected.push(format!("{date}-{id}"));
        }
    }
    documents.push(json!({"_id": "case", "doc_type": "CommCareCase", "domain": "demo"}));
    write(&database, &documents).await;
    database.ensure_view(DESIGN, "view").await.unwrap();

    for limit in [1, 5, 30, 31, 100] {
        let mut seen = Vec::new();
        let mut after = None;
        loop {
            let page = ViewPage {
                design: DESIGN.into(),
                view: "view".into(),
                start_key: Some(json!(["demo", "XFormInstance"])),
                end_key: Some(json!(["demo", "XFormInstance", {}])),
                after,
                limit,
            };
            let page = database.view_page(&page).await.unwrap();
            after = page.cursor();
            seen.extend(page.rows.into_iter().map(|row| row.id));
            if page.end {
                break;
            }
        }
        assert_eq!(seen, expected, "limit {limit}");
    }

    let (start, end) = (json!(["demo", "XFormInstance"]), json!(["demo", "XFormInstance", {}]));
    assert_eq!(
        database
            .view_count(DESIGN, "view", Some(&start), Some(&end))
            .await
            .unwrap(),
        Some(34)
    );
    assert_eq!(
        database
            .view_count(DESIGN, "map_only", Some(&start), Some(&end))
            .await
            .unwrap(),
        None
    );
    assert_eq!(
        database
            .view_count(DESIGN, "nope", None, None)
            .await
            .unwrap_err()
            .code(),
        "C2S-1107"
    );
    assert_eq!(
        database.ensure_view("nope", "view").await.unwrap_err().code(),
        "C2S-1107"
    );
}

#[tokio::test]
async fn documents_in_bulk() {
    let database = fresh("bulk").await;
    let mut documents: Vec<Value> = (0..250).map(|number| form(&format!("f{number:03}"), "2019")).collect();
    documents.push(form("uuid:ä/ß?#%", "2019"));
    write(&database, &documents).await;
    let rev = database.get("f007").await.unwrap().unwrap()["_rev"]
        .as_str()
        .unwrap()
        .to_owned();
    write(&database, &[json!({"_id": "f007", "_rev": rev, "_deleted": true})]).await;

    let mut ids: Vec<String> = (0..251).map(|number| format!("f{number:03}")).collect();
    ids.push("uuid:ä/ß?#%".into());
    let fetched = database.bulk_get(&ids).await.unwrap();
    assert_eq!(fetched.iter().map(|one| one.id.clone()).collect::<Vec<_>>(), ids);
    for one in &fetched {
        match (one.id.as_str(), &one.outcome) {
            ("f007", Outcome::Deleted { rev: Some(rev) }) => assert!(rev.starts_with("2-")),
            ("f250", Outcome::Missing) => {}
            ("f007" | "f250", other) => panic!("{other:?}"),
            (id, Outcome::Found(body)) => {
                assert_eq!((&body["_id"], &body["received_on"]), (&json!(id), &json!("2019")));
            }
            other => panic!("{other:?}"),
        }
    }
    let exist = database
        .all_docs_exist(&["f001", "f007", "f250", "uuid:ä/ß?#%"])
        .await
        .unwrap();
    assert_eq!(
        exist.iter().map(|(_, rev)| rev.is_some()).collect::<Vec<_>>(),
        [true, false, false, true]
    );
    let info = database.info().await.unwrap();
    assert_eq!((info.doc_count, info.update_seq.is_empty()), (250, false));
}

#[tokio::test]
async fn one_document_is_read_and_replaced() {
    let database = fresh("one").await;
    assert_eq!(database.get("uuid:ä/ß?#%").await.unwrap(), None);
    let rev = database.put("uuid:ä/ß?#%", &json!({"n": 1})).await.unwrap();
    let mut document = database.get("uuid:ä/ß?#%").await.unwrap().unwrap();
    assert_eq!(document["_rev"], json!(rev));
    document["n"] = json!(2);
    let second = database.put("uuid:ä/ß?#%", &document).await.unwrap();
    assert_ne!(second, rev);
    assert_eq!(
        database.put("uuid:ä/ß?#%", &document).await.unwrap_err().code(),
        "C2S-1112"
    );
    assert_eq!(
        database.bulk_docs(&[document]).await.unwrap()[0].outcome,
        WriteOutcome::Conflict
    );
}

#[tokio::test]
async fn attachments_one_by_one_and_in_bulk() {
    let database = fresh("attachments").await;
    write(&database, &[form("a", "2019"), form("b", "2019")]).await;
    let rev = database.get("a").await.unwrap().unwrap()["_rev"]
        .as_str()
        .unwrap()
        .to_owned();
    let xml = Bytes::from_static("<data>é</data>".as_bytes());
    let photo = Bytes::from_static(&[0xff, 0xd8, 0x00, 0x01]);
    let rev = database
        .put_attachment("a", Some(&rev), "form.xml", "text/xml", xml.clone())
        .await
        .unwrap();
    assert_eq!(
        database
            .put_attachment("a", None, "x", "text/xml", xml.clone())
            .await
            .unwrap_err()
            .code(),
        "C2S-1112"
    );
    database
        .put_attachment("a", Some(&rev), "photo 1.jpg", "image/jpeg", photo.clone())
        .await
        .unwrap();

    assert_eq!(database.attachment("a", "form.xml").await.unwrap(), Some(xml.clone()));
    assert_eq!(
        database.attachment("a", "photo 1.jpg").await.unwrap(),
        Some(photo.clone())
    );
    assert_eq!(database.attachment("b", "form.xml").await.unwrap(), None);
    assert_eq!(database.attachment("zz", "form.xml").await.unwrap(), None);

    let all = database.bulk_attachments(&["a", "b", "zz"]).await.unwrap();
    let AttachmentsOutcome::Found(mut of_a) = all.into_iter().next().unwrap().outcome else {
        panic!("no attachments")
    };
    of_a.sort_by(|one, other| one.name.cmp(&other.name));
    let inline = |name: &str, content_type: &str, content: &Bytes| InlineAttachment {
        name: name.into(),
        content_type: Some(content_type.into()),
        content: content.clone(),
    };
    assert_eq!(
        of_a,
        [
            inline("form.xml", "text/xml", &xml),
            inline("photo 1.jpg", "image/jpeg", &photo)
        ]
    );
    let rest = database.bulk_attachments(&["b", "zz"]).await.unwrap();
    assert!(matches!(&rest[0].outcome, AttachmentsOutcome::Found(list) if list.is_empty()));
    assert!(matches!(rest[1].outcome, AttachmentsOutcome::Absent));
}
