//! Rules of case blocks that show only in whole forms or in odd blocks.
#![allow(clippy::unwrap_used)]

use proto::effects::{AttachmentChange, BlockVersion, CaseAction, CaseUpdate};
use serde_json::json;
use xform::{CASE_V2_XMLNS, FormError, case_updates, form_json, has_noop_block};

fn only_update(block: &str) -> Result<CaseUpdate, FormError> {
    let xml = format!("<data xmlns='F'>{block}</data>");
    let mut found = case_updates(&form_json(xml.as_bytes()).unwrap())?;
    assert_eq!((found.len(), found[0].1.len()), (1, 1), "{block}");
    Ok(found.remove(0).1.remove(0))
}

fn actions(parts: &str) -> Vec<CaseAction> {
    let block = format!("<case xmlns='{CASE_V2_XMLNS}' case_id='c'>{parts}</case>");
    only_update(&block).unwrap().actions
}

#[test]
fn parts_that_are_no_objects_are_recorded_without_entries() {
    for (parts, expected) in [
        ("<index>text</index>", CaseAction::Index(vec![])),
        (
            "<index><p case_type='t'>i</p></index><index/>",
            CaseAction::Index(vec![]),
        ),
        ("<attachment>text</attachment>", CaseAction::Attachment(vec![])),
        ("<attachment/><attachment/>", CaseAction::Attachment(vec![])),
        ("<create>text</create>", CaseAction::Create(vec![])),
        (
            "<update>text</update>",
            CaseAction::Update {
                known: vec![],
                dynamic: vec![],
            },
        ),
    ] {
        assert_eq!(actions(parts), [expected], "{parts}");
    }
}

#[test]
fn every_key_of_an_attachment_part_is_an_attachment() {
    let attachment = |identifier: &str, src: Option<&str>, name: Option<&str>| AttachmentChange {
        identifier: identifier.to_owned(),
        src: src.map(str::to_owned),
        from: None,
        name: name.map(str::to_owned),
    };
    assert_eq!(
        actions("<attachment xmlns='other'><photo src='p.jpg'/><gone>text</gone><named name='n'/></attachment>"),
        [CaseAction::Attachment(vec![
            attachment("@xmlns", None, None),
            attachment("photo", Some("p.jpg"), None),
            attachment("gone", None, None),
            attachment("named", None, Some("n")),
        ])]
    );
}

#[test]
fn referrals_are_ignored() {
    let referral = "<referral><referral_id>r</referral_id><open><referral_types>t</referral_types></open></referral>";
    assert_eq!(actions(referral), [CaseAction::Noop]);
    assert_eq!(actions(&format!("{referral}<close/>")), [CaseAction::Close]);
}

#[test]
fn an_empty_namespace_is_version_1() {
    // No XML gives it, but documents of CouchDB may hold it.
    let form = json!({"case": {"@xmlns": "", "case_id": "c", "update": {"a": "1"}}});
    assert_eq!(case_updates(&form).unwrap()[0].1[0].version, BlockVersion::V1);
}

#[test]
fn the_date_attribute_of_a_version_1_block_is_checked_and_not_used() {
    let block = |date: &str| {
        only_update(&format!(
            "<case xmlns='' date_modified='{date}'><case_id>c</case_id>\
             <date_modified>2015-08-04T18:25:56.000Z</date_modified></case>"
        ))
        .map(|update| update.modified_on)
    };
    let element = Some("2015-08-04T18:25:56Z".parse().unwrap());
    for accepted in ["", "2019-01-01", "2019-01-01T10:00:00.000+02:00", "2019-01-001"] {
        assert_eq!(block(accepted), Ok(element), "{accepted}");
    }
    for refused in ["yesterday", "2019-13-01", "01/01/2019"] {
        let expected = FormError::InvalidDateModified { case_id: "c".into() };
        assert_eq!(block(refused), Err(expected), "{refused}");
    }
}

#[test]
fn one_bad_block_fails_the_form() {
    let good = format!("<g><case xmlns='{CASE_V2_XMLNS}' case_id='a'><update><p>1</p></update></case></g>");
    for bad in [
        "<case xmlns='other' case_id='b'/>".to_owned(),
        format!("<case xmlns='{CASE_V2_XMLNS}' case_id=''/>"),
        format!("<case xmlns='{CASE_V2_XMLNS}' case_id='b' date_modified='x'/>"),
    ] {
        for xml in [
            format!("<data xmlns='F'>{good}{bad}</data>"),
            format!("<data xmlns='F'>{bad}{good}</data>"),
        ] {
            assert!(case_updates(&form_json(xml.as_bytes()).unwrap()).is_err(), "{xml}");
        }
    }
}

#[test]
fn blocks_of_repeats_are_together_and_in_order() {
    // Both groups are one list at the place of the first, so that the block of `x` comes last.
    let block =
        |value: &str| format!("<case xmlns='{CASE_V2_XMLNS}' case_id='c'><update><p>{value}</p></update></case>");
    let xml = format!(
        "<data xmlns='F'><g>{}</g><x>{}</x><g>{}</g></data>",
        block("1"),
        block("2"),
        block("3")
    );
    let found = case_updates(&form_json(xml.as_bytes()).unwrap()).unwrap();
    let values: Vec<String> = found[0]
        .1
        .iter()
        .map(|update| match &update.actions[..] {
            [CaseAction::Update { dynamic, .. }] => dynamic[0].1.to_json().as_str().unwrap().to_owned(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(values, ["1", "3", "2"]);
    assert!(!has_noop_block(&found));
}

#[test]
fn the_form_keeps_its_malformed_date() {
    let xml = format!("<data xmlns='F'><case xmlns='{CASE_V2_XMLNS}' case_id='c' date_modified='2015-08-014'/></data>");
    let form = form_json(xml.as_bytes()).unwrap();
    let updates = case_updates(&form).unwrap();
    assert_eq!(
        updates[0].1[0].modified_on,
        Some("2015-08-14T00:00:00Z".parse().unwrap())
    );
    assert_eq!(form["case"]["@date_modified"], "2015-08-014");
}
