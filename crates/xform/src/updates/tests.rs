#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;
use crate::form_json;

fn updates(xml: &str) -> Result<Vec<(CaseId, Vec<CaseUpdate>)>, FormError> {
    case_updates(&form_json(xml.as_bytes()).unwrap())
}

/// The one update of a form with this block of version 2.0.
fn v2(attributes: &str, parts: &str) -> Result<CaseUpdate, FormError> {
    let found = updates(&format!(
        "<data xmlns='F'><case xmlns='{CASE_V2_XMLNS}' case_id='c' {attributes}>{parts}</case></data>"
    ))?;
    assert_eq!((found.len(), found[0].0.as_str(), found[0].1.len()), (1, "c", 1));
    Ok(found.into_iter().next().unwrap().1.remove(0))
}

fn v1(parts: &str) -> Result<CaseUpdate, FormError> {
    let found = updates(&format!("<data><case><case_id>c</case_id>{parts}</case></data>"))?;
    Ok(found.into_iter().next().unwrap().1.remove(0))
}

fn plain(value: &str) -> PropertyValue {
    PropertyValue::Text(value.to_owned())
}

fn at(text: &str) -> Option<DateTime<Utc>> {
    Some(text.parse().unwrap())
}

#[test]
fn reads_a_whole_block() {
    let found = v2(
        "date_modified='2019-03-02T08:10:00.000+05:30' user_id='u1'",
        "<create><case_name>Mina</case_name><case_type>child</case_type><owner_id/><note>ignored later</note></create>\
         <update><weight>11.5</weight><owner_id>o</owner_id><village code='7'>north</village><tag>1</tag><tag>2</tag></update>\
         <close/>\
         <index><parent case_type='household'>h-9</parent><host case_type='x' relationship='extension'>e</host></index>\
         <attachment><photo src='p.jpg' from='local' name='n'/><old/></attachment>",
    )
    .unwrap();
    assert_eq!(
        found,
        CaseUpdate {
            version: BlockVersion::V2,
            user_id: Some("u1".to_owned()),
            modified_on: at("2019-03-02T02:40:00Z"),
            actions: vec![
                CaseAction::Create(vec![
                    (KnownProperty::Name, plain("Mina")),
                    (KnownProperty::Type, plain("child")),
                    (KnownProperty::OwnerId, plain("")),
                ]),
                CaseAction::Update {
                    known: vec![(KnownProperty::OwnerId, plain("o"))],
                    dynamic: vec![
                        ("weight".to_owned(), plain("11.5")),
                        (
                            "village".to_owned(),
                            PropertyValue::Json(r##"{"@code":"7","#text":"north"}"##.to_owned())
                        ),
                        ("tag".to_owned(), plain("2")),
                    ],
                },
                CaseAction::Close,
                CaseAction::Index(vec![
                    IndexChange {
                        identifier: "parent".to_owned(),
                        referenced_type: "household".to_owned(),
                        referenced_id: "h-9".to_owned(),
                        relationship: Relationship::Child,
                    },
                    IndexChange {
                        identifier: "host".to_owned(),
                        referenced_type: "x".to_owned(),
                        referenced_id: "e".to_owned(),
                        relationship: Relationship::Extension,
                    },
                ]),
                CaseAction::Attachment(vec![
                    AttachmentChange {
                        identifier: "photo".to_owned(),
                        src: Some("p.jpg".to_owned()),
                        from: Some("local".to_owned()),
                        name: Some("n".to_owned()),
                    },
                    AttachmentChange {
                        identifier: "old".to_owned(),
                        src: None,
                        from: None,
                        name: None
                    },
                ]),
            ],
        }
    );
}

#[test]
fn reads_version_1() {
    let found = v1("<date_modified>2011-05-20T12:27:34.823+05:30</date_modified>\
         <create><case_type_id>t</case_type_id><case_type>dynamic</case_type><user_id>u</user_id>\
         <external_id>x</external_id><case_name>n</case_name><date_opened>2011-05-20</date_opened></create>\
         <update><name>later</name><case_type>kept</case_type></update>\
         <index><parent>p</parent></index><attachment><a/></attachment>")
    .unwrap();
    assert_eq!(
        (found.version, found.user_id, found.modified_on),
        (BlockVersion::V1, None, at("2011-05-20T06:57:34.823Z"))
    );
    assert_eq!(
        found.actions,
        [
            CaseAction::Create(vec![
                (KnownProperty::Type, plain("t")),
                (KnownProperty::UserId, plain("u")),
                (KnownProperty::ExternalId, plain("x")),
                (KnownProperty::Name, plain("n")),
                (KnownProperty::OpenedOn, plain("2011-05-20")),
            ]),
            CaseAction::Update {
                known: vec![],
                dynamic: vec![
                    ("name".to_owned(), plain("later")),
                    ("case_type".to_owned(), plain("kept"))
                ],
            },
            CaseAction::Index(vec![]),
            CaseAction::Attachment(vec![]),
        ]
    );
}

#[test]
fn a_part_counts_when_its_value_is_true() {
    let update = |known, dynamic| CaseAction::Update { known, dynamic };
    for (parts, expected) in [
        ("", vec![CaseAction::Noop]),
        ("<create/><update/><index/><attachment/>", vec![CaseAction::Noop]),
        ("<other>x</other>", vec![CaseAction::Noop]),
        ("<close/>", vec![CaseAction::Close]),
        ("<close>text</close>", vec![CaseAction::Close]),
        ("<create> </create>", vec![CaseAction::Create(vec![])]),
        ("<create k='1'/>", vec![CaseAction::Create(vec![])]),
        ("<create xmlns='other'/>", vec![CaseAction::Create(vec![])]),
        ("<update> </update>", vec![update(vec![], vec![])]),
        ("<update/><update><a>1</a></update>", vec![update(vec![], vec![])]),
        (
            "<update k='1'>text<a/><name>n</name><type>t</type></update>",
            vec![update(
                vec![],
                vec![
                    ("@k".to_owned(), plain("1")),
                    ("a".to_owned(), plain("")),
                    ("name".to_owned(), plain("n")),
                    ("type".to_owned(), plain("t")),
                    ("#text".to_owned(), plain("text")),
                ],
            )],
        ),
        // Known properties are not normalised; the type key of the other version is dynamic.
        (
            "<update><case_name>1</case_name><case_name>2</case_name><case_type_id>t</case_type_id></update>",
            vec![update(
                vec![(KnownProperty::Name, PropertyValue::Json(r#"["1","2"]"#.to_owned()))],
                vec![("case_type_id".to_owned(), plain("t"))],
            )],
        ),
        (
            "<update><a k='1'/><a><b/></a></update>",
            vec![update(
                vec![],
                vec![("a".to_owned(), PropertyValue::Json(r#"{"b":""}"#.to_owned()))],
            )],
        ),
        // Applied in a fixed order, wherever they stand.
        (
            "<close/><update><a>1</a></update><create><case_name>n</case_name></create>",
            vec![
                CaseAction::Create(vec![(KnownProperty::Name, plain("n"))]),
                update(vec![], vec![("a".to_owned(), plain("1"))]),
                CaseAction::Close,
            ],
        ),
    ] {
        assert_eq!(v2("", parts).unwrap().actions, expected, "{parts}");
    }
}

#[test]
fn index_entries() {
    let entry = |identifier: &str, referenced_type: &str, referenced_id: &str, relationship| IndexChange {
        identifier: identifier.to_owned(),
        referenced_type: referenced_type.to_owned(),
        referenced_id: referenced_id.to_owned(),
        relationship,
    };
    let without_type = |identifier: &str| FormError::IndexWithoutType {
        case_id: "c".into(),
        identifier: identifier.to_owned(),
    };
    let long = "x".repeat(256);
    let too_long = |what| FormError::IndexTooLong {
        case_id: "c".into(),
        what,
    };
    for (parts, expected) in [
        (
            "<p case_type='t'> id </p>".to_owned(),
            Ok(entry("p", "t", " id ", Relationship::Child)),
        ),
        (
            "<p case_type='t'/>".to_owned(),
            Ok(entry("p", "t", "", Relationship::Child)),
        ),
        (
            "<p case_type='t'> </p>".to_owned(),
            Ok(entry("p", "t", "", Relationship::Child)),
        ),
        (
            "<p case_type=''>i</p>".to_owned(),
            Ok(entry("p", "", "i", Relationship::Child)),
        ),
        (
            "<p case_type='t' relationship=''>i</p>".to_owned(),
            Ok(entry("p", "t", "i", Relationship::Child)),
        ),
        (
            "<p case_type='t' relationship='child'>i</p>".to_owned(),
            Ok(entry("p", "t", "i", Relationship::Child)),
        ),
        (
            "<p case_type='t' relationship='extension'>i</p>".to_owned(),
            Ok(entry("p", "t", "i", Relationship::Extension)),
        ),
        (
            "<p case_type='t' relationship='parent'>i</p>".to_owned(),
            Err(FormError::UnknownRelationship {
                case_id: "c".into(),
                identifier: "p".to_owned(),
            }),
        ),
        // A removal needs no relationship.
        (
            "<p case_type='t' relationship='parent'/>".to_owned(),
            Ok(entry("p", "t", "", Relationship::Child)),
        ),
        ("<p>i</p>".to_owned(), Err(without_type("p"))),
        ("<p relationship='child'>i</p>".to_owned(), Err(without_type("p"))),
        (
            "<p case_type='t'>i</p><p case_type='t'>j</p>".to_owned(),
            Err(without_type("p")),
        ),
        (format!("<p case_type='t'>{long}</p>"), Err(too_long("referenced id"))),
        (format!("<p case_type='{long}'>i</p>"), Err(too_long("referenced type"))),
        (format!("<{long} case_type='t'>i</{long}>"), Err(too_long("identifier"))),
    ] {
        let found = v2("", &format!("<index>{parts}</index>")).map(|update| update.actions);
        assert_eq!(
            found,
            expected.map(|entry| vec![CaseAction::Index(vec![entry])]),
            "{parts}"
        );
    }
    for (parts, expected) in [
        (
            "<index xmlns='x'><p case_type='t'>i</p></index>",
            without_type("@xmlns"),
        ),
        (
            "<attachment><a src='1'/><a src='2'/></attachment>",
            FormError::AttachmentRepeated {
                case_id: "c".into(),
                identifier: "a".to_owned(),
            },
        ),
    ] {
        assert_eq!(v2("", parts), Err(expected), "{parts}");
    }
}

#[test]
fn dates_of_a_block() {
    let invalid = || Err(FormError::InvalidDateModified { case_id: "c".into() });
    for (date, expected) in [
        ("2015-08-04T18:25:56.656Z", Ok(at("2015-08-04T18:25:56.656Z"))),
        ("2015-08-04", Ok(at("2015-08-04T00:00:00Z"))),
        ("2015-08", Ok(at("2015-08-01T00:00:00Z"))),
        ("", Ok(None)),
        ("2015-08-014", Ok(at("2015-08-14T00:00:00Z"))),
        ("08-14-2015", Ok(at("2015-08-14T00:00:00Z"))),
        ("08/14/15 18:25:56", Ok(at("2015-08-14T18:25:56Z"))),
        ("2015-08-114", invalid()),
        ("13-13-2015", invalid()),
        ("2015-02-30", invalid()),
        ("2015-08-04T18:25:56z", invalid()),
        ("yesterday", invalid()),
        (" ", invalid()),
        ("0001-01-01T00:00:00.5+05:00", Err(FormError::DateOutOfRange)),
    ] {
        let found = v2(&format!("date_modified='{date}'"), "").map(|update| update.modified_on);
        assert_eq!(found, expected, "{date}");
    }
    assert_eq!(v2("", "").unwrap().modified_on, None);

    let unreadable = || Err(FormError::UnreadableDateModified { case_id: "c".into() });
    for (parts, expected) in [
        ("", Ok(None)),
        ("<date_modified/>", Ok(None)),
        (
            "<date_modified>2015-08-04</date_modified>",
            Ok(at("2015-08-04T00:00:00Z")),
        ),
        (
            "<date_modified>08/14/2015</date_modified>",
            Ok(at("2015-08-14T00:00:00Z")),
        ),
        ("<date_modified>yesterday</date_modified>", unreadable()),
        ("<date_modified>2015-08-014</date_modified>", unreadable()),
        ("<date_modified k='1'>2015-08-04</date_modified>", unreadable()),
        ("<date_modified/><date_modified/>", unreadable()),
    ] {
        assert_eq!(v1(parts).map(|update| update.modified_on), expected, "{parts}");
    }
}

#[test]
fn ids_versions_and_users() {
    let missing = |version, place| Err(FormError::MissingCaseId { version, place });
    let v2 = CASE_V2_XMLNS;
    let long = "é".repeat(256);
    let fits = "é".repeat(255);
    for (block, expected) in [
        (format!("<case xmlns='{v2}' case_id='c'/>"), Ok(("c", BlockVersion::V2))),
        (format!("<case xmlns='{v2}' case_id=' '/>"), Ok((" ", BlockVersion::V2))),
        (
            format!("<case xmlns='{v2}'><case_id>c</case_id></case>"),
            missing("2.0", "attribute"),
        ),
        (format!("<case xmlns='{v2}' case_id=''/>"), Err(FormError::EmptyCaseId)),
        (
            format!("<case xmlns='{v2}' case_id='{fits}'/>"),
            Ok((&*fits, BlockVersion::V2)),
        ),
        (
            format!("<case xmlns='{v2}' case_id='{long}'/>"),
            Err(FormError::CaseIdTooLong),
        ),
        (
            "<case><case_id>c</case_id></case>".to_owned(),
            Ok(("c", BlockVersion::V1)),
        ),
        ("<case case_id='c'/>".to_owned(), missing("1.0", "element")),
        ("<case><case_id/></case>".to_owned(), Err(FormError::EmptyCaseId)),
        (
            "<case><case_id k='1'>c</case_id></case>".to_owned(),
            Err(FormError::CaseIdNotText),
        ),
        (
            "<case><case_id>c</case_id><case_id>d</case_id></case>".to_owned(),
            Err(FormError::CaseIdNotText),
        ),
        (
            "<case xmlns='other' case_id='c'/>".to_owned(),
            Err(FormError::UnknownCaseXmlns),
        ),
        // A block that inherits the namespace of version 2 does not state it, and counts as version 1.
        (
            format!("<g xmlns='{v2}'><case case_id='c'/></g>"),
            missing("1.0", "element"),
        ),
        (
            format!("<g xmlns='{v2}'><case><case_id>c</case_id></case></g>"),
            Ok(("c", BlockVersion::V1)),
        ),
    ] {
        let found = updates(&format!("<data>{block}</data>"));
        let found = found.map(|updates| (updates[0].0.clone(), updates[0].1[0].version));
        assert_eq!(
            found,
            expected.map(|(id, version)| (CaseId::new(id), version)),
            "{block}"
        );
    }
    for (attributes, expected) in [("", None), ("user_id=''", None), ("user_id='u'", Some("u"))] {
        assert_eq!(super::tests::v2(attributes, "").unwrap().user_id.as_deref(), expected);
    }
}

#[test]
fn updates_are_ordered_by_case_then_rank() {
    let block = |id: &str, parts: &str| format!("<g><case xmlns='{CASE_V2_XMLNS}' case_id='{id}'>{parts}</case></g>");
    let xml = [
        block("b", "<close/>"),
        block("b", "<update><n>1</n></update>"),
        block("é", "<close/>"),
        block("b", "<attachment><a src='1'/></attachment>"),
        block("B", "<close/>"),
        block("b", "<index><p case_type='t'>i</p></index>"),
        block("b", ""),
        block("b", "<create><case_name>n</case_name></create><close/>"),
        block("b", "<update><n>2</n></update><close/>"),
    ]
    .concat();
    let found = updates(&format!("<data>{xml}</data>")).unwrap();
    let ids: Vec<_> = found.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, ["B", "b", "é"]);
    let kinds: Vec<Vec<&str>> = found[1]
        .1
        .iter()
        .map(|update| {
            let kind = |action: &CaseAction| match action {
                CaseAction::Create(_) => "create",
                CaseAction::Update { dynamic, .. } => {
                    if dynamic[0].1 == plain("1") {
                        "update 1"
                    } else {
                        "update 2"
                    }
                }
                CaseAction::Close => "close",
                CaseAction::Index(_) => "index",
                CaseAction::Attachment(_) => "attachment",
                CaseAction::Noop => "noop",
            };
            update.actions.iter().map(kind).collect()
        })
        .collect();
    assert_eq!(
        kinds,
        [
            vec!["create", "close"],
            vec!["update 1"],
            vec!["noop"],
            vec!["update 2", "close"],
            vec!["index"],
            vec!["close"],
            vec!["attachment"],
        ]
    );
}

#[test]
fn noop_blocks() {
    let noop = |parts: &str| has_noop_block(&[("c".into(), vec![v2("", parts).unwrap()])]);
    assert!(noop(""));
    assert!(noop("<update/>"));
    assert!(!noop("<close/>"));
    assert!(!noop("<update><a/></update>"));
    assert!(!has_noop_block(&[]));
}

#[test]
fn forms_without_blocks() {
    let log = crate::blocks::DEVICE_REPORT_XMLNS;
    for xml in [
        "<data><a>1</a></data>".to_owned(),
        "<data><case/></data>".to_owned(),
        "<data><case><update><a>1</a></update></case></data>".to_owned(),
        format!("<data xmlns='{log}'><case xmlns='{CASE_V2_XMLNS}' case_id='c'/></data>"),
    ] {
        assert_eq!(updates(&xml), Ok(vec![]), "{xml}");
    }
}

#[test]
fn json_that_never_was_xml_is_an_error_not_a_panic() {
    let not_text = |what| {
        Err(FormError::NotText {
            case_id: "c".into(),
            what,
        })
    };
    for (extra, expected) in [
        (json!({"@user_id": 5}), not_text("@user_id")),
        (json!({"@date_modified": {}}), not_text("@date_modified")),
        (json!({"index": {"p": {"@case_type": 1}}}), not_text("@case_type")),
        (json!({"attachment": {"p": {"@src": []}}}), not_text("@src")),
        (json!({"@xmlns": 5}), Err(FormError::UnknownCaseXmlns)),
        (json!({"@case_id": null}), Err(FormError::CaseIdNotText)),
    ] {
        let mut block = json!({"@case_id": "c", "@xmlns": CASE_V2_XMLNS});
        block
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        assert_eq!(case_updates(&json!({"case": block})).map(|_| ()), expected, "{extra}");
    }
}
