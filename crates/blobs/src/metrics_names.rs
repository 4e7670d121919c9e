//! Names of the metrics of this crate. Labels are `op` (`get`, `get_many`, `head`, `put`) and `outcome` (`ok`, `missing`,
//! `error`).

use metrics::{Unit, describe_counter, describe_histogram};

/// Blobs asked for or written; labels `op`, `outcome`.
pub const BLOBS: &str = "c2s_blob_objects_total";
/// Seconds of one call, however many blobs it reads; label `op`.
pub const SECONDS: &str = "c2s_blob_seconds";
/// Bytes read.
pub const BYTES: &str = "c2s_blob_read_bytes_total";

/// All names.
pub const ALL: [&str; 3] = [BLOBS, SECONDS, BYTES];

/// Tells the installed recorder what the metrics mean.
pub fn describe() {
    describe_counter!(BLOBS, "Blobs asked for or written");
    describe_histogram!(
        SECONDS,
        Unit::Seconds,
        "Time of one call of the blob store, of one or many blobs"
    );
    describe_counter!(BYTES, Unit::Bytes, "Bytes of blobs read");
}
