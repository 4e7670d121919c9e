//! Names of the metrics of this crate. Labels are `op` (the operation) and `outcome`, both from fixed lists.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

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

/// All names.
pub const ALL: [&str; 5] = [REQUESTS, REQUEST_SECONDS, RESPONSE_BYTES, RETRIES, IN_FLIGHT];

/// Tells the installed recorder what the metrics mean.
pub fn describe() {
    describe_counter!(REQUESTS, "Requests sent to CouchDB, each attempt counted");
    describe_histogram!(
        REQUEST_SECONDS,
        Unit::Seconds,
        "Time of one attempt of a request to CouchDB"
    );
    describe_counter!(
        RESPONSE_BYTES,
        Unit::Bytes,
        "Bytes of response bodies read from CouchDB"
    );
    describe_counter!(RETRIES, "Requests to CouchDB that were tried again");
    describe_gauge!(IN_FLIGHT, "Requests to CouchDB in flight");
}
