//! Rules in words, for people who want to know what is not reported, and why.

use super::{Check, Expect, Group, Rule, Scope};

/// A rule in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// Name.
    pub id: &'static str,
    /// The documents it is for.
    pub documents: String,
    /// Kind of diff.
    pub diff_type: &'static str,
    /// Path, its elements joined by `/`.
    pub path: String,
    /// What Couch has.
    pub couch: String,
    /// What SQL has.
    pub sql: String,
    /// What else must hold; empty: nothing.
    pub when: String,
    /// Why the difference means nothing.
    pub reason: &'static str,
}

const ANY: &str = "any";

impl Rule {
    /// The rule in words.
    pub fn described(&self) -> Described {
        Described {
            id: self.id,
            documents: match self.scope {
                Scope::Group(group) => group.words().to_owned(),
                Scope::DocTypes(_, names) => names.join(", "),
            },
            diff_type: self.diff_type.map_or(ANY, super::DiffType::as_str),
            path: self.path.map_or_else(|| ANY.to_owned(), |path| path.join("/")),
            couch: self.old.words(),
            sql: self.new.words(),
            when: self.check.words(),
            reason: self.reason,
        }
    }
}

impl Group {
    const fn words(self) -> &'static str {
        match self {
            Self::Forms => "all forms",
            Self::Cases => "all cases",
            Self::Ledgers => "ledgers",
            Self::CaseAttachments => "attachments of cases",
        }
    }
}

impl Expect {
    fn words(self) -> String {
        match self {
            Self::Any => ANY.to_owned(),
            Self::Missing => "nothing".to_owned(),
            Self::Null => "null".to_owned(),
            Self::True => "true".to_owned(),
            Self::Text(text) => format!("{text:?}"),
            Self::EmptyObject => "{}".to_owned(),
        }
    }
}

impl Check {
    fn words(self) -> String {
        match self {
            Self::None => String::new(),
            Self::Under(key) => format!("the path begins with {key}"),
            Self::DateTimes => "both are date-times".to_owned(),
            Self::LeadingZero => "SQL's text begins with a zero, and both are the same number".to_owned(),
            Self::XmlNoise => "the path ends with #text or @xmlns, and Couch has an empty text or nothing".to_owned(),
            Self::Cut => "Couch's text is longer than 255 characters, and SQL has its first 255".to_owned(),
            Self::SupplyPointForm => "the form is one of a supply point".to_owned(),
            Self::NoCreateAction => "no action of the Couch case creates it".to_owned(),
            Self::Renamed { couch, sql } => {
                format!("{couch} in Couch equals {sql} in SQL; if not, one complex diff stands for both")
            }
            Self::XformIds => "compared as sets of form ids".to_owned(),
            Self::CaseAttachments => "the path begins with case_attachments; compared one by one".to_owned(),
            Self::IndexOrder => {
                "the path begins with indices, and Couch has two or more; compared by identifier".to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::all;

    #[test]
    fn no_two_rules_are_described_alike() {
        let mut met = HashSet::new();
        for rule in all() {
            let mut described = rule.described();
            described.id = "";
            described.reason = "";
            assert!(met.insert(format!("{described:?}")), "{}", rule.id);
        }
    }

    #[test]
    fn a_rule_in_words() {
        let rule = all().iter().find(|rule| rule.id == "case-deleted-doc-type");
        let described = rule.map(super::Rule::described);
        let told = described.map(|rule| {
            format!(
                "{} {} [{}] {} -> {}",
                rule.documents, rule.diff_type, rule.path, rule.couch, rule.sql
            )
        });
        assert_eq!(
            told.as_deref(),
            Some(
                "CommCareCase-Deleted, CommCareCase-Deleted-Deleted diff [doc_type] \"CommCareCase-Deleted\" -> \"CommCareCase\""
            )
        );
    }
}
