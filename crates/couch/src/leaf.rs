//! One leaf revision of an answer of many documents. Each is parsed by itself, so that a document that cannot be parsed says
//! nothing against the others, nor against the server.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{Error, Result};

/// What the parser says of a text that is nested more deeply than it takes.
const TOO_DEEP: &str = "recursion limit exceeded";

/// A leaf revision of a document.
pub(crate) struct Leaf {
    pub(crate) rev: String,
    pub(crate) deleted: bool,
    /// Its body.
    pub(crate) document: Result<Value>,
}

/// What can be told of a document whose body cannot be parsed.
#[derive(Default, Deserialize)]
struct Head {
    #[serde(default, rename = "_rev")]
    rev: String,
    #[serde(default, rename = "_deleted")]
    deleted: bool,
}

impl Leaf {
    fn parse(text: &str) -> Self {
        match serde_json::from_str::<Value>(text) {
            Ok(document) => Self {
                rev: document
                    .get("_rev")
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned(),
                deleted: document.get("_deleted").and_then(Value::as_bool).unwrap_or(false),
                document: Ok(document),
            },
            Err(error) => {
                let Head { rev, deleted } = serde_json::from_str(text).unwrap_or_default();
                Self {
                    rev,
                    deleted,
                    document: Err(unreadable(&error)),
                }
            }
        }
    }
}

impl<'de> Deserialize<'de> for Leaf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        // The text is passed over here without a limit of its depth.
        let text = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Self::parse(text.get()))
    }
}

fn unreadable(error: &serde_json::Error) -> Error {
    let reason = if error.to_string().starts_with(TOO_DEEP) {
        "it is nested more than 127 levels deep".to_owned()
    } else {
        format!(
            "{:?} error at line {} column {}",
            error.classify(),
            error.line(),
            error.column()
        )
    };
    Error::Unreadable { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(levels: usize) -> String {
        // The document itself is a level.
        let (open, close) = ("[".repeat(levels - 1), "]".repeat(levels - 1));
        format!(r#"{{"_id":"f","_rev":"3-x","form":{open}{close}}}"#)
    }

    fn reason(text: &str) -> Option<String> {
        Leaf::parse(text).document.err().map(|error| error.to_string())
    }

    #[test]
    fn a_document_is_taken_up_to_a_depth_and_named_above_it() {
        assert_eq!(reason(&nested(127)), None);
        let deep = Leaf::parse(&nested(128));
        assert_eq!((deep.rev.as_str(), deep.deleted), ("3-x", false));
        assert_eq!(
            reason(&nested(5000)).as_deref(),
            Some("the document cannot be read: it is nested more than 127 levels deep")
        );
    }

    #[test]
    fn what_is_no_text_is_told_by_its_place_without_content() {
        let half = r#"{"_rev":"2-y","_deleted":true,"name":"Mina \ud800"}"#;
        let leaf = Leaf::parse(half);
        assert_eq!((leaf.rev.as_str(), leaf.deleted), ("2-y", true));
        let reason = reason(half).unwrap_or_default();
        assert!(
            reason.contains("Syntax error at line 1") && !reason.contains("Mina"),
            "{reason}"
        );
    }
}
