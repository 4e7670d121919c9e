//! Where this clone is, and where its private files go.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::account::{self, Account};

/// The paths of one clone.
pub(crate) struct Workspace {
    root: PathBuf,
}

/// The kernel refuses longer paths of Unix sockets; the socket's own name and a margin are taken off.
const LONGEST_SOCKET_FOLDER: usize = 80;

impl Workspace {
    /// The workspace around the current folder, else the one this program was built from.
    pub(crate) fn find() -> Result<Self> {
        let here = std::env::current_dir().context("the current folder is gone")?;
        let around = here.ancestors().find(|folder| is_root(folder)).map(Path::to_path_buf);
        let built_from = || Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf);
        let root = around.or_else(built_from).context("no workspace found")?;
        ensure!(
            is_root(&root),
            "{} is not the workspace any more: run this inside the clone",
            root.display()
        );
        Ok(Self {
            root: fs::canonicalize(&root)?,
        })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// `.dev`, made if absent. Others may pass through it (services run under their own accounts) but not list it.
    pub(crate) fn dev(&self) -> Result<PathBuf> {
        let dev = self.root.join(".dev");
        make_folder(&dev, 0o711)?;
        Ok(dev)
    }

    /// A folder directly under `.dev` for this user alone.
    pub(crate) fn private_folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.dev()?.join(name);
        make_folder(&folder, 0o700)?;
        Ok(folder)
    }

    /// The log file of a service or an installation.
    pub(crate) fn log(&self, name: &str) -> Result<PathBuf> {
        Ok(self.private_folder("logs")?.join(format!("{name}.log")))
    }

    /// Held for as long as services are being started or stopped, so that two commands never do both at once.
    pub(crate) fn lock(&self) -> Result<File> {
        let path = self.dev()?.join("lock");
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        if file.try_lock().is_err() {
            eprintln!("waiting for another cargo xtask that starts or stops services");
            file.lock().context("cannot lock .dev/lock")?;
        }
        Ok(file)
    }

    /// A short name that differs between clones on one machine.
    pub(crate) fn tag(&self) -> String {
        let hash = self
            .root
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                // FNV-1a: unlike the standard hasher it is the same in every version of Rust.
                (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            });
        format!("{:08x}", hash >> 32)
    }

    /// The folder for a service's data: under `.dev`, unless the service's account cannot get there or the path is
    /// too long for a socket; then under `/var/tmp`, and that is said.
    pub(crate) fn service_folder(&self, name: &str, account: Option<&Account>) -> Result<PathBuf> {
        let inside = self.dev()?.join(name);
        let reachable = account.is_none() || inside.ancestors().skip(1).all(may_be_passed_by_others);
        if reachable && inside.as_os_str().len() <= LONGEST_SOCKET_FOLDER {
            own_folder(&inside, account)?;
            return Ok(inside);
        }
        let elsewhere = PathBuf::from(format!("/var/tmp/couch-sql-dev-{}", self.tag()));
        make_folder(&elsewhere, 0o711)?;
        ensure!(
            fs::metadata(&elsewhere)?.uid() == account::own_uid()?,
            "{} belongs to somebody else: remove it first",
            elsewhere.display()
        );
        let folder = elsewhere.join(name);
        if !folder.exists() {
            eprintln!(
                "{name}: data goes to {}: its account cannot use {}",
                folder.display(),
                inside.display()
            );
        }
        own_folder(&folder, account)?;
        Ok(folder)
    }

    /// Cargo's target folder, which configuration and environment may move.
    pub(crate) fn target(&self) -> Result<PathBuf> {
        let metadata = self.cargo_metadata(&["--no-deps"])?;
        let target = metadata["target_directory"]
            .as_str()
            .context("cargo metadata names no target folder")?;
        Ok(PathBuf::from(target))
    }

    /// The answer of `cargo metadata`.
    pub(crate) fn cargo_metadata(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let output = self
            .cargo(&["metadata", "--format-version", "1"])
            .args(arguments)
            .output()
            .context("cannot run cargo")?;
        if !output.status.success() {
            bail!(
                "cargo metadata failed: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        serde_json::from_slice(&output.stdout).context("cargo metadata's answer cannot be read")
    }

    /// A cargo command in the root of the workspace, with the cargo that runs us.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(arguments).current_dir(&self.root);
        command
    }

    /// The files git knows or would add, with this ending, relative to the root and sorted.
    pub(crate) fn files(&self, ending: &str) -> Result<Vec<PathBuf>> {
        let output = Command::new("git")
            // A clone that belongs to another user, as in many containers, is read all the same.
            .args([
                "-c",
                "safe.directory=*",
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
                "--",
            ])
            .arg(format!("*{ending}"))
            .current_dir(&self.root)
            .output()
            .context("cannot run git")?;
        ensure!(
            output.status.success(),
            "git ls-files failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let names = String::from_utf8(output.stdout).context("a file name is not UTF-8")?;
        let mut files: Vec<PathBuf> = names.split_terminator('\0').map(PathBuf::from).collect();
        files.retain(|file| self.root.join(file).is_file());
        files.sort();
        files.dedup();
        Ok(files)
    }
}

fn is_root(folder: &Path) -> bool {
    folder.join("xtask/Cargo.toml").is_file() && folder.join("proto/Cargo.toml").is_file()
}

fn may_be_passed_by_others(folder: &Path) -> bool {
    fs::metadata(folder).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0)
}

fn own_folder(folder: &Path, account: Option<&Account>) -> Result<()> {
    make_folder(folder, 0o700)?;
    if let Some(account) = account {
        account.take(folder)?;
    }
    Ok(())
}

/// Makes the folder if absent, and gives it this mode if it is new.
pub(crate) fn make_folder(folder: &Path, mode: u32) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::set_permissions(folder, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", folder.display()))
}
