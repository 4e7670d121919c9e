//! What a process has used, as Linux counts it.

use std::fs;

/// Clock ticks per second in `/proc`: a constant of the interface on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time and memory of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// CPU seconds so far.
    pub cpu_seconds: f64,
    /// The most memory that it ever had resident, in MiB.
    pub peak_rss_mb: f64,
}

impl Usage {
    /// Usage of a process that is alive; none if it is gone.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        Some(Self {
            cpu_seconds: cpu_seconds(&stat)?,
            peak_rss_mb: peak_rss_mb(&status)?,
        })
    }
}

/// CPU seconds of all processors together since the machine started, idle time left out.
pub fn machine_cpu_seconds() -> Option<f64> {
    busy_seconds(&fs::read_to_string("/proc/stat").ok()?)
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    // The name is in parentheses and may hold anything; user and system time are the 12th and 13th field after it.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut ticks = fields.split_whitespace().skip(11).map(str::parse::<f64>);
    let (user, system) = (ticks.next()?.ok()?, ticks.next()?.ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

fn peak_rss_mb(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes / 1024.0)
}

fn busy_seconds(stat: &str) -> Option<f64> {
    let fields: Vec<f64> = stat
        .lines()
        .next()?
        .split_whitespace()
        .skip(1)
        .map_while(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal: guests are in user already.
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = fields[..] else {
        return None;
    };
    Some((user + nice + system + irq + softirq) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn proc_is_read_by_its_fields() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 7 8 20 0 1 0 100 200 300";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(peak_rss_mb("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n"), Some(2.0));
        assert_eq!(
            busy_seconds("cpu  100 100 100 900 900 50 50 0 0 0\ncpu0 1 1\n"),
            Some(4.0)
        );
        let own = Usage::of(std::process::id()).unwrap();
        assert!(own.peak_rss_mb > 1.0);
        assert!(machine_cpu_seconds().unwrap() >= own.cpu_seconds);
    }
}
