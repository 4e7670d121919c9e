//! The Couch view that forms and cases are read from.

use serde_json::{Value, json};

/// The design document `by_domain_doc_type_date`, ready to be stored: its view `view` has a row `[domain, doc_type, date]`
/// for every document with a domain, and counts them.
pub fn by_domain_design_doc() -> Value {
    json!({
        "_id": "_design/by_domain_doc_type_date",
        "language": "javascript",
        "views": {"view": {"map": MAP, "reduce": "_count"}},
    })
}

const MAP: &str = "function (doc) {
    if (!doc.domain) {
        return;
    }
    var date = null;
    switch (doc.doc_type) {
        case 'CommCareCase':
        case 'CommCareCase-Deleted':
            date = doc.opened_on;
            break;
        case 'XFormInstance':
        case 'XFormInstance-Deleted':
        case 'XFormError':
        case 'XFormDuplicate':
        case 'XFormDeprecated':
        case 'XFormArchived':
        case 'SubmissionErrorLog':
            date = doc.received_on;
            break;
        case 'CommCareUser':
        case 'WebUser':
            date = doc.created_on;
            break;
        case 'MessageLog':
        case 'CallLog':
        case 'SMSLog':
        case 'EventLog':
            date = doc.date;
            break;
        case 'Application':
        case 'RemoteApp':
        case 'LinkedApplication':
        case 'Application-Deleted':
        case 'RemoteApp-Deleted':
        case 'LinkedApplication-Deleted':
            date = doc.copy_of ? doc.built_on : null;
            break;
    }
    emit([doc.domain, doc.doc_type, date || null], null);
}";
