//! What a form asks, apart from its case blocks.

use chrono::{DateTime, Utc};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};

use crate::element::Element;
use crate::moment::Moment;
use crate::words::{ANSWERS, NAMES, QUESTIONS, REMARKS, VILLAGES};

/// The question that every filled form answers, never empty.
pub(crate) const REMARKS_QUESTION: &str = "remarks";

/// Some questions with their answers. `remarks` comes first.
pub(crate) fn questions(rng: &mut StdRng, count: usize, now: DateTime<Utc>, zone: i32) -> Vec<Element> {
    let mut questions = vec![Element::leaf(REMARKS_QUESTION, pick(rng, REMARKS))];
    let names: Vec<&str> = QUESTIONS
        .iter()
        .copied()
        .choose_multiple(rng, count.min(QUESTIONS.len()));
    let (plain, grouped) = names.split_at(names.len() / 2);
    questions.extend(plain.iter().map(|name| answer(rng, name)));
    questions.push(Element::leaf("visit_date", now.format("%Y-%m-%d").to_string()));
    questions.push(Element::leaf("visited_at", Moment { utc: now, zone }));
    questions.push(
        Element::new("examination")
            .child(Element::new("measures").children(grouped.iter().map(|name| answer(rng, name)).collect::<Vec<_>>()))
            .child(Element::leaf("summary", pick(rng, REMARKS))),
    );
    if rng.random_bool(0.4) {
        // A repeat of groups.
        for position in 0..rng.random_range(1..4_usize) {
            questions.push(
                Element::new("medicine")
                    .attribute("id", format!("m{position}"))
                    .child(Element::leaf("given_to", pick(rng, NAMES)))
                    .child(Element::leaf("times", position.to_string()))
                    .child(Element::leaf("given_on", Moment { utc: now, zone })),
            );
        }
    }
    if rng.random_bool(0.3) {
        // A repeat of plain answers.
        for _ in 0..rng.random_range(2..5_u8) {
            questions.push(Element::leaf("seen_at", pick(rng, VILLAGES)));
        }
    }
    questions
}

fn answer(rng: &mut StdRng, name: &str) -> Element {
    let element = Element::leaf(name, pick(rng, ANSWERS));
    if rng.random_bool(0.1) {
        element.attribute("unit", pick(rng, &["kg", "cm", "°C"]))
    } else {
        element
    }
}

/// One of several texts.
pub(crate) fn pick(rng: &mut StdRng, texts: &[&'static str]) -> &'static str {
    texts.choose(rng).copied().unwrap_or_default()
}
