//! What a Markdown text links to, and what can be linked to in it.

use std::collections::{BTreeMap, BTreeSet};

/// A link's target and the line it stands on, counted from one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) line: usize,
    pub(super) target: String,
}

/// The targets of all links and images outside of code.
pub(super) fn links(text: &str) -> Vec<Link> {
    let mut links = Vec::new();
    for (line, prose) in prose_lines(text) {
        links.extend(inline_targets(&prose).into_iter().map(|target| Link { line, target }));
        links.extend(definition_target(&prose).map(|target| Link { line, target }));
        for attribute in ["src=\"", "href=\""] {
            let values = prose.split(attribute).skip(1).filter_map(|rest| rest.split('"').next());
            links.extend(values.map(|target| Link {
                line,
                target: target.to_owned(),
            }));
        }
    }
    links
}

/// The anchors of the text's headings, as GitHub makes them, and of explicit `<a id>`.
pub(super) fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut anchors = BTreeSet::new();
    for (line, prose) in prose_lines(text) {
        for attribute in ["id=\"", "name=\""] {
            let values = prose.split(attribute).skip(1).filter_map(|rest| rest.split('"').next());
            anchors.extend(values.map(str::to_owned));
        }
        let original = text.lines().nth(line - 1).unwrap_or_default();
        if let Some(heading) = heading(&prose).and_then(|_| heading(original)) {
            let slug = slug(heading);
            let count = seen.entry(slug.clone()).or_default();
            anchors.insert(if *count == 0 { slug } else { format!("{slug}-{count}") });
            *count += 1;
        }
    }
    anchors
}

/// The lines outside of fenced code, numbered from one, with code in the line blanked out.
fn prose_lines(text: &str) -> Vec<(usize, String)> {
    let mut fence: Option<&str> = None;
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let start = line.trim_start();
        match fence {
            Some(end) if start.starts_with(end) => fence = None,
            Some(_) => {}
            None => match ["```", "~~~"].into_iter().find(|mark| start.starts_with(mark)) {
                Some(mark) => fence = Some(mark),
                None => lines.push((index + 1, without_code(line))),
            },
        }
    }
    lines
}

/// The line with everything between backticks left out.
fn without_code(line: &str) -> String {
    let mut kept = String::new();
    let mut rest = line;
    while let Some(start) = rest.find('`') {
        let ticks = rest[start..].len() - rest[start..].trim_start_matches('`').len();
        let fence = &rest[start..start + ticks];
        kept.push_str(&rest[..start]);
        match rest[start + ticks..].find(fence) {
            Some(end) => rest = &rest[start + ticks + end + ticks..],
            None => {
                kept.push_str(fence);
                rest = &rest[start + ticks..];
            }
        }
    }
    kept + rest
}

/// Targets of `[text](target)` and `![text](target "title")`.
fn inline_targets(line: &str) -> Vec<String> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| {
            if let Some(bracketed) = rest.strip_prefix('<') {
                return bracketed.split_once('>').map(|(target, _)| target.to_owned());
            }
            let end = closing_parenthesis(rest)?;
            rest[..end].split_whitespace().next().map(str::to_owned)
        })
        .collect()
}

/// The end of a target: it may hold balanced parentheses.
fn closing_parenthesis(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (index, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' if depth == 0 => return Some(index),
            ')' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// The target of a definition, `[label]: target`; footnotes are none.
fn definition_target(line: &str) -> Option<String> {
    let (label, rest) = line.trim_start().strip_prefix('[')?.split_once("]:")?;
    if label.starts_with('^') || label.contains(']') {
        return None;
    }
    rest.split_whitespace()
        .next()
        .map(|target| target.trim_matches(['<', '>']).to_owned())
}

/// The text of a heading line.
fn heading(line: &str) -> Option<&str> {
    let text = line.trim_start_matches('#');
    let level = line.len() - text.len();
    ((1..=6).contains(&level) && text.starts_with(' ')).then(|| text.trim().trim_end_matches('#').trim_end())
}

/// GitHub's way: lower case, punctuation dropped, each space a hyphen. Of a link only its text counts.
fn slug(heading: &str) -> String {
    let mut text = String::new();
    let mut rest = heading;
    while let Some((before, behind)) = rest.split_once("](") {
        text.push_str(before);
        rest = closing_parenthesis(behind).map_or("", |end| &behind[end + 1..]);
    }
    text.push_str(rest);
    text.to_lowercase()
        .chars()
        .filter_map(|letter| match letter {
            ' ' => Some('-'),
            '-' | '_' => Some(letter),
            _ if letter.is_alphanumeric() => Some(letter),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(text: &str) -> Vec<String> {
        links(text).into_iter().map(|link| link.target).collect()
    }

    #[test]
    fn links_are_found_in_prose_and_not_in_code() {
        let text = "\
See [the guide](docs/guide.md#start \"Guide\") and ![picture](flow.svg), [odd](<a b.md>), [wiki](x_(y).md).
Not `[code](no.md)` nor ``a ` [code](no.md)``.
```text
[fenced](no.md)
```
[label]: other.md
[^1]: a footnote
<img src=\"logo.png\">
";
        assert_eq!(
            targets(text),
            [
                "docs/guide.md#start",
                "flow.svg",
                "a b.md",
                "x_(y).md",
                "other.md",
                "logo.png"
            ]
        );
        assert_eq!(links(text)[4].line, 6);
    }

    #[test]
    fn headings_become_anchors_as_on_github() {
        let text = "\
# Couch to SQL: the *guide*
## `cargo xtask up`
## See [the docs](docs/a.md), twice
### Same
### Same
```sh
# not a heading
```
#also not
<a id=\"by-hand\"></a>
";
        let expected = [
            "by-hand",
            "cargo-xtask-up",
            "couch-to-sql-the-guide",
            "same",
            "same-1",
            "see-the-docs-twice",
        ];
        assert_eq!(anchors(text).into_iter().collect::<Vec<_>>(), expected);
    }
}
