//! Names of the metrics of this crate. Labels are `op` (the operation) and `outcome`, both from fixed lists.

/// Requests sent, each attempt counted; labels `op`, `outcome`.
pub const REQUESTS: &str = "c2s_couch_requests_total";
/// Seconds from sending a request to the last byte of its answer, each attempt by itself; label `op`.
pub const REQUEST_SECONDS: &str = "c2s_couch_request_seconds";
/// Bytes of response bodies, decoded.
pub const RESPONSE_BYTES: &str = "c2s_couch_response_bytes_total";
/// Attempts that are repeated; label `op`.
pub const RETRIES: &str = "c2s_couch_retries_total";
/// Requests in flight.
pub const IN_FLIGHT: &str = "c2s_couch_requests_in_flight";
