//! Names of the metrics of this crate. Labels are bounded: tables, kinds and operations, never a domain or an id.

/// Counter of rows written; labels `table` and `change` (`insert`, `update`, `delete`).
pub const ROWS: &str = "c2s_target_rows_total";
/// Counter of rows that a merge found equal and left alone; label `table`.
pub const UNCHANGED: &str = "c2s_target_rows_unchanged_total";
/// Histogram of seconds; label `step` (`copy`, `merge`, `commit`, `begin`).
pub const STEP_SECONDS: &str = "c2s_target_step_seconds";
/// Counter of sessions ended because they held up a fence; no labels.
pub const ENDED_SESSIONS: &str = "c2s_target_ended_sessions_total";

/// Measures one step from its making to its end.
pub(crate) struct Step {
    name: &'static str,
    started: std::time::Instant,
}

impl Step {
    pub(crate) fn start(name: &'static str) -> Self {
        Self {
            name,
            started: std::time::Instant::now(),
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        metrics::histogram!(STEP_SECONDS, "step" => self.name).record(self.started.elapsed().as_secs_f64());
    }
}
