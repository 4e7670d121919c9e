//! One difference between two documents.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// What kind of difference it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DiffType {
    /// Two values of the same type.
    Diff,
    /// Two values of different types.
    Type,
    /// A value on one side only.
    Missing,
    /// Two lists that were compared as sets; the sides are what only one of them has.
    SetMismatch,
    /// A field with another name on each side; the path is both names.
    Complex,
}

impl DiffType {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Diff, Self::Type, Self::Missing, Self::SetMismatch, Self::Complex];

    /// Its name in stored diffs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Diff => "diff",
            Self::Type => "type",
            Self::Missing => "missing",
            Self::SetMismatch => "set_mismatch",
            Self::Complex => "complex",
        }
    }

    /// The kind of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A step from a value to one inside of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathElement {
    /// Key of an object; also `[*]` for any element of a list.
    Key(Cow<'static, str>),
    /// Element of a list.
    Index(usize),
}

impl PathElement {
    /// The step to a key that is known at compile time.
    pub const fn key(name: &'static str) -> Self {
        Self::Key(Cow::Borrowed(name))
    }
}

impl std::fmt::Display for PathElement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Key(name) => f.write_str(name),
            Self::Index(position) => write!(f, "{position}"),
        }
    }
}

/// One side of a difference.
#[derive(Clone, Debug, PartialEq)]
pub enum Side {
    /// The key or the list element does not exist. Null is a value.
    Missing,
    /// The value.
    Value(Value),
}

impl Side {
    pub(crate) fn of(value: Option<&Value>) -> Self {
        value.map_or(Self::Missing, |value| Self::Value(value.clone()))
    }

    /// A text.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Value(Value::String(text.into()))
    }

    /// The value, unless missing.
    pub const fn as_value(&self) -> Option<&Value> {
        match self {
            Self::Missing => None,
            Self::Value(value) => Some(value),
        }
    }
}

/// A difference.
#[derive(Clone, Debug, PartialEq)]
pub struct Diff {
    /// Its kind.
    pub diff_type: DiffType,
    /// Where it is.
    pub path: Vec<PathElement>,
    /// What Couch has.
    pub old: Side,
    /// What SQL has.
    pub new: Side,
}

impl Diff {
    /// The path with its elements joined by `/`.
    pub fn path_text(&self) -> String {
        let elements: Vec<String> = self.path.iter().map(ToString::to_string).collect();
        elements.join("/")
    }

    /// The stored form: `{"type", "path", "old_value"?, "new_value"?}`; a missing side has no key.
    pub fn to_json(&self) -> Value {
        let path = self.path.iter().map(|element| match element {
            PathElement::Key(name) => Value::from(name.as_ref()),
            PathElement::Index(position) => Value::from(*position),
        });
        let mut json = Map::new();
        json.insert("type".to_owned(), Value::from(self.diff_type.as_str()));
        json.insert("path".to_owned(), path.collect());
        for (key, side) in [("old_value", &self.old), ("new_value", &self.new)] {
            if let Side::Value(value) = side {
                json.insert(key.to_owned(), value.clone());
            }
        }
        Value::Object(json)
    }

    /// Reads the stored form. Other keys, such as the reason of a change, are left to the caller.
    ///
    /// # Errors
    /// See [`DiffJsonError`].
    pub fn from_json(json: &Value) -> Result<Self, DiffJsonError> {
        let json = json.as_object().ok_or(DiffJsonError::NotAnObject)?;
        let diff_type = json.get("type").and_then(Value::as_str).and_then(DiffType::parse);
        let elements = json.get("path").and_then(Value::as_array).ok_or(DiffJsonError::Path)?;
        let mut path = Vec::with_capacity(elements.len());
        for element in elements {
            path.push(match element {
                Value::String(name) => PathElement::Key(Cow::Owned(name.clone())),
                other => {
                    let position = other.as_u64().and_then(|position| usize::try_from(position).ok());
                    PathElement::Index(position.ok_or(DiffJsonError::Path)?)
                }
            });
        }
        Ok(Self {
            diff_type: diff_type.ok_or(DiffJsonError::Type)?,
            path,
            old: Side::of(json.get("old_value")),
            new: Side::of(json.get("new_value")),
        })
    }
}

/// Why JSON is not a stored diff.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiffJsonError {
    /// Not an object.
    #[error("a stored diff is not an object")]
    NotAnObject,
    /// No known type.
    #[error("a stored diff has no known type")]
    Type,
    /// No path, or one with other elements than names and positions.
    #[error("a stored diff has no path of names and positions")]
    Path,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn stored_form_and_back() {
        for stored in [
            json!({"type": "diff", "path": ["form", "age"], "old_value": "1", "new_value": null}),
            json!({"type": "missing", "path": ["indices", "[*]"], "old_value": {"identifier": "parent"}}),
            json!({"type": "missing", "path": ["a", 3], "new_value": 1.50}),
            json!({"type": "set_mismatch", "path": ["xform_ids", "[*]"], "old_value": "", "new_value": "x"}),
            json!({"type": "complex", "path": [], "old_value": 1, "new_value": 2}),
        ] {
            assert_eq!(Diff::from_json(&stored).unwrap().to_json(), stored);
        }
        let change = json!({"type": "diff", "path": ["a"], "old_value": 1, "new_value": 2, "reason": "rebuild case"});
        assert_eq!(Diff::from_json(&change).unwrap().path_text(), "a");
    }

    #[test]
    fn what_is_not_a_stored_diff() {
        for (stored, error) in [
            (json!([]), DiffJsonError::NotAnObject),
            (json!({"type": "list_order", "path": []}), DiffJsonError::Type),
            (json!({"path": []}), DiffJsonError::Type),
            (json!({"type": "diff"}), DiffJsonError::Path),
            (json!({"type": "diff", "path": [-1]}), DiffJsonError::Path),
            (json!({"type": "diff", "path": [null]}), DiffJsonError::Path),
        ] {
            assert_eq!(Diff::from_json(&stored), Err(error), "{stored}");
        }
    }

    #[test]
    fn path_as_text() {
        let path = vec![
            PathElement::key("indices"),
            PathElement::key("[*]"),
            PathElement::Index(2),
        ];
        let diff = Diff {
            diff_type: DiffType::Diff,
            path,
            old: Side::Missing,
            new: Side::Missing,
        };
        assert_eq!(diff.path_text(), "indices/[*]/2");
    }
}
