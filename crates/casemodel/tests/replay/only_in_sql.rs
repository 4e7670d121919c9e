//! Cases of which it was judged that only SQL has them.

use proto::effects::{CaseEvent, CaseFate};
use proto::rows::CaseBundle;
use serde_json::json;

use crate::forms::{block, create, form, minute, run, update};

const SOFTLY: CaseFate = CaseFate::SoftDeleted {
    on: chrono::DateTime::UNIX_EPOCH,
};

/// The case of forms `f` and `g`, judged when it had `forms`.
fn judged(forms: &[&str], fate: CaseFate) -> Option<CaseBundle> {
    let mut replay = run(vec![
        form("f", 1, vec![block(vec![create(&[])])]),
        form("g", 2, vec![block(vec![update(&[("age", "27")])])]),
    ]);
    replay.events = vec![CaseEvent::OnlyInSql {
        form_ids: forms.iter().map(|id| (*id).into()).collect(),
        fate,
    }];
    replay.replay().bundle
}

#[test]
fn it_is_marked_deleted_or_goes() {
    for forms in [&["f", "g"][..], &["a", "f", "g"]] {
        let case = judged(forms, SOFTLY).unwrap().case;
        let on = chrono::DateTime::UNIX_EPOCH;
        assert_eq!(
            (case.deleted, case.deleted_on, case.deletion_id, case.server_modified_on),
            (true, Some(on), None, on)
        );
        assert_eq!(case.case_json, r#"{"age":"27"}"#, "its content stays");
        assert_eq!(judged(forms, CaseFate::Removed), None);
    }
}

#[test]
fn a_form_that_was_not_judged_makes_the_judgement_void() {
    for fate in [SOFTLY, CaseFate::Removed] {
        let case = judged(&["f"], fate).unwrap().case;
        assert_eq!((case.deleted, case.server_modified_on), (false, minute(2)), "{fate:?}");
    }
}

#[test]
fn a_case_that_couch_has_deleted_is_not_only_in_sql() {
    let mut replay = run(vec![form("f", 1, vec![block(vec![create(&[])])])]);
    let doc = json!({"_id": "c-1", "doc_type": "CommCareCase-Deleted", "domain": "demo"});
    replay.events = vec![
        CaseEvent::OnlyInSql {
            form_ids: vec!["f".into()],
            fate: CaseFate::Removed,
        },
        CaseEvent::CopiedDeleted {
            doc: doc.to_string(),
            staged_on: minute(900),
        },
    ];
    assert_eq!(replay.bundle().case.deleted_on, Some(minute(900)));
}
