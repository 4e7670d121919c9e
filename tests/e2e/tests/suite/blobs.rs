//! Blobs and documents of old domains: rows of metadata that lead nowhere, XML in odd places, forms that replaced others.
//! All of it is one migration, which a reset undoes.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use e2e::load;
use e2e::program::Output;
use e2e::world::{Options, World};
use serde_json::{Value, json};

use crate::domain;

const DOMAIN: &str = "odd";
const XML: &[u8] = br#"<data xmlns="http://odd/visit"><a>1</a></data>"#;
/// The same, by base64 and by gzip.
const XML_BASE64: &str = "PGRhdGEgeG1sbnM9Imh0dHA6Ly9vZGQvdmlzaXQiPjxhPjE8L2E+PC9kYXRhPg==";
const XML_GZIP: &[u8] = &[
    31, 139, 8, 0, 0, 0, 0, 0, 2, 3, 179, 73, 73, 44, 73, 84, 168, 200, 205, 201, 43, 182, 85, 202, 40, 41, 41, 176,
    210, 215, 207, 79, 73, 209, 47, 203, 44, 206, 44, 81, 178, 179, 73, 180, 51, 180, 209, 79, 180, 179, 209, 7, 169,
    179, 3, 0, 201, 33, 182, 81, 46, 0, 0, 0,
];
/// `sha1-` and the SHA-1 of `uuid:1`.
const HASHED_ID: &str = "sha1-9fba93b66eea1f1e3d4be3981ad69a1470c88266";

/// A form without blobs.
fn form(id: &str, doc_type: &str) -> Value {
    json!({
        "_id": id, "doc_type": doc_type, "domain": DOMAIN, "xmlns": "http://odd/visit",
        "received_on": "2019-03-02T08:15:00.000000Z", "server_modified_on": "2019-03-02T08:15:01.000000Z",
        "initial_processing_complete": true, "history": [], "external_blobs": {},
        "form": {"@xmlns": "http://odd/visit", "a": "1", "#type": "data"},
    })
}

/// A form whose XML is a blob under its own id.
fn sound(id: &str, doc_type: &str) -> Value {
    let mut form = form(id, doc_type);
    form["external_blobs"]["form.xml"] = json!({"doc_type": "BlobMetaRef", "key": id, "content_length": XML.len()});
    form
}

fn with(mut form: Value, key: &str, value: Value) -> Value {
    form[key] = value;
    form
}

fn blob(form: Value, name: &str, entry: Value) -> Value {
    let mut blobs = form["external_blobs"].clone();
    blobs[name] = entry;
    with(form, "external_blobs", blobs)
}

/// A system action.
fn action(id: &str, args: &str) -> (Value, Vec<u8>) {
    const XMLNS: &str = "http://commcarehq.org/system/action";
    let name = "hard_delete_case_and_forms";
    let mut doc = with(sound(id, "XFormArchived"), "xmlns", json!(XMLNS));
    doc["form"] = json!({"@xmlns": XMLNS, "name": name, "args": args, "#type": "system"});
    let args = args.replace('"', "&quot;");
    let xml = format!("<system xmlns=\"{XMLNS}\"><name>{name}</name><args>{args}</args></system>");
    (doc, xml.into_bytes())
}

fn documents() -> Vec<Value> {
    let mut swapped = with(
        sound("swapped", "XFormInstance"),
        "problem",
        json!("This document was an xform duplicate that replaced replaced on 2016-05-04 10:00:00"),
    );
    swapped["initial_processing_complete"] = json!(false);
    let key = |key: &str| json!({"doc_type": "BlobMetaRef", "key": key});
    vec![
        blob(form("two-rows", "XFormInstance"), "form.xml", key("gone-1")),
        form("dangling", "XFormInstance"),
        blob(form("several-dangling", "XFormInstance"), "form.xml", key("gone-3")),
        with(
            form("hidden", "XFormInstance"),
            "#xml",
            json!(String::from_utf8_lossy(XML)),
        ),
        with(
            form("inline", "XFormInstance"),
            "_attachments",
            json!({"form.xml": {"content_type": "text/xml", "data": XML_BASE64},
                   "photo.jpg": {"content_type": "image/jpeg", "data": "/9j/"}}),
        ),
        blob(form("compressed", "XFormInstance"), "form.xml", key("packed")),
        blob(
            form("uuid:1", "XFormInstance"),
            "form.xml",
            json!({"doc_type": "BlobMeta", "id": "form.xml.1"}),
        ),
        sound("referred", "XFormInstance"),
        blob(sound("no-length", "XFormInstance"), "photo.jpg", key("photo")),
        blob(sound("mistyped", "XFormInstance"), "note.txt", key("note")),
        blob(sound("lost-attachment", "XFormInstance"), "photo.jpg", key("nowhere")),
        sound("foreign-meta", "XFormInstance"),
        with(sound("nul", "XFormInstance"), "app_id", json!("a\u{0}b")),
        with(sound("long", "XFormInstance"), "submit_ip", json!("1".repeat(256))),
        swapped,
        sound("replaced", "XFormDuplicate"),
        sound("victim", "XFormInstance"),
        with(form("not-xml", "SubmissionErrorLog"), "#xml", json!("<not xml")),
        with(
            with(sound("raw", "HQSubmission"), "xmlns", Value::Null),
            "initial_processing_complete",
            Value::Null,
        ),
        with(
            with(sound("deleted", "XFormInstance-Deleted"), "-deletion_id", json!("d-1")),
            "-deletion_date",
            json!("2020-01-02T03:04:05+00:00Z"),
        ),
    ]
}

/// (form, name, key, type); other columns are the same for all.
const ROWS: [(&str, &str, &str, i16); 8] = [
    ("two-rows", "form.xml", "gone-1", 2),
    ("two-rows", "form.xml", "good", 2),
    ("dangling", "form.xml", "gone-2", 2),
    ("several-dangling", "form.xml", "gone-3", 2),
    ("several-dangling", "form.xml", "gone-4", 2),
    ("compressed", "form.xml", "packed", 2),
    ("referred", "form.xml", "gone-5", 2),
    ("mistyped", "note.txt", "note", 2),
];

async fn load_odd(world: &World) -> Result<()> {
    let documents = documents();
    let mut blobs: Vec<(String, Vec<u8>)> = documents
        .iter()
        .filter(|doc| doc["external_blobs"]["form.xml"]["key"] == doc["_id"])
        .map(|doc| (doc["_id"].as_str().unwrap_or_default().to_owned(), XML.to_vec()))
        .collect();
    let old_key = format!("{}/{HASHED_ID}/form.xml.1", world.source().forms().name());
    for (key, content) in [
        ("good", XML),
        ("packed", XML_GZIP),
        ("photo", b"jpeg".as_slice()),
        ("note", b"text"),
        (old_key.as_str(), XML),
    ] {
        blobs.push((key.to_owned(), content.to_vec()));
    }
    let (malformed, xml) = action("malformed-action", "[\"case\"]");
    blobs.push(("malformed-action".to_owned(), xml));
    world.load_documents(documents).await?;
    world.load_documents(vec![malformed]).await?;
    load::write_blobs(&world.folder().join("blobs"), blobs).await?;
    for (form, name, key, type_code) in ROWS {
        insert_row(world, DOMAIN, (form, name, key, type_code)).await?;
    }
    insert_row(world, "another", ("foreign-meta", "form.xml", "foreign-meta", 2)).await?;
    let packed = format!(
        "update blobs_blobmeta set compressed_length = {} where key = 'packed'",
        XML_GZIP.len()
    );
    world.target().batch_execute(&packed).await?;
    Ok(())
}

async fn insert_row(world: &World, domain: &str, row: (&str, &str, &str, i16)) -> Result<()> {
    let (form, name, key, type_code) = row;
    world
        .target()
        .execute(
            "insert into blobs_blobmeta (domain, parent_id, name, key, type_code, content_length, properties, created_on)
             values ($1, $2, $3, $4, $5, 46, '{\"width\":1}', '2018-01-01T00:00:00.123456Z')",
            &[&domain, &form, &name, &key, &type_code],
        )
        .await
        .context("insert blob metadata")?;
    Ok(())
}

/// The rows of the odd forms: `name key type length` by form; derived keys as `new`.
async fn metadata(world: &World) -> Result<BTreeMap<String, Vec<String>>> {
    let given: Vec<&str> = ROWS.iter().map(|row| row.2).collect();
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let rows = world
        .target()
        .query(
            "select parent_id, name, key, type_code, content_length from blobs_blobmeta where domain = $1 order by 1, 2, 3",
            &[&DOMAIN],
        )
        .await?;
    for row in rows {
        let (parent, name, key): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let is_derived = key.len() == 32 && !given.contains(&key.as_str());
        let shown = if is_derived {
            ensure!(
                world.folder().join("blobs").join(&key).exists(),
                "{parent}: no blob {key}"
            );
            "new"
        } else {
            key.as_str()
        };
        let (type_code, length): (i16, i64) = (row.get(3), row.get(4));
        found
            .entry(parent)
            .or_default()
            .push(format!("{name} {shown} {type_code} {length}"));
    }
    Ok(found)
}

/// `code` of each form with an error.
async fn errors(world: &World) -> Result<BTreeMap<String, String>> {
    let rows = world
        .state()
        .query("select doc_id, code || ' ' || message from doc_error", &[])
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn states(world: &World) -> Result<BTreeMap<String, i16>> {
    let rows = world
        .target()
        .query(
            "select form_id, state from form_processor_xforminstancesql where domain = $1",
            &[&DOMAIN],
        )
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn assert_metadata(world: &World) -> Result<()> {
    let found = metadata(world).await?;
    let old_key = format!("{}/{HASHED_ID}/form.xml.1", world.source().forms().name());
    let old_key = format!("form.xml {old_key} 2 46");
    for (form, expected) in [
        ("two-rows", &["form.xml good 2 46"][..]),
        ("hidden", &["form.xml new 2 46"]),
        ("inline", &["form.xml new 2 46", "photo.jpg new 3 3"]),
        ("compressed", &["form.xml packed 2 46"]),
        ("uuid:1", &[old_key.as_str()]),
        ("referred", &["form.xml referred 2 46"]),
        ("no-length", &["form.xml no-length 2 46", "photo.jpg photo 3 4"]),
        ("mistyped", &["form.xml mistyped 2 46", "note.txt note 3 46"]),
        ("lost-attachment", &["form.xml lost-attachment 2 46"]),
        ("not-xml", &["form.xml new 2 8"]),
    ] {
        ensure!(
            found.get(form).is_some_and(|rows| rows == expected),
            "{form}: {:?}",
            found.get(form)
        );
    }
    for form in ["dangling", "several-dangling"] {
        let rows = found.get(form).context("no row")?;
        ensure!(
            rows.len() == 1 && rows[0].starts_with("form.xml new 2 "),
            "{form}: {rows:?}"
        );
    }
    Ok(())
}

async fn assert_forms(world: &World) -> Result<()> {
    let states = states(world).await?;
    for (form, state) in [
        ("two-rows", 1),
        ("dangling", 1),
        ("several-dangling", 1),
        ("hidden", 1),
        ("inline", 1),
        ("compressed", 1),
        ("uuid:1", 1),
        ("referred", 1),
        ("lost-attachment", 1),
        ("swapped", 1),
        ("replaced", 8),
        ("victim", 1),
        ("not-xml", 32),
        ("raw", 1),
        ("deleted", 65),
    ] {
        ensure!(states.get(form) == Some(&state), "{form}: {:?}", states.get(form));
    }
    let errors = errors(world).await?;
    for (form, code, told, has_row) in [
        ("lost-attachment", "C2S-2311", "attachment", true),
        ("foreign-meta", "C2S-2310", "another domain", false),
        ("nul", "C2S-2305", "column app_id", false),
        ("long", "C2S-2305", "column submit_ip", false),
        ("malformed-action", "C2S-2309", "arguments", false),
    ] {
        let error = errors.get(form).with_context(|| format!("{form} has no error"))?;
        ensure!(error.starts_with(code) && error.contains(told), "{form}: {error}");
        ensure!(states.contains_key(form) == has_row, "{form}: {:?}", states.get(form));
    }
    ensure!(errors.len() == 5, "{errors:?}");
    Ok(())
}

/// The document is mended in Couch, once, and its row says the same.
async fn assert_repaired(world: &World) -> Result<()> {
    let doc = world
        .source()
        .forms()
        .get("swapped")
        .await?
        .context("the form is gone")?;
    ensure!(
        doc["problem"].is_null() && doc["deprecated_form_id"] == "replaced",
        "{doc}"
    );
    ensure!(doc["initial_processing_complete"] == true, "{doc}");
    let history = doc["history"].as_array().context("no history")?;
    ensure!(history.len() == 1 && history[0]["user"] == "system", "{doc}");
    let row = world
        .target()
        .query_one(
            "select f.deprecated_form_id, f.problem, o.operation from form_processor_xforminstancesql f
             join form_processor_xformoperationsql o on o.form_id = f.form_id where f.form_id = 'swapped'",
            &[],
        )
        .await?;
    ensure!(row.get::<_, Option<&str>>(0) == Some("replaced") && row.get::<_, Option<&str>>(1).is_none());
    ensure!(Some(row.get::<_, &str>(2)) == history[0]["operation"].as_str(), "{doc}");
    Ok(())
}

fn assert_told(verbose: &Output) -> Result<()> {
    let told = &verbose.stdout;
    ensure!(told.contains("4 forms whose form.xml was lost"), "{}", verbose.told());
    for (form, origin) in [
        ("dangling", "rebuilt"),
        ("several-dangling", "rebuilt"),
        ("hidden", "#xml"),
        ("not-xml", "#xml"),
    ] {
        let is_told = told
            .lines()
            .any(|line| line.trim_start().starts_with(&format!("{form} ")) && line.contains(origin));
        ensure!(is_told, "{form}: {}", verbose.told());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_in_odd_places_are_found_tidied_and_given_back() -> Result<()> {
    let generated = domain(DOMAIN, 60);
    let mut world = World::start(Options::in_process()).await?;
    world.load(&generated).await?;
    load_odd(&world).await?;
    let before = world.blobmeta_dump().await?;

    let config = world.configuration_with("read-only.toml", &[("source.read_only", "true")])?;
    let migrate = ["migrate_domain_from_couch_to_sql", DOMAIN, "MIGRATE"];
    let mut arguments = vec!["--config", config.as_str()];
    arguments.extend(migrate);
    world.coordinator_bare(&arguments, &[]).await?.ended_with(1);
    let refused = errors(&world).await?;
    ensure!(
        refused
            .get("swapped")
            .is_some_and(|error| error.starts_with("C2S-2308")),
        "{refused:?}"
    );
    ensure!(!states(&world).await?.contains_key("swapped"));

    // Everything that has an error is tried again: now the repair is allowed.
    world.domain(DOMAIN, "MIGRATE", &[]).await?.ended_with(1);
    assert_metadata(&world).await?;
    assert_forms(&world).await?;
    assert_repaired(&world).await?;
    assert_told(&world.domain(DOMAIN, "stats", &["--verbose"]).await?.ok())?;

    // A form vanishes from Couch, and a system action says so: the documents that it names are looked at again.
    let victim = world
        .source()
        .forms()
        .get("victim")
        .await?
        .context("the form is gone")?;
    let deletion = json!({"_id": "victim", "_rev": victim["_rev"], "_deleted": true});
    load::write_documents(world.source().forms(), &[deletion]).await?;
    let (told, xml) = action("action", "[\"a-case\", [\"victim\", \"inline\", \"unheard-of\"]]");
    let told = with(told, "received_on", json!("2030-01-01T00:00:00.000000Z"));
    load::write_blobs(&world.folder().join("blobs"), vec![("action".to_owned(), xml)]).await?;
    load::write_documents(world.source().forms(), &[told]).await?;
    world.domain(DOMAIN, "MIGRATE", &[]).await?.ended_with(1);
    let states = states(&world).await?;
    ensure!(
        states.get("action") == Some(&2) && states.get("inline") == Some(&1),
        "{states:?}"
    );
    ensure!(!states.contains_key("victim"), "the form is still there");

    world.domain(DOMAIN, "reset", &[]).await?.ok();
    let after = world.blobmeta_dump().await?;
    ensure!(before == after, "{before:#?}\n{after:#?}");
    world.end()
}
