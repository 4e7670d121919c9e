//! Document ids that PostgreSQL can neither hold nor index. Couch takes any text as an id; a text with U+0000, or one that is
//! too long for an index, would end every run. Such a document cannot be in SQL: it goes on record under a readable form of
//! its id, and no stage ever gets it.

use proto::doctype::DocType;
use state::unusable::UNUSABLE_ID;
use uuid::Uuid;

use super::{Driver, Step};

/// Bytes of an id that is taken; HQ's columns hold 255 characters.
const LONGEST: usize = 1024;
/// Characters of such an id that are shown.
const SHOWN: usize = 60;
/// Begins what a cursor holds of an id that it cannot hold as it is.
const ESCAPED: char = '\u{1}';

/// Whether the databases can hold and index an id.
pub(crate) fn is_usable(id: &str) -> bool {
    id.len() <= LONGEST && !id.contains('\0')
}

/// An id as it can be put on record: one that is not usable as its beginning, its length and a digest.
pub(crate) fn on_record(id: &str) -> String {
    if is_usable(id) {
        return id.to_owned();
    }
    let beginning: String = id.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    let digest = Uuid::new_v5(&Uuid::NAMESPACE_OID, id.as_bytes());
    format!("{beginning}... ({} bytes, {digest})", id.len())
}

/// What a cursor holds of an id.
pub(crate) fn for_cursor(id: &str) -> String {
    if id.contains(['\0', ESCAPED]) {
        format!("{ESCAPED}{}", serde_json::Value::from(id))
    } else {
        id.to_owned()
    }
}

/// The id that a cursor holds.
pub(super) fn of_cursor(text: &str) -> Option<String> {
    match text.strip_prefix(ESCAPED) {
        Some(escaped) => serde_json::from_str(escaped).ok(),
        None => Some(text.to_owned()),
    }
}

impl Driver {
    /// Puts documents on record whose ids cannot be used.
    pub(super) async fn set_aside(&self, doc_type: DocType, unusable: &[String]) -> Step<()> {
        if unusable.is_empty() {
            return Ok(());
        }
        tracing::warn!(
            code = UNUSABLE_ID,
            documents = unusable.len(),
            doc_type = doc_type.as_str(),
            "documents have ids that PostgreSQL cannot hold or index"
        );
        let shown: Vec<String> = unusable.iter().map(|id| on_record(id)).collect();
        let state = &self.context.state;
        Ok(state.record_unusable(&self.lease, doc_type, &shown).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_holds_every_id_without_zero() {
        for id in ["", "f1", "a\0b", "\0", "\u{1}x", "a\u{1}\0\"\\", &"é".repeat(3000)] {
            let held = for_cursor(id);
            assert!(!held.contains('\0'), "{held:?}");
            assert_eq!(of_cursor(&held).as_deref(), Some(id));
        }
        assert_eq!(for_cursor("f1"), "f1");
        assert_eq!(of_cursor("\u{1}no text"), None);
    }

    #[test]
    fn an_id_on_record_is_short_and_its_own() {
        assert_eq!(on_record("f1"), "f1");
        let (one, other) = (
            on_record(&format!("{}a", "x".repeat(3000))),
            on_record(&format!("{}b", "x".repeat(3000))),
        );
        assert!(is_usable(&one) && one != other && one.starts_with("xxx"), "{one}");
        let zero = on_record("a\0b");
        assert!(is_usable(&zero) && zero.starts_with("a\\0b..."), "{zero}");
        assert!(is_usable(&"x".repeat(1024)) && !is_usable(&"x".repeat(1025)));
    }
}
