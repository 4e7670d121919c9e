//! Free loopback ports.

use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Below Linux's default range of ephemeral ports (32768 and up), so that no outgoing connection takes one of ours
/// while its service is down.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// How long a remembered port may take to become free. Others know it by now: a port that changes breaks them, and the
/// kernel may still be taking down whoever had it before.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether nobody listens on this port.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn becomes_free(port: u16, patience: Duration) -> bool {
    let start = Instant::now();
    while !is_free(port) {
        if start.elapsed() >= patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    true
}

/// The remembered port if it is still free, else a free one that is not among `taken`. `seed` spreads clones and
/// services over the range.
pub(crate) fn keep_or_choose(remembered: Option<u16>, taken: &[u16], seed: &str) -> Result<u16> {
    keep_or_choose_within(PATIENCE, remembered, taken, seed)
}

fn keep_or_choose_within(patience: Duration, remembered: Option<u16>, taken: &[u16], seed: &str) -> Result<u16> {
    if let Some(port) = remembered.filter(|port| becomes_free(*port, patience)) {
        return Ok(port);
    }
    let spread = seed.bytes().fold(u32::from(RANGE.start), |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(byte.into())
    });
    let width = u32::from(RANGE.end - RANGE.start);
    (0..width)
        .filter_map(|step| u16::try_from(spread.wrapping_add(step) % width).ok())
        .map(|offset| RANGE.start + offset)
        .find(|port| !taken.contains(port) && is_free(*port))
        .context("no free port between 20000 and 32000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_kept_while_it_is_free_and_changed_when_it_is_not() -> Result<()> {
        let first = keep_or_choose(None, &[], "a clone")?;
        assert!(RANGE.contains(&first));
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let held = holder.local_addr()?.port();
        assert_ne!(keep_or_choose_within(Duration::ZERO, Some(held), &[], "a clone")?, held);
        drop(holder);
        assert_eq!(keep_or_choose_within(Duration::ZERO, Some(held), &[], "a clone")?, held);
        Ok(())
    }

    #[test]
    fn taken_ports_are_left_out() -> Result<()> {
        let first = keep_or_choose(None, &[], "another clone")?;
        assert_ne!(keep_or_choose(None, &[first], "another clone")?, first);
        Ok(())
    }
}
