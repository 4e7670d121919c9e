//! Names of this crate's metrics.

/// Claims by stage and outcome (`claimed`, `not_ours`).
pub const CLAIMS: &str = "c2s_state_claims_total";
