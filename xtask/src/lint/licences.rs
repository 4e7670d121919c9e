//! Licences and bans, over the crates that are really built for Linux: `cargo tree` knows features, unlike
//! `cargo metadata`.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use super::Findings;
use crate::workspace::Workspace;

/// Licences we may ship under, with no duty beyond keeping the notices.
const ALLOWED: [&str; 14] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates that must not get into the build, and why.
const BANNED: [(&str, &str); 4] = [
    (
        "ring",
        "a second provider of cryptography makes rustls panic: aws-lc-rs is ours",
    ),
    ("native-tls", "TLS is rustls everywhere"),
    ("openssl-sys", "TLS is rustls everywhere; images need no OpenSSL"),
    ("async-std", "tokio is the one runtime"),
];

struct Crate {
    name: String,
    version: String,
    licence: String,
}

/// Every crate's licence must allow what we do.
pub(super) fn check_licences(workspace: &Workspace) -> Result<Findings> {
    let mut findings = Findings::new();
    for Crate { name, version, licence } in built_crates(workspace)? {
        match is_allowed(&licence) {
            Ok(true) => {}
            Ok(false) => findings.push(format!(
                "{name} {version}: licence {licence:?} is not among the allowed ones"
            )),
            Err(error) => findings.push(format!(
                "{name} {version}: licence {licence:?} cannot be read: {error:#}"
            )),
        }
    }
    Ok(findings)
}

/// No banned crate may be built.
pub(super) fn check_bans(workspace: &Workspace) -> Result<Findings> {
    let crates = built_crates(workspace)?;
    let banned = crates.iter().filter_map(|found| {
        let (_, reason) = BANNED.iter().find(|(name, _)| *name == found.name)?;
        Some(format!(
            "{} {}: {reason} (cargo tree -i {} shows who wants it)",
            found.name, found.version, found.name
        ))
    });
    Ok(banned.collect())
}

fn built_crates(workspace: &Workspace) -> Result<Vec<Crate>> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = workspace
        .cargo(&[
            "tree",
            "--workspace",
            "--locked",
            "--edges",
            "normal,build,dev",
            "--prefix",
            "none",
        ])
        .args(["--format", "{p}\t{l}", "--target", &target])
        .output()
        .context("cannot run cargo tree")?;
    ensure!(
        output.status.success(),
        "cargo tree failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: BTreeSet<&str> = text.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    Ok(lines.into_iter().filter_map(parse_crate).collect())
}

/// A line of `cargo tree`: `name vX.Y.Z (where from)`, a tab, the licence.
fn parse_crate(line: &str) -> Option<Crate> {
    let (package, licence) = line.split_once('\t')?;
    let mut words = package.split(' ');
    let name = words.next()?.to_owned();
    let version = words.next()?.trim_start_matches('v').to_owned();
    Some(Crate {
        name,
        version,
        licence: licence.to_owned(),
    })
}

/// Whether an SPDX expression can be met by the allowed licences alone.
fn is_allowed(expression: &str) -> Result<bool> {
    // `/` is the spelling of OR from before SPDX.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let allowed = either(&mut rest)?;
    ensure!(rest.is_empty(), "{:?} is left over", rest.join(" "));
    Ok(allowed)
}

fn either(rest: &mut &[&str]) -> Result<bool> {
    let mut allowed = both(rest)?;
    while take(rest, "OR") {
        allowed |= both(rest)?;
    }
    Ok(allowed)
}

fn both(rest: &mut &[&str]) -> Result<bool> {
    let mut allowed = one(rest)?;
    while take(rest, "AND") {
        allowed &= one(rest)?;
    }
    Ok(allowed)
}

fn one(rest: &mut &[&str]) -> Result<bool> {
    if take(rest, "(") {
        let allowed = either(rest)?;
        ensure!(take(rest, ")"), "a parenthesis is not closed");
        return Ok(allowed);
    }
    let licence = next(rest).context("a licence is missing")?;
    ensure!(
        !matches!(licence, "OR" | "AND" | "WITH" | ")"),
        "a licence is missing before {licence:?}"
    );
    if take(rest, "WITH") {
        let exception = next(rest).context("an exception is missing after WITH")?;
        return Ok(ALLOWED.contains(&format!("{licence} WITH {exception}").as_str()));
    }
    Ok(ALLOWED.contains(&licence))
}

fn take(rest: &mut &[&str], word: &str) -> bool {
    let found = rest.first() == Some(&word);
    if found {
        *rest = &rest[1..];
    }
    found
}

fn next<'text>(rest: &mut &[&'text str]) -> Option<&'text str> {
    let (first, others) = rest.split_first()?;
    *rest = others;
    Some(first)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn one_allowed_alternative_is_enough_and_every_conjunct_is_needed() {
        let cases = [
            ("MIT", true),
            ("GPL-3.0-only", false),
            ("MIT OR GPL-3.0-only", true),
            ("GPL-2.0-only/MIT", true),
            ("MIT AND GPL-3.0-only", false),
            ("ISC AND (Apache-2.0 OR ISC) AND BSD-3-Clause", true),
            ("ISC AND (GPL-2.0-only OR AGPL-3.0-only)", false),
            ("GPL-2.0-only AND MIT OR ISC", true),
            ("GPL-2.0-only AND (MIT OR ISC)", false),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("GPL-2.0-only WITH Classpath-exception-2.0", false),
        ];
        for (expression, expected) in cases {
            assert_eq!(is_allowed(expression).unwrap(), expected, "{expression}");
        }
    }

    #[test]
    fn what_is_no_expression_is_an_error() {
        for expression in ["", "MIT OR", "(MIT", "MIT)", "MIT ISC", "AND MIT", "MIT WITH"] {
            assert!(is_allowed(expression).is_err(), "{expression:?}");
        }
    }

    #[test]
    fn a_line_of_the_tree_gives_name_version_and_licence() {
        let found = parse_crate("state v0.1.0 (/somewhere/crates/state)\tBSD-3-Clause").unwrap();
        assert_eq!((found.name.as_str(), found.version.as_str()), ("state", "0.1.0"));
        assert_eq!(found.licence, "BSD-3-Clause");
        assert_eq!(parse_crate("odd v1.0.0\t").unwrap().licence, "");
    }
}
