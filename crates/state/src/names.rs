//! Names of this crate's metrics.

/// Claims by stage and outcome (`claimed`, `not_ours`).
pub const CLAIMS: &str = "c2s_state_claims_total";
/// Staged effects read for replays, by `from`: `start` (all of a case), `checkpoint` (those that came after it).
pub const REPLAY_INPUTS: &str = "c2s_state_replay_inputs_total";
