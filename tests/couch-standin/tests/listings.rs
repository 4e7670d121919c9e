//! `_all_docs`, the views, and the changes feed.
#![allow(clippy::unwrap_used)]

mod client;

use client::{Client, encoded, ids};
use couch_standin::{OpKind, Options, Running, StandIn, design_documents};
use serde_json::{Value, json};

const VIEW: &str = "/db/_design/by_domain_doc_type_date/_view/view";

async fn start(documents: impl IntoIterator<Item = Value>) -> (Running, Client) {
    let running = StandIn::start(Options::default()).await.unwrap();
    running.load("db", documents).unwrap();
    let client = Client::new(&running.url());
    (running, client)
}

fn form(id: &str, domain: &str, doc_type: &str, received_on: &str) -> Value {
    json!({"_id": id, "domain": domain, "doc_type": doc_type, "received_on": received_on})
}

#[tokio::test]
async fn all_docs_goes_by_the_bytes_of_ids() {
    let (running, client) = start(["b", "a", "B", "é", "a-1", "gone"].map(|id| json!({"_id": id, "n": id}))).await;
    running.delete("db", "gone");
    let all = client.get("/db/_all_docs").await;
    assert_eq!(ids(&all), ["B", "a", "a-1", "b", "é"]);
    assert_eq!((&all["total_rows"], &all["offset"]), (&json!(5), &json!(0)));
    assert_eq!(all["rows"][0]["key"], "B");
    assert!(all["rows"][0]["value"]["rev"].is_string());

    let list = async |query: &str| ids(&client.get(&format!("/db/_all_docs?{query}")).await);
    assert_eq!(list("startkey=%22a%22&endkey=%22b%22").await, ["a", "a-1", "b"]);
    assert_eq!(
        list("startkey=%22a%22&endkey=%22b%22&inclusive_end=false").await,
        ["a", "a-1"]
    );
    assert_eq!(
        list("startkey=%22b%22&endkey=%22a%22&descending=true").await,
        ["b", "a-1", "a"]
    );
    assert_eq!(
        list("startkey=%22b%22&endkey=%22a%22&descending=true&inclusive_end=false").await,
        ["b", "a-1"]
    );
    assert_eq!(list("skip=1&limit=2").await, ["a", "a-1"]);
    assert_eq!(list("descending=true&skip=1&limit=2").await, ["b", "a-1"]);
    assert_eq!(list("key=%22a%22").await, ["a"]);
    assert_eq!(client.get("/db/_all_docs?startkey=%22a-1%22").await["offset"], 2);

    let keyed = client
        .post(
            "/db/_all_docs?include_docs=true",
            &json!({"keys": ["b", "none", "gone", "a"]}),
        )
        .await;
    let rows = keyed["rows"].as_array().unwrap();
    assert_eq!(rows[0]["doc"]["n"], "b");
    assert_eq!(rows[1], json!({"key": "none", "error": "not_found"}));
    assert_eq!(
        (&rows[2]["value"]["deleted"], &rows[2]["doc"]),
        (&json!(true), &Value::Null)
    );
    assert_eq!(rows[3]["doc"]["_id"], "a");
    assert_eq!(running.requests().of(OpKind::AllDocs).documents, 2);
}

#[tokio::test]
async fn a_view_exists_with_its_design_document() {
    let (_running, client) = start([form("f", "d", "XFormInstance", "2019")]).await;
    assert_eq!(
        client.ask("GET", VIEW).await,
        (404, json!({"error": "not_found", "reason": "missing"}))
    );
    let design = design_documents()
        .into_iter()
        .find(|design| design["_id"] == "_design/by_domain_doc_type_date")
        .unwrap();
    let put = client.put("/db/_design/by_domain_doc_type_date", &design).await;
    assert_eq!(
        client.get(&format!("{VIEW}?reduce=false")).await,
        json!({
            "total_rows": 1, "offset": 0,
            "rows": [{"id": "f", "key": ["d", "XFormInstance", "2019"], "value": null}],
        })
    );
    assert_eq!(
        client.get("/db/_design/by_domain_doc_type_date").await["views"],
        design["views"]
    );
    let (status, missing) = client
        .ask("GET", "/db/_design/by_domain_doc_type_date/_view/other")
        .await;
    assert_eq!((status, &missing["reason"]), (404, &json!("missing_named_view")));
    let revision = put["rev"].as_str().unwrap();
    assert_eq!(
        client
            .ask("DELETE", &format!("/db/_design/by_domain_doc_type_date?rev={revision}"))
            .await
            .0,
        200
    );
    assert_eq!(
        client.ask("GET", VIEW).await,
        (404, json!({"error": "not_found", "reason": "deleted"}))
    );
}

#[tokio::test]
async fn pages_go_on_inside_equal_keys() {
    // 25 forms of one second among others: more than two pages of one key.
    let mut documents: Vec<Value> = (0..25)
        .map(|n| {
            form(
                &format!("f{:02}", n * 7 % 25),
                "d",
                "XFormInstance",
                "2019-03-02T08:15:00Z",
            )
        })
        .collect();
    documents.push(form("zz-early", "d", "XFormInstance", "2019-03-02T08:14:00Z"));
    documents.push(form("aa-late", "d", "XFormInstance", "2019-03-02T08:16:00Z"));
    documents.push(form("other", "d", "XFormError", "2019-03-02T08:15:00Z"));
    documents.push(form("other-2", "d-2", "XFormInstance", "2019-03-02T08:15:00Z"));
    let (running, client) = start(documents).await;
    running.install_views("db").unwrap();
    let end = json!(["d", "XFormInstance", {}]);
    let mut expected: Vec<String> = (0..25).map(|n| format!("f{n:02}")).collect();
    expected.insert(0, "zz-early".to_owned());
    expected.push("aa-late".to_owned());

    for limit in [1, 2, 10, 27, 100] {
        let (mut start, mut start_id, mut seen) = (json!(["d", "XFormInstance"]), String::new(), Vec::new());
        loop {
            let skip = u8::from(!seen.is_empty());
            let page = client
                .get(&format!(
                    "{VIEW}?reduce=false&limit={limit}&skip={skip}&startkey={}&startkey_docid={start_id}&endkey={}",
                    encoded(&start),
                    encoded(&end)
                ))
                .await;
            let rows = page["rows"].as_array().unwrap();
            assert!(rows.len() <= limit);
            let Some(last) = rows.last() else { break };
            start = last["key"].clone();
            start_id = last["id"].as_str().unwrap().to_owned();
            seen.extend(ids(&page));
        }
        assert_eq!(seen, expected, "limit {limit}");
    }
    // The next page by the ids alone: from behind one id to another, both ways.
    let key = encoded(&json!(["d", "XFormInstance", "2019-03-02T08:15:00Z"]));
    let part = |query: &str| format!("{VIEW}?reduce=false&{query}");
    let between = format!("startkey={key}&startkey_docid=f03&endkey={key}&endkey_docid=f05");
    assert_eq!(ids(&client.get(&part(&between)).await), ["f03", "f04", "f05"]);
    assert_eq!(
        ids(&client.get(&part(&format!("{between}&inclusive_end=false"))).await),
        ["f03", "f04"]
    );
    let back = format!("descending=true&startkey={key}&startkey_docid=f05&endkey={key}&endkey_docid=f03");
    assert_eq!(ids(&client.get(&part(&back)).await), ["f05", "f04", "f03"]);
    assert_eq!(
        ids(&client.get(&part(&format!("{back}&inclusive_end=false"))).await),
        ["f05", "f04"]
    );
    assert_eq!(
        client.get(&part(&between)).await["offset"],
        5,
        "other, zz-early, f00 to f02 stand before"
    );
}

#[tokio::test]
async fn queries_of_a_view() {
    let documents = [
        form("1", "d", "XFormInstance", "2019-01"),
        form("2", "d", "XFormInstance", "2019-02"),
        form("3", "d", "XFormArchived", "2019-03"),
        form("4", "e", "XFormInstance", "2019-04"),
        json!({"_id": "5", "domain": "d", "doc_type": "CommCareCase", "opened_on": null}),
        json!({"_id": "6", "doc_type": "XFormInstance"}),
    ];
    let (running, client) = start(documents).await;
    running.install_views("db").unwrap();
    let view = async |query: &str| client.get(&format!("{VIEW}?{query}")).await;
    let all = view("reduce=false").await;
    assert_eq!(ids(&all), ["5", "3", "1", "2", "4"]);
    assert_eq!(all["total_rows"], 5);
    assert_eq!(
        ids(&view("reduce=false&descending=true&limit=2&skip=1").await),
        ["2", "1"]
    );
    let d = format!(
        "startkey={}&endkey={}",
        encoded(&json!(["d"])),
        encoded(&json!(["d", {}]))
    );
    assert_eq!(ids(&view(&format!("reduce=false&{d}")).await), ["5", "3", "1", "2"]);
    let docs = view(&format!("reduce=false&include_docs=true&{d}&limit=1&skip=2")).await;
    assert_eq!(docs["rows"][0]["doc"]["received_on"], "2019-01");
    let key = json!(["d", "XFormArchived", "2019-03"]);
    assert_eq!(ids(&view(&format!("reduce=false&key={}", encoded(&key))).await), ["3"]);
    let keys = json!({"keys": [key, ["nothing"], ["d", "CommCareCase", null]], "reduce": false});
    assert_eq!(ids(&client.post(VIEW, &keys).await), ["3", "5"]);
    let by_body = json!({"startkey": ["d", "XFormInstance", "2019-02"], "endkey": ["e", {}], "reduce": false});
    assert_eq!(ids(&client.post(VIEW, &by_body).await), ["2", "4"]);

    assert_eq!(view("").await["rows"], json!([{"key": null, "value": 5}]));
    assert_eq!(view(&d).await["rows"], json!([{"key": null, "value": 4}]));
    assert_eq!(
        view("group_level=1").await["rows"],
        json!([{"key": ["d"], "value": 4}, {"key": ["e"], "value": 1}])
    );
    let by_type = json!([
        {"key": ["d", "CommCareCase"], "value": 1},
        {"key": ["d", "XFormArchived"], "value": 1},
        {"key": ["d", "XFormInstance"], "value": 2},
    ]);
    assert_eq!(view(&format!("{d}&group_level=2")).await["rows"], by_type);
    let back = format!(
        "descending=true&startkey={}&endkey={}",
        encoded(&json!(["d", {}])),
        encoded(&json!(["d"]))
    );
    let last = view(&format!("{back}&group_level=2&limit=1")).await;
    assert_eq!(last["rows"], json!([by_type[2]]));
    assert_eq!(
        view("group=true&limit=1&skip=2").await["rows"],
        json!([{"key": ["d", "XFormInstance", "2019-01"], "value": 1}])
    );
    assert_eq!(
        view(&format!("key={}", encoded(&json!(["none"])))).await["rows"],
        json!([])
    );

    for (query, reason) in [
        ("include_docs=true", "`include_docs` is invalid for reduce"),
        (
            "reduce=false&startkey=2&endkey=1",
            "No rows can match your key range, reverse your start_key and end_key or set descending=true",
        ),
        ("limit=x", "Invalid value for positive integer: \"x\""),
        ("reduce=perhaps", "Invalid boolean parameter: \"perhaps\""),
    ] {
        let expected = json!({"error": "query_parse_error", "reason": reason});
        assert_eq!(client.ask("GET", &format!("{VIEW}?{query}")).await, (400, expected));
    }
    assert_eq!(client.ask("GET", &format!("{VIEW}?startkey=[")).await.0, 400);
}

#[tokio::test]
async fn views_follow_every_write() {
    let (running, client) = start([form("f", "d", "XFormInstance", "2019")]).await;
    running.install_views("db").unwrap();
    let keys = async || {
        let rows = client.get(&format!("{VIEW}?reduce=false")).await["rows"].clone();
        rows.as_array()
            .unwrap()
            .iter()
            .map(|row| row["key"][1].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    running.put("db", &form("f", "d", "XFormArchived", "2019")).unwrap();
    assert_eq!(keys().await, ["XFormArchived"]);
    let mut document = client.get("/db/f").await;
    document["doc_type"] = json!("XFormError");
    client.put("/db/f", &document).await;
    assert_eq!(keys().await, ["XFormError"]);
    client
        .post(
            "/db/_bulk_docs",
            &json!({"docs": [form("g", "d", "XFormDuplicate", "2018")]}),
        )
        .await;
    assert_eq!(keys().await, ["XFormDuplicate", "XFormError"]);
    running.delete("db", "g");
    assert_eq!(keys().await, ["XFormError"]);
}

#[tokio::test]
async fn forms_are_found_by_case() {
    let with_cases = |id: &str, cases: &[&str]| {
        let blocks: Vec<Value> = cases.iter().map(|case| json!({"@case_id": case})).collect();
        json!({"_id": id, "domain": "d", "doc_type": "XFormInstance", "form": {"case": blocks}})
    };
    let (running, client) = start([
        with_cases("f1", &["c1", "c2"]),
        with_cases("f2", &["c1"]),
        with_cases("f3", &["c10"]),
    ])
    .await;
    running.install_views("db").unwrap();
    let range = format!(
        "startkey={}&endkey={}",
        encoded(&json!(["c1"])),
        encoded(&json!(["c1", {}]))
    );
    let found = client
        .get(&format!(
            "/db/_design/form_case_index/_view/form_case_index?reduce=false&{range}"
        ))
        .await;
    assert_eq!(
        found["rows"],
        json!([
            {"id": "f1", "key": ["c1", "f1"], "value": null},
            {"id": "f2", "key": ["c1", "f2"], "value": null},
        ])
    );
}

#[tokio::test]
async fn changes_are_read_from_a_place() {
    let (running, client) = start(["a", "b", "c"].map(|id| json!({"_id": id}))).await;
    running.put("db", &json!({"_id": "a", "n": 2})).unwrap();
    running.delete("db", "b");
    let changed = |feed: &Value| -> Vec<String> {
        feed["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|change| change["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let all = client.get("/db/_changes?include_docs=true").await;
    assert_eq!(changed(&all), ["c", "a", "b"], "each document once, at its last change");
    assert_eq!(
        (&all["pending"], &all["results"][2]["deleted"]),
        (&json!(0), &json!(true))
    );
    assert_eq!(
        (&all["results"][1]["doc"]["n"], &all["results"][2]["doc"]["_deleted"]),
        (&json!(2), &json!(true))
    );
    assert_eq!(all["last_seq"], client.get("/db").await["update_seq"]);

    let first = client.get("/db/_changes?limit=1").await;
    assert_eq!((changed(&first), &first["pending"]), (vec!["c".to_owned()], &json!(2)));
    let since = first["last_seq"].as_str().unwrap();
    assert_eq!(
        changed(&client.get(&format!("/db/_changes?since={since}")).await),
        ["a", "b"]
    );
    assert!(changed(&client.get("/db/_changes?since=now").await).is_empty());
    assert_eq!(
        client.ask("GET", "/db/_changes?since=2-made-up").await.0,
        400,
        "a sequence is opaque"
    );
    assert_eq!(
        changed(&client.get("/db/_changes?descending=true&limit=2").await),
        ["b", "a"]
    );
    let sparse = client.get("/db/_changes?seq_interval=2").await;
    let sequences: Vec<bool> = sparse["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| change["seq"].is_string())
        .collect();
    assert_eq!(sequences, [false, true, false]);

    let old = all["last_seq"].as_str().unwrap();
    client.ask("DELETE", "/db").await;
    running.load("db", [json!({"_id": "new"})]).unwrap();
    assert_eq!(
        changed(&client.get(&format!("/db/_changes?since={old}")).await),
        ["new"],
        "a database made anew is read from its beginning"
    );
}

#[tokio::test]
async fn live_feeds_wait_for_writes() {
    let (running, client) = start([json!({"_id": "a"})]).await;
    let ended = client.get("/db/_changes?feed=longpoll&since=now&timeout=1").await;
    assert_eq!((&ended["results"], &ended["pending"]), (&json!([]), &json!(0)));
    let since = ended["last_seq"].as_str().unwrap();

    let mut waiting = client
        .request("GET", &format!("/db/_changes?feed=longpoll&since={since}"))
        .send()
        .await
        .unwrap();
    let mut text = waiting.chunk().await.unwrap().unwrap().to_vec();
    running.put("db", &json!({"_id": "b"})).unwrap();
    while let Some(chunk) = waiting.chunk().await.unwrap() {
        text.extend(chunk);
    }
    let feed: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(feed["results"][0]["id"], "b");

    let path = "/db/_changes?feed=continuous&include_docs=true&limit=3";
    let mut continuous = client.request("GET", path).send().await.unwrap();
    let mut text = continuous.chunk().await.unwrap().unwrap().to_vec();
    running.put("db", &json!({"_id": "c", "n": 1})).unwrap();
    while let Some(chunk) = continuous.chunk().await.unwrap() {
        text.extend(chunk);
    }
    let lines: Vec<Value> = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 4);
    assert_eq!(
        (&lines[0]["id"], &lines[1]["id"], &lines[2]["doc"]["n"]),
        (&json!("a"), &json!("b"), &json!(1))
    );
    assert_eq!(
        (&lines[3]["last_seq"], &lines[3]["pending"]),
        (&lines[2]["seq"], &json!(0))
    );
    let beats = client
        .request("GET", "/db/_changes?feed=continuous&since=now&heartbeat=1")
        .send()
        .await
        .unwrap()
        .chunk()
        .await;
    assert_eq!(beats.unwrap().unwrap().first(), Some(&b'\n'));
}
