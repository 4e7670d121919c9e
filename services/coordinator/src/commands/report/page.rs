//! The report as a page: one file, without scripts, without anything from elsewhere, and well-formed XML. Every text of a
//! document or of an operator goes through [`escaped`].

use std::fmt::Write as _;

use serde_json::Value;

const HEAD: &str = r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"/>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #bbb; }
table { border-collapse: collapse; margin: .5rem 0 1rem; } th, td { text-align: left; padding: .2rem .7rem; vertical-align: top; border-bottom: 1px solid #e4e4e4; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; } code { font-size: .92em; overflow-wrap: anywhere; } .note { color: #666; }
</style>
"#;

/// The page.
pub(super) fn render(report: &Value) -> String {
    let mut page = Page(HEAD.to_owned());
    let domain = text(&report["domain"]);
    page.line("title", &format!("Migration of {domain}"));
    page.0.push_str("</head>\n<body>\n");
    page.line("h1", &format!("Migration of {domain} from CouchDB to PostgreSQL"));
    let note = if report["values"] == "shown" {
        "This page shows values of documents: treat it as health data."
    } else {
        "Values of documents are left out."
    };
    page.note(&format!("Written at {}. {note}", text(&report["written_at"])));
    page.pairs(
        report,
        &[
            "status",
            "phase",
            "started_at",
            "finished_at",
            "against_commit",
            "options",
        ],
    );

    page.line("h2", "What was migrated");
    page.table(
        &report["doc_types"],
        &["doc_type", "docs", "diffs", "missing", "changes"],
    );
    page.line("h2", "How it was verified");
    for sentence in report["how_verified"].as_array().into_iter().flatten() {
        page.note(&text(sentence));
    }
    page.pairs(
        &report["verified"],
        &[
            "cases",
            "cases_compared",
            "case_diffs_pending",
            "cases_to_replay",
            "open_batches",
            "parked_batches",
        ],
    );
    for (title, key) in [("Diffs", "diffs"), ("Changes", "changes")] {
        page.line("h2", title);
        page.pairs(
            &report[key],
            &["documents", "diffs", "groups_left_out", "diffs_of_other_groups"],
        );
        let columns = ["doc_type", "diff_type", "path", "reason", "documents", "examples"];
        page.table(&report[key]["groups"], &columns);
    }
    page.line("h2", "Missing in SQL");
    page.table(&report["missing"], &["doc_type", "documents", "examples"]);
    page.line("h2", "Errors");
    page.table(&report["errors"], &["doc_type", "code", "documents", "examples"]);
    page.line("h2", "What was repaired");
    page.pairs(
        report,
        &[
            "patched_cases",
            "patch_forms",
            "not_patched",
            "patch_refusals",
            "restored_form_xml",
            "removed_blob_metadata",
        ],
    );
    page.line("h2", "Operators' ignore rules");
    page.table(&report["operator_rules"], &["rule", "ignored", "added_by", "added_at"]);
    page.line("h2", "What was accepted, and by whom");
    page.table(&report["accepted"], &["at", "who", "action", "detail"]);
    page.line("h2", "Runs");
    page.left_out(&report["runs_left_out"], "older runs");
    let columns = [
        "command",
        "who",
        "started_at",
        "ended_at",
        "seconds",
        "state",
        "outcome",
        "arguments",
    ];
    page.table(&report["runs"], &columns);
    page.line("h2", "Audit log");
    page.left_out(&report["audit_entries_left_out"], "older entries");
    page.table(&report["audit_log"], &["at", "who", "action", "detail"]);
    page.0.push_str("</body>\n</html>\n");
    page.0
}

struct Page(String);

impl Page {
    fn push(&mut self, arguments: std::fmt::Arguments<'_>) {
        // Writing into a text cannot fail.
        let _ = self.0.write_fmt(arguments);
    }

    fn line(&mut self, element: &str, text: &str) {
        self.push(format_args!("<{element}>{}</{element}>\n", escaped(text)));
    }

    fn note(&mut self, text: &str) {
        self.push(format_args!("<p class=\"note\">{}</p>\n", escaped(text)));
    }

    /// How many of something are not on the page, if any.
    fn left_out(&mut self, count: &Value, what: &str) {
        if count.as_i64().is_some_and(|count| count > 0) {
            self.note(&format!("{} {what} are left out.", text(count)));
        }
    }

    /// Keys of an object with their values.
    fn pairs(&mut self, object: &Value, keys: &[&str]) {
        self.0.push_str("<table>\n");
        for key in keys {
            let value = &object[*key];
            if !value.is_null() {
                self.push(format_args!("<tr><th>{}</th>{}</tr>\n", words(key), cell(value)));
            }
        }
        self.0.push_str("</table>\n");
    }

    /// A list of objects.
    fn table(&mut self, rows: &Value, columns: &[&str]) {
        let rows = rows.as_array().map_or(&[][..], Vec::as_slice);
        if rows.is_empty() {
            self.note("None.");
            return;
        }
        self.0.push_str("<table>\n<tr>");
        for column in columns {
            self.push(format_args!("<th>{}</th>", words(column)));
        }
        self.0.push_str("</tr>\n");
        for row in rows {
            self.0.push_str("<tr>");
            for column in columns {
                let cell = cell(&row[*column]);
                self.0.push_str(&cell);
            }
            self.0.push_str("</tr>\n");
        }
        self.0.push_str("</table>\n");
    }
}

fn words(key: &str) -> String {
    escaped(&key.replace('_', " "))
}

fn cell(value: &Value) -> String {
    match value {
        Value::Number(number) => format!("<td class=\"number\">{}</td>", escaped(&number.to_string())),
        Value::Array(list) => {
            let lines: Vec<String> = list
                .iter()
                .map(|one| format!("<code>{}</code>", escaped(&text(one))))
                .collect();
            format!("<td>{}</td>", lines.join("<br/>"))
        }
        Value::Object(_) => format!("<td><code>{}</code></td>", escaped(&text(value))),
        other => format!("<td>{}</td>", escaped(&text(other))),
    }
}

/// A value in words: texts as they are, objects as `key: value`.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Object(object) if object.values().all(|value| !value.is_object() && !value.is_array()) => {
            let pairs: Vec<String> = object
                .iter()
                .map(|(key, value)| format!("{key}: {}", text(value)))
                .collect();
            pairs.join(", ")
        }
        other => other.to_string(),
    }
}

/// A text that stands for itself wherever it is put on the page. What XML cannot hold is shown as a replacement character.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\t' | '\n' | '\r' => safe.push(letter),
            letter if letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}') => safe.push('\u{fffd}'),
            // Marks that turn the direction of text around would let a value rewrite what stands beside it.
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => safe.push('\u{fffd}'),
            letter => safe.push(letter),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use quick_xml::Reader;
    use quick_xml::events::Event;
    use serde_json::json;

    use super::*;

    const HOSTILE: [&str; 6] = [
        "<script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "'--></style></table><h1>",
        "&lt;b&gt;",
        "]]><iframe/>",
        "javascript:alert(1)",
    ];

    /// A report in which every text is hostile, and the control characters that XML refuses are in it too.
    fn hostile(text: &str) -> Value {
        let text = format!("{text}\u{0}\u{202e}\u{ffff}");
        let group = json!({"doc_type": text, "diff_type": text, "path": text, "reason": text, "documents": 1,
            "examples": [{"doc_id": text, "couch": text, "sql": text}, text, [text]]});
        let entry = json!({"at": text, "who": text, "action": text, "detail": {&text: {"a": text}}});
        json!({
            "domain": text, "written_at": text, "values": "shown", "status": text, "phase": text, "against_commit": text,
            "options": {&text: text}, "doc_types": [{"doc_type": text, "docs": text}],
            "verified": {"cases": text},
            "diffs": {"documents": 1, "groups": [group]}, "changes": {"groups": [group]},
            "missing": [group], "errors": [{"doc_type": text, "code": text, "documents": 1, "examples": [text]}],
            "operator_rules": [{"rule": {"name": text, "old": {"value": text}}, "added_by": text}],
            "accepted": [entry], "audit_log": [entry],
            "runs": [{"command": text, "who": text, "outcome": text, "arguments": {"forms": [text]}}],
        })
    }

    #[test]
    fn hostile_values_are_texts_and_nothing_else() {
        let known: BTreeSet<&str> = [
            "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "table", "tr", "th", "td", "code", "br",
        ]
        .into();
        for value in HOSTILE {
            let page = render(&hostile(value));
            let mut reader = Reader::from_str(&page);
            let mut shown = 0;
            let mut texts = String::new();
            loop {
                match reader.read_event().unwrap() {
                    Event::Eof => break,
                    Event::Start(element) | Event::Empty(element) => {
                        let name = element.name().as_ref().to_owned();
                        assert!(known.contains(name.as_str()), "<{name}> for {value}");
                        for attribute in element.attributes() {
                            let key = attribute.unwrap().key.as_ref().to_owned();
                            let of_ours = ["lang", "charset", "http-equiv", "content", "class"];
                            assert!(of_ours.contains(&key.as_str()), "{name} {key} for {value}");
                        }
                        shown += texts.matches(value).count();
                        texts.clear();
                    }
                    Event::Text(text) => texts.push_str(&text),
                    Event::GeneralRef(reference) => {
                        texts.push(match &*reference {
                            "amp" => '&',
                            "lt" => '<',
                            "gt" => '>',
                            "quot" => '"',
                            "#39" => '\'',
                            other => panic!("&{other};"),
                        });
                    }
                    Event::CData(_) | Event::Comment(_) | Event::PI(_) => panic!("{value}"),
                    Event::End(_) | Event::Decl(_) | Event::DocType(_) => {}
                }
            }
            assert!(shown >= 25, "{value} is shown {shown} times");
        }
    }

    #[test]
    fn an_empty_report_is_a_page_too() {
        let page = render(&json!({"domain": "demo", "doc_types": []}));
        assert!(page.contains("Migration of demo") && page.ends_with("</html>\n"));
    }
}
