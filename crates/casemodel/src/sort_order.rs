//! Whether Couch applied the forms of a case in another order than SQL.

use std::collections::{HashMap, HashSet};

use proto::ids::FormId;

/// The order in which the actions of the Couch case name its forms, if the case must be put into it: when the transactions
/// of the SQL case are of the same forms, first named in another order. `None`: the order is the same, or it is not the
/// order in which the two differ.
///
/// Both are given as form ids in their order; transactions and actions without a form count for nothing.
pub fn wanted<'a>(
    transactions: impl IntoIterator<Item = Option<&'a str>>,
    actions: impl IntoIterator<Item = Option<&'a str>>,
) -> Option<Vec<FormId>> {
    let sql = first_named(transactions);
    let couch = first_named(actions);
    let place: HashMap<&str, usize> = couch.iter().copied().zip(0..).collect();
    if sql.len() != couch.len() || sql == couch || sql.iter().any(|form_id| !place.contains_key(form_id)) {
        return None;
    }
    Some(couch.into_iter().map(FormId::new).collect())
}

/// Each form once, where it is first named.
fn first_named<'a>(forms: impl IntoIterator<Item = Option<&'a str>>) -> Vec<&'a str> {
    let mut seen = HashSet::new();
    let named = forms.into_iter().flatten().filter(|form_id| !form_id.is_empty());
    named.filter(|form_id| seen.insert(*form_id)).collect()
}
