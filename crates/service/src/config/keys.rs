//! Every key of the configuration: what it takes, what it is when absent, what it means. Defaults, environment variables,
//! error messages and `docs/configuration.md` all come from this list.

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// Text.
    Text,
    /// Text that is never shown.
    Secret,
    /// A URL; a password in it is never shown.
    Url,
    /// A path, relative to the working directory.
    Path,
    /// A time span with its unit: `500ms`, `30s`, `1h 30m`.
    Duration,
    /// A whole number.
    Count,
    /// `true` or `false`.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of texts.
    List,
    /// IP address and port.
    Address,
    /// The shard table.
    Shards,
}

impl KeyKind {
    /// For people: what to write.
    pub fn expects(self) -> String {
        match self {
            Self::Text | Self::Secret => "text in quotes".to_owned(),
            Self::Url => "a URL in quotes".to_owned(),
            Self::Path => "a path in quotes".to_owned(),
            Self::Duration => "a time span in quotes, such as \"30s\" or \"1h 30m\"".to_owned(),
            Self::Count => "a whole number within its range".to_owned(),
            Self::Flag => "true or false".to_owned(),
            Self::Choice(words) => format!("one of \"{}\"", words.join("\", \"")),
            Self::List => "a list of texts, such as [\"program\", \"argument\"]".to_owned(),
            Self::Address => "an IP address with port in quotes, such as \"127.0.0.1:9100\"".to_owned(),
            Self::Shards => "a list of { range = [first, last], url = \"postgres://…\" }".to_owned(),
        }
    }

    /// The word in the documentation.
    pub fn word(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Secret => "secret",
            Self::Url => "URL",
            Self::Path => "path",
            Self::Duration => "time span",
            Self::Count => "number",
            Self::Flag => "flag",
            Self::Choice(_) => "word",
            Self::List => "list of texts",
            Self::Address => "address",
            Self::Shards => "list of tables",
        }
    }
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Section.
    pub section: &'static str,
    /// Name within the section.
    pub name: &'static str,
    /// What it takes.
    pub kind: KeyKind,
    /// What its number counts, for the documentation; empty where there is nothing to say.
    pub unit: &'static str,
    /// What it is when absent.
    pub default: KeyDefault,
    /// What it means.
    pub help: &'static str,
}

/// What an absent key stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyDefault {
    /// It must be given.
    Required,
    /// This value, as TOML.
    Value(&'static str),
    /// No value; the words say what happens then.
    Absent(&'static str),
}

impl Key {
    /// `section.name`.
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}__{}", self.section, self.name).to_uppercase()
    }
}

/// What the names of environment variables begin with.
pub const VARIABLE_PREFIX: &str = "COUCH_SQL__";

/// The key at this path.
pub fn find(path: &str) -> Option<&'static Key> {
    let (section, name) = path.split_once('.')?;
    KEYS.iter().find(|key| key.section == section && key.name == name)
}

/// (section, what it is about), in the order of the documentation.
pub const SECTIONS: [(&str, &str); 11] = [
    ("source", "CouchDB, where forms and cases are read."),
    (
        "blobs",
        "The store of form.xml and attachments. Attachments that are still inline in Couch need no configuration.",
    ),
    ("target", "HQ's PostgreSQL."),
    (
        "state",
        "The PostgreSQL database that holds our own schema, `couch_sql_migration`. Better not on HQ's own server.",
    ),
    ("broker", "RabbitMQ."),
    ("live", "Migrating a domain while it is in use."),
    ("worker", "The form, case and diff workers."),
    ("driver", "Scanning the source and dispatching batches."),
    ("hq", "The running CommCare HQ."),
    (
        "domains",
        "Options of single domains that decide how their documents are migrated.",
    ),
    ("telemetry", "Logs, traces, metrics and health."),
];

use KeyDefault::{Absent, Required, Value};
use KeyKind::{Address, Choice, Count, Duration, Flag, List, Path, Secret, Shards, Text, Url};

const fn key(
    section: &'static str,
    name: &'static str,
    kind: KeyKind,
    unit: &'static str,
    default: KeyDefault,
    help: &'static str,
) -> Key {
    Key {
        section,
        name,
        kind,
        unit,
        default,
        help,
    }
}

const NO_PASSWORD: KeyDefault = Absent("the password in the URL, if any");
const NO_FILE: KeyDefault = Absent("not read");
const SYSTEM_CA: KeyDefault = Absent("the system's authorities only");

/// All keys, by section.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("source", "url", Url, "", Required, "Address of the server: `https://host:6984`. User and password may be in it."),
    key("source", "forms_db", Text, "", Value("\"commcarehq\""), "Database of forms and cases."),
    key("source", "domains_db", Text, "", Value("\"commcarehq__domains\""), "Database of domains."),
    key("source", "username", Text, "", Absent("the user in the URL, if any"), "User who may read both databases and write domain documents."),
    key("source", "password", Secret, "", NO_PASSWORD, "The user's password."),
    key("source", "password_file", Path, "", NO_FILE, "File that holds the password, in place of `password`."),
    key("source", "ca_file", Path, "", SYSTEM_CA, "PEM file with authorities to trust for `https`, beside the system's."),
    key("source", "max_concurrency", Count, "requests", Value("16"), "Requests at a time, per process."),
    key("source", "max_requests_per_second", Count, "requests per second", Value("200"), "Rate that requests are held to, per process."),
    key("source", "timeout", Duration, "", Value("\"60s\""), "Longest time for one request; it is tried again afterwards."),
    key("source", "read_only", Flag, "", Value("false"), "Never write to `forms_db`: forms that once replaced a duplicate are then put on record (C2S-2308) instead of being repaired. Domain documents are written all the same, by `COMMIT`."),

    key("blobs", "kind", Choice(&["fs", "s3"]), "", Value("\"fs\""), "`fs`: a directory. `s3`: a bucket of S3, or of anything that speaks its protocol."),
    key("blobs", "path", Path, "", Absent("required for `fs`"), "For `fs`: HQ's shared blob directory."),
    key("blobs", "bucket", Text, "", Absent("required for `s3`"), "For `s3`: the bucket."),
    key("blobs", "endpoint", Url, "", Absent("Amazon's own"), "For `s3`: address of the service."),
    key("blobs", "region", Text, "", Value("\"us-east-1\""), "For `s3`: the region."),
    key("blobs", "access_key", Text, "", Absent("what the machine's environment offers"), "For `s3`: the access key."),
    key("blobs", "secret_key", Secret, "", Absent("what the machine's environment offers"), "For `s3`: the access key's secret."),
    key("blobs", "secret_key_file", Path, "", NO_FILE, "File that holds the secret, in place of `secret_key`."),
    key("blobs", "ca_file", Path, "", SYSTEM_CA, "For `s3`: PEM file with authorities to trust, beside the system's."),
    key("blobs", "accept_all_lost", Flag, "", Value("false"), "A first `MIGRATE` refuses a domain when the store has the XML of none of its first forms (C2S-4057), since it is then probably the wrong store. `true`: go on, and rebuild the XML from CouchDB."),
    key("blobs", "max_concurrency", Count, "objects", Value("64"), "Objects read at a time, per process. There is one per form: the blob store can be the slowest part."),
    key("blobs", "timeout", Duration, "", Value("\"30s\""), "For `s3`: longest time for one request; it is tried again afterwards."),

    key("target", "default", Url, "", Required, "Default database: flags and stock tables, and forms and cases when there are no shards. Options in the URL are PostgreSQL's own, `?sslmode=verify-full` for example."),
    key("target", "password", Secret, "", NO_PASSWORD, "Password for the default database, and for every shard without its own."),
    key("target", "password_file", Path, "", NO_FILE, "File that holds the password, in place of `password`."),
    key("target", "shard_count", Count, "logical shards", Absent("no shards"), "Number of logical shards: a power of two, as in HQ's own configuration."),
    key("target", "shards", Shards, "", Value("[]"), "Which database holds which logical shards: `range` (first and last), `url`, and `password` or `password_file` where it differs. Together they cover all shards, in order."),
    key("target", "ca_file", Path, "", SYSTEM_CA, "PEM file with authorities to trust, for `sslmode=verify-full`."),
    key("target", "max_connections", Count, "connections", Value("16"), "Connections to each database, per process."),
    key("target", "writer_role", Text, "", Absent("no grants are printed"), "Role of coordinator, form workers and case workers, for the grants that `coordinator init` prints or makes."),
    key("target", "reader_role", Text, "", Absent("no grants are printed"), "Role of the diff workers, who only read, likewise."),

    key("state", "url", Url, "", Required, "The database, `postgres://user@host/name`."),
    key("state", "password", Secret, "", NO_PASSWORD, "The user's password."),
    key("state", "password_file", Path, "", NO_FILE, "File that holds the password, in place of `password`."),
    key("state", "ca_file", Path, "", SYSTEM_CA, "PEM file with authorities to trust, for `sslmode=verify-full`."),
    key("state", "max_connections", Count, "connections", Value("8"), "Connections, per process."),

    key("broker", "url", Url, "", Required, "`amqp://user@host:5672/vhost`, `amqps://…`, or `memory:` when everything runs in one process."),
    key("broker", "password", Secret, "", NO_PASSWORD, "The user's password."),
    key("broker", "password_file", Path, "", NO_FILE, "File that holds the password, in place of `password`."),
    key("broker", "ca_file", Path, "", SYSTEM_CA, "PEM file with authorities to trust for `amqps`, beside the system's."),
    key("broker", "prefetch", Count, "messages", Absent("`worker.concurrency`"), "Messages that a worker may hold at a time, those it works on included."),

    key("live", "minimum_age", Duration, "", Value("\"1h\""), "Documents younger than this are left for the next round, since they may still change."),
    key("live", "follow_pause", Duration, "", Value("\"30s\""), "Pause between two rounds of `MIGRATE --live --follow`."),

    key("worker", "concurrency", Count, "batches", Value("2"), "Batches at a time, per process: one reads while another writes."),
    key("worker", "lease", Duration, "", Value("\"30s\""), "How long a claimed batch is a silent worker's before another may take it. Renewed while the worker works."),
    key("worker", "max_attempts", Count, "attempts", Value("5"), "Attempts of a single document before it is recorded with its error."),
    key("worker", "shutdown_grace", Duration, "", Value("\"10s\""), "How long batches in hand may take to finish after SIGTERM; then they are given back."),
    key("worker", "checkpoint_from", Count, "forms", Value("500"), "Forms of a case from which on a replay keeps a checkpoint, so that the next one costs what its new forms cost. For fewer, reading them again is as cheap."),

    key("driver", "window", Count, "batches", Value("16"), "Batches in flight per domain. Bounds the queues, and keeps one large domain from holding up the others."),
    key("driver", "scan_page", Count, "rows", Value("5000"), "Rows of one view page."),
    key("driver", "scan_window", Count, "ids", Value("20000"), "Ids that are collected and sorted before they are cut into batches: neighbouring ids are cheaper to read."),
    key("driver", "form_batch", Count, "forms", Value("500"), "Forms in a batch."),
    key("driver", "case_batch", Count, "cases", Value("250"), "Cases in a batch of replay."),
    key("driver", "diff_batch", Count, "cases", Value("250"), "Cases in a batch of diff."),
    key("driver", "domains_at_once", Count, "domains", Value("8"), "Domains that one coordinator drives at a time."),

    key("hq", "cache_hook", List, "", Absent("none is run"), "Program and arguments that make HQ forget what it caches of a domain. The domain's name is appended. Run after every change of the progress flag or the domain document."),
    key("hq", "cache_hook_timeout", Duration, "", Value("\"60s\""), "Longest time for the hook; a hook that takes longer, or fails, ends the command."),
    key("hq", "cache_wait", Duration, "", Absent("`61m` without a hook, `61s` with one"), "How long HQ may go on believing an old progress flag; finishing and committing wait that long."),
    key("hq", "committed_hook", List, "", Absent("none is run"), "Program and arguments that tell people, by mail for example, that a domain is on SQL. The domain's name is appended. Run at the end of every `COMMIT`, for as long as `cache_hook_timeout` at most; that it fails is told (C2S-4098) and changes nothing."),
    key("hq", "uncommit_window", Duration, "", Value("\"24h\""), "How long after a `COMMIT` `coordinator uncommit` may take it back. For that `COMMIT` keeps a digest of each form and case, some 60 bytes a document. `\"0s\"`: none is kept, and a `COMMIT` is final."),

    key("domains", "case_attachments", List, "", Value("[]"), "Domains whose cases keep attachments: those with HQ's toggle `MM_CASE_PROPERTIES`. Frozen for a domain when its migration starts."),
    key("domains", "restricted", List, "", Value("[]"), "Domains that must not be migrated: those that HQ's toggle keeps back, and those with reports in code of their own, which read CouchDB."),

    key("telemetry", "otlp_endpoint", Url, "", Absent("no traces are sent"), "OpenTelemetry collector for traces, OTLP over gRPC: `http://host:4317`."),
    key("telemetry", "log_format", Choice(&["json", "text"]), "", Value("\"json\""), "Shape of log lines on standard error."),
    key("telemetry", "log_filter", Text, "", Value("\"info\""), "Which log lines are written: a level, or levels by module, such as `info,broker=debug`."),
    key("telemetry", "listen", Address, "", Value("\"127.0.0.1:0\""), "Where `/metrics`, `/healthz` and `/readyz` are served. Port 0 takes a free one, which the log names."),
];

/// The rows of a section as a Markdown table, as `docs/configuration.md` has them.
pub fn markdown(section: &str) -> String {
    let mut text = String::from("| key | type | default | meaning |\n|---|---|---|---|\n");
    for key in KEYS.iter().filter(|key| key.section == section) {
        let kind = if key.unit.is_empty() {
            key.kind.word().to_owned()
        } else {
            format!("number of {}", key.unit)
        };
        let default = match key.default {
            Required => "required".to_owned(),
            Value(value) => format!("`{value}`"),
            Absent(words) => format!("absent: {words}"),
        };
        text.push_str(&format!("| `{}` | {kind} | {default} | {} |\n", key.name, key.help));
    }
    text
}
