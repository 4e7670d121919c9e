//! Installing what a service needs, where we may.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;
use crate::{account, process};

/// Read by Debian's packages before they start a service; ours are private and are started by us.
const SERVICE_POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs Debian packages; fails with what to do instead when that is not in our power.
pub(crate) fn install(workspace: &Workspace, packages: &[&str]) -> Result<()> {
    let wanted = packages.join(" ");
    if process::find_program("apt-get").is_none() {
        bail!("install it with this system's package manager (on Debian: apt-get install {wanted}), then run again");
    }
    let Some(rights) = Rights::find()? else {
        bail!("install it (sudo apt-get install --no-install-recommends {wanted}), then run again");
    };
    let log = workspace.log("apt")?;
    eprintln!("installing {wanted} with apt-get (log: {})", log.display());
    let policy = ServicePolicy::install(workspace, rights)?;
    let lock = ["-o", "DPkg::Lock::Timeout=120"];
    let mut update = rights.command("apt-get");
    if let Err(error) = process::run_logged(update.args(lock).arg("update"), &log) {
        eprintln!("apt-get update failed, trying with the lists there are: {error:#}");
    }
    let mut install = rights.command("env");
    install.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(lock);
    install
        .args(["install", "-y", "--no-install-recommends"])
        .args(packages);
    let installed = process::run_logged(&mut install, &log);
    drop(policy);
    installed.with_context(|| format!("cannot install {wanted}"))
}

/// Installs the exact Node packages of a lock file, without running their install scripts: the native parts we use
/// come prebuilt.
pub(crate) fn npm_ci(workspace: &Workspace, folder: &Path) -> Result<()> {
    run_npm(workspace, folder, &["ci"])
}

/// Adds one Node package, at an exact version, to a folder.
pub(crate) fn npm_add(workspace: &Workspace, folder: &Path, package: &str) -> Result<()> {
    run_npm(workspace, folder, &["install", "--no-save", package])
}

fn run_npm(workspace: &Workspace, folder: &Path, arguments: &[&str]) -> Result<()> {
    let log = workspace.log("npm")?;
    eprintln!(
        "npm {} in {} (log: {})",
        arguments.join(" "),
        folder.display(),
        log.display()
    );
    let mut npm = Command::new("npm");
    npm.args(arguments)
        .args(["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]);
    process::run_logged(npm.current_dir(folder), &log)
}

/// How commands that change the system are run.
#[derive(Clone, Copy)]
enum Rights {
    Root,
    Sudo,
}

impl Rights {
    fn find() -> Result<Option<Self>> {
        if account::is_root()? {
            return Ok(Some(Self::Root));
        }
        // `-n`: never ask for a password.
        let sudo = Command::new("sudo").args(["-n", "true"]).stdin(Stdio::null()).output();
        Ok(sudo.is_ok_and(|output| output.status.success()).then_some(Self::Sudo))
    }

    fn command(self, program: &str) -> Command {
        match self {
            Self::Root => Command::new(program),
            Self::Sudo => {
                let mut command = Command::new("sudo");
                command.args(["-n", program]);
                command
            }
        }
    }
}

/// Keeps packages from starting their services while it lives. A policy that was there already is left alone.
struct ServicePolicy {
    ours: Option<(Rights, PathBuf)>,
}

impl ServicePolicy {
    fn install(workspace: &Workspace, rights: Rights) -> Result<Self> {
        if Path::new(SERVICE_POLICY).exists() {
            return Ok(Self { ours: None });
        }
        let draft = workspace.dev()?.join("policy-rc.d");
        fs::write(&draft, "#!/bin/sh\nexit 101\n").context("cannot write .dev/policy-rc.d")?;
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o755))?;
        let copied = rights.command("cp").arg(&draft).arg(SERVICE_POLICY).status();
        if !copied.is_ok_and(|status| status.success()) {
            bail!("cannot write {SERVICE_POLICY}");
        }
        Ok(Self {
            ours: Some((rights, draft)),
        })
    }
}

impl Drop for ServicePolicy {
    fn drop(&mut self) {
        if let Some((rights, draft)) = self.ours.take() {
            let removed = rights.command("rm").arg(SERVICE_POLICY).status();
            if !removed.is_ok_and(|status| status.success()) {
                eprintln!("warning: {SERVICE_POLICY} was made for the installation and could not be removed");
            }
            // A draft left behind does no harm.
            fs::remove_file(draft).ok();
        }
    }
}
