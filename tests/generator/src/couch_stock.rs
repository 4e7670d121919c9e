//! How the Couch era kept stock: one report per ledger block, one transaction per change, and a state that follows the
//! transaction with the latest report date, whenever it arrived.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::form::{Fate, Form};
use crate::ledger::{Action, Ledger, Quantity};
use crate::ledger_rows::SUBTYPE_WIDTH;
use crate::stock::{StockReport, StockRows, StockState, StockTransaction};

/// Ids that a domain has given out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LastIds {
    pub(crate) location: i32,
    report: i32,
    transaction: i32,
    state: i32,
}

fn next(id: &mut i32) -> i32 {
    *id += 1;
    *id
}

/// What the stock tables know beside forms.
pub(crate) struct Places<'a> {
    pub(crate) domain: &'a str,
    /// Row ids of products by product id.
    pub(crate) products: &'a BTreeMap<String, i32>,
    /// Row ids of locations by the id of their case.
    pub(crate) locations: &'a BTreeMap<String, i32>,
}

type Reference = (String, &'static str, String);

/// The tables in the making.
struct Books<'a> {
    places: &'a Places<'a>,
    ids: &'a mut LastIds,
    reports: BTreeMap<i32, StockReport>,
    transactions: BTreeMap<Reference, Vec<StockTransaction>>,
    states: BTreeMap<Reference, StockState>,
}

/// What happened to a form, in the order of time.
enum Event<'a> {
    /// The ledgers of one version of a form came in under the form's id.
    Received { version: &'a Form, form: &'a Form },
    /// A new version took the place of the one before.
    Edited(&'a Form),
    /// The form was archived or deleted.
    PutAway(&'a Form),
}

/// The rows after all that happened to these forms.
pub(crate) fn couch_stock(forms: &[Form], places: &Places<'_>, ids: &mut LastIds) -> StockRows {
    let mut events: Vec<(DateTime<Utc>, &str, Event<'_>)> = Vec::new();
    for form in forms {
        match &form.fate {
            Fate::Normal => {
                let earlier = form
                    .deprecated_form_id
                    .as_ref()
                    .and_then(|id| forms.iter().find(|form| form.id == *id));
                let version = earlier.unwrap_or(form);
                events.push((form.received_on, &form.id, Event::Received { version, form }));
                if let (Some(on), Some(_)) = (form.edited_on, earlier) {
                    events.push((on, &form.id, Event::Edited(form)));
                }
            }
            Fate::Archived | Fate::Deleted { .. } => {
                let version = form;
                events.push((form.received_on, &form.id, Event::Received { version, form }));
                events.push((form.server_modified_on, &form.id, Event::PutAway(form)));
            }
            // Copies, failures and raw submissions never reached the stock; older versions came with the form itself.
            _ => {}
        }
    }
    events.sort_by(|a, b| (a.0, a.1.as_bytes()).cmp(&(b.0, b.1.as_bytes())));
    let mut books = Books {
        places,
        ids,
        reports: BTreeMap::new(),
        transactions: BTreeMap::new(),
        states: BTreeMap::new(),
    };
    for (_, _, event) in events {
        match event {
            Event::Received { version, form } => books.take(version, form),
            Event::Edited(form) => {
                books.remove(&form.id);
                books.take(form, form);
            }
            Event::PutAway(form) => {
                for reference in books.remove(&form.id) {
                    books.recount(&reference);
                }
            }
        }
    }
    StockRows {
        reports: books.reports.into_values().collect(),
        transactions: books.transactions.into_values().flatten().collect(),
        states: books.states.into_values().collect(),
        ..StockRows::default()
    }
}

impl Books<'_> {
    /// Takes the ledgers of a version of a form under the form's id.
    fn take(&mut self, version: &Form, form: &Form) {
        let mut running: BTreeMap<Reference, Quantity> = BTreeMap::new();
        for (ledger, steps) in version.ledger_steps() {
            let report_id = self.report(ledger, form);
            for step in steps {
                let reference = (step.case_id.to_owned(), step.section, step.product.to_owned());
                let latest = self.latest(&reference).map(|row| row.stock_on_hand);
                let before = running
                    .get(&reference)
                    .copied()
                    .unwrap_or_else(|| latest.unwrap_or_default());
                let (after, delta) = step.apply(before);
                running.insert(reference.clone(), after);
                if let (Action::StockOnHand, Some(previous)) = (step.action, latest)
                    && previous != after
                {
                    self.infer(&reference, report_id, after - previous, after);
                }
                let subtype = step.subtype.map(|text| text.chars().take(SUBTYPE_WIDTH).collect());
                self.add(&reference, (report_id, step.action, subtype), delta, after);
            }
        }
    }

    /// A count that differs from what was known tells of a change that nobody reported.
    fn infer(&mut self, reference: &Reference, report_id: i32, change: Quantity, after: Quantity) {
        let action = if change < Quantity::default() {
            Action::Consumption
        } else {
            Action::Receipts
        };
        self.add(
            reference,
            (report_id, action, Some("_inferred".to_owned())),
            change,
            after,
        );
    }

    fn report(&mut self, ledger: &Ledger, form: &Form) -> i32 {
        let id = next(&mut self.ids.report);
        self.reports.insert(
            id,
            StockReport {
                id,
                form_id: form.id.clone(),
                date: ledger.reported(form.received_on),
                kind: ledger.report_type(),
                domain: Some(self.places.domain.to_owned()),
                server_date: Some(form.received_on),
            },
        );
        id
    }

    fn add(
        &mut self,
        reference: &Reference,
        (report_id, action, subtype): (i32, Action, Option<String>),
        quantity: Quantity,
        stock_on_hand: Quantity,
    ) {
        let (case_id, section_id, product_id) = reference.clone();
        let row = StockTransaction {
            id: next(&mut self.ids.transaction),
            report_id,
            sql_product_id: self.places.products.get(&product_id).copied().unwrap_or_default(),
            section_id: section_id.to_owned(),
            case_id,
            product_id,
            kind: action.name(),
            subtype,
            quantity: Some(quantity),
            stock_on_hand,
        };
        self.transactions.entry(reference.clone()).or_default().push(row);
        self.follow(reference);
    }

    /// The transaction with the latest report date; of equal dates the one with the highest id.
    fn latest(&self, reference: &Reference) -> Option<&StockTransaction> {
        let rows = self.transactions.get(reference)?;
        rows.iter()
            .max_by_key(|row| (self.reports.get(&row.report_id).map(|report| report.date), row.id))
    }

    /// Lets the state follow the latest transaction.
    fn follow(&mut self, reference: &Reference) {
        let known = self.states.remove(reference);
        let Some(latest) = self.latest(reference).cloned() else {
            return;
        };
        let Some(report) = self.reports.get(&latest.report_id) else {
            return;
        };
        let id = known.map_or_else(|| next(&mut self.ids.state), |state| state.id);
        let state = StockState {
            id,
            section_id: latest.section_id.clone(),
            case_id: latest.case_id.clone(),
            product_id: latest.product_id.clone(),
            stock_on_hand: latest.stock_on_hand,
            daily_consumption: None,
            last_modified_date: report.server_date.unwrap_or(report.date),
            last_modified_form_id: Some(report.form_id.clone()),
            sql_product_id: latest.sql_product_id,
            sql_location_id: self.places.locations.get(&latest.case_id).copied(),
        };
        self.states.insert(reference.clone(), state);
    }

    /// Removes what a form brought, and says which ledgers that was.
    fn remove(&mut self, form_id: &str) -> Vec<Reference> {
        let gone: Vec<i32> = self
            .reports
            .values()
            .filter(|report| report.form_id == form_id)
            .map(|report| report.id)
            .collect();
        let mut touched = Vec::new();
        for (reference, rows) in &mut self.transactions {
            let before = rows.len();
            rows.retain(|row| !gone.contains(&row.report_id));
            if rows.len() < before {
                touched.push(reference.clone());
            }
        }
        self.reports.retain(|id, _| !gone.contains(id));
        for reference in &touched {
            self.follow(reference);
        }
        touched
    }

    /// Adds a ledger up again, earliest report first. What was inferred goes.
    fn recount(&mut self, reference: &Reference) {
        let Some(rows) = self.transactions.get_mut(reference) else {
            return;
        };
        rows.retain(|row| row.subtype.as_deref() != Some("_inferred"));
        let reports = &self.reports;
        rows.sort_by_key(|row| (reports.get(&row.report_id).map(|report| report.date), row.id));
        let mut balance = Quantity::default();
        for row in rows.iter_mut() {
            match row.kind {
                "stockonhand" | "stockout" => balance = row.stock_on_hand,
                _ => balance = balance + row.quantity.unwrap_or_default(),
            }
            row.stock_on_hand = balance;
        }
        self.follow(reference);
    }
}
