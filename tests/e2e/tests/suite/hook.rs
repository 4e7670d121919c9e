//! A program that the system runs to tell HQ something.

use std::path::PathBuf;

use anyhow::Result;
use e2e::settings::quoted;

/// HQ's cache hook of these tests: counts its calls, and stands still or fails while a file says so.
pub(crate) struct Hook {
    folder: PathBuf,
}

impl Hook {
    const SCRIPT: &str = r#"echo "$2" >> "$1/calls"
number=$(wc -l < "$1/calls")
while [ -e "$1/hold-$number" ]; do sleep 0.05; done
test ! -e "$1/fail-$number"
"#;

    pub(crate) fn create(folder: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("hook.sh"), Self::SCRIPT)?;
        std::fs::write(folder.join("calls"), "")?;
        Ok(Self { folder })
    }

    /// As `hq.cache_hook` has it.
    pub(crate) fn setting(&self) -> String {
        let script = self.folder.join("hook.sh");
        format!(
            "[\"sh\", {}, {}]",
            quoted(&script.to_string_lossy()),
            quoted(&self.folder.to_string_lossy())
        )
    }

    pub(crate) fn calls(&self) -> Result<usize> {
        Ok(std::fs::read_to_string(self.folder.join("calls"))?.lines().count())
    }

    pub(crate) fn hold(&self, call: usize) -> Result<PathBuf> {
        let path = self.folder.join(format!("hold-{call}"));
        std::fs::write(&path, "")?;
        Ok(path)
    }

    pub(crate) fn fail(&self, call: usize) -> Result<()> {
        Ok(std::fs::write(self.folder.join(format!("fail-{call}")), "")?)
    }
}
