//! The order of Couch's actions, from the comparison to the rows.

use casemodel::sort_order;
use proto::effects::CaseEvent;

use crate::forms::{block, form, minute, run, update};

/// One letter is the form of a transaction or an action, a blank is none.
fn forms(letters: &str) -> Vec<Option<&str>> {
    (0..letters.len())
        .map(|place| Some(&letters[place..=place]).filter(|letter| *letter != " "))
        .collect()
}

/// (transactions, actions, wanted)
#[test]
fn when_an_order_is_wanted() {
    for (sql, couch, wanted) in [
        ("abc", "abc", None),
        ("abc", "aabbcc", None),
        ("abc", "acb", Some("acb")),
        ("abcd", "acb", None),
        ("abd", "acb", None),
        ("abc ", "abc", None),
        ("abc ", "a c b", Some("acb")),
        ("abc", "acab", Some("acb")),
        ("aab", "ba", Some("ba")),
        ("", "", None),
        ("", "a", None),
    ] {
        let found = sort_order::wanted(forms(sql), forms(couch));
        let found = found.map(|ids| ids.iter().map(|id| id.as_str()).collect::<String>());
        assert_eq!(found.as_deref(), wanted, "{sql} {couch}");
    }
    assert_eq!(
        sort_order::wanted([Some("a"), Some("")], [Some("a"), None]),
        None,
        "an empty id is none"
    );
}

/// (actions, transactions afterwards, how many of their dates are changed), of forms a, b and c ten minutes apart
#[test]
fn the_rows_of_a_wanted_order() {
    for (couch, after, changed) in [
        ("abc", "abc", 0),
        ("aabbcc", "abc", 0),
        ("acb", "acb", 1),
        ("a c b", "acb", 1),
    ] {
        let writer = |id: &str, at| form(id, at, vec![block(vec![update(&[("last", id)])])]);
        let mut replay = run(vec![writer("a", 0), writer("b", 10), writer("c", 20)]);
        let ids = ["a", "b", "c"].map(Some);
        replay.events = sort_order::wanted(ids, forms(couch))
            .map(|form_ids| CaseEvent::OrderOverride { form_ids })
            .into_iter()
            .collect();
        let bundle = replay.bundle();
        let seen: String = bundle
            .transactions
            .iter()
            .filter_map(|row| row.form_id.as_deref())
            .collect();
        assert_eq!(seen, after, "{couch}");
        let original = |id: &str| {
            minute(match id {
                "a" => 0,
                "b" => 10,
                _ => 20,
            })
        };
        let moved = bundle
            .transactions
            .iter()
            .filter(|row| row.server_date != original(row.form_id.as_deref().unwrap()));
        assert_eq!(moved.count(), changed, "{couch}");
    }
}
