//! The differences of one document, run through its rules.

use std::borrow::Cow;
use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::datetime::{is_couch_datetime_text, is_datetime_text};
use crate::diff::{Diff, DiffType, PathElement, Side};
use crate::json::{ANY_INDEX, Found, ListIndices, Step, walk};
use crate::python;
use crate::rules::{Check, Rule, RuleBook, RuleSet};

/// `xmlns` of the forms by which HQ keeps supply points.
const SUPPLY_POINT_XMLNS: &str = "http://commtrack.org/supply_point";

/// What becomes of a difference.
enum Verdict {
    Keep,
    Drop,
    /// Dropped, and these in its place.
    Replace(Vec<Diff>),
}

/// Takes differences one by one, and keeps those that mean something.
pub(crate) struct Filter<'d> {
    book: &'d RuleBook,
    rules: &'d RuleSet,
    couch: Option<&'d Map<String, Value>>,
    sql: Option<&'d Map<String, Value>>,
    diffs: Vec<Diff>,
    /// Kind and path of diffs that stand in the place of others: each counts once.
    replacements: HashSet<(DiffType, Vec<PathElement>)>,
    /// Checks that look at a whole part of the documents, and therefore give the same for every diff inside of it.
    answered: Vec<Check>,
}

impl<'d> Filter<'d> {
    pub(crate) fn new(
        book: &'d RuleBook,
        rules: &'d RuleSet,
        couch: Option<&'d Map<String, Value>>,
        sql: Option<&'d Map<String, Value>>,
    ) -> Self {
        Self {
            book,
            rules,
            couch,
            sql,
            diffs: Vec::new(),
            replacements: HashSet::new(),
            answered: Vec::new(),
        }
    }

    pub(crate) fn take(&mut self, found: &Found<'_, '_>) {
        match self.verdict(found) {
            Verdict::Drop => {}
            Verdict::Keep => self.diffs.push(found.to_diff()),
            Verdict::Replace(diffs) => {
                for diff in diffs {
                    if self.replacements.insert((diff.diff_type, diff.path.clone())) {
                        self.diffs.push(diff);
                    }
                }
            }
        }
    }

    pub(crate) fn into_diffs(self) -> Vec<Diff> {
        self.diffs
    }

    fn verdict(&mut self, found: &Found<'_, '_>) -> Verdict {
        let rules = self.rules;
        for rule in rules.candidates(found) {
            match self.check(rule.check, found) {
                Verdict::Keep => {}
                decided => return decided,
            }
        }
        Verdict::Keep
    }

    /// What a check says of a diff that matches its rule otherwise; `Keep` when it does not match.
    fn check(&mut self, check: Check, found: &Found<'_, '_>) -> Verdict {
        let matches = match check {
            Check::None => true,
            Check::Under(name) => is_under(found, name),
            Check::DateTimes => both_texts(found, |old, new| is_couch_datetime_text(old) && is_datetime_text(new)),
            Check::LeadingZero => both_texts(found, |old, new| {
                new.starts_with('0')
                    && matches!((python::float(old), python::float(new)), (Some(old), Some(new)) if old == new)
            }),
            Check::XmlNoise => {
                matches!(found.path.last(), Some(Step::Key("#text" | "@xmlns")))
                    && found.old.is_none_or(|old| old.as_str() == Some(""))
            }
            Check::Cut => both_texts(found, |old, new| match old.char_indices().nth(255) {
                Some((end, _)) => &old[..end] == new,
                None => false,
            }),
            Check::SupplyPointForm => couch_text(self.couch, "xmlns") == Some(SUPPLY_POINT_XMLNS),
            Check::NoCreateAction => !self
                .couch_items("actions")
                .iter()
                .any(|action| action.get("action_type").and_then(Value::as_str) == Some("create")),
            Check::Renamed { couch, sql } => {
                return if is_under(found, couch) || is_under(found, sql) {
                    self.renamed(couch, sql)
                } else {
                    Verdict::Keep
                };
            }
            Check::XformIds => return self.once(check, Self::xform_ids),
            Check::CaseAttachments if is_under(found, "case_attachments") => {
                return self.once(check, Self::case_attachments);
            }
            Check::IndexOrder if is_under(found, "indices") && self.couch_items("indices").len() >= 2 => {
                return self.once(check, Self::indices);
            }
            Check::CaseAttachments | Check::IndexOrder => false,
        };
        if matches { Verdict::Drop } else { Verdict::Keep }
    }

    fn once(&mut self, check: Check, answer: impl Fn(&Self) -> Vec<Diff>) -> Verdict {
        if self.answered.contains(&check) {
            return Verdict::Drop;
        }
        self.answered.push(check);
        Verdict::Replace(answer(self))
    }

    fn couch_items(&self, key: &str) -> &'d [Value] {
        items(self.couch, key)
    }

    fn renamed(&self, couch_name: &'static str, sql_name: &'static str) -> Verdict {
        let couch = self.couch.and_then(|couch| couch.get(couch_name));
        let sql = self.sql.and_then(|sql| sql.get(sql_name));
        let (Some(old), Some(new)) = (couch, sql) else {
            return Verdict::Keep;
        };
        let dates = matches!((old.as_str(), new.as_str()), (Some(old), Some(new))
            if is_datetime_text(old) && is_datetime_text(new));
        if dates || python::equal(old, new) {
            return Verdict::Drop;
        }
        Verdict::Replace(vec![Diff {
            diff_type: DiffType::Complex,
            path: vec![PathElement::key(couch_name), PathElement::key(sql_name)],
            old: Side::Value(old.clone()),
            new: Side::Value(new.clone()),
        }])
    }

    /// Form ids as sets; those of one side only are joined by commas, in the order in which that side has them.
    fn xform_ids(&self) -> Vec<Diff> {
        let (couch, sql) = (
            texts(self.couch_items("xform_ids")),
            texts(items(self.sql, "xform_ids")),
        );
        let (old, new) = (only_in(&couch, &sql), only_in(&sql, &couch));
        if old.is_empty() && new.is_empty() {
            return Vec::new();
        }
        vec![Diff {
            diff_type: DiffType::SetMismatch,
            path: vec![PathElement::key("xform_ids"), PathElement::key(ANY_INDEX)],
            old: Side::text(old.join(",")),
            new: Side::text(new.join(",")),
        }]
    }

    fn case_attachments(&self) -> Vec<Diff> {
        let empty = Map::new();
        let of = |document: Option<&'d Map<String, Value>>| {
            document
                .and_then(|document| document.get("case_attachments"))
                .and_then(Value::as_object)
        };
        let (couch, sql) = (of(self.couch).unwrap_or(&empty), of(self.sql).unwrap_or(&empty));
        let names = couch.keys().chain(sql.keys().filter(|name| !couch.contains_key(*name)));
        let mut diffs = Vec::new();
        for name in names {
            let prefix = [
                PathElement::key("case_attachments"),
                PathElement::Key(Cow::Owned(name.clone())),
            ];
            match (couch.get(name), sql.get(name)) {
                (Some(old), Some(new)) => {
                    let rules = self.book.case_attachments();
                    let mut filter = Filter::new(self.book, rules, old.as_object(), new.as_object());
                    walk(old, new, ListIndices::Tracked, &mut |found| filter.take(found));
                    diffs.extend(filter.diffs.into_iter().map(|mut diff| {
                        diff.path.splice(0..0, prefix.iter().cloned());
                        diff
                    }));
                }
                (old, new) => diffs.push(Diff {
                    diff_type: DiffType::Missing,
                    path: prefix.to_vec(),
                    old: Side::of(old),
                    new: Side::of(new),
                }),
            }
        }
        diffs
    }

    /// Indices in the order of their identifiers, run through the plain rules for indices again.
    ///
    /// HQ does not do the latter, as far as its source could be read: `doc_type` and `case_id`, which only one side has,
    /// would stay as diffs of every case whose indices stand in another order, and say nothing of the indices.
    fn indices(&self) -> Vec<Diff> {
        let ordered = |indices: &[Value]| {
            let mut indices = indices.to_vec();
            indices.sort_by(|a, b| identifier(a).cmp(identifier(b)));
            let mut document = Map::new();
            document.insert("indices".to_owned(), Value::Array(indices));
            Value::Object(document)
        };
        let couch = ordered(self.couch_items("indices"));
        let sql = ordered(items(self.sql, "indices"));
        let mut diffs = Vec::new();
        walk(&couch, &sql, ListIndices::Untracked, &mut |found| {
            let means_nothing = |rule: &Rule| rule.path.is_some() && rule.check == Check::None;
            if !self.rules.candidates(found).any(means_nothing) {
                diffs.push(found.to_diff());
            }
        });
        diffs
    }
}

fn identifier(index: &Value) -> &str {
    index.get("identifier").and_then(Value::as_str).unwrap_or_default()
}

fn is_under(found: &Found<'_, '_>, name: &str) -> bool {
    found.path.first().is_some_and(|step| step.is_key(name))
}

fn both_texts(found: &Found<'_, '_>, check: impl Fn(&str, &str) -> bool) -> bool {
    match (found.old, found.new) {
        (Some(Value::String(old)), Some(Value::String(new))) => check(old, new),
        _ => false,
    }
}

fn couch_text<'d>(couch: Option<&'d Map<String, Value>>, key: &str) -> Option<&'d str> {
    couch.and_then(|couch| couch.get(key)).and_then(Value::as_str)
}

fn items<'d>(document: Option<&'d Map<String, Value>>, key: &str) -> &'d [Value] {
    document
        .and_then(|document| document.get(key))
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn texts(items: &[Value]) -> Vec<Cow<'_, str>> {
    fn text(item: &Value) -> Cow<'_, str> {
        match item {
            Value::String(text) => Cow::Borrowed(text),
            other => Cow::Owned(other.to_string()),
        }
    }
    items.iter().map(text).collect()
}

/// Each text of the first list that is not in the second, once.
fn only_in<'t>(texts: &'t [Cow<'_, str>], others: &[Cow<'_, str>]) -> Vec<&'t str> {
    let mut known: HashSet<&str> = others.iter().map(Cow::as_ref).collect();
    let mut only = Vec::new();
    for text in texts {
        if !known.contains(text.as_ref()) {
            only.push(text.as_ref());
        }
    }
    known.clear();
    only.retain(|text| known.insert(text));
    only
}
