//! Which rows of a page lie after a cursor, and whether paging gets on. Pure.

use serde_json::Value;

use crate::view::{Cursor, Row};

/// The rows after the cursor. If the cursor's own row is among them, the server's order decides: everything behind it.
/// If it is not (its document is gone, or the server gave the group of equal keys from its start, and the group is bigger
/// than the page), rows with the cursor's key are after it when their id is, byte by byte, which is how CouchDB orders them.
pub(crate) fn after(cursor: &Cursor, mut rows: Vec<Row>) -> Vec<Row> {
    let own = rows.iter().position(|row| row.id == cursor.id && row.key == cursor.key);
    match own {
        Some(position) => rows.split_off(position + 1),
        None => {
            rows.retain(|row| row.key != cursor.key || row.id > cursor.id);
            rows
        }
    }
}

/// Whether a page within a group of equal keys begins behind the end of the one before it. A server that heeds neither
/// start document ids nor skipping fails this.
pub(crate) fn advances(previous_last: Option<&Row>, page: &[Row], group: &Value) -> bool {
    match (previous_last, page.first()) {
        (Some(last), Some(first)) => first.key != *group || first.id > last.id,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rows(list: &[(&str, &str)]) -> Vec<Row> {
        list.iter()
            .map(|(key, id)| Row {
                key: json!(["d", "T", key]),
                id: (*id).to_owned(),
            })
            .collect()
    }

    fn cursor(key: &str, id: &str) -> Cursor {
        Cursor {
            key: json!(["d", "T", key]),
            id: id.to_owned(),
        }
    }

    #[test]
    fn rows_after_the_cursor() {
        type Rows<'a> = &'a [(&'a str, &'a str)];
        let cases: [(&str, Rows<'_>, Rows<'_>); 5] = [
            (
                "the server starts at the cursor",
                &[("1", "b"), ("1", "c"), ("2", "a")],
                &[("1", "c"), ("2", "a")],
            ),
            (
                "the server starts at the group",
                &[("1", "a"), ("1", "b"), ("1", "c")],
                &[("1", "c")],
            ),
            (
                "the cursor's document is gone",
                &[("1", "a"), ("1", "c"), ("2", "a")],
                &[("1", "c"), ("2", "a")],
            ),
            (
                "the group is bigger than the page",
                &[("1", "Z"), ("1", "a"), ("1", "aa")],
                &[],
            ),
            ("only later keys are left", &[("2", "a")], &[("2", "a")]),
        ];
        for (name, given, expected) in cases {
            assert_eq!(after(&cursor("1", "b"), rows(given)), rows(expected), "{name}");
        }
    }

    #[test]
    fn a_page_must_begin_behind_the_one_before() {
        let group = json!(["d", "T", "1"]);
        let last = rows(&[("1", "m")]);
        for (page, expected) in [
            (("1", "n"), true),
            (("2", "a"), true),
            (("1", "m"), false),
            (("1", "a"), false),
        ] {
            assert_eq!(advances(last.first(), &rows(&[page]), &group), expected, "{page:?}");
        }
        assert!(advances(None, &rows(&[("1", "a")]), &group));
        assert!(advances(last.first(), &[], &group));
    }
}
