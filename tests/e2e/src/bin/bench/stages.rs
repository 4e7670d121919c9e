//! Watches a run: when each phase began, what the stages did, what each process used.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::program::RunningCommand;
use e2e::usage::{Usage, machine_cpu_seconds};
use e2e::world::World;

/// Pause between two looks: short beside a phase, and cheap.
const LOOK: Duration = Duration::from_millis(100);
/// A measurement may be long.
const PATIENCE: Duration = Duration::from_secs(4 * 3600);

/// What this process is called.
const THIS_PROCESS: &str = "bench (with the stand-in)";

/// A process that takes part.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) usage: Usage,
}

/// A phase of the driver, from when it was first seen until the next one was.
#[derive(Clone, Debug)]
pub(crate) struct Phase {
    pub(crate) name: String,
    pub(crate) seconds: f64,
    /// Items of the stage that works in this phase, by the state schema's own count.
    pub(crate) items: i64,
}

/// What a run did and used.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) phases: Vec<Phase>,
    pub(crate) processes: Vec<Process>,
    /// CPU of everything on this machine meanwhile.
    pub(crate) machine_cpu_seconds: f64,
    /// From the start of the command to its end.
    pub(crate) total_seconds: f64,
}

impl Run {
    /// From the start of the command until the last case was compared: the scan for missing documents comes after it.
    pub(crate) fn seconds_to_diffed(&self) -> f64 {
        self.phases
            .iter()
            .take_while(|phase| phase.name != "missing")
            .map(|phase| phase.seconds)
            .sum()
    }

    /// The most memory of any process under test; this one may hold the source.
    pub(crate) fn peak_rss_mb(&self) -> f64 {
        self.processes
            .iter()
            .filter(|process| process.name != THIS_PROCESS)
            .map(|process| process.usage.peak_rss_mb)
            .fold(0.0, f64::max)
    }
}

/// A watch on a run.
pub(crate) struct Watch {
    started: Instant,
    machine: f64,
    /// (name, pid, usage before the run, last usage seen)
    processes: Vec<(String, u32, Usage, Usage)>,
    /// Each phase with the moment when it was first seen.
    seen: Vec<(String, f64)>,
}

impl Watch {
    pub(crate) async fn start(world: &World, driver: u32) -> Result<Self> {
        let members = world
            .programs()
            .iter()
            .map(|program| (program.name().to_owned(), program.pid()));
        let members = members.chain([
            ("driver".to_owned(), driver),
            (THIS_PROCESS.to_owned(), std::process::id()),
        ]);
        let processes = members
            .map(|(name, pid)| {
                let usage = Usage::of(pid).unwrap_or_default();
                (name, pid, usage, usage)
            })
            .collect();
        Ok(Self {
            started: Instant::now(),
            machine: machine_cpu_seconds().context("there is no /proc/stat")?,
            processes,
            // What comes before the first phase is the start of the command.
            seen: vec![("start".to_owned(), 0.0)],
        })
    }

    pub(crate) async fn until_the_end(mut self, world: &World, mut command: RunningCommand) -> Result<Run> {
        let mut ticks = tokio::time::interval(LOOK);
        while command.is_running() {
            ticks.tick().await;
            self.look(world).await?;
        }
        let total_seconds = self.started.elapsed().as_secs_f64();
        let output = command.end(PATIENCE).await?;
        ensure!(output.status == Some(0), "{}", output.told());
        let machine = machine_cpu_seconds().context("there is no /proc/stat")? - self.machine;
        let phases = self.phases(world, total_seconds).await?;
        let processes = self
            .processes
            .into_iter()
            .map(|(name, _, before, last)| Process {
                name,
                usage: Usage {
                    cpu_seconds: last.cpu_seconds - before.cpu_seconds,
                    peak_rss_mb: last.peak_rss_mb,
                },
            })
            .collect();
        Ok(Run {
            phases,
            processes,
            machine_cpu_seconds: machine,
            total_seconds,
        })
    }

    async fn look(&mut self, world: &World) -> Result<()> {
        for (_, pid, _, last) in &mut self.processes {
            if let Some(usage) = Usage::of(*pid) {
                *last = usage;
            }
        }
        let phase = world.text("select phase from migration").await?.unwrap_or_default();
        let is_new = self.seen.last().is_none_or(|(last, _)| *last != phase);
        if is_new && !matches!(phase.as_str(), "" | "idle" | "finished") {
            self.seen.push((phase, self.started.elapsed().as_secs_f64()));
        }
        Ok(())
    }

    async fn phases(&self, world: &World, total_seconds: f64) -> Result<Vec<Phase>> {
        let mut items: BTreeMap<String, i64> = BTreeMap::new();
        let totals = "select stage, sum(items)::bigint from stage_total group by stage";
        for row in world.state().query(totals, &[]).await? {
            items.insert(row.get(0), row.get(1));
        }
        let ends = self.seen.iter().skip(1).map(|(_, at)| *at).chain([total_seconds]);
        // A phase may be entered again: scan and replay after HQ's caches were waited for.
        let mut phases: Vec<Phase> = Vec::new();
        for ((name, at), end) in self.seen.iter().zip(ends) {
            let stage = match name.as_str() {
                "scan" => "form",
                "replay" => "case",
                other => other,
            };
            let counted = phases.iter().any(|phase| phase.name == *name);
            let items = if counted {
                0
            } else {
                items.get(stage).copied().unwrap_or_default()
            };
            phases.push(Phase {
                name: name.clone(),
                seconds: end - at,
                items,
            });
        }
        Ok(phases)
    }
}
