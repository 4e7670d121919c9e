//! Which differences mean nothing.
//!
//! [`all`] is the one table of rules. A rule drops a diff when its kind, path, sides and check all match; a check may also
//! put other diffs in the place of the one it looked at. For one document the rules of its doc type come before those of
//! its group, and rules with a fixed path before the others; the first that matches decides.

mod described;
mod table;

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

use crate::UnknownDocType;
use crate::diff::DiffType;
use crate::json::{Found, Step};

pub use described::Described;

/// One rule.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Name, unique in the table.
    pub id: &'static str,
    /// The documents it is for.
    pub scope: Scope,
    /// Kind of diff; `None`: any.
    pub diff_type: Option<DiffType>,
    /// Path of the diff; `None`: any.
    pub path: Option<&'static [&'static str]>,
    /// What Couch has.
    pub old: Expect,
    /// What SQL has.
    pub new: Expect,
    /// What else must hold.
    pub check: Check,
    /// Why the difference means nothing.
    pub reason: &'static str,
}

/// The documents that a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All documents of a group.
    Group(Group),
    /// Documents of the group with one of these Couch doc types.
    DocTypes(Group, &'static [&'static str]),
}

/// What is compared by the same rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Forms of all doc types.
    Forms,
    /// Cases of all doc types.
    Cases,
    /// Ledger values.
    Ledgers,
    /// The attachments of a case, one by one.
    CaseAttachments,
}

impl Group {
    /// The Couch doc types of the group that are compared. A doc type that is not here has no rules, and is refused.
    const fn doc_types(self) -> &'static [&'static str] {
        match self {
            Self::Forms => &[
                "XFormInstance",
                "XFormInstance-Deleted",
                "HQSubmission",
                "XFormArchived",
                "XFormError",
                "XFormDuplicate",
                "XFormDeprecated",
            ],
            Self::Cases => &["CommCareCase", "CommCareCase-Deleted", "CommCareCase-Deleted-Deleted"],
            Self::Ledgers | Self::CaseAttachments => &[],
        }
    }
}

/// What a rule expects of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Anything, or nothing.
    Any,
    /// Nothing.
    Missing,
    /// Null.
    Null,
    /// True, or a number that Python calls equal to it.
    True,
    /// This text.
    Text(&'static str),
    /// An object without keys.
    EmptyObject,
}

impl Expect {
    fn matches(self, side: Option<&Value>) -> bool {
        match (self, side) {
            (Self::Any, _) | (Self::Missing, None) | (Self::Null, Some(Value::Null)) => true,
            (Self::True, Some(value)) => crate::python::equal(value, &Value::Bool(true)),
            (Self::Text(expected), Some(Value::String(text))) => text == expected,
            (Self::EmptyObject, Some(Value::Object(object))) => object.is_empty(),
            _ => false,
        }
    }
}

/// What else a rule looks at, beside the diff's own kind, path and sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Nothing.
    None,
    /// The path begins with this key.
    Under(&'static str),
    /// Both sides are date-time texts.
    DateTimes,
    /// SQL's text begins with a zero, and both texts are the same number.
    LeadingZero,
    /// The path ends with `#text` or `@xmlns`, and Couch has an empty text or nothing.
    XmlNoise,
    /// Couch's text is longer than 255 characters, and its first 255 are SQL's text.
    Cut,
    /// The form is one of a supply point.
    SupplyPointForm,
    /// No action of the Couch case creates it.
    NoCreateAction,
    /// The field has another name in SQL. Both values equal, or both date-times: dropped; different: one diff of kind
    /// `complex` for both fields; only one field there: no match.
    Renamed {
        /// Name in Couch.
        couch: &'static str,
        /// Name in SQL.
        sql: &'static str,
    },
    /// `xform_ids` compared as sets.
    XformIds,
    /// Case attachments compared one by one, by their own rules.
    CaseAttachments,
    /// Indices, when Couch has at least two, compared in the order of their identifiers.
    IndexOrder,
}

/// The table.
pub fn all() -> &'static [Rule] {
    table::RULES
}

/// The rules of one kind of document, ready for look-up.
#[derive(Debug, Default)]
pub(crate) struct RuleSet {
    /// Rules with a fixed path, by its first element.
    fixed: HashMap<&'static str, Vec<&'static Rule>>,
    open: Vec<&'static Rule>,
    dropped_whole: Option<&'static str>,
}

impl RuleSet {
    fn add(&mut self, rule: &'static Rule) {
        match rule.path {
            Some([head, ..]) => self.fixed.entry(head).or_default().push(rule),
            _ => self.open.push(rule),
        }
        if let Rule {
            diff_type: None,
            old: Expect::Any,
            new: Expect::Any,
            check: Check::Under(key),
            ..
        } = rule
        {
            self.dropped_whole = Some(key);
        }
    }

    /// A top-level key whose differences are all dropped, so that they need not be looked for.
    pub(crate) fn dropped_whole(&self) -> Option<&'static str> {
        self.dropped_whole
    }

    /// The rules that match the diff but for their check, in the order in which they are tried.
    pub(crate) fn candidates<'r>(&'r self, found: &Found<'r, 'r>) -> impl Iterator<Item = &'static Rule> + 'r {
        let found = *found;
        let fixed = match found.path.first() {
            Some(Step::Key(head)) => self.fixed.get(head).map_or(&[][..], Vec::as_slice),
            _ => &[],
        };
        fixed
            .iter()
            .chain(&self.open)
            .copied()
            .filter(move |rule| rule.matches(&found))
    }
}

impl Rule {
    fn matches(&self, found: &Found<'_, '_>) -> bool {
        self.diff_type.is_none_or(|diff_type| diff_type == found.diff_type)
            && self.path.is_none_or(|path| {
                path.len() == found.path.len() && found.path.iter().zip(path).all(|(step, name)| step.is_key(name))
            })
            && self.old.matches(found.old)
            && self.new.matches(found.new)
    }
}

/// All rules, sorted by the documents they are for.
#[derive(Debug)]
pub(crate) struct RuleBook {
    forms: HashMap<&'static str, RuleSet>,
    cases: HashMap<&'static str, RuleSet>,
    ledgers: RuleSet,
    case_attachments: RuleSet,
}

impl RuleBook {
    /// The rules as they are in force.
    pub(crate) fn standard() -> &'static Self {
        static STANDARD: LazyLock<RuleBook> = LazyLock::new(|| RuleBook::of(|_| true));
        &STANDARD
    }

    /// The rules that are wanted.
    pub(crate) fn of(wanted: impl Fn(&Rule) -> bool) -> Self {
        let rules: Vec<&'static Rule> = all().iter().filter(|rule| wanted(rule)).collect();
        let of_group = |group: Group| {
            let mut set = RuleSet::default();
            rules
                .iter()
                .filter(|rule| rule.scope == Scope::Group(group))
                .for_each(|rule| set.add(rule));
            set
        };
        let by_doc_type = |group: Group| {
            let of = |doc_type: &'static str| {
                let own = rules.iter().filter(
                    |rule| matches!(rule.scope, Scope::DocTypes(of, names) if of == group && names.contains(&doc_type)),
                );
                let shared = rules.iter().filter(|rule| rule.scope == Scope::Group(group));
                let mut set = RuleSet::default();
                own.chain(shared).for_each(|rule| set.add(rule));
                set
            };
            group
                .doc_types()
                .iter()
                .map(|doc_type| (*doc_type, of(doc_type)))
                .collect()
        };
        Self {
            forms: by_doc_type(Group::Forms),
            cases: by_doc_type(Group::Cases),
            ledgers: of_group(Group::Ledgers),
            case_attachments: of_group(Group::CaseAttachments),
        }
    }

    /// The rules for a document of the group, by its Couch doc type.
    pub(crate) fn of_document(&self, group: Group, couch: &Value) -> Result<&RuleSet, UnknownDocType> {
        let doc_type = couch.get("doc_type").and_then(Value::as_str).unwrap_or_default();
        let sets = if group == Group::Forms {
            &self.forms
        } else {
            &self.cases
        };
        sets.get(doc_type).ok_or_else(|| UnknownDocType(doc_type.to_owned()))
    }

    pub(crate) fn ledgers(&self) -> &RuleSet {
        &self.ledgers
    }

    pub(crate) fn case_attachments(&self) -> &RuleSet {
        &self.case_attachments
    }
}

#[cfg(test)]
mod samples;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
