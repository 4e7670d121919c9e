//! Ordinary clusters: a household that is registered and visited, a census, a hub that everybody reports to.

use chrono::Duration;
use rand::Rng;
use rand::seq::IndexedRandom;

use crate::block::{Block, Create, Index, Photo, Property, Version};
use crate::case::Deletion;
use crate::form::{Form, Layout, Meta, User, random_hex};
use crate::moment::Moment;
use crate::oddities;
use crate::questions::pick;
use crate::story::Story;
use crate::words::{ANSWERS, NAMES, REMARKS, VILLAGES};

/// A household from its registration to its last visit.
pub(crate) fn household(story: &mut Story<'_>) {
    if !story.has_room(1) {
        return;
    }
    let weights = story.weights();
    if story.chance(weights.deleted_households) {
        let id = random_hex(&mut story.rng);
        story.doomed = Some(Deletion {
            id,
            on: story.now() + Duration::days(400),
        });
    }
    register(story);
    if story.doomed.is_none() && story.has_room(1) && story.chance(weights.user_cases) {
        oddities::user_case(story);
    }
    let visits = story.rng.random_range(12..21_u8);
    for _ in 0..visits {
        if !story.has_room(1) {
            break;
        }
        if story.doomed.is_none() {
            oddities::perhaps(story);
        }
        if story.has_room(1) {
            visit(story);
        }
    }
    match story.doomed.clone() {
        None => oddities::delete_some_cases(story),
        // Some cases were rebuilt in Couch before they were deleted.
        Some(doom) => {
            if let Some(case_id) = story.any_case().filter(|_| story.rng.random_bool(0.5)) {
                oddities::note_rebuild(story, &case_id, doom.on - Duration::days(1));
            }
        }
    }
}

/// Registers the household and its first members in one form.
pub(crate) fn register(story: &mut Story<'_>) {
    let user = story.pick_user();
    let mut form = story.form("Register household", user.clone());
    let household = story.open("household", &user);
    let block = creation(story, &form, &household, "household", None);
    form.blocks.push(block);
    for _ in 0..story.rng.random_range(2..5_u8) {
        let member = story.open("person", &user);
        let block = creation(story, &form, &member, "person", Some(&household));
        form.blocks.push(block);
    }
    story.push(form);
}

/// A block that registers a case, as a child of another one if that is named.
pub(crate) fn creation(
    story: &mut Story<'_>,
    form: &Form,
    case_id: &str,
    case_type: &'static str,
    parent: Option<&str>,
) -> Block {
    let mut block = story.block(form, case_id);
    let mut name = pick(&mut story.rng, NAMES).to_owned();
    // Whether the name of a copied case is cut is nowhere said, so those have none too long.
    if story.doomed.is_none() && story.chance(story.weights().long_names) {
        name = name.repeat(300 / name.chars().count() + 1);
    }
    let owner = form.user.as_ref().map(|user| user.id.clone());
    let opened = story.now() - Duration::days(story.rng.random_range(0..30));
    block.create = Some(Create {
        case_type: case_type.to_owned(),
        name: story.chance(0.97).then_some(name),
        // Without an owner the user becomes the owner.
        owner_id: owner.filter(|_| story.rng.random_bool(0.9)),
        external_id: story
            .chance(0.1)
            .then(|| format!("EXT-{:06}", story.rng.random_range(0..1_000_000))),
        date_opened: story.chance(0.1).then(|| Moment {
            utc: chrono::SubsecRound::trunc_subsecs(opened, 3),
            zone: story.zone(),
        }),
    });
    let count = story.rng.random_range(3..8_u8);
    set_properties(story, &mut block, count);
    if let Some(parent) = parent
        && story.version == Version::V2
    {
        block.indices.push(Index {
            identifier: "parent",
            referenced_type: "household",
            referenced_id: parent.to_owned(),
            extension: false,
        });
    }
    block
}

/// Gives a block some dynamic properties.
pub(crate) fn set_properties(story: &mut Story<'_>, block: &mut Block, count: u8) {
    for _ in 0..count {
        let (key, value) = property(story);
        if block.update.dynamic.iter().all(|(known, _)| known != key) {
            block.update.dynamic.push((key.to_owned(), value));
        }
    }
}

fn property(story: &mut Story<'_>) -> (&'static str, Property) {
    let (now, zone) = (story.now(), story.zone());
    let rng = &mut story.rng;
    let text = |text: String| Property::Text(text.into());
    match rng.random_range(0..14_u8) {
        0 => (
            "weight",
            text(format!("{}.{}", rng.random_range(2..80), rng.random_range(0..10))),
        ),
        1 => (
            "dob",
            text(
                (now - Duration::days(rng.random_range(1..9000)))
                    .format("%Y-%m-%d")
                    .to_string(),
            ),
        ),
        2 => {
            let utc = chrono::SubsecRound::trunc_subsecs(now - Duration::minutes(90), 3);
            ("last_seen", Property::Text(Moment { utc, zone }.into()))
        }
        3 => {
            let code = format!("{:03}", rng.random_range(1..999));
            (
                "village",
                Property::Coded {
                    code,
                    text: pick(rng, VILLAGES).to_owned(),
                },
            )
        }
        4 => {
            let tags = (0..3).map(|_| pick(rng, ANSWERS).to_owned()).collect();
            ("tags", Property::Repeated(tags))
        }
        5 => ("notes", text(pick(rng, REMARKS).to_owned())),
        6 => ("mother_name", text(pick(rng, NAMES).to_owned())),
        7 => ("visit_count", text(rng.random_range(0..40_u8).to_string())),
        8 => (
            "phone_number",
            text(format!("0{}", rng.random_range(100_000_000..999_999_999_u32))),
        ),
        9 => (
            "status",
            text(
                ["active", "referred", "", "lost"]
                    .choose(rng)
                    .copied()
                    .unwrap_or_default()
                    .to_owned(),
            ),
        ),
        10 => (
            "next_visit",
            text((now + Duration::days(14)).format("%Y-%m-%d").to_string()),
        ),
        11 => ("risk", text(pick(rng, ANSWERS).to_owned())),
        12 => ("language", text(pick(rng, VILLAGES).to_owned())),
        _ => ("vaccinations", text("bcg opv1 penta1 measles".to_owned())),
    }
}

/// One visit.
pub(crate) fn visit(story: &mut Story<'_>) {
    let weights = story.weights();
    let Some(case_id) = story.any_case_of("person") else {
        return;
    };
    let wrong_clock = story.chance(weights.wrong_clock);
    if wrong_clock {
        story.pass_half_a_day();
    }
    let user = story.pick_user();
    let mut form = story.form("Visit", user.clone());
    if wrong_clock {
        let days = [-40, -21, -3, 2, 30]
            .choose(&mut story.rng)
            .copied()
            .unwrap_or_default();
        let ended = form.ended.utc + Duration::days(days);
        form = form.end_after(ended);
    }
    if story.version == Version::V2 && story.chance(weights.no_meta) {
        form.meta = Meta::Absent;
    }
    if story.chance(weights.images) {
        form.images.push(story.image());
    }
    let mut block = story.block(&form, &case_id);
    let count = story.rng.random_range(2..7_u8);
    set_properties(story, &mut block, count);
    if story.doomed.is_none() {
        change_columns(story, &mut block, &user);
    }
    change_index(story, &mut block);
    take_photo(story, &form, &mut block);
    let closing = story.chance(weights.closures);
    // Closing may stand in a block of its own, which is applied after the other.
    let apart = closing && story.chance(0.3);
    block.close = closing && !apart;
    if apart {
        let mut closing = story.block(&form, &case_id);
        closing.close = true;
        form.blocks.push(closing);
    }
    form.blocks.push(block);
    if story.chance(0.3)
        && let Some(household) = story.any_case_of("household")
    {
        let mut block = story.block(&form, &household);
        set_properties(story, &mut block, 2);
        form.blocks.push(block);
    }
    if story.version == Version::V2 {
        if story.chance(weights.referrals) {
            refer(story, &mut form, &user, &case_id);
        }
        if story.chance(weights.noop) {
            oddities::name_idly(story, &mut form);
        }
    }
    if story.doomed.is_none() && story.chance(weights.never_created) {
        oddities::touch_unregistered(story, &mut form, &user);
    }
    oddities::push_with_copies(story, form);
    if wrong_clock {
        story.pass_half_a_day();
    }
}

/// Changes of what has a column of its own.
fn change_columns(story: &mut Story<'_>, block: &mut Block, user: &User) {
    if story.chance(0.04) {
        block.update.owner_id = Some(user.id.clone());
    }
    if story.chance(0.03) {
        block.update.external_id = Some(format!("EXT-{}", pick(&mut story.rng, VILLAGES)));
    }
    if story.chance(0.03) {
        block.update.case_name = Some(pick(&mut story.rng, NAMES).to_owned());
    }
    if story.chance(0.02) {
        block.update.case_type = Some("adult".to_owned());
    }
    for (probability, key) in [(0.03, "name"), (0.04, "location_id"), (0.03, "ስም")] {
        if story.chance(probability) {
            let value = pick(&mut story.rng, NAMES);
            block
                .update
                .dynamic
                .push((key.to_owned(), Property::Text(value.into())));
        }
    }
}

fn change_index(story: &mut Story<'_>, block: &mut Block) {
    if story.version == Version::V1 || !story.chance(story.weights().index_changes) {
        return;
    }
    let (identifier, referenced_type) = [("parent", "household"), ("guardian", "person"), ("clinic", "clinic")]
        .choose(&mut story.rng)
        .copied()
        .unwrap_or(("parent", "household"));
    let target = story
        .any_case_of(referenced_type)
        .filter(|target| *target != block.case_id && story.rng.random_bool(0.6))
        .unwrap_or_default();
    block.indices.push(Index {
        identifier,
        referenced_type,
        referenced_id: target,
        extension: false,
    });
}

fn take_photo(story: &mut Story<'_>, form: &Form, block: &mut Block) {
    if !story.options.case_attachments || story.doomed.is_some() || story.version == Version::V1 {
        return;
    }
    if let (Some(image), Some(note)) = (form.images.first(), story.cases.get_mut(&block.case_id))
        && !note.has_photo
    {
        note.has_photo = true;
        block.photo = Some(Photo {
            identifier: "portrait",
            src: image.name.clone(),
        });
    }
}

/// Refers a person: a new referral hangs on the person as its extension and is the household's child as well; or an open
/// one is closed.
fn refer(story: &mut Story<'_>, form: &mut Form, user: &User, person: &str) {
    if story.chance(0.4)
        && let Some(referral) = story.any_case_of("referral")
    {
        let mut block = story.block(form, &referral);
        set_properties(story, &mut block, 1);
        block.close = true;
        form.blocks.push(block);
        return;
    }
    let referral = story.open("referral", user);
    let mut block = creation(story, form, &referral, "referral", None);
    block.indices.push(Index {
        identifier: "host",
        referenced_type: "person",
        referenced_id: person.to_owned(),
        extension: true,
    });
    if let Some(household) = story.any_case_of("household").filter(|_| story.rng.random_bool(0.5)) {
        block.indices.push(Index {
            identifier: "parent",
            referenced_type: "household",
            referenced_id: household,
            extension: false,
        });
    }
    form.blocks.push(block);
}

/// One form that registers many cases, one that updates all of them, one that closes some.
pub(crate) fn census(story: &mut Story<'_>) {
    story.version = Version::V2;
    let mut cases = Vec::new();
    for round in 0..3_u8 {
        if !story.has_room(1) {
            return;
        }
        let user = story.pick_user();
        let mut form = story.form("Census", user.clone());
        form.layout = Layout::Repeat;
        if round == 0 {
            for _ in 0..story.options.census_cases {
                let case_id = story.open("dwelling", &user);
                let block = creation(story, &form, &case_id, "dwelling", None);
                form.blocks.push(block);
                cases.push(case_id);
            }
        } else {
            let count = if round == 1 { cases.len() } else { cases.len() / 4 };
            for case_id in cases.iter().take(count) {
                let mut block = story.block(&form, case_id);
                set_properties(story, &mut block, 3);
                block.close = round == 2;
                form.blocks.push(block);
            }
        }
        story.push(form);
    }
}

/// A clinic that many forms report to.
pub(crate) fn hub(story: &mut Story<'_>) {
    story.version = Version::V2;
    let forms = story.options.hub_forms.min(story.options.forms / 10);
    let user = story.pick_user();
    let mut form = story.form("Register clinic", user.clone());
    let clinic = story.open("clinic", &user);
    let block = creation(story, &form, &clinic, "clinic", None);
    form.blocks.push(block);
    story.push(form);
    for number in 1..forms {
        if !story.has_room(1) {
            return;
        }
        let user = story.pick_user();
        let mut form = story.form("Report to clinic", user.clone());
        let mut block = story.block(&form, &clinic);
        block
            .update
            .dynamic
            .push(("reports".to_owned(), Property::Text(number.to_string().into())));
        set_properties(story, &mut block, 2);
        form.blocks.push(block);
        if story.chance(0.25) {
            let patient = story.open("patient", &user);
            let block = creation(story, &form, &patient, "patient", None);
            form.blocks.push(block);
        }
        story.push(form);
    }
}
