//! The life of one cluster of cases: forms are added in the order in which HQ received them, and written out at the end.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, SubsecRound, Utc};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::block::{Block, Version};
use crate::case::{Deletion, histories, rows};
use crate::couch_case::CouchCase;
use crate::form::{Fate, Form, Image, Layout, Meta, User, random_hex, random_uuid};
use crate::ledger_rows::ledger_rows;
use crate::options::{Options, Weights};
use crate::questions::questions;
use crate::stream::Piece;

/// What the story remembers of a case.
#[derive(Clone, Debug)]
pub(crate) struct CaseNote {
    pub(crate) case_type: &'static str,
    /// Who registered it.
    pub(crate) opener: User,
    /// Who changed it last.
    pub(crate) last_user: String,
    pub(crate) has_photo: bool,
    /// When Couch rebuilt it because a form was edited or put away.
    pub(crate) rebuilt: Option<DateTime<Utc>>,
    /// Marked deleted, although its forms live.
    pub(crate) deletion: Option<Deletion>,
}

/// A cluster in the making.
pub(crate) struct Story<'a> {
    pub(crate) options: &'a Options,
    pub(crate) rng: StdRng,
    users: &'a [User],
    /// Forms that may still be added.
    room: usize,
    clock: DateTime<Utc>,
    zone: i32,
    pub(crate) version: Version,
    /// Ids for the forms received at one shared moment, smallest last. Forms that are received together are replayed in
    /// the order of their ids, so the story gives them out in that order.
    tied: Vec<String>,
    /// Set if the whole cluster is deleted in the end.
    pub(crate) doomed: Option<Deletion>,
    forms: Vec<Form>,
    pub(crate) cases: BTreeMap<String, CaseNote>,
}

/// Time from one form to the next, so that phone and server order agree: no form arrives more than ten minutes late.
const SHORTEST_STEP: i64 = 15 * 60;
const LONGEST_STEP: i64 = 3 * 24 * 3600;
/// HQ trusts the server's order between forms that arrive this far apart, whatever the phone's clock said.
const CLOCK_DISTRUST_HOURS: i64 = 13;

impl<'a> Story<'a> {
    pub(crate) fn new(options: &'a Options, users: &'a [User], seed: u64, room: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let seconds = rng.random_range(0..options.days.max(1) * 86_400);
        let mut clock = options.start + Duration::seconds(seconds);
        let mut tied = Vec::new();
        if rng.random_bool(options.weights.ties) {
            clock = options.start + Duration::days(options.days / 2);
            tied = (0..rng.random_range(3..8_u8)).map(|_| random_uuid(&mut rng)).collect();
            tied.sort_unstable_by(|a, b| b.cmp(a));
        }
        let zone = [330, 180, 60, 0, -240, 345]
            .choose(&mut rng)
            .copied()
            .unwrap_or_default();
        let legacy = rng.random_bool(options.weights.legacy);
        Self {
            options,
            rng,
            users,
            room,
            clock,
            zone,
            version: if legacy { Version::V1 } else { Version::V2 },
            tied,
            doomed: None,
            forms: Vec::new(),
            cases: BTreeMap::new(),
        }
    }

    pub(crate) fn weights(&self) -> &'a Weights {
        &self.options.weights
    }

    /// Whether so many further forms fit.
    pub(crate) fn has_room(&self, forms: usize) -> bool {
        self.room >= forms
    }

    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.rng.random_bool(probability)
    }

    pub(crate) fn pick_user(&mut self) -> User {
        self.users.choose(&mut self.rng).unwrap_or(&self.users[0]).clone()
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.clock
    }

    pub(crate) fn zone(&self) -> i32 {
        self.zone
    }

    /// Lets enough time pass that HQ no longer compares phone times.
    pub(crate) fn pass_half_a_day(&mut self) {
        self.clock += Duration::hours(CLOCK_DISTRUST_HOURS);
        self.tied.clear();
    }

    /// Any case of the cluster.
    pub(crate) fn any_case(&mut self) -> Option<String> {
        self.cases.keys().choose(&mut self.rng).cloned()
    }

    /// Any case of a type.
    pub(crate) fn any_case_of(&mut self, case_type: &str) -> Option<String> {
        let cases = self
            .cases
            .iter()
            .filter(|(_, note)| note.case_type == case_type)
            .map(|(id, _)| id);
        cases.choose(&mut self.rng).cloned()
    }

    /// A new normal form by a user, received next.
    pub(crate) fn form(&mut self, title: &'static str, user: User) -> Form {
        let legacy = self.version == Version::V1;
        let (id, received_on, ended) = match self.tied.pop() {
            Some(id) => {
                let later = i64::try_from(self.tied.len()).unwrap_or_default();
                (id, self.clock, self.clock - Duration::minutes(80 + 5 * later))
            }
            None => {
                self.clock += Duration::seconds(self.rng.random_range(SHORTEST_STEP..LONGEST_STEP));
                let micros = if legacy { 0 } else { self.rng.random_range(0..1_000_000) };
                let received_on = self.clock + Duration::microseconds(micros);
                let late = Duration::milliseconds(self.rng.random_range(1_000..600_000));
                let id = if legacy {
                    random_hex(&mut self.rng)
                } else {
                    random_uuid(&mut self.rng)
                };
                (id, received_on, received_on - late)
            }
        };
        let count = self.rng.random_range(14..24_usize);
        self.form_received(title, user, id, (received_on, ended), count)
    }

    /// A normal form by a user, with so many questions, received and ended at these times.
    pub(crate) fn form_received(
        &mut self,
        title: &'static str,
        user: User,
        id: String,
        (received_on, ended): (DateTime<Utc>, DateTime<Utc>),
        count: usize,
    ) -> Form {
        let legacy = self.version == Version::V1;
        // Phones note milliseconds.
        let ended = ended.trunc_subsecs(3);
        let moment = crate::moment::Moment {
            utc: ended,
            zone: self.zone,
        };
        let form = Form {
            instance_id: id.clone(),
            id,
            fate: Fate::Normal,
            root: "data",
            title,
            xmlns: Some(format!("http://openrosa.org/formdesigner/{}", xmlns_suffix(title))),
            received_on,
            server_modified_on: received_on + Duration::milliseconds(1_250),
            user: Some(user),
            meta: if legacy { Meta::Legacy } else { Meta::Modern },
            started: moment,
            ended: moment,
            questions: questions(&mut self.rng, count, ended, self.zone),
            blocks: Vec::new(),
            ledgers: Vec::new(),
            layout: [Layout::Root, Layout::Groups, Layout::Repeat]
                .choose(&mut self.rng)
                .copied()
                .unwrap_or(Layout::Root),
            images: Vec::new(),
            raw_body: None,
            app_id: Some(format!("{:032x}", xmlns_number("app"))),
            build_id: self.chance(0.9).then(|| format!("{:032x}", xmlns_number("build"))),
            submit_ip: self
                .chance(0.95)
                .then(|| format!("10.0.{}.9", self.zone.unsigned_abs() % 256)),
            sync_token: self.chance(0.7).then(|| random_hex(&mut self.rng)),
            date_header: self.chance(0.6).then(|| received_on.trunc_subsecs(0)),
            headers: json!({"HTTP_X_OPENROSA_VERSION": "2.1", "HTTP_DATE": received_on.to_rfc2822()}),
            partial: self.chance(0.01),
            processing_complete: [Some(true), Some(true), Some(true), None]
                .choose(&mut self.rng)
                .copied()
                .flatten(),
            history: Vec::new(),
            deprecated_form_id: None,
            edited_on: None,
        };
        form.end_after(ended)
    }

    /// A block of a form for a known case, without any part yet. It names the form's user itself, or leaves that to the
    /// form.
    pub(crate) fn block(&mut self, form: &Form, case_id: &str) -> Block {
        let own = form.meta == Meta::Absent || self.rng.random_bool(0.8);
        let user = form
            .user
            .as_ref()
            .map(|user| user.id.clone())
            .filter(|_| own && self.version == Version::V2);
        if let Some(note) = self.cases.get_mut(case_id)
            && let Some(user) = &form.user
        {
            note.last_user.clone_from(&user.id);
        }
        let mut block = Block::naming(case_id, user.as_deref(), form.ended);
        block.version = self.version;
        block
    }

    /// A block that gives a form that never reaches its cases something to say; nothing is remembered of it.
    pub(crate) fn idle_block(&mut self, form: &Form, case_id: &str) -> Block {
        let mut block = Block::naming(case_id, form.user.as_ref().map(|user| user.id.as_str()), form.ended);
        let text = crate::block::Property::Text("must not be applied".into());
        block.update.dynamic.push(("never_applied".to_owned(), text));
        block
    }

    /// Registers a new case with the story.
    pub(crate) fn open(&mut self, case_type: &'static str, opener: &User) -> String {
        let id = random_uuid(&mut self.rng);
        self.cases.insert(
            id.clone(),
            CaseNote {
                case_type,
                opener: opener.clone(),
                last_user: opener.id.clone(),
                has_photo: false,
                rebuilt: None,
                deletion: None,
            },
        );
        id
    }

    /// An image of some hundred bytes.
    pub(crate) fn image(&mut self) -> Image {
        let mut bytes = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00".to_vec();
        let length = self.rng.random_range(200..2_000_usize);
        bytes.extend((0..length).map(|_| self.rng.random::<u8>()));
        let key = random_hex(&mut self.rng);
        Image {
            name: format!("{}.jpg", &key[..13]),
            bytes,
            content_type: "image/jpeg",
            key,
        }
    }

    /// Adds a form. The caller has looked for room.
    pub(crate) fn push(&mut self, form: Form) {
        self.room = self.room.saturating_sub(1);
        self.forms.push(form);
    }

    /// Writes everything out.
    pub(crate) fn finish(mut self) -> Piece {
        let mut piece = Piece::default();
        let domain = &self.options.domain;
        let mut ledgers = ledger_rows(domain, self.forms.iter().filter(|form| form.fate == Fate::Normal));
        for (case_id, history) in histories(self.forms.iter().filter(|form| form.fate == Fate::Normal)) {
            let note = self.cases.get(case_id);
            let rebuilt = note.and_then(|note| note.rebuilt);
            let deletion = self
                .doomed
                .clone()
                .or_else(|| note.and_then(|note| note.deletion.clone()));
            let Some(couch) = CouchCase::replay(domain, case_id, &history, rebuilt, deletion.clone()) else {
                continue;
            };
            let mut expected = match self.doomed {
                Some(_) => couch.copied_rows(),
                None => rows(domain, case_id, &history, deletion.as_ref()),
            };
            if let Some(rows) = ledgers.remove(case_id) {
                expected.ledger_values = rows.values;
                expected.ledger_transactions = rows.transactions;
            }
            piece.docs.push(couch.document());
            *piece.model.doc_counts.entry(couch.doc_type().to_owned()).or_default() += 1;
            piece.model.cases.insert(case_id.to_owned(), expected);
        }
        if let Some(doom) = &self.doomed {
            for form in self.forms.iter_mut().filter(|form| form.fate == Fate::Normal) {
                form.fate = Fate::Deleted {
                    id: doom.id.clone(),
                    on: doom.on,
                };
            }
        }
        for form in &self.forms {
            form.emit(self.options, &mut self.rng, &mut piece);
        }
        piece
    }

    /// The forms added so far.
    pub(crate) fn forms(&self) -> &[Form] {
        &self.forms
    }

    /// How many forms were added.
    pub(crate) fn form_count(&self) -> usize {
        self.forms.len()
    }
}

/// The mobile workers of a domain.
pub(crate) fn users(seed: u64) -> Vec<User> {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed);
    (0..12)
        .map(|number| User {
            id: random_hex(&mut rng),
            name: format!("worker-{number:02}@sample"),
            device: format!("commcare_{}", random_uuid(&mut rng)),
        })
        .collect()
}

/// Every title has one namespace, in every domain.
fn xmlns_suffix(title: &str) -> String {
    uuid::Uuid::from_u128(xmlns_number(title))
        .hyphenated()
        .to_string()
        .to_uppercase()
}

fn xmlns_number(title: &str) -> u128 {
    title.bytes().fold(0x9e37_79b9_7f4a_7c15_u128, |number, byte| {
        number
            .wrapping_mul(0x0100_0000_01b3_0000_0000_0139)
            .wrapping_add(u128::from(byte))
    })
}
