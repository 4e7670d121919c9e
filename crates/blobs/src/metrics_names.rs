//! Names of the metrics of this crate. Labels are `op` (`get`, `get_many`, `head`, `put`) and `outcome` (`ok`, `missing`,
//! `error`).

/// Blobs asked for or written; labels `op`, `outcome`.
pub const BLOBS: &str = "c2s_blob_objects_total";
/// Seconds of one call, however many blobs it reads; label `op`.
pub const SECONDS: &str = "c2s_blob_seconds";
/// Bytes read.
pub const BYTES: &str = "c2s_blob_read_bytes_total";
