//! What `attachment` parts do.

use casemodel::Mode;
use proto::effects::{CaseAction, FormEffects};
use proto::rows::RejectReason;

use crate::forms::{attachment, blob, block, form, run};

#[test]
fn case_attachments_follow_the_toggle() {
    let mut effects = form(
        "f",
        0,
        vec![block(vec![attachment("photo", Some("1.jpg"), Some("local"))])],
    );
    effects.form.attachments = vec![blob("1.jpg", "key-1")];
    let mut replay = run(vec![effects]);
    assert!(replay.bundle().attachments.is_empty());
    assert_eq!(replay.bundle().transactions[0].kind, 1 | 1024);

    replay.case_attachments = true;
    let bundle = replay.bundle();
    let [row] = bundle.attachments.as_slice() else {
        panic!("{:?}", bundle.attachments)
    };
    assert_eq!(row.name, "photo");
    assert_eq!(row.blob_id, "key-1");
    assert_eq!(row.blob_bucket.as_deref(), Some(""));
    assert_eq!(row.content_length, Some(1234));
    assert_eq!(row.content_type.as_deref(), Some("image/jpeg"), "guessed from src");
    assert_eq!(row.properties, r#"{"width":1}"#);
    assert_eq!(row.md5, "");
    assert_eq!(bundle.attachments, replay.bundle().attachments, "the same id again");
}

#[test]
fn case_attachments_change_and_vanish() {
    let with = |id: &str, received, change: CaseAction, key: &str| {
        let mut effects = form(id, received, vec![block(vec![change])]);
        effects.form.attachments = vec![blob("1.jpg", key)];
        effects
    };
    let made = with("f", 0, attachment("photo", Some("1.jpg"), None), "key-1");
    let changed = with("g", 1, attachment("photo", Some("1.jpg"), None), "key-2");
    let local = with("h", 2, attachment("photo", None, Some("local")), "key-3");
    let gone = with("i", 3, attachment("photo", None, None), "key-4");
    let keys = |forms: &[&FormEffects]| -> Vec<String> {
        let mut replay = run(forms.iter().map(|effects| (*effects).clone()).collect());
        replay.case_attachments = true;
        replay.bundle().attachments.into_iter().map(|row| row.blob_id).collect()
    };
    assert_eq!(keys(&[&made]), ["key-1"]);
    assert_eq!(keys(&[&made, &changed]), ["key-2"]);
    assert_eq!(keys(&[&made, &local]), ["key-1"], "from without src is ignored");
    assert_eq!(keys(&[&made, &gone]), [""; 0]);

    let mut huge = made.clone();
    huge.form.attachments[0].content_length = Some(1 << 31);
    let mut replay = run(vec![huge]);
    replay.case_attachments = true;
    assert_eq!(replay.rejected(), [("f".to_owned(), RejectReason::ValueTooLong)]);
}

/// (type in the metadata, source) -> type of the case attachment
#[test]
fn the_type_is_guessed_where_there_is_none() {
    for (known, src, expected) in [
        (Some("image/webp"), "1.jpg", Some("image/webp")),
        (None, "1.PNG", Some("image/png")),
        (Some(""), "1.jpg", Some("image/jpeg")),
        (Some(""), "unknown", Some("")),
        (None, "unknown", None),
    ] {
        let mut effects = form("f", 0, vec![block(vec![attachment("photo", Some(src), None)])]);
        effects.form.attachments = vec![blob(src, "key")];
        effects.form.attachments[0].content_type = known.map(str::to_owned);
        let mut replay = run(vec![effects]);
        replay.case_attachments = true;
        let row = replay.bundle().attachments.remove(0);
        assert_eq!(row.content_type.as_deref(), expected, "{known:?} {src}");
    }
}

#[test]
fn changes_within_one_form_and_what_a_rebuild_gives() {
    let mut effects = form(
        "f",
        0,
        vec![block(vec![
            attachment("gone", Some("1.jpg"), None),
            attachment("gone", None, None),
            attachment("never", None, None),
            attachment("photo", Some("1.jpg"), None),
            attachment("photo", Some("2.jpg"), None),
            attachment("back", Some("1.jpg"), None),
            attachment("back", None, None),
            attachment("back", Some("2.jpg"), None),
        ])],
    );
    effects.form.attachments = vec![blob("1.jpg", "key-1"), blob("2.jpg", "key-2")];
    let mut later = form("g", 1, vec![block(vec![attachment("photo", Some("3.jpg"), None)])]);
    later.form.attachments = vec![blob("3.jpg", "key-3")];
    let mut replay = run(vec![effects, later]);
    replay.case_attachments = true;
    let bundle = replay.bundle();
    let rows: Vec<_> = bundle
        .attachments
        .iter()
        .map(|row| (row.name.as_str(), row.blob_id.as_str()))
        .collect();
    assert_eq!(rows, [("photo", "key-3"), ("back", "key-2")]);
    replay.mode = Mode::AsRebuilt;
    assert_eq!(replay.bundle().attachments, bundle.attachments);
}
