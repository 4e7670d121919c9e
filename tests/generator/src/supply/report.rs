//! What a form says of stock.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::ledger::{Amount, Entry, Ledger, Movement, Quantity, ReportDate, Spelling};

/// Sections of a ledger.
pub(super) const SECTIONS: [&str; 3] = ["stock", "emergency", "losses"];

/// What all blocks of a form share.
#[derive(Clone)]
pub(super) struct Manner {
    pub(super) date: ReportDate,
    pub(super) prefix: Option<&'static str>,
    pub(super) decoys: bool,
    /// Whether quantities have fractions.
    pub(super) fractions: bool,
}

impl Manner {
    fn block(&self, movement: Movement, spelling: Spelling, mut entries: Vec<Entry>) -> Ledger {
        if self.fractions {
            let amounts = entries.iter_mut().flat_map(|entry| &mut entry.amounts);
            amounts.for_each(|(_, amount)| amount.add_fraction());
        }
        Ledger {
            movement,
            date: self.date.clone(),
            subtype: None,
            spelling,
            prefix: self.prefix,
            entries,
            decoys: self.decoys,
        }
    }
}

/// The weekly report of a location: one of several ways to say what it has.
pub(super) fn weekly(rng: &mut StdRng, manner: &Manner, case_id: &str, products: &[&str]) -> Vec<Ledger> {
    let balance = || Movement::Balance {
        entity: case_id.to_owned(),
    };
    let stock = Spelling::Individual(SECTIONS[0]);
    match rng.random_range(0..6_u8) {
        // One count of everything.
        0 | 1 => {
            let entries = products.iter().map(|product| counted(rng, product, &SECTIONS[..1]));
            let entries = entries.collect();
            let mut block = manner.block(balance(), stock, entries);
            block.subtype = [None, Some("stockonhand"), Some("physical count"), Some("")][rng.random_range(0..4)];
            vec![block]
        }
        // Several sections at once.
        2 => full_count(rng, manner, case_id, products),
        // A block for each product.
        3 => products
            .iter()
            .map(|product| {
                let entries = vec![counted(rng, product, &SECTIONS[..1])];
                manner.block(balance(), stock, entries)
            })
            .collect(),
        // What came and what went, without a count.
        4 => {
            let came = manner.block(
                Movement::Transfer {
                    src: None,
                    dest: Some(case_id.to_owned()),
                },
                stock,
                products
                    .iter()
                    .map(|product| moved(rng, product, &SECTIONS[..1]))
                    .collect(),
            );
            let mut went = manner.block(
                Movement::Transfer {
                    src: Some(case_id.to_owned()),
                    dest: None,
                },
                Spelling::PerEntry,
                products
                    .iter()
                    .map(|product| moved(rng, product, &SECTIONS[..2]))
                    .collect(),
            );
            went.subtype = subtype(rng);
            vec![came, went]
        }
        // What came, the count afterwards, and what was lost since: three changes of each ledger.
        _ => {
            let product: Vec<&str> = products.choose(rng).copied().into_iter().collect();
            let mut came = manner.block(
                Movement::Transfer {
                    src: None,
                    dest: Some(case_id.to_owned()),
                },
                stock,
                product
                    .iter()
                    .map(|product| moved(rng, product, &SECTIONS[..1]))
                    .collect(),
            );
            came.subtype = subtype(rng);
            let entries = products.iter().map(|product| counted(rng, product, &SECTIONS[..1]));
            let count = manner.block(balance(), stock, entries.collect());
            let mut lost = manner.block(
                Movement::Transfer {
                    src: Some(case_id.to_owned()),
                    dest: None,
                },
                stock,
                // The same product twice in one block.
                [&product[..], &product[..]]
                    .concat()
                    .iter()
                    .map(|product| moved(rng, product, &SECTIONS[..1]))
                    .collect(),
            );
            lost.subtype = Some("loss");
            vec![came, count, lost]
        }
    }
}

/// The count of all sections, as at the opening and each month.
pub(super) fn full_count(rng: &mut StdRng, manner: &Manner, case_id: &str, products: &[&str]) -> Vec<Ledger> {
    let entries = products
        .iter()
        .map(|product| {
            let sections = rng.random_range(1..=SECTIONS.len());
            counted(rng, product, &SECTIONS[..sections])
        })
        .collect();
    let movement = Movement::Balance {
        entity: case_id.to_owned(),
    };
    vec![manner.block(movement, Spelling::PerEntry, entries)]
}

/// Stock that goes from one location to another.
pub(super) fn transfer(rng: &mut StdRng, manner: &Manner, src: &str, dest: &str, products: &[&str]) -> Vec<Ledger> {
    let spelling = [Spelling::Individual(SECTIONS[0]), Spelling::PerEntry][rng.random_range(0..2)];
    let sections = if spelling == Spelling::PerEntry { 2 } else { 1 };
    let movement = Movement::Transfer {
        src: Some(src.to_owned()),
        dest: Some(dest.to_owned()),
    };
    let entries = products
        .iter()
        .map(|product| moved(rng, product, &SECTIONS[..sections]))
        .collect();
    let mut block = manner.block(movement, spelling, entries);
    block.subtype = subtype(rng);
    vec![block]
}

/// Sub-types: none, one that only repeats the action, one that does not fit its column.
fn subtype(rng: &mut StdRng) -> Option<&'static str> {
    [
        None,
        Some("consumption"),
        Some("receipts"),
        Some("loan"),
        Some("donation of the ministry of health"),
        Some("መድኃኒት ወደ ሌላ ጤና ጣቢያ የተላለፈ"),
    ][rng.random_range(0..6)]
}

fn counted(rng: &mut StdRng, product: &str, sections: &[&'static str]) -> Entry {
    let number = if rng.random_bool(0.1) {
        0
    } else {
        rng.random_range(1..250)
    };
    entry(rng, product, sections, number)
}

fn moved(rng: &mut StdRng, product: &str, sections: &[&'static str]) -> Entry {
    let number = rng.random_range(0..90);
    entry(rng, product, sections, number)
}

fn entry(rng: &mut StdRng, product: &str, sections: &[&'static str], number: i64) -> Entry {
    let mut next = number;
    let amounts = sections.iter().map(|section| {
        let amount = amount(rng, next);
        next = (next * 7 + 3) % 60;
        (*section, amount)
    });
    Entry {
        product: product.to_owned(),
        amounts: amounts.collect(),
    }
}

/// A whole number as phones and spreadsheets write it; or, rarely, none at all.
fn amount(rng: &mut StdRng, number: i64) -> Amount {
    let text = match rng.random_range(0..40_u8) {
        0 => format!("{number}.0"),
        1 => format!("{number}.00000"),
        2 => format!("0{number}"),
        3 if number % 10 == 0 => format!("{}e1", number / 10),
        4 => {
            let text = ["", "none", "12 boxes"][rng.random_range(0..3)].to_owned();
            return Amount { text, value: None };
        }
        _ => number.to_string(),
    };
    Amount {
        text,
        value: Some(Quantity::whole(number)),
    }
}
