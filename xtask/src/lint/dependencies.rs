//! Dependencies nobody uses: of a package, and of the workspace's list.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Findings;
use crate::workspace::Workspace;

/// The part of `cargo metadata` that matters here.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: String,
    dependencies: Vec<Dependency>,
    metadata: Option<PackageMetadata>,
}

/// `[package.metadata.lint] features-only = ["…"]`: dependencies that are there to switch a feature on.
#[derive(Deserialize)]
struct PackageMetadata {
    lint: Option<LintMetadata>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct LintMetadata {
    features_only: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    rename: Option<String>,
    kind: Option<String>,
}

impl Dependency {
    /// The name under which the workspace's list has it.
    fn listed_as(&self) -> &str {
        self.rename.as_ref().unwrap_or(&self.name)
    }

    /// The name by which sources call it.
    fn identifier(&self) -> String {
        self.listed_as().replace('-', "_")
    }

    fn is_for_tests(&self) -> bool {
        self.kind.as_deref() == Some("dev")
    }
}

/// The sources of one package, comments left out.
struct Sources {
    product: String,
    tests: String,
}

pub(super) fn check(workspace: &Workspace) -> Result<Findings> {
    let metadata: Metadata = serde_json::from_value(workspace.cargo_metadata(&["--no-deps", "--locked"])?)
        .context("cargo metadata's answer has an unknown shape")?;
    let mut findings = Findings::new();
    let mut used = BTreeSet::new();
    for package in &metadata.packages {
        used.extend(package.dependencies.iter().map(Dependency::listed_as));
        findings.extend(unused_of_package(workspace, package)?);
    }
    let manifest = fs::read_to_string(workspace.root().join("Cargo.toml")).context("cannot read Cargo.toml")?;
    for name in shared_dependencies(&manifest) {
        if !used.contains(name) {
            findings.push(format!("Cargo.toml: no member uses the workspace dependency {name}"));
        }
    }
    Ok(findings)
}

fn unused_of_package(workspace: &Workspace, package: &Package) -> Result<Findings> {
    let sources = read_sources(workspace, package)?;
    let lint = package.metadata.as_ref().and_then(|metadata| metadata.lint.as_ref());
    let mut findings = Findings::new();
    for dependency in &package.dependencies {
        let identifier = dependency.identifier();
        let in_product = mentions(&sources.product, &identifier);
        let in_tests = mentions(&sources.tests, &identifier);
        let used = in_product || (dependency.is_for_tests() && in_tests);
        if used || lint.is_some_and(|lint| lint.features_only.contains(&dependency.name)) {
            continue;
        }
        let advice = if in_tests {
            "is used by tests only: make it a dev-dependency"
        } else {
            "is not used"
        };
        findings.push(format!("{}: {} {advice}", package.name, dependency.name));
    }
    Ok(findings)
}

fn read_sources(workspace: &Workspace, package: &Package) -> Result<Sources> {
    let folder = Path::new(&package.manifest_path)
        .parent()
        .context("a manifest without a folder")?;
    let mut sources = Sources {
        product: String::new(),
        tests: String::new(),
    };
    for file in workspace.files(".rs")? {
        let path = workspace.root().join(&file);
        let Ok(inside) = path.strip_prefix(folder) else {
            continue;
        };
        let is_test = ["tests", "benches", "examples"]
            .iter()
            .any(|name| inside.starts_with(name));
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", file.display()))?;
        let kept = if is_test {
            &mut sources.tests
        } else {
            &mut sources.product
        };
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    Ok(sources)
}

/// Whether the text uses a crate: `name::…`, `use name …`, `extern crate name`, or in an attribute's string,
/// as in `with = "name"`.
fn mentions(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(start, _)| {
        let before = &text[..start];
        let after = &text[start + name.len()..];
        let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
        if before.ends_with(is_word) || after.starts_with(is_word) {
            return false;
        }
        // `other::name::…` is a module of another crate; `::name::…` is the crate.
        let path_before = before.strip_suffix("::").is_some_and(|path| path.ends_with(is_word));
        let called = after.trim_start().starts_with("::") && !path_before;
        let introduced = ["use", "extern crate"]
            .iter()
            .any(|word| before.trim_end().ends_with(word));
        called || introduced || (before.ends_with('"') && after.starts_with('"'))
    })
}

/// The names in `[workspace.dependencies]`, one a line as we keep them.
fn shared_dependencies(manifest: &str) -> Vec<&str> {
    manifest
        .lines()
        .skip_while(|line| line.trim() != "[workspace.dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.starts_with(['#', ' ', ']']))
        .filter_map(|line| line.split_once('=').map(|(name, _)| name.trim()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_is_mentioned_by_its_path_its_import_or_an_attribute() {
        for text in [
            "let x = serde_json::from_str(s);",
            "use serde_json as json;",
            "pub use serde_json;",
            "#[serde(with = \"serde_json\")]",
            "::serde_json::to_string(x)",
        ] {
            assert!(mentions(text, "serde_json"), "{text}");
        }
        for text in [
            "serde_json_like::from",
            "my_serde_json::from",
            "let serde_json = 1;",
            "other::serde_json::x",
        ] {
            assert!(!mentions(text, "serde_json"), "{text}");
        }
    }

    #[test]
    fn the_shared_list_is_read_line_by_line() {
        let manifest = "\
[workspace]
members = [\"a\"]
[workspace.dependencies]
# A comment = with an equals sign.
serde = { version = \"1\", features = [
    \"derive\",
] }
tokio-util = \"0.7\"

[workspace.lints.rust]
unsafe_code = \"forbid\"
";
        assert_eq!(shared_dependencies(manifest), ["serde", "tokio-util"]);
    }
}
