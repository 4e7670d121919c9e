//! System actions: forms by which HQ put on record what it did to other documents while their domain was being migrated.
//!
//! What they did is done in Couch already. So they are not replayed here: the documents that they name are looked at
//! again, and what Couch says of them now is what becomes of them.

use serde_json::Value;

/// Namespace of the forms that hold a system action.
pub const SYSTEM_ACTION_XMLNS: &str = "http://commcarehq.org/system/action";

/// Documents that a system action was about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SystemAction {
    /// Ids of its forms, and of its case if it has one.
    pub documents: Vec<String>,
}

/// Why a system action cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ActionFault {
    /// No such action is known.
    #[error("its name is none that HQ knows")]
    Name,
    /// The arguments are no JSON list.
    #[error("its arguments are no list in JSON")]
    Arguments,
    /// The arguments are not those of the action.
    #[error("its arguments do not fit its name")]
    Shape,
}

/// The action that a form of [`SYSTEM_ACTION_XMLNS`] holds.
///
/// # Errors
/// [`ActionFault`].
pub fn system_action(form: &Value) -> Result<SystemAction, ActionFault> {
    let text = |key: &str| form.get(key).and_then(Value::as_str);
    let name = text("name").ok_or(ActionFault::Name)?;
    let arguments: Vec<Value> = text("args")
        .and_then(|args| serde_json::from_str(args).ok())
        .ok_or(ActionFault::Arguments)?;
    let documents = match name {
        "archive_form" | "unarchive_form" => arguments.first().and_then(id).map(|form| vec![form]),
        "hard_delete_case_and_forms" => match arguments.as_slice() {
            [case, Value::Array(forms), ..] => id(case)
                .into_iter()
                .map(Some)
                .chain(forms.iter().map(id))
                .collect::<Option<Vec<String>>>()
                .filter(|ids| ids.len() == forms.len() + 1),
            _ => None,
        },
        _ => return Err(ActionFault::Name),
    };
    documents
        .map(|documents| SystemAction { documents })
        .ok_or(ActionFault::Shape)
}

fn id(value: &Value) -> Option<String> {
    value.as_str().filter(|id| !id.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn action(name: &str, args: &str) -> Result<Vec<String>, ActionFault> {
        system_action(&json!({"name": name, "args": args, "meta": {"deviceID": name}})).map(|action| action.documents)
    }

    #[test]
    fn actions_name_their_documents() {
        for name in ["archive_form", "unarchive_form"] {
            assert_eq!(action(name, r#"["f-1", "u-1", null]"#).unwrap(), ["f-1"]);
        }
        assert_eq!(
            action("hard_delete_case_and_forms", r#"["c-1", ["f-1", "f-2"]]"#).unwrap(),
            ["c-1", "f-1", "f-2"]
        );
        assert_eq!(action("hard_delete_case_and_forms", r#"["c-1", []]"#).unwrap(), ["c-1"]);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for (name, args, fault) in [
            ("archive_form", "", ActionFault::Arguments),
            ("archive_form", "f-1", ActionFault::Arguments),
            ("archive_form", r#"{"form": "f-1"}"#, ActionFault::Arguments),
            ("archive_form", "[]", ActionFault::Shape),
            ("archive_form", "[7]", ActionFault::Shape),
            ("archive_form", r#"[""]"#, ActionFault::Shape),
            ("hard_delete_case_and_forms", r#"["c-1"]"#, ActionFault::Shape),
            ("hard_delete_case_and_forms", r#"["c-1", "f-1"]"#, ActionFault::Shape),
            ("hard_delete_case_and_forms", r#"[null, ["f-1"]]"#, ActionFault::Shape),
            (
                "hard_delete_case_and_forms",
                r#"["c-1", ["f-1", 2]]"#,
                ActionFault::Shape,
            ),
            ("drop_everything", "[]", ActionFault::Name),
        ] {
            assert_eq!(action(name, args), Err(fault), "{name} {args}");
        }
        assert_eq!(system_action(&json!({})), Err(ActionFault::Name));
    }
}
