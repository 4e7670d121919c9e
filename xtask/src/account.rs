//! Under which account a service runs: PostgreSQL refuses to run as root, and nothing else needs to.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// An ordinary account, taken on by services when this program runs as root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: String,
    uid: u32,
    gid: u32,
}

impl Account {
    /// Lets a command run under this account, with no group but the account's own.
    pub(crate) fn assume(&self, command: &mut Command) {
        command
            .uid(self.uid)
            .gid(self.gid)
            .env("USER", &self.name)
            .env("LOGNAME", &self.name);
    }

    /// Makes this account the owner of a file or folder.
    pub(crate) fn take(&self, path: &Path) -> Result<()> {
        chown(path, Some(self.uid), Some(self.gid))
            .with_context(|| format!("cannot give {} to {}", path.display(), self.name))
    }
}

/// The uid this program runs under.
pub(crate) fn own_uid() -> Result<u32> {
    Ok(fs::metadata("/proc/self")
        .context("no /proc: these commands need Linux")?
        .uid())
}

/// Whether this program runs as root.
pub(crate) fn is_root() -> Result<bool> {
    Ok(own_uid()? == 0)
}

/// The name of the account this program runs under.
pub(crate) fn own_name() -> Result<String> {
    let uid = own_uid()?;
    let listed = accounts()?.into_iter().find(|account| account.uid == uid);
    Ok(listed.map_or_else(|| uid.to_string(), |account| account.name))
}

/// The account for a service: the first of these that exists if we are root, else our own (`None`).
pub(crate) fn for_service(preferred: &[&str]) -> Result<Option<Account>> {
    if !is_root()? {
        return Ok(None);
    }
    let accounts = accounts()?;
    let found = preferred
        .iter()
        .find_map(|name| accounts.iter().find(|account| account.name == *name));
    let account = found.with_context(|| format!("none of the accounts {} exists", preferred.join(", ")))?;
    Ok(Some(account.clone()))
}

fn accounts() -> Result<Vec<Account>> {
    let passwd = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    Ok(passwd.lines().filter_map(parse_account).collect())
}

fn parse_account(line: &str) -> Option<Account> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(Account { name, uid, gid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_passwd_gives_name_uid_and_gid() {
        let account = parse_account("postgres:x:101:104:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash");
        assert_eq!(
            account,
            Some(Account {
                name: "postgres".into(),
                uid: 101,
                gid: 104
            })
        );
        assert_eq!(parse_account("+::::::"), None);
        assert_eq!(parse_account(""), None);
    }
}
