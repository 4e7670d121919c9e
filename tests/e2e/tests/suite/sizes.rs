//! Documents far above the usual size: workers take them within the memory that the architecture promises.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use e2e::load;
use e2e::usage::Usage;
use e2e::world::{Options, WORKERS, World};
use serde_json::{Value, json};

use crate::migrate_cleanly;

/// Most memory of a worker of a kind, in MiB, as docs/architecture.md states it for two batches at a time.
fn bound_mb(kind: &str) -> f64 {
    if kind == "case-worker" { 128.0 } else { 320.0 }
}

/// Forms that touch the large case, and blocks of each: 50,000 updates.
const HUB_FORMS: usize = 1000;
const BLOCKS: usize = 50;
/// Forms with an attachment in Couch itself, and its size: all of them together are far above what a batch may hold.
const INLINE_FORMS: usize = 60;
const INLINE_BYTES: usize = 6 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_documents_are_migrated_and_compared_within_bounded_memory() -> Result<()> {
    let census = generator::generate(&generator::Options {
        census_cases: 2000,
        ..generator::Options::new("census", 120, 7)
    });
    ensure!(
        census.docs.iter().map(|doc| repeated(&doc["form"])).max() >= Some(2000),
        "no form of the domain has 2000 case blocks"
    );
    let mut world = World::start(Options::default().workers(1)).await?;
    world.load(&census).await?;
    migrate_cleanly(&mut world, "census", &census.model).await?;
    compare_forms(&mut world, "census").await?;

    let case = load_hub(&world).await?;
    ensure!(case["actions"].as_array().map(Vec::len) > Some(HUB_FORMS * BLOCKS));
    world.domain("hub", "MIGRATE", &[]).await?.ok();
    world.coordinator(&["couch_sql_diff", "hub", "cases"]).await?.ok();
    compare_forms(&mut world, "hub").await?;
    let query = "select count(*), (select case_json from form_processor_commcarecasesql where case_id = 'hub')
                 from form_processor_casetransaction where case_id = 'hub' and not revoked";
    let row = world.target().query_one(query, &[]).await?;
    let (transactions, properties): (i64, String) = (row.get(0), row.get(1));
    ensure!(
        transactions == i64::try_from(HUB_FORMS + 1)?,
        "{transactions} transactions"
    );
    let properties: Value = serde_json::from_str(&properties)?;
    for block in 0..BLOCKS {
        let name = format!("p{block}");
        ensure!(
            properties[&name] == json!(value(HUB_FORMS - 1, block)),
            "{name}: {}",
            properties[&name]
        );
    }

    load_inline(&world).await?;
    world.domain("inline", "MIGRATE", &[]).await?.ok();
    let query = "select count(*) from blobs_blobmeta where domain = 'inline' and type_code = 3 and content_length = $1";
    let attachments: i64 = world
        .target()
        .query_one(query, &[&i64::try_from(INLINE_BYTES)?])
        .await?
        .get(0);
    ensure!(attachments == i64::try_from(INLINE_FORMS)?, "{attachments} attachments");

    for kind in WORKERS {
        for pid in world.pids(kind) {
            let usage = Usage::of(pid).context("a worker is gone")?;
            eprintln!("{kind}: {:.0} MiB at most", usage.peak_rss_mb);
            ensure!(
                usage.peak_rss_mb < bound_mb(kind),
                "{kind} held {:.0} MiB, above the bound of {} MiB",
                usage.peak_rss_mb,
                bound_mb(kind)
            );
        }
    }
    world.end()
}

/// Compares all forms of a domain again, as they are stored on both sides.
async fn compare_forms(world: &mut World, domain: &str) -> Result<()> {
    let query = "select form_id from form_processor_xforminstancesql where domain = $1";
    let rows = world.target().query(query, &[&domain]).await?;
    let ids: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    ensure!(!ids.is_empty(), "no forms of {domain}");
    let file = world.folder().join("forms.txt");
    std::fs::write(&file, ids.join("\n"))?;
    let select = format!("--select={}", file.display());
    world
        .coordinator(&["couch_sql_diff", domain, "forms", &select])
        .await?
        .ok();
    Ok(())
}

/// The longest list anywhere in a form.
fn repeated(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(repeated).max().unwrap_or_default().max(items.len()),
        Value::Object(members) => members.values().map(repeated).max().unwrap_or_default(),
        _ => 0,
    }
}

/// The value that a block of a form gives its property.
fn value(form: usize, block: usize) -> String {
    format!("said by form {form} in block {block}")
}

fn moment(minute: usize) -> String {
    format!(
        "2020-03-{:02}T{:02}:{:02}:00.000000Z",
        1 + minute / 1440,
        minute / 60 % 24,
        minute % 60
    )
}

/// A form with these case blocks, as XML and as the document of Couch.
fn form(domain: &str, id: &str, minute: usize, xml_blocks: &str, json_blocks: Value) -> (Value, String) {
    let at = moment(minute);
    let xml = format!(
        "<data xmlns=\"http://example.org/forms/hub\">{xml_blocks}<meta xmlns=\"http://openrosa.org/jr/xforms\">\
         <deviceID>phone</deviceID><timeStart>{at}</timeStart><timeEnd>{at}</timeEnd><username>asha</username>\
         <userID>user-1</userID><instanceID>{id}</instanceID></meta></data>"
    );
    let mut body = json!({
        "@xmlns": "http://example.org/forms/hub", "#type": "data",
        "meta": {
            "@xmlns": "http://openrosa.org/jr/xforms", "deviceID": "phone", "timeStart": at, "timeEnd": at,
            "username": "asha", "userID": "user-1", "instanceID": id,
        },
    });
    if !json_blocks.is_null() {
        body["case"] = json_blocks;
    }
    let document = json!({
        "_id": id, "doc_type": "XFormInstance", "domain": domain, "xmlns": "http://example.org/forms/hub",
        "app_id": "app-1", "build_id": "build-1", "received_on": at, "server_modified_on": at, "partial_submission": false,
        "history": [], "auth_context": {}, "submit_ip": "10.1.2.3", "path": "/a/", "openrosa_headers": {},
        "last_sync_token": null, "date_header": null, "initial_processing_complete": true, "form": body,
    });
    (document, xml)
}

async fn load_forms(world: &World, domain: &str, forms: Vec<(Value, String)>, others: Vec<Value>) -> Result<()> {
    let (mut documents, mut blobs, mut rows) = (others, Vec::new(), Vec::new());
    for (mut document, xml) in forms {
        let id = document["_id"].as_str().context("a form without id")?.to_owned();
        let key = format!("{id}.form.xml");
        document["external_blobs"] = json!({"form.xml": {
            "doc_type": "BlobMetaRef", "key": key, "content_type": "text/xml", "content_length": xml.len(),
        }});
        rows.push(generator::ExpectedBlobMeta {
            domain: domain.to_owned(),
            parent_id: id,
            name: "form.xml".to_owned(),
            key: key.clone(),
            type_code: 2,
            content_length: i64::try_from(xml.len())?,
            content_type: Some("text/xml".to_owned()),
            created_on: None,
        });
        blobs.push((key, xml.into_bytes()));
        documents.push(document);
    }
    world.load_documents(documents).await?;
    load::write_blobs(&world.folder().join("blobs"), blobs).await?;
    world.shards().load_blobmeta(&rows).await?;
    let domain_doc =
        json!({"_id": format!("domain-{domain}"), "doc_type": "Domain", "name": domain, "use_sql_backend": false});
    load::write_documents(world.source().domains(), &[domain_doc]).await
}

/// A domain with one case of 50,000 actions. Gives the case.
async fn load_hub(world: &World) -> Result<Value> {
    const V2: &str = "http://commcarehq.org/case/transaction/v2";
    let action = |kind: &str, form: &str, at: &str, known: Value, unknown: Value| {
        json!({
            "doc_type": "CommCareCaseAction", "action_type": kind, "xform_id": form, "user_id": "user-1", "date": at,
            "server_date": at, "xform_xmlns": "http://example.org/forms/hub", "xform_name": null, "sync_log_id": null,
            "updated_known_properties": known, "updated_unknown_properties": unknown, "indices": [], "attachments": {},
        })
    };
    let at = moment(0);
    let create = format!(
        "<case xmlns=\"{V2}\" case_id=\"hub\" date_modified=\"{at}\" user_id=\"user-1\"><create><case_name>Hub</case_name>\
         <owner_id>owner-1</owner_id><case_type>hub</case_type></create></case>"
    );
    let created = json!({
        "@xmlns": V2, "@case_id": "hub", "@date_modified": at, "@user_id": "user-1",
        "create": {"case_name": "Hub", "owner_id": "owner-1", "case_type": "hub"},
    });
    let mut forms = vec![form("hub", "hub-create", 0, &create, created)];
    let known = json!({"name": "Hub", "owner_id": "owner-1", "type": "hub"});
    let mut actions = vec![action("create", "hub-create", &at, known, json!({}))];
    let mut ids = vec!["hub-create".to_owned()];
    let mut properties = serde_json::Map::new();
    for number in 0..HUB_FORMS {
        let (id, at) = (format!("hub-{number:05}"), moment(number + 1));
        let (mut xml, mut blocks) = (String::new(), Vec::new());
        for block in 0..BLOCKS {
            let (name, value) = (format!("p{block}"), value(number, block));
            write!(
                xml,
                "<case xmlns=\"{V2}\" case_id=\"hub\" date_modified=\"{at}\" user_id=\"user-1\">\
                 <update><{name}>{value}</{name}></update></case>"
            )?;
            let update = json!({name.as_str(): value});
            blocks.push(json!({
                "@xmlns": V2, "@case_id": "hub", "@date_modified": at, "@user_id": "user-1", "update": update,
            }));
            actions.push(action("update", &id, &at, json!({}), update));
            properties.insert(name, json!(value));
        }
        forms.push(form("hub", &id, number + 1, &xml, Value::Array(blocks)));
        ids.push(id);
    }
    let last = moment(HUB_FORMS);
    let mut case = json!({
        "_id": "hub", "doc_type": "CommCareCase", "domain": "hub", "type": "hub", "name": "Hub", "external_id": "",
        "owner_id": "owner-1", "user_id": "user-1", "version": "2.0", "opened_on": at, "opened_by": "user-1",
        "modified_on": last, "server_modified_on": last, "closed": false, "closed_on": null, "closed_by": "", "indices": [],
        "case_attachments": {}, "initial_processing_complete": true, "xform_ids": ids, "actions": actions,
    });
    case.as_object_mut().context("a case is an object")?.extend(properties);
    load_forms(world, "hub", forms, vec![case.clone()]).await?;
    Ok(case)
}

/// A domain of forms with large attachments that Couch itself keeps.
async fn load_inline(world: &World) -> Result<()> {
    let ids: Vec<String> = (0..INLINE_FORMS).map(|number| format!("inline-{number:03}")).collect();
    let forms = ids
        .iter()
        .enumerate()
        .map(|(minute, id)| form("inline", id, minute, "", Value::Null));
    load_forms(world, "inline", forms.collect(), Vec::new()).await?;
    let content = Bytes::from(vec![0xd8; INLINE_BYTES]);
    for id in &ids {
        let (stand_in, forms) = (world.source().stand_in(), world.source().forms());
        stand_in.put_attachment(forms.name(), id, "photo.jpg", "image/jpeg", content.clone())?;
    }
    Ok(())
}
