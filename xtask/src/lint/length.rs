//! Long files: a file above this length is usually two modules.

use std::fs;

use anyhow::{Context, Result};

use super::Findings;
use crate::workspace::Workspace;

const LONGEST: usize = 500;

pub(super) fn check(workspace: &Workspace) -> Result<Findings> {
    let mut findings = Findings::new();
    for ending in [".rs", ".sql"] {
        for file in workspace.files(ending)? {
            let text = fs::read_to_string(workspace.root().join(&file))
                .with_context(|| format!("cannot read {}", file.display()))?;
            let lines = text.lines().count();
            if lines > LONGEST {
                findings.push(format!(
                    "{}: {lines} lines; more than {LONGEST} is two modules",
                    file.display()
                ));
            }
        }
    }
    Ok(findings)
}
