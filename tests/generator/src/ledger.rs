//! Ledger blocks of a form: stock counted and stock moved, in every spelling that HQ reads.

use std::fmt;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};

use crate::element::{Element, Text};
use crate::moment::Moment;

/// Namespace of the elements that change ledgers.
const NAMESPACE: &str = "http://commcarehq.org/ledger/v1";

/// One `balance` or `transfer` element.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    pub(crate) movement: Movement,
    pub(crate) date: ReportDate,
    /// The attribute `type`.
    pub(crate) subtype: Option<&'static str>,
    pub(crate) spelling: Spelling,
    pub(crate) prefix: Option<&'static str>,
    pub(crate) entries: Vec<Entry>,
    /// Whether parts stand around that HQ does not read in this spelling.
    pub(crate) decoys: bool,
}

/// What happens to the stock.
#[derive(Clone, Debug)]
pub(crate) enum Movement {
    Balance { entity: String },
    Transfer { src: Option<String>, dest: Option<String> },
}

/// The attribute `date`.
#[derive(Clone, Debug)]
pub(crate) enum ReportDate {
    /// The time of receipt counts.
    Absent,
    /// As absent.
    Empty,
    /// Midnight counts.
    Day(NaiveDate),
    Moment(Moment),
    /// A blank instead of the `T`, no zone: UTC.
    Blank(DateTime<Utc>),
}

/// Where the section is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// On the element itself: one section for all entries.
    Individual(&'static str),
    /// On each value.
    PerEntry,
}

/// What is said of one product. In the individual spelling there is one amount, whose section is the element's.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) product: String,
    pub(crate) amounts: Vec<(&'static str, Amount)>,
}

/// A quantity as it is written.
#[derive(Clone, Debug)]
pub(crate) struct Amount {
    pub(crate) text: String,
    /// `None`: no number, so that the amount is dropped.
    pub(crate) value: Option<Quantity>,
}

impl Amount {
    /// Adds three quarters, if it is a number.
    pub(crate) fn add_fraction(&mut self) {
        if let Some(value) = &mut self.value {
            self.text = format!("{}.75", value.trunc());
            *value = *value + Quantity::of_parts(75_000);
        }
    }
}

/// A number with five decimal places, as the Couch-era tables hold it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(i64);

impl Quantity {
    const PLACES: i64 = 100_000;

    /// A whole number.
    pub const fn whole(number: i64) -> Self {
        Self(number * Self::PLACES)
    }

    /// So many hundred-thousandths.
    pub const fn of_parts(parts: i64) -> Self {
        Self(parts)
    }

    /// The whole part; towards zero.
    pub const fn trunc(self) -> i64 {
        self.0 / Self::PLACES
    }
}

impl std::ops::Add for Quantity {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl std::ops::Sub for Quantity {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl std::ops::Neg for Quantity {
    type Output = Self;
    fn neg(self) -> Self {
        Self(-self.0)
    }
}

/// With five places.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let parts = self.0.unsigned_abs();
        let places = Self::PLACES.unsigned_abs();
        write!(f, "{sign}{}.{:05}", parts / places, parts % places)
    }
}

/// Kind of a stock transaction in the Couch-era tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    StockOnHand,
    StockOut,
    Consumption,
    Receipts,
}

impl Action {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::StockOnHand => "stockonhand",
            Self::StockOut => "stockout",
            Self::Consumption => "consumption",
            Self::Receipts => "receipts",
        }
    }
}

/// One thing that happens to one ledger.
#[derive(Clone, Debug)]
pub(crate) struct Step<'a> {
    pub(crate) case_id: &'a str,
    pub(crate) section: &'static str,
    pub(crate) product: &'a str,
    pub(crate) action: Action,
    pub(crate) quantity: Quantity,
    /// The `type`, where it says more than the action.
    pub(crate) subtype: Option<&'static str>,
}

impl Step<'_> {
    /// The balance after this, and the change that the Couch era noted: none for a count.
    pub(crate) fn apply(&self, balance: Quantity) -> (Quantity, Quantity) {
        match self.action {
            Action::StockOnHand | Action::StockOut => (self.quantity, Quantity::default()),
            Action::Consumption => (balance - self.quantity, -self.quantity),
            Action::Receipts => (balance + self.quantity, self.quantity),
        }
    }
}

impl Ledger {
    /// `balance` or `transfer`.
    pub(crate) fn report_type(&self) -> &'static str {
        match self.movement {
            Movement::Balance { .. } => "balance",
            Movement::Transfer { .. } => "transfer",
        }
    }

    /// When it happened.
    pub(crate) fn reported(&self, received_on: DateTime<Utc>) -> DateTime<Utc> {
        match &self.date {
            ReportDate::Absent | ReportDate::Empty => received_on,
            ReportDate::Day(day) => day.and_time(NaiveTime::MIN).and_utc(),
            ReportDate::Moment(moment) => moment.utc,
            ReportDate::Blank(time) => *time,
        }
    }

    /// What it does, entry by entry; where both sides are named, the giving one first.
    pub(crate) fn steps(&self) -> Vec<Step<'_>> {
        let mut steps = Vec::new();
        for entry in &self.entries {
            for (section, amount) in &entry.amounts {
                let Some(quantity) = amount.value else { continue };
                let counted = if quantity > Quantity::default() {
                    Action::StockOnHand
                } else {
                    Action::StockOut
                };
                let sides = match &self.movement {
                    Movement::Balance { entity } => [Some((entity, counted)), None],
                    Movement::Transfer { src, dest } => [
                        src.as_ref().map(|case_id| (case_id, Action::Consumption)),
                        dest.as_ref().map(|case_id| (case_id, Action::Receipts)),
                    ],
                };
                steps.extend(sides.into_iter().flatten().map(|(case_id, action)| {
                    Step {
                        case_id,
                        section,
                        product: &entry.product,
                        action,
                        quantity,
                        subtype: self
                            .subtype
                            .filter(|subtype| !subtype.is_empty() && *subtype != action.name()),
                    }
                }));
            }
        }
        steps
    }

    pub(crate) fn element(&self) -> Element {
        let mut element = Element::new(self.report_type()).namespace(NAMESPACE, self.prefix);
        match &self.movement {
            Movement::Balance { entity } => element = element.attribute("entity-id", entity.as_str()),
            Movement::Transfer { src, dest } => {
                for (name, side) in [("src", src), ("dest", dest)] {
                    if let Some(case_id) = side {
                        element = element.attribute(name, case_id.as_str());
                    }
                }
            }
        }
        let date: Option<Text> = match &self.date {
            ReportDate::Absent => None,
            ReportDate::Empty => Some("".into()),
            ReportDate::Day(day) => Some(day.format("%Y-%m-%d").to_string().into()),
            ReportDate::Moment(moment) => Some((*moment).into()),
            ReportDate::Blank(time) => Some(Text::Blank(*time)),
        };
        if let Some(date) = date {
            element = element.attribute("date", date);
        }
        if let Some(subtype) = self.subtype {
            element = element.attribute("type", subtype);
        }
        if let Spelling::Individual(section) = self.spelling {
            element = element.attribute("section-id", section);
        }
        element = element.children(self.entries.iter().map(|entry| self.entry(entry)));
        if self.decoys {
            element = element.children(self.unread());
        }
        element
    }

    fn entry(&self, entry: &Entry) -> Element {
        let mut element = Element::new("entry").attribute("id", entry.product.as_str());
        match self.spelling {
            Spelling::Individual(_) => {
                for (_, amount) in &entry.amounts {
                    element = element.attribute("quantity", amount.text.as_str());
                }
                if self.decoys {
                    element = element.child(value("emergency", "77"));
                }
                element
            }
            Spelling::PerEntry => {
                if self.decoys {
                    element = element.attribute("quantity", "77");
                }
                element.children(
                    entry
                        .amounts
                        .iter()
                        .map(|(section, amount)| value(section, &amount.text)),
                )
            }
        }
    }

    /// A block within the block; an entry without a number; a count of no product.
    fn unread(&self) -> Vec<Element> {
        let mut unread = vec![
            Element::new("balance")
                .attribute("entity-id", "no-such-case")
                .attribute("section-id", "stock")
                .child(
                    Element::new("entry")
                        .attribute("id", "no-such-product")
                        .attribute("quantity", "1"),
                ),
            Element::new("entry").attribute("id", "no-such-product"),
        ];
        if let (Movement::Balance { .. }, Spelling::Individual(_)) = (&self.movement, self.spelling) {
            unread.push(Element::new("entry").attribute("id", "").attribute("quantity", "5"));
        }
        unread
    }
}

fn value(section: &str, quantity: &str) -> Element {
    Element::new("value")
        .attribute("section-id", section)
        .attribute("quantity", quantity)
}

/// Elements outside of every ledger block that look like one: of an older namespace, or moving stock from nowhere to
/// nowhere.
pub(crate) fn lookalikes(case_id: &str, product: &str) -> Element {
    let entry = || {
        Element::new("entry")
            .attribute("id", product)
            .attribute("quantity", "88")
    };
    Element::new("old_report")
        .child(
            Element::new("balance")
                .namespace("http://commtrack.org/stock_report", None)
                .attribute("entity-id", case_id)
                .attribute("section-id", "stock")
                .child(entry()),
        )
        .child(
            Element::new("transfer")
                .namespace(NAMESPACE, None)
                .attribute("section-id", "stock")
                .child(entry()),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_show_five_places_and_are_cut_towards_zero() {
        for (parts, text, whole) in [
            (0, "0.00000", 0),
            (250_000, "2.50000", 2),
            (-250_000, "-2.50000", -2),
            (-1, "-0.00001", 0),
            (12_300_001, "123.00001", 123),
        ] {
            let quantity = Quantity::of_parts(parts);
            assert_eq!((quantity.to_string().as_str(), quantity.trunc()), (text, whole));
        }
        assert_eq!(Quantity::whole(3) - Quantity::whole(5), -Quantity::whole(2));
    }
}
