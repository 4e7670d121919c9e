//! What was measured, for people and for programs.

use e2e::load::Loaded;

use crate::raw::{AT_ONCE, Raw};
use crate::stages::Run;

/// Everything that was measured.
pub(crate) struct Report {
    pub(crate) loaded: Loaded,
    pub(crate) run: Run,
    pub(crate) raw: Raw,
}

impl Report {
    /// Prints a table, and one line for programs at the end.
    pub(crate) fn print(&self, source: &str, workers: usize) {
        let source = if source.contains('@') { "a server" } else { source };
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        println!(
            "\n{} forms and {} cases, source {source}, {workers} workers of each kind, {processors} processors for everything",
            self.loaded.forms, self.loaded.cases
        );
        self.print_phases();
        self.print_processes();
        self.print_raw();
        self.print_line();
    }

    fn print_phases(&self) {
        println!("\n{:<28} {:>9} {:>9} {:>10}", "phase", "seconds", "items", "items/s");
        for phase in &self.run.phases {
            let shown = match phase.name.as_str() {
                "start" => "start of the command",
                "scan" => "scan, read, write and stage",
                "replay" => "replay of cases",
                "settle" => "settle",
                "diff" => "diff of cases",
                "missing" => "missing documents",
                other => other,
            };
            // The scan for missing documents lists all of them, and has no batches.
            let items = if phase.name == "missing" {
                self.loaded.documents() as i64
            } else {
                phase.items
            };
            let rate = if items > 0 {
                format!("{:.0}", items as f64 / phase.seconds.max(0.001))
            } else {
                String::new()
            };
            println!("{shown:<28} {:>9.2} {items:>9} {rate:>10}", phase.seconds);
        }
        println!(
            "{:<28} {:>9.2} {:>9} {:>10.0}",
            "scan to diffed, forms",
            self.seconds(),
            self.loaded.forms,
            self.rate()
        );
        println!("{:<28} {:>9.2}", "whole command", self.run.total_seconds);
    }

    fn print_processes(&self) {
        println!("\n{:<28} {:>9} {:>9}", "process", "CPU s", "peak MB");
        let mut known = 0.0;
        for process in &self.run.processes {
            known += process.usage.cpu_seconds;
            println!(
                "{:<28} {:>9.2} {:>9.0}",
                process.name, process.usage.cpu_seconds, process.usage.peak_rss_mb
            );
        }
        println!(
            "{:<28} {:>9.2}",
            "others on this machine",
            (self.run.machine_cpu_seconds - known).max(0.0)
        );
    }

    fn print_raw(&self) {
        println!(
            "\n{:<28} {:>9} {:>9} {:>10}",
            "for comparison", "seconds", "items", "items/s"
        );
        println!(
            "{:<28} {:>9.2} {:>9} {:>10.0}",
            "raw read of all documents",
            self.raw.read_seconds,
            self.raw.documents,
            self.raw.read_rate()
        );
        println!(
            "{:<28} {:>9.2} {:>9} {:>10.0}",
            "raw COPY of 3 KB rows",
            self.raw.copy_seconds,
            self.raw.rows,
            self.raw.copy_rate()
        );
        println!(
            "\nIncluded: everything from the start of the MIGRATE command (its connections, too) until the last case was\n\
             compared; the scan for missing documents is shown apart. Nothing was run beforehand to warm caches, but the\n\
             documents had just been loaded. The raw read lists all keys and reads all bodies once, {AT_ONCE} at a time, after\n\
             the migration; ratio_to_raw_read is its time over the migration's. \"Others\" are PostgreSQL, RabbitMQ, a\n\
             source of its own, and whatever else this machine did. The stand-in runs in this process."
        );
    }

    fn print_line(&self) {
        println!(
            "bench: ok forms={} seconds={:.1} forms_per_second={:.0} raw_read_docs_per_second={:.0} \
             raw_copy_rows_per_second={:.0} ratio_to_raw_read={:.3} peak_rss_mb={:.0}",
            self.loaded.forms,
            self.seconds(),
            self.rate(),
            self.raw.read_rate(),
            self.raw.copy_rate(),
            self.raw.read_seconds / self.seconds(),
            self.run.peak_rss_mb()
        );
    }

    fn seconds(&self) -> f64 {
        self.run.seconds_to_diffed()
    }

    fn rate(&self) -> f64 {
        self.loaded.forms as f64 / self.seconds()
    }
}
