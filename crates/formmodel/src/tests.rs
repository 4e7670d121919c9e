//! What a form does to cases and their ledgers.
#![allow(clippy::unwrap_used)]

use proto::effects::LedgerKind;
use serde_json::json;

use super::*;

const LEDGER: &str = "http://commcarehq.org/ledger/v1";
const CASE: &str = "http://commcarehq.org/case/transaction/v2";

fn migrated(doc_type: DocType, problem: Option<&str>, blocks: &str) -> Result<MigratedForm, FormFailure> {
    let mut doc = json!({"_id": "f", "domain": "demo", "doc_type": doc_type.as_str(),
        "received_on": "2019-03-02T08:15:00.120000Z"});
    if let Some(problem) = problem {
        doc["problem"] = json!(problem);
    }
    let xml = format!("<data xmlns=\"http://stock\"><meta><userID>u</userID></meta>{blocks}</data>");
    migrate(
        &Domain::new("demo"),
        doc_type,
        &doc,
        xml.as_bytes(),
        Vec::new(),
        Treatment::AsItSays,
    )
}

fn balance(case_id: &str, quantity: &str) -> String {
    format!(
        "<balance xmlns=\"{LEDGER}\" entity-id=\"{case_id}\" date=\"2019-03-01\" section-id=\"stock\">\
         <entry id=\"p\" quantity=\"{quantity}\"/></balance>"
    )
}

fn transfer(source: &str, destination: &str) -> String {
    format!(
        "<transfer xmlns=\"{LEDGER}\" src=\"{source}\" dest=\"{destination}\" section-id=\"stock\">\
         <entry id=\"p\" quantity=\"2\"/></transfer>"
    )
}

fn case_block(case_id: &str) -> String {
    format!(
        "<case xmlns=\"{CASE}\" case_id=\"{case_id}\" user_id=\"u\" date_modified=\"2019-03-01T00:00:00Z\"><update><a>1</a></update></case>"
    )
}

/// A case, the number of its blocks, and what happens to its ledgers.
type Touched<'a> = (&'a str, usize, Vec<(LedgerKind, &'a str)>);

/// The cases in order.
fn shown(form: &MigratedForm) -> Vec<Touched<'_>> {
    form.cases
        .iter()
        .map(|(case_id, effects)| {
            let ledgers = effects.ledgers.iter();
            (
                case_id.as_str(),
                effects.updates.len(),
                ledgers.map(|update| (update.kind, update.quantity.as_str())).collect(),
            )
        })
        .collect()
}

#[test]
fn ledgers_join_the_blocks_of_their_case_and_stand_alone_otherwise() {
    use LedgerKind::{Balance, TransferIn, TransferOut};
    let blocks = [
        transfer("z", "b"),
        case_block("b"),
        balance("a", "5"),
        balance("b", "7"),
    ]
    .concat();
    let form = migrated(DocType::XFormInstance, None, &blocks).unwrap();
    assert!(form.has_ledgers);
    assert_eq!(
        shown(&form),
        [
            ("b", 1, vec![(TransferIn, "2"), (Balance, "7")]),
            ("z", 0, vec![(TransferOut, "2")]),
            ("a", 0, vec![(Balance, "5")]),
        ]
    );
    // All of them know the form, and a block without a date is of the time when the form was received.
    let received = form.bundle.form.received_on;
    for (_, effects) in &form.cases {
        assert_eq!(
            (effects.form.form_id.as_str(), effects.form.received_on),
            ("f", received)
        );
    }
    assert_eq!(form.cases[1].1.ledgers[0].report_date, received);
    assert_eq!(
        form.cases[2].1.ledgers[0].report_date,
        dates::parse("2019-03-01T00:00:00Z").unwrap()
    );
}

#[test]
fn forms_that_are_not_processed_change_no_ledgers() {
    let blocks = balance("a", "5");
    for (doc_type, problem) in [
        (DocType::XFormArchived, None),
        (DocType::XFormDeprecated, None),
        (DocType::XFormDuplicate, None),
        (DocType::XFormError, None),
        (DocType::XFormInstanceDeleted, None),
        (DocType::XFormInstance, Some("broken")),
    ] {
        let form = migrated(doc_type, problem, &blocks).unwrap();
        assert!(!form.has_ledgers && form.cases.is_empty(), "{doc_type}");
    }
    let form = migrated(DocType::XFormInstance, None, &case_block("a")).unwrap();
    assert!(!form.has_ledgers);
    assert_eq!(shown(&form), [("a", 1, Vec::new())]);
}

#[test]
fn a_ledger_block_in_error_drops_the_form() {
    let bad_date = balance("a", "5").replace("2019-03-01", "yesterday");
    let failure = migrated(
        DocType::XFormInstance,
        None,
        &[case_block("b"), bad_date.clone()].concat(),
    )
    .unwrap_err();
    assert_eq!(failure.code(), xform::LedgerError::InvalidDate.code());
    // A form that is not processed is not asked for its ledgers.
    assert!(migrated(DocType::XFormArchived, None, &bad_date).is_ok());
    // Where a case block is in error too, that is what is reported.
    let bad_block = case_block("b").replace(CASE, "http://commcarehq.org/case/transaction/v3");
    let both = migrated(DocType::XFormInstance, None, &[bad_date, bad_block.clone()].concat()).unwrap_err();
    let block = migrated(DocType::XFormInstance, None, &bad_block).unwrap_err();
    assert_eq!(both.code(), block.code());
}

/// Reference: a form that a case in Couch lists was applied there; HQ's second chance takes its problem for no hindrance.
#[test]
fn a_form_that_was_applied_is_applied_whatever_it_says() {
    let body = json!({"@xmlns": "F", "case": {"@case_id": "c", "@xmlns": "http://commcarehq.org/case/transaction/v2", "update": {"age": "27"}}, "#type": "data"});
    let xml = "<data xmlns='F'><case case_id='c' xmlns='http://commcarehq.org/case/transaction/v2'><update><age>27</age></update></case></data>";
    let doc = |extra: Value| {
        let mut doc = json!({"_id": "f", "domain": "demo", "received_on": "2019-03-02T08:15:00.120000Z", "form": body});
        let (doc_map, extra) = (doc.as_object_mut().unwrap(), extra.as_object().unwrap().clone());
        doc_map.extend(extra);
        doc
    };
    let run = |doc: &Value, doc_type, treatment| {
        migrate(
            &Domain::new("demo"),
            doc_type,
            doc,
            xml.as_bytes(),
            Vec::new(),
            treatment,
        )
        .unwrap()
    };
    let problem = doc(json!({"doc_type": "XFormInstance", "problem": "it broke"}));
    let unprocessed = doc(json!({"doc_type": "XFormInstance", "initial_processing_complete": false}));
    for (doc, state) in [(&problem, 16), (&unprocessed, 1)] {
        let form = run(doc, DocType::XFormInstance, Treatment::AsItSays);
        assert_eq!((form.bundle.form.state, form.cases.len()), (state, 0));
        let form = run(doc, DocType::XFormInstance, Treatment::Applied);
        assert_eq!((form.bundle.form.state, form.cases.len()), (1, 1));
        assert!(form.bundle.form.initial_processing_complete && form.is_applied_anyway);
        assert_eq!(
            form.compared(doc)["initial_processing_complete"],
            true,
            "the flag that was set is no difference"
        );
    }
    let applied = run(&problem, DocType::XFormInstance, Treatment::Applied);
    assert_eq!(
        applied.bundle.form.problem.as_deref(),
        Some("it broke"),
        "its problem stays on record"
    );
    let as_error = run(&problem, DocType::XFormInstance, Treatment::AsItSays);
    assert_eq!(as_error.compared(&problem)["doc_type"], "XFormError");

    // Only normal forms: an archived form stays archived.
    let archived = run(
        &doc(json!({"doc_type": "XFormArchived"})),
        DocType::XFormArchived,
        Treatment::Applied,
    );
    assert_eq!((archived.bundle.form.state, archived.cases.len()), (2, 0));
}

/// A form that says that it was not processed, and that no case in Couch has, is an error form with what it says.
#[test]
fn a_form_that_no_case_has_is_an_error_form() {
    let mut document = json!({"_id": "f", "doc_type": "XFormInstance", "domain": "demo", "form": {},
        "received_on": "2019-03-02T08:15:00.000000Z"});
    let xml = "<data xmlns='x'/>".as_bytes();
    for (problem, complete, state) in [
        (json!(null), json!(false), 16),
        (json!("broken"), json!(true), 16),
        (json!("broken"), json!(false), 16),
        // It has become one that was processed since.
        (json!(null), json!(true), 1),
        (json!(null), json!(null), 1),
    ] {
        document["problem"] = problem.clone();
        document["initial_processing_complete"] = complete.clone();
        assert_eq!(is_normal(&document), state == 1, "{document}");
        let domain = Domain::new("demo");
        let doc_type = DocType::XFormInstance;
        let form = migrate(&domain, doc_type, &document, xml, Vec::new(), Treatment::NotApplied).unwrap();
        let row = &form.bundle.form;
        assert_eq!(
            (row.state, row.initial_processing_complete, row.problem.as_deref()),
            (state, complete != json!(false), problem.as_str()),
            "{document}"
        );
        let compared = if state == 16 { "XFormError" } else { "XFormInstance" };
        assert_eq!(form.compared(&document)["doc_type"], compared);
        assert_eq!(super::compared(&document, Treatment::NotApplied)["doc_type"], compared);
    }
    let archived = json!({"doc_type": "XFormArchived"});
    assert!(!is_normal(&archived));
}
