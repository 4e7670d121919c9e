//! Names of the metrics that this crate records. Labels: `stage` (form, case, diff) and `outcome`.

/// Counter. Messages published, by stage and outcome (`confirmed`, `unroutable`, `refused`, `unknown`).
pub const PUBLISHED: &str = "c2s_broker_published_total";
/// Histogram, seconds. From the call of publish to the broker's confirmation, by stage.
pub const PUBLISH_SECONDS: &str = "c2s_broker_publish_seconds";
/// Counter. Deliveries handed to workers, by stage and outcome (`first`, `redelivered`).
pub const DELIVERED: &str = "c2s_broker_delivered_total";
/// Counter. Deliveries settled, by stage and outcome (`ack`, `requeue`, `dead_letter`, or `stale` when the connection
/// that the delivery came by was gone).
pub const SETTLED: &str = "c2s_broker_settled_total";
/// Gauge. 1 while there is a working connection.
pub const CONNECTED: &str = "c2s_broker_connected";
/// Gauge. 1 while the broker refuses to read from us, because it is short of memory or disk.
pub const BLOCKED: &str = "c2s_broker_blocked";
/// Counter. Connections rebuilt after a loss.
pub const RECONNECTS: &str = "c2s_broker_reconnects_total";
