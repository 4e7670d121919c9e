//! Relative links in the documentation: the file must be there, and the heading in it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Findings, anchors};
use crate::workspace::Workspace;

pub(super) fn check(workspace: &Workspace) -> Result<Findings> {
    let mut findings = Findings::new();
    for file in workspace.files(".md")? {
        let path = workspace.root().join(&file);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", file.display()))?;
        for link in anchors::links(&text) {
            if let Some(problem) = problem(workspace.root(), &path, &text, &link.target) {
                findings.push(format!("{}:{}: {}: {problem}", file.display(), link.line, link.target));
            }
        }
    }
    Ok(findings)
}

/// What is wrong with a link, if anything. Links to other sites are not looked at.
fn problem(root: &Path, file: &Path, text: &str, target: &str) -> Option<String> {
    if is_external(target) {
        return None;
    }
    let (path, anchor) = target
        .split_once('#')
        .map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    if path.is_empty() {
        return missing_anchor(text, anchor?);
    }
    let destination = destination(root, file, path);
    if !destination.exists() {
        return Some("no such file".to_owned());
    }
    let anchor = anchor?;
    if destination.extension().is_none_or(|ending| ending != "md") {
        return None;
    }
    match fs::read_to_string(&destination) {
        Ok(text) => missing_anchor(&text, anchor),
        Err(error) => Some(format!("cannot be read: {error}")),
    }
}

/// Whether the target names a scheme (`https:`, `mailto:`) or another host.
fn is_external(target: &str) -> bool {
    let scheme = target.split_once(':').map(|(scheme, _)| scheme);
    target.starts_with("//") || scheme.is_some_and(|scheme| scheme.chars().all(|letter| letter.is_ascii_alphanumeric()))
}

fn destination(root: &Path, file: &Path, path: &str) -> PathBuf {
    let path = path.replace("%20", " ");
    match path.strip_prefix('/') {
        Some(from_root) => root.join(from_root),
        None => file.parent().unwrap_or(root).join(path),
    }
}

fn missing_anchor(text: &str, anchor: &str) -> Option<String> {
    (!anchors::anchors(text).contains(anchor)).then(|| "no such heading".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_headings_are_looked_up_from_the_linking_file() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let file = root.join("src/readme.md");
        let check = |target: &str| problem(root, &file, "# Here it is\n", target);
        assert_eq!(check("main.rs"), None);
        assert_eq!(check("../Cargo.toml"), None);
        assert_eq!(check("/Cargo.toml#L3"), None);
        assert_eq!(check("#here-it-is"), None);
        assert_eq!(check("https://example.org/nowhere"), None);
        assert_eq!(check("absent.md"), Some("no such file".to_owned()));
        assert_eq!(check("#there"), Some("no such heading".to_owned()));
    }
}
