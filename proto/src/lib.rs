//! What travels between the parts of the system, and the plain data they agree on.
//!
//! * [`ids`]: newtypes for domains, documents, batches and epochs, so that they cannot be mixed up.
//! * [`doctype`]: the Couch document types and what each becomes in SQL.
//! * [`message`]: the envelope and the batch messages that go through the broker, and their decoder.
//! * [`topology`]: names of exchanges, queues and headers.
//! * [`effects`]: what one form does to one case, as the form stage stages it and the case stage replays it.
//! * [`rows`]: rows of HQ's tables as plain values; what the pure crates produce and `hqsql` writes.
//! * [`stock`]: rows of the tables in which HQ keeps stock beside Couch.
//! * [`bucket`]: the hash buckets of documents, the unit of locking and of partitions.
//!
//! Nothing here does I/O, and nothing here knows a rule of CommCare beyond names and numbers.

pub mod bucket;
pub mod doctype;
pub mod effects;
pub mod ids;
pub mod message;
pub mod rows;
pub mod stock;
pub mod topology;
