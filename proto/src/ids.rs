//! Identifiers as types of their own.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Takes the text as it is; identifiers are compared byte by byte and never normalised.
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// The identifier's text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Gives the text up.
            pub fn into_string(self) -> String {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text)
            }
        }
    };
}

text_id! {
    /// A CommCare project space, the unit that is migrated and switched over.
    Domain
}
text_id! {
    /// `_id` of a form document, and `form_id` of its SQL row.
    FormId
}
text_id! {
    /// `_id` of a case document, and `case_id` of its SQL row.
    CaseId
}

/// A batch row of the state schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BatchId(pub i64);

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Which life of a domain's migration something belongs to. `reset` starts a new one; whatever carries an older one is
/// refused. The upper part counts, the lower 32 bits are random, so that a state schema restored from a back-up does not
/// take messages of its own lost future for its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub i64);

impl Epoch {
    /// The epoch that follows this one; `random` fills the lower half.
    pub fn next(self, random: u32) -> Self {
        Self((((self.0 >> 32) + 1) << 32) | i64::from(random))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:08x}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_epoch_is_greater_whatever_the_random_part() {
        let first = Epoch(0).next(u32::MAX);
        let second = first.next(0);
        assert!(second > first);
        assert_eq!(second.to_string(), "2-00000000");
    }
}
