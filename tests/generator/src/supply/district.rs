//! The life of one district: its locations open, report every week, and move stock among themselves.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, SubsecRound, Utc};
use rand::Rng;
use rand::seq::SliceRandom;

use super::report::{self, Manner};
use super::{SupplyOptions, archived, beside, row_ids};
use crate::block::{Create, Property};
use crate::couch_stock::{LastIds, Places, couch_stock};
use crate::element::Element;
use crate::form::{DEVICE_REPORT_XMLNS, Fate, Form, Layout, User, random_hex, random_uuid};
use crate::ledger::{Quantity, ReportDate, lookalikes};
use crate::ledger_diffs::ledger_diffs;
use crate::moment::Moment;
use crate::oddities::operation;
use crate::stock::{DocDomain, Location, Product, StockRows};
use crate::story::Story;
use crate::stream::Piece;

/// One location.
struct Outlet {
    case_id: String,
    location_id: String,
    user: User,
    /// The latest date that any report of its stock bore.
    reported: DateTime<Utc>,
}

pub(super) struct District<'a> {
    story: Story<'a>,
    options: &'a SupplyOptions,
    products: &'a [Product],
    outlets: Vec<Outlet>,
}

/// One thing that is to be sent in.
#[derive(Clone)]
enum Plan {
    Report(usize),
    /// Of this day, though it comes now.
    LateReport(usize, DateTime<Utc>),
    Transfer(usize, usize),
    /// Never counts.
    Void(usize),
}

/// Time between two forms at least, so that phone and server order agree.
const SHORTEST_STEP: i64 = 15 * 60;
const WEEK: i64 = 7 * 24 * 3600;

impl<'a> District<'a> {
    pub(super) fn new(story: Story<'a>, options: &'a SupplyOptions, products: &'a [Product]) -> Self {
        Self {
            story,
            options,
            products,
            outlets: Vec::new(),
        }
    }

    /// Everything of a district with so many locations.
    pub(super) fn piece(mut self, locations: usize, ids: &mut LastIds) -> Piece {
        for number in 0..locations {
            self.open(number);
        }
        // The opening takes a day at most.
        let mut begin = self.options.start + Duration::days(2);
        let mut late: Vec<(usize, Plan)> = Vec::new();
        for week in 0..self.options.weeks {
            let mut plans = self.plans(week, begin, &mut late);
            plans.shuffle(&mut self.story.rng);
            let slot = WEEK / i64::try_from(plans.len().max(1)).unwrap_or(WEEK);
            for (number, plan) in plans.into_iter().enumerate() {
                let spare = (slot - 2 * SHORTEST_STEP).max(1);
                let seconds = i64::try_from(number).unwrap_or_default() * slot + self.story.rng.random_range(0..spare);
                let micros = self.story.rng.random_range(0..1_000_000);
                let at = begin + Duration::seconds(seconds) + Duration::microseconds(micros);
                self.send(week, &plan, at);
            }
            begin += Duration::seconds(WEEK);
        }
        self.finish(ids)
    }

    /// What is due in a week.
    fn plans(&mut self, week: usize, begin: DateTime<Utc>, late: &mut Vec<(usize, Plan)>) -> Vec<Plan> {
        let weights = &self.options.weights;
        let mut plans = Vec::new();
        for outlet in 0..self.outlets.len() {
            if self.story.chance(weights.late) {
                let day = begin + Duration::hours(self.story.rng.random_range(1..160));
                let due = week + self.story.rng.random_range(1..4_usize);
                late.push((due, Plan::LateReport(outlet, day.trunc_subsecs(0))));
            } else {
                plans.push(Plan::Report(outlet));
            }
            if self.outlets.len() > 1 && self.story.chance(weights.transfers) {
                let other = (outlet + self.story.rng.random_range(1..self.outlets.len())) % self.outlets.len();
                plans.push(Plan::Transfer(outlet, other));
            }
            if self.story.chance(weights.archived + weights.ineffective) {
                plans.push(Plan::Void(outlet));
            }
        }
        let last = week + 1 == self.options.weeks;
        late.retain(|(due, plan)| {
            let now = *due <= week || last;
            if now {
                plans.push(plan.clone());
            }
            !now
        });
        plans
    }

    /// Registers a location's case; every other one comes with its opening stock.
    fn open(&mut self, number: usize) {
        let user = self.story.pick_user();
        let at = self.options.start + Duration::minutes(40 * i64::try_from(number).unwrap_or_default());
        let mut form = self.form("Open location", &user, at);
        form.layout = Layout::Root;
        if self.story.chance(0.5) {
            form.root = "system";
            form.xmlns = Some("http://commcarehq.org/case".to_owned());
        } else {
            form.xmlns = Some("http://commtrack.org/supply_point".to_owned());
        }
        let case_id = self.story.open("supply-point", &user);
        let location_id = random_hex(&mut self.story.rng);
        let mut block = self.story.block(&form, &case_id);
        block.create = Some(Create {
            case_type: "supply-point".to_owned(),
            name: Some(format!("Health post {number}")),
            owner_id: Some(location_id.clone()),
            ..Create::default()
        });
        block
            .update
            .dynamic
            .push(("location_id".to_owned(), Property::Text(location_id.as_str().into())));
        form.blocks.push(block);
        self.outlets.push(Outlet {
            case_id: case_id.clone(),
            location_id,
            user,
            reported: DateTime::UNIX_EPOCH,
        });
        if number.is_multiple_of(2) {
            let manner = self.manner(&form, &[number]);
            let products: Vec<&str> = self.product_ids();
            form.ledgers = report::full_count(&mut self.story.rng, &manner, &case_id, &products);
        }
        self.story.push(form);
    }

    fn product_ids(&self) -> Vec<&'a str> {
        self.products
            .iter()
            .map(|product| product.product_id.as_str())
            .collect()
    }

    fn form(&mut self, title: &'static str, user: &User, at: DateTime<Utc>) -> Form {
        let id = random_uuid(&mut self.story.rng);
        let late = Duration::milliseconds(self.story.rng.random_range(1_000..600_000));
        let count = self.story.rng.random_range(2..5_usize);
        self.story
            .form_received(title, user.clone(), id, (at, at - late), count)
    }

    /// The manner of a form's ledgers. The date is later than any before of these locations, however it is written.
    fn manner(&mut self, form: &Form, outlets: &[usize]) -> Manner {
        let weights = &self.options.weights;
        let known = outlets.iter().map(|&number| self.outlets[number].reported).max();
        let known = known.unwrap_or_default();
        let day = form.ended.utc.date_naive();
        let midnight = day.and_time(chrono::NaiveTime::MIN).and_utc();
        let blank = form.ended.utc.trunc_subsecs(0);
        let date = match self.story.rng.random_range(0..8_u8) {
            0..=2 if midnight > known => ReportDate::Day(day),
            3 => ReportDate::Absent,
            4 => ReportDate::Empty,
            5 if blank > known => ReportDate::Blank(blank),
            _ => ReportDate::Moment(form.ended),
        };
        let reported = match &date {
            ReportDate::Day(_) => midnight,
            ReportDate::Blank(time) => *time,
            ReportDate::Moment(moment) => moment.utc,
            ReportDate::Absent | ReportDate::Empty => form.received_on,
        };
        for &number in outlets {
            self.outlets[number].reported = reported;
        }
        Manner {
            date,
            prefix: self.story.chance(weights.prefixed).then_some("ledger"),
            decoys: self.story.chance(weights.decoys),
            fractions: self.story.chance(weights.fractions),
        }
    }

    fn send(&mut self, week: usize, plan: &Plan, at: DateTime<Utc>) {
        match *plan {
            Plan::Report(outlet) => {
                let form = self.report(week, outlet, at);
                self.push_with_copies(form, outlet);
            }
            Plan::LateReport(outlet, day) => {
                let mut form = self.report(week, outlet, at);
                let date = if self.story.chance(0.5) {
                    ReportDate::Day(day.date_naive())
                } else {
                    let zone = self.story.zone();
                    ReportDate::Moment(Moment { utc: day, zone })
                };
                for ledger in &mut form.ledgers {
                    ledger.date = date.clone();
                }
                self.story.push(form);
            }
            Plan::Transfer(src, dest) => self.transfer(src, dest, at),
            Plan::Void(outlet) => self.void(week, outlet, at),
        }
    }

    /// A weekly report; each fourth is a full count.
    fn report(&mut self, week: usize, outlet: usize, at: DateTime<Utc>) -> Form {
        let (user, case_id) = (self.outlets[outlet].user.clone(), self.outlets[outlet].case_id.clone());
        let mut form = self.form("Stock report", &user, at);
        let manner = self.manner(&form, &[outlet]);
        let products = self.product_ids();
        let rng = &mut self.story.rng;
        form.ledgers = if week.is_multiple_of(4) {
            report::full_count(rng, &manner, &case_id, &products)
        } else {
            report::weekly(rng, &manner, &case_id, &products)
        };
        if manner.decoys {
            form.questions.push(lookalikes(&case_id, products[0]));
        }
        if self.story.chance(self.options.weights.case_blocks) {
            let mut block = self.story.block(&form, &case_id);
            let text = format!("week {week}");
            block
                .update
                .dynamic
                .push(("last_report".to_owned(), Property::Text(text.into())));
            form.blocks.push(block);
        }
        form
    }

    /// Stock moves; perhaps another form of the giving location is received at the same moment.
    fn transfer(&mut self, src: usize, dest: usize, at: DateTime<Utc>) {
        let user = self.outlets[src].user.clone();
        let mut form = self.form("Send stock", &user, at);
        let manner = self.manner(&form, &[src, dest]);
        let (from, to) = (self.outlets[src].case_id.clone(), self.outlets[dest].case_id.clone());
        let mut products = self.product_ids();
        products.truncate(self.story.rng.random_range(1..=products.len().max(1)));
        form.ledgers = report::transfer(&mut self.story.rng, &manner, &from, &to, &products);
        if self.story.chance(self.options.weights.ties) {
            let mut second = form.clone();
            second.id = random_uuid(&mut self.story.rng);
            // What is received at one moment counts in the order of ids.
            if second.id < form.id {
                std::mem::swap(&mut second.id, &mut form.id);
                form.instance_id.clone_from(&form.id);
            }
            second.instance_id.clone_from(&second.id);
            second.ledgers = report::transfer(&mut self.story.rng, &manner, &from, &to, &products[..1]);
            self.story.push(form);
            self.story.push(second);
        } else {
            self.push_with_copies(form, src);
        }
    }

    /// Adds a form and perhaps copies of it: an older version, a duplicate.
    fn push_with_copies(&mut self, form: Form, outlet: usize) {
        let weights = &self.options.weights;
        if self.story.chance(weights.edits) {
            self.push_edited(form, outlet, Duration::minutes(5));
        } else if self.story.chance(weights.late_edits) {
            let days = self.story.rng.random_range(10..25);
            self.push_edited(form, outlet, Duration::days(days));
        } else if self.story.chance(weights.duplicates) {
            let mut copy = form.clone();
            copy.id = random_hex(&mut self.story.rng);
            copy.fate = Fate::Duplicate {
                orig_id: form.id.clone(),
            };
            copy.received_on += Duration::minutes(3);
            copy.server_modified_on += Duration::minutes(3);
            copy.processing_complete = Some(false);
            self.story.push(form);
            self.story.push(copy);
        } else {
            self.story.push(form);
        }
    }

    /// The form was edited some time after its receipt: the version before told of one location more or less, and of
    /// other quantities.
    fn push_edited(&mut self, mut form: Form, outlet: usize, after: Duration) {
        let on = form.received_on + after;
        let mut old = form.clone();
        old.id = random_hex(&mut self.story.rng);
        old.fate = Fate::Deprecated {
            orig_id: form.id.clone(),
            on,
        };
        old.edited_on = Some(on);
        old.server_modified_on = on;
        let case_id = self.outlets[outlet].case_id.clone();
        let manner = Manner {
            date: form
                .ledgers
                .first()
                .map_or(ReportDate::Absent, |ledger| ledger.date.clone()),
            prefix: None,
            decoys: false,
            fractions: false,
        };
        let products = self.product_ids();
        old.ledgers = report::full_count(&mut self.story.rng, &manner, &case_id, &products[..1]);
        form.deprecated_form_id = Some(old.id.clone());
        form.edited_on = Some(on);
        form.server_modified_on = on;
        form.history.push(operation("edit", form.user.as_ref(), on));
        self.note_rebuild(&form, on);
        self.story.push(form);
        self.story.push(old);
    }

    /// Couch rebuilt the cases of a form that was edited or put away.
    fn note_rebuild(&mut self, form: &Form, on: DateTime<Utc>) {
        let blocks = form.blocks.iter().map(|block| block.case_id.as_str());
        let touched: Vec<String> = blocks.chain(form.ledger_cases()).map(str::to_owned).collect();
        for case_id in touched {
            crate::oddities::note_rebuild(&mut self.story, &case_id, on);
        }
    }

    /// A report that leaves no stock behind.
    fn void(&mut self, week: usize, outlet: usize, at: DateTime<Utc>) {
        let mut form = self.report(week, outlet, at);
        form.blocks.clear();
        let on = form.received_on + Duration::minutes(5);
        let weights = &self.options.weights;
        let share = weights.archived / (weights.archived + weights.ineffective);
        let kind = if self.story.chance(share) {
            0
        } else {
            self.story.rng.random_range(1..5_u8)
        };
        match kind {
            0 => {
                form.fate = Fate::Archived;
                form.history.push(operation("archive", form.user.as_ref(), on));
                form.server_modified_on = on;
                self.note_rebuild(&form, on);
            }
            1 => {
                form.fate = Fate::Deleted {
                    id: random_hex(&mut self.story.rng),
                    on,
                };
                form.server_modified_on = on;
                self.note_rebuild(&form, on);
            }
            2 => {
                form.fate = Fate::Error {
                    problem: "IllegalCaseId: Ledger transaction references invalid Case ID \"nowhere\"".to_owned(),
                };
                form.processing_complete = Some(false);
            }
            3 => form.fate = Fate::Problem("Something went wrong while the form was saved: timeout".to_owned()),
            _ => {
                form.root = "device_report";
                form.title = "Device report";
                form.xmlns = Some(DEVICE_REPORT_XMLNS.to_owned());
                form.layout = Layout::Root;
                let quoted: Vec<Element> = form.ledgers.drain(..).map(|ledger| ledger.element()).collect();
                form.questions.push(Element::new("log_subreport").children(quoted));
            }
        }
        self.story.push(form);
    }

    /// The rows of the district, with what Couch kept of its stock.
    fn finish(mut self, ids: &mut LastIds) -> Piece {
        let mut beside_forms = StockRows::default();
        let mut places = BTreeMap::new();
        let count = self.outlets.len();
        let parent = self.location(ids, None, count);
        for number in 0..count {
            // The last but one of a district has a case only; the last was closed down.
            if count >= 4 && number + 2 == count {
                continue;
            }
            let location = self.location(ids, Some(parent.id), number);
            places.insert(self.outlets[number].case_id.clone(), location.id);
            beside_forms.locations.push(location);
        }
        beside_forms.locations.insert(0, parent);
        for outlet in &self.outlets {
            // Cases of the earliest days were never noted.
            if self.story.rng.random_bool(0.9) {
                beside_forms.doc_domains.push(DocDomain {
                    doc_id: outlet.case_id.clone(),
                    doc_type: "CommCareCase",
                    domain_name: self.options.domain.clone(),
                });
            }
        }
        let places = Places {
            domain: &self.options.domain,
            products: &row_ids(self.products),
            locations: &places,
        };
        let mut stock = couch_stock(self.story.forms(), &places, ids);
        for state in &mut stock.states {
            if self.story.rng.random_bool(self.options.weights.daily_consumption) {
                let parts = self.story.rng.random_range(1..2_000_000);
                state.daily_consumption = Some(Quantity::of_parts(parts));
            }
        }
        let mut piece = self.story.finish();
        piece.stock = beside(stock, beside_forms);
        piece.model.ledger_diffs = ledger_diffs(&piece.stock, &piece.model, &archived(self.products));
        piece
    }

    fn location(&mut self, ids: &mut LastIds, parent_id: Option<i32>, number: usize) -> Location {
        ids.location += 1;
        let outlet = self.outlets.get(number);
        let is_archived = outlet.is_some() && self.outlets.len() >= 4 && number + 1 == self.outlets.len();
        let location_id = match outlet {
            Some(outlet) => outlet.location_id.clone(),
            None => random_hex(&mut self.story.rng),
        };
        Location {
            id: ids.location,
            domain: self.options.domain.clone(),
            location_id,
            name: if outlet.is_some() {
                format!("Health post {number}")
            } else {
                "District store".to_owned()
            },
            site_code: format!("l{}", ids.location),
            is_archived,
            created_at: self.options.start,
            parent_id,
            supply_point_id: outlet.map(|outlet| outlet.case_id.clone()),
        }
    }
}
