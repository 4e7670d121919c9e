//! Error codes: every code in the sources has its page in `docs/errors.md`, and every page its code.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::Findings;
use crate::workspace::Workspace;

const PAGE: &str = "docs/errors.md";
const PREFIX: &str = "C2S-";
const DIGITS: usize = 4;

pub(super) fn check(workspace: &Workspace) -> Result<Findings> {
    let mut used = BTreeSet::new();
    for file in workspace.files(".rs")? {
        if is_product(&file) {
            let text = fs::read_to_string(workspace.root().join(&file))
                .with_context(|| format!("cannot read {}", file.display()))?;
            used.extend(codes(&text));
        }
    }
    let page = fs::read_to_string(workspace.root().join(PAGE)).with_context(|| format!("cannot read {PAGE}"))?;
    Ok(compare(&used, &documented(&page)))
}

/// Sources whose codes a person may meet; those of tests and of this program are repetitions.
fn is_product(file: &Path) -> bool {
    let in_product = ["crates", "services", "proto"]
        .iter()
        .any(|folder| file.starts_with(folder));
    in_product && !file.components().any(|part| part.as_os_str() == "tests")
}

fn compare(used: &BTreeSet<String>, documented: &BTreeSet<String>) -> Findings {
    let without_page = used
        .difference(documented)
        .map(|code| format!("{code} has no section in {PAGE}"));
    let without_code = documented
        .difference(used)
        .map(|code| format!("{PAGE} explains {code}, which nothing uses"));
    without_page.chain(without_code).collect()
}

fn documented(page: &str) -> BTreeSet<String> {
    page.lines()
        .filter(|line| line.starts_with("### "))
        .flat_map(codes)
        .collect()
}

/// All codes in a text.
fn codes(text: &str) -> Vec<String> {
    text.match_indices(PREFIX)
        .filter_map(|(start, _)| {
            let digits = text.get(start + PREFIX.len()..start + PREFIX.len() + DIGITS)?;
            digits
                .bytes()
                .all(|byte| byte.is_ascii_digit())
                .then(|| format!("{PREFIX}{digits}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_are_found() {
        let used: BTreeSet<String> = codes("(\"C2S-1001\", x) C2S-10x2 C2S-2002").into_iter().collect();
        let page = documented("### C2S-1001\ntext C2S-7777\n### C2S-9999\n");
        assert_eq!(
            compare(&used, &page),
            [
                "C2S-2002 has no section in docs/errors.md",
                "docs/errors.md explains C2S-9999, which nothing uses"
            ]
        );
    }
}
