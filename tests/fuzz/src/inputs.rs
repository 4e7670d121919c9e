//! Which input a seed and a number stand for.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::corpus::{self, Seed};
use crate::{forms, json, mutations};

/// Largest input.
pub const MAX_INPUT_BYTES: usize = 1 << 20;

/// What the bytes of an input are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `form.xml`.
    Xml,
    /// Form JSON, as a document of CouchDB holds it.
    Json,
    /// Texts that may be dates, one a line.
    Dates,
}

impl Kind {
    /// Ending of the name of a file that holds such an input.
    pub const fn ending(self) -> &'static str {
        match self {
            Self::Xml => "xml",
            Self::Json => "json",
            Self::Dates => "txt",
        }
    }
}

/// One input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// What it is.
    pub kind: Kind,
    /// Its bytes, at most [`MAX_INPUT_BYTES`].
    pub bytes: Vec<u8>,
}

/// Makes inputs.
pub struct Inputs {
    seed: u64,
    corpus: Vec<Seed>,
}

impl Inputs {
    /// For this seed.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            corpus: corpus::all(),
        }
    }

    /// How many inputs every run must do: the corpus.
    pub fn least(&self) -> u64 {
        self.corpus.len() as u64
    }

    /// The input with this number: first the corpus as it is, then everything else.
    pub fn input(&self, number: u64) -> Input {
        let seed = usize::try_from(number)
            .ok()
            .and_then(|position| self.corpus.get(position));
        let mut input = match seed {
            Some(seed) => seed.input.clone(),
            None => self.made(number),
        };
        input.bytes.truncate(MAX_INPUT_BYTES);
        input
    }

    fn made(&self, number: u64) -> Input {
        // Far apart for neighbouring numbers; StdRng mixes the rest.
        let mut rng = StdRng::seed_from_u64(self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let rng = &mut rng;
        match rng.random_range(0..100) {
            0..25 => {
                let mut input = self.any_seed(rng);
                mutations::mutate(rng, &mut input.bytes);
                input
            }
            25..55 => Input {
                kind: Kind::Xml,
                bytes: forms::form(rng),
            },
            55..65 => {
                let mut bytes = forms::form(rng);
                mutations::mutate(rng, &mut bytes);
                Input { kind: Kind::Xml, bytes }
            }
            65..75 => Input {
                kind: Kind::Xml,
                bytes: forms::dense(rng),
            },
            75..93 => {
                let seed = self.any_seed(rng);
                let bytes = json::form(rng, &seed);
                Input {
                    kind: Kind::Json,
                    bytes,
                }
            }
            _ => Input {
                kind: Kind::Dates,
                bytes: forms::dates(rng).into_bytes(),
            },
        }
    }

    fn any_seed(&self, rng: &mut StdRng) -> Input {
        match self.corpus.choose(rng) {
            Some(seed) => seed.input.clone(),
            None => Input {
                kind: Kind::Xml,
                bytes: Vec::new(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_depends_on_seed_and_number_alone() {
        let (one, two, other) = (Inputs::new(1), Inputs::new(1), Inputs::new(2));
        let mut differing = 0;
        for number in 0..300 {
            assert_eq!(one.input(number), two.input(number), "{number}");
            differing += u64::from(one.input(number) != other.input(number));
        }
        let corpus = corpus::all().len() as u64;
        assert!(differing > 250 - corpus, "{differing}");
    }

    #[test]
    fn all_kinds_and_sizes_occur() {
        let inputs = Inputs::new(7);
        let made: Vec<Input> = (0..400).map(|number| inputs.input(number)).collect();
        for kind in [Kind::Xml, Kind::Json, Kind::Dates] {
            assert!(made.iter().any(|input| input.kind == kind), "{kind:?}");
        }
        assert!(made.iter().all(|input| input.bytes.len() <= MAX_INPUT_BYTES));
        assert!(
            made.iter()
                .filter(|input| input.bytes.len() > MAX_INPUT_BYTES / 2)
                .count()
                > 10
        );
        // The generator must make forms that are read, or nothing behind the reader is ever tried.
        let small = made
            .iter()
            .filter(|input| input.kind == Kind::Xml && input.bytes.len() < 20_000);
        let read: Vec<_> = small.filter_map(|input| xform::read_form(&input.bytes).ok()).collect();
        assert!(read.len() > 50, "{}", read.len());
        let with_ledgers = read.iter().filter(|form| !form.ledgers.is_empty()).count();
        assert!(with_ledgers > 10, "{with_ledgers}");
        let has_cases =
            |form: &&xform::ReadForm| xform::case_updates(&form.body).is_ok_and(|updates| !updates.is_empty());
        let with_cases = read.iter().filter(has_cases).count();
        assert!(with_cases > 10, "{with_cases}");
    }
}
