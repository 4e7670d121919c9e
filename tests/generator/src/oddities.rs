//! What else happens to forms and cases: edits, copies, failures, deletions, and blocks that say little.

use chrono::Duration;
use rand::Rng;

use crate::block::{Block, Create, Property};
use crate::case::Deletion;
use crate::element::Element;
use crate::form::{DEVICE_REPORT_XMLNS, Fate, Form, Layout, Meta, User, random_hex, random_uuid};
use crate::household;
use crate::model::ExpectedOperation;
use crate::questions::REMARKS_QUESTION;
use crate::story::Story;

/// One kind of further form.
type Oddity = fn(&mut Story<'_>);

/// Perhaps adds a further form of some odd kind.
pub(crate) fn perhaps(story: &mut Story<'_>) {
    let weights = story.weights();
    let kinds: [(f64, Oddity); 8] = [
        (weights.archived, archived),
        (weights.errors, failed),
        (weights.error_logs, not_xml),
        (weights.hq_submissions, raw_submission),
        (weights.deleted_forms, deleted),
        (weights.problem_forms, with_problem),
        (weights.unprocessed, unprocessed),
        (weights.device_reports, device_report),
    ];
    for (probability, kind) in kinds {
        if story.has_room(1) && story.chance(probability) {
            kind(story);
        }
    }
}

/// A household in which everything happens, so that even a small domain has one of each.
pub(crate) fn sampler(story: &mut Story<'_>) {
    let kinds: [Oddity; 15] = [
        household::register,
        archived,
        failed,
        not_xml,
        raw_submission,
        deleted,
        with_problem,
        unprocessed,
        device_report,
        user_case,
        registered_late,
        registered_twice,
        edited_visit,
        duplicated_visit,
        household::visit,
    ];
    for kind in kinds {
        if story.has_room(2) {
            kind(story);
        }
    }
    if let Some(case_id) = story.any_case_of("person") {
        mark_deleted(story, &case_id);
    }
}

/// Adds a form and perhaps copies of it: an older version, a duplicate.
pub(crate) fn push_with_copies(story: &mut Story<'_>, form: Form) {
    let weights = story.weights();
    // HQ knows a resubmission by the id in `meta`.
    let copies = story.doomed.is_none() && form.meta != Meta::Absent;
    if copies && story.has_room(2) && form.images.is_empty() && story.chance(weights.edits) {
        push_edited(story, form);
    } else if copies && story.has_room(2) && story.chance(weights.duplicates) {
        push_duplicated(story, form);
    } else {
        story.push(form);
    }
}

/// The form was edited: it stands at its old place with new content, and a copy keeps the old content under a new id.
fn push_edited(story: &mut Story<'_>, mut form: Form) {
    let on = form.server_modified_on + Duration::days(story.rng.random_range(1..20));
    let mut old = form.clone();
    old.id = random_hex(&mut story.rng);
    old.fate = Fate::Deprecated {
        orig_id: form.id.clone(),
        on,
    };
    old.edited_on = Some(on);
    old.server_modified_on = on;
    old.questions[0] = Element::leaf(REMARKS_QUESTION, "before the correction");
    for block in &mut old.blocks {
        block
            .update
            .dynamic
            .push(("before_correction".to_owned(), Property::Text("yes".into())));
    }
    form.deprecated_form_id = Some(old.id.clone());
    form.edited_on = Some(on);
    form.server_modified_on = on;
    form.history.push(operation("edit", form.user.as_ref(), on));
    for block in &form.blocks {
        note_rebuild(story, &block.case_id, on);
    }
    story.push(form);
    story.push(old);
}

fn push_duplicated(story: &mut Story<'_>, form: Form) {
    let mut copy = form.clone();
    copy.id = random_hex(&mut story.rng);
    copy.fate = Fate::Duplicate {
        orig_id: form.id.clone(),
    };
    copy.received_on += Duration::minutes(3);
    copy.server_modified_on += Duration::minutes(3);
    copy.processing_complete = Some(false);
    for image in &mut copy.images {
        image.key = random_hex(&mut story.rng);
    }
    story.push(form);
    story.push(copy);
}

fn plain_visit(story: &mut Story<'_>) -> Option<Form> {
    let case_id = story.any_case_of("person")?;
    let user = story.pick_user();
    let mut form = story.form("Visit", user);
    let mut block = story.block(&form, &case_id);
    household::set_properties(story, &mut block, 4);
    form.blocks.push(block);
    Some(form)
}

fn edited_visit(story: &mut Story<'_>) {
    if let Some(form) = plain_visit(story) {
        push_edited(story, form);
    }
}

fn duplicated_visit(story: &mut Story<'_>) {
    if let Some(mut form) = plain_visit(story) {
        form.images.push(story.image());
        push_duplicated(story, form);
    }
}

/// A form that names a case of the household, but whose effect the case must not show.
fn ineffective(story: &mut Story<'_>) -> Form {
    let user = story.pick_user();
    let mut form = story.form("Visit", user);
    if let Some(case_id) = story.any_case() {
        let block = story.idle_block(&form, &case_id);
        form.blocks.push(block);
    }
    form
}

fn archived(story: &mut Story<'_>) {
    let mut form = ineffective(story);
    let on = form.received_on + Duration::days(9);
    form.fate = Fate::Archived;
    form.history.push(operation("archive", form.user.as_ref(), on));
    form.server_modified_on = on;
    put_away(story, form);
}

fn deleted(story: &mut Story<'_>) {
    let mut form = ineffective(story);
    let on = form.received_on + Duration::days(11);
    form.fate = Fate::Deleted {
        id: random_hex(&mut story.rng),
        on,
    };
    form.server_modified_on = on;
    put_away(story, form);
}

/// Couch rebuilt the cases of a form that was put away.
fn put_away(story: &mut Story<'_>, form: Form) {
    for block in &form.blocks {
        note_rebuild(story, &block.case_id, form.server_modified_on);
    }
    story.push(form);
}

fn with_problem(story: &mut Story<'_>) {
    let mut form = ineffective(story);
    form.fate = Fate::Problem("Something went wrong while the form was saved: timeout".to_owned());
    story.push(form);
}

fn unprocessed(story: &mut Story<'_>) {
    let mut form = ineffective(story);
    form.fate = Fate::Unprocessed;
    form.processing_complete = Some(false);
    story.push(form);
}

fn raw_submission(story: &mut Story<'_>) {
    let mut form = ineffective(story);
    form.fate = Fate::HqSubmission;
    story.push(form);
}

fn failed(story: &mut Story<'_>) {
    let mut form = ineffective(story);
    let mut block = Block::naming("", form.user.as_ref().map(|user| user.id.as_str()), form.ended);
    block.create = Some(Create {
        case_type: "person".to_owned(),
        name: Some("?".to_owned()),
        ..Create::default()
    });
    form.blocks.push(block);
    form.fate = Fate::Error {
        problem: "IllegalCaseId: case_id must not be empty".to_owned(),
    };
    form.processing_complete = Some(false);
    // Some failures came before the namespace was known.
    if story.chance(0.2) {
        form.xmlns = None;
    }
    story.push(form);
}

fn not_xml(story: &mut Story<'_>) {
    let user = story.pick_user();
    let mut form = story.form("Visit", user);
    form.raw_body = Some(b"--boundary\r\n<data><unclosed>\xff\xfe not XML".to_vec());
    form.fate = Fate::ErrorLog {
        problem: "Invalid XML: Opening and ending tag mismatch".to_owned(),
    };
    form.user = None;
    form.processing_complete = Some(false);
    form.sync_token = None;
    story.push(form);
}

/// A log of a device. The case block in it is quoted, not meant.
fn device_report(story: &mut Story<'_>) {
    let mut form = ineffective(story);
    let quoted = form.blocks.drain(..).map(|block| block.element()).collect::<Vec<_>>();
    form.root = "device_report";
    form.title = "Device report";
    form.xmlns = Some(DEVICE_REPORT_XMLNS.to_owned());
    form.layout = Layout::Root;
    form.questions.push(Element::new("log_subreport").children(quoted));
    story.push(form);
}

/// The case of a mobile worker, made by the server.
pub(crate) fn user_case(story: &mut Story<'_>) {
    let user = story.pick_user();
    let mut form = story.form("system", user.clone());
    form.root = "system";
    form.xmlns = Some("http://commcarehq.org/case".to_owned());
    form.layout = Layout::Root;
    form.questions.truncate(1);
    let case_id = story.open("commcare-user", &user);
    let mut block = story.block(&form, &case_id);
    block.create = Some(Create {
        case_type: "commcare-user".to_owned(),
        name: Some(user.name.clone()),
        owner_id: Some(user.id.clone()),
        ..Create::default()
    });
    for (key, value) in [("username", &user.name), ("hq_user_id", &user.id)] {
        block
            .update
            .dynamic
            .push((key.to_owned(), Property::Text(value.as_str().into())));
    }
    form.blocks.push(block);
    story.push(form);
}

/// A visit that arrives before the registration of its case, by the same worker.
fn registered_late(story: &mut Story<'_>) {
    let user = story.pick_user();
    story.pass_half_a_day();
    let case_id = story.open("person", &user);
    let mut visit = story.form("Visit", user.clone());
    let mut block = story.block(&visit, &case_id);
    household::set_properties(story, &mut block, 3);
    visit.blocks.push(block);
    story.push(visit);
    story.pass_half_a_day();
    let mut form = story.form("Register person", user);
    let block = household::creation(story, &form, &case_id, "person", None);
    form.blocks.push(block);
    story.push(form);
}

/// The same worker registers a known case again.
fn registered_twice(story: &mut Story<'_>) {
    let Some(case_id) = story.any_case_of("person") else {
        return;
    };
    let Some(opener) = story.cases.get(&case_id).map(|note| note.opener.clone()) else {
        return;
    };
    let mut form = story.form("Register person", opener);
    let block = household::creation(story, &form, &case_id, "person", None);
    form.blocks.push(block);
    story.push(form);
}

/// Names a further case without doing anything to it. Couch does not note such a form at the case.
pub(crate) fn name_idly(story: &mut Story<'_>, form: &mut Form) {
    let Some(case_id) = story.any_case() else { return };
    // Couch keeps the last worker who did something, SQL the last one who named the case: they must be the same.
    let Some(last_user) = story.cases.get(&case_id).map(|note| note.last_user.clone()) else {
        return;
    };
    if form.blocks.iter().all(|block| block.case_id != case_id) {
        form.blocks.push(Block::naming(&case_id, Some(&last_user), form.ended));
    }
}

/// Updates a case that no form ever registered.
pub(crate) fn touch_unregistered(story: &mut Story<'_>, form: &mut Form, user: &User) {
    let case_id = random_uuid(&mut story.rng);
    let mut block = Block::naming(&case_id, Some(&user.id), form.ended);
    household::set_properties(story, &mut block, 3);
    form.blocks.push(block);
}

/// Marks some cases deleted, though their forms live.
pub(crate) fn delete_some_cases(story: &mut Story<'_>) {
    let cases: Vec<String> = story.cases.keys().cloned().collect();
    for case_id in cases {
        if story.chance(story.weights().deleted_cases) {
            mark_deleted(story, &case_id);
        }
    }
}

fn mark_deleted(story: &mut Story<'_>, case_id: &str) {
    let deletion = Deletion {
        id: random_hex(&mut story.rng),
        on: story.now() + Duration::days(90),
    };
    if let Some(note) = story.cases.get_mut(case_id) {
        note.deletion = Some(deletion);
    }
}

pub(crate) fn note_rebuild(story: &mut Story<'_>, case_id: &str, on: chrono::DateTime<chrono::Utc>) {
    if let Some(note) = story.cases.get_mut(case_id) {
        note.rebuilt = Some(on);
    }
}

pub(crate) fn operation(name: &str, user: Option<&User>, date: chrono::DateTime<chrono::Utc>) -> ExpectedOperation {
    ExpectedOperation {
        date,
        operation: name.to_owned(),
        user_id: user.map(|user| user.id.clone()),
    }
}
