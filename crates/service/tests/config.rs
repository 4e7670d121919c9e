//! The configuration: what is read, what is refused, what is shown.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use secrecy::ExposeSecret;
use service::config::keys::KEYS;
use service::config::{BlobsKind, Config, ConfigError, LogFormat, Origin};

/// The least that is a configuration.
const LEAST: &str = r#"
    [source]
    url = "https://couch.example:6984"
    [blobs]
    path = "/mnt/blobdb"
    [target]
    default = "postgres://hq@pg0/commcarehq"
    [state]
    url = "postgres://couch_sql@pg9/couch_sql"
    [broker]
    url = "amqp://migrator@mq.example/couch-sql"
"#;

fn read(toml: &str) -> Result<Config, ConfigError> {
    read_with(toml, &[])
}

fn read_with(toml: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("couch-sql.toml");
    std::fs::write(&path, toml).unwrap();
    let environment = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::read(Some(&path), environment)
}

/// The least configuration, with a line more in a section.
fn with(section: &str, line: &str) -> String {
    let header = format!("[{section}]");
    if LEAST.contains(&header) {
        LEAST.replace(&header, &format!("{header}\n{line}"))
    } else {
        format!("{LEAST}\n{header}\n{line}\n")
    }
}

#[test]
fn defaults_are_as_documented() {
    let config = read(LEAST).unwrap();
    assert_eq!(config.source.forms_db, "commcarehq");
    assert_eq!(config.source.domains_db, "commcarehq__domains");
    assert_eq!(config.source.max_concurrency, 16);
    assert_eq!(config.source.max_requests_per_second, 200);
    assert!(config.source.username.is_none() && config.source.password.is_none());
    assert_eq!(config.blobs.kind, BlobsKind::Fs);
    assert_eq!(config.blobs.max_concurrency, 64);
    assert!(config.target.shard_count.is_none() && config.target.shards.is_empty());
    assert_eq!(config.live.minimum_age, Duration::from_secs(3600));
    assert_eq!(config.worker.concurrency, 2);
    assert_eq!(config.worker.lease, Duration::from_secs(30));
    assert_eq!(config.worker.max_attempts, 5);
    assert_eq!(config.worker.shutdown_grace, Duration::from_secs(10));
    assert_eq!(config.driver.window, 16);
    assert_eq!(config.driver.scan_page, 5_000);
    assert_eq!(config.driver.scan_window, 20_000);
    assert_eq!(config.driver.form_batch, 500);
    assert_eq!(config.driver.case_batch, 250);
    assert_eq!(config.driver.diff_batch, 250);
    assert_eq!(config.hq.cache_wait(), Duration::from_secs(61 * 60));
    assert_eq!(config.telemetry.log_format, LogFormat::Json);
    assert_eq!(config.telemetry.listen, "127.0.0.1:0".parse().unwrap());
    assert!(config.telemetry.otlp_endpoint.is_none());
    assert_eq!(config.prefetch(), 2);
}

#[test]
fn waits_for_caches_depend_on_the_hook() {
    let hook = r#"cache_hook = ["/usr/local/bin/hq", "clear"]"#;
    assert_eq!(
        read(&with("hq", hook)).unwrap().hq.cache_wait(),
        Duration::from_secs(61)
    );
    let both = format!("{hook}\ncache_wait = \"0s\"");
    assert_eq!(read(&with("hq", &both)).unwrap().hq.cache_wait(), Duration::ZERO);
    assert_eq!(
        read(&with("hq", "cache_wait = \"5m\"")).unwrap().hq.cache_wait(),
        Duration::from_secs(300)
    );
}

#[test]
fn unknown_keys_are_named_with_the_nearest_one() {
    for (toml, key, near) in [
        (with("source", "urll = \"x\""), "source.urll", "url"),
        (
            with("source", "max_concurency = 3"),
            "source.max_concurency",
            "max_concurrency",
        ),
        (with("worker", "leese = \"3s\""), "worker.leese", "lease"),
        (format!("{LEAST}\n[brokr]\n"), "brokr", "broker"),
        (format!("colour = 1\n{LEAST}"), "colour", ""),
    ] {
        let error = read(&toml).unwrap_err();
        assert_eq!(error.code(), "C2S-1003", "{error}");
        let text = error.to_string();
        assert!(text.contains(&format!("key {key}")), "{text}");
        if !near.is_empty() {
            assert!(text.contains(&format!("did you mean {near}?")), "{text}");
        }
    }
    let shard = r#"shard_count = 1
        shards = [{ range = [0, 0], url = "postgres://h/d", pasword = "secret-word" }]"#;
    let error = read(&with("target", shard)).unwrap_err();
    assert!(error.to_string().contains("pasword"), "{error}");
    assert!(!error.to_string().contains("secret-word"), "{error}");
}

#[test]
fn missing_keys_are_named_with_their_variable() {
    for (line, key, variable) in [
        (
            "url = \"https://couch.example:6984\"",
            "source.url",
            "COUCH_SQL__SOURCE__URL",
        ),
        (
            "default = \"postgres://hq@pg0/commcarehq\"",
            "target.default",
            "COUCH_SQL__TARGET__DEFAULT",
        ),
        (
            "url = \"amqp://migrator@mq.example/couch-sql\"",
            "broker.url",
            "COUCH_SQL__BROKER__URL",
        ),
    ] {
        let error = read(&LEAST.replace(line, "")).unwrap_err();
        assert_eq!(error.code(), "C2S-1004");
        let text = error.to_string();
        assert!(text.contains(key) && text.contains(variable), "{text}");
    }
    let error = read("").unwrap_err();
    assert_eq!(error.code(), "C2S-1004");
}

#[test]
fn wrong_values_are_named_and_never_repeated() {
    for (section, line, key) in [
        ("source", "password = 123456789", "source.password"),
        ("source", "max_concurrency = \"secret-word\"", "source.max_concurrency"),
        ("source", "max_concurrency = -1", "source.max_concurrency"),
        ("source", "timeout = \"secret-word\"", "source.timeout"),
        ("source", "timeout = 30", "source.timeout"),
        ("blobs", "endpoint = \"secret-word\"", "blobs.endpoint"),
        ("blobs", "kind = \"secret-word\"", "blobs.kind"),
        ("broker", "prefetch = 70000", "broker.prefetch"),
        ("hq", "cache_hook = \"secret-word\"", "hq.cache_hook"),
        ("telemetry", "listen = \"secret-word\"", "telemetry.listen"),
        ("telemetry", "log_format = \"secret-word\"", "telemetry.log_format"),
    ] {
        let error = read(&with(section, line)).unwrap_err();
        assert_eq!(error.code(), "C2S-1005", "{line}: {error}");
        let text = format!("{error} {error:?}");
        assert!(text.contains(&format!("key {key} must be ")), "{text}");
        assert!(!text.contains("secret-word") && !text.contains("123456789"), "{text}");
    }
}

#[test]
fn values_that_cannot_work_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let absent = directory.path().join("absent.pem");
    let ca_file = format!("ca_file = {:?}", absent.display().to_string());
    for (section, line, key, code) in [
        ("source", "max_concurrency = 0", "source.max_concurrency", "C2S-1006"),
        ("source", "password = \"secret-word\"", "source.username", "C2S-1006"),
        ("source", "timeout = \"0s\"", "source.timeout", "C2S-1006"),
        ("source", "forms_db = \"\"", "source.forms_db", "C2S-1006"),
        ("source", &ca_file, "source.ca_file", "C2S-1007"),
        ("blobs", "kind = \"s3\"", "blobs.bucket", "C2S-1006"),
        (
            "blobs",
            "kind = \"s3\"\nbucket = \"b\"\naccess_key = \"a\"",
            "blobs.access_key",
            "C2S-1006",
        ),
        ("worker", "concurrency = 0", "worker.concurrency", "C2S-1006"),
        ("worker", "lease = \"1s\"", "worker.lease", "C2S-1006"),
        ("worker", "max_attempts = 0", "worker.max_attempts", "C2S-1006"),
        ("driver", "window = 0", "driver.window", "C2S-1006"),
        ("driver", "scan_page = 1", "driver.scan_page", "C2S-1006"),
        ("driver", "scan_window = 499", "driver.scan_window", "C2S-1006"),
        ("hq", "cache_hook = []", "hq.cache_hook", "C2S-1006"),
        (
            "telemetry",
            "otlp_endpoint = \"ftp://collector\"",
            "telemetry.otlp_endpoint",
            "C2S-1006",
        ),
        (
            "telemetry",
            "otlp_endpoint = \"https://collector\"",
            "telemetry.otlp_endpoint",
            "C2S-1006",
        ),
        ("broker", "prefetch = 0", "broker.prefetch", "C2S-1006"),
        (
            "telemetry",
            "log_filter = \"loudly=please\"",
            "telemetry.log_filter",
            "C2S-1006",
        ),
        ("target", "shard_count = 3", "target.shard_count", "C2S-1006"),
        ("target", "shard_count = 4", "target.shards", "C2S-1006"),
        (
            "target",
            "shards = [{ range = [0, 3], url = \"postgres://h/d\" }]",
            "target.shard_count",
            "C2S-1006",
        ),
    ] {
        let error = read(&with(section, line)).expect_err(line);
        assert_eq!(error.code(), code, "{line}: {error}");
        assert!(error.to_string().contains(&format!("key {key} ")), "{line}: {error}");
        assert!(!error.remedy().is_empty());
    }
    for (from, to, key) in [
        ("https://couch", "couchdb://couch", "source.url"),
        (
            "postgres://hq@pg0/commcarehq",
            "mysql://hq@pg0/commcarehq",
            "target.default",
        ),
        (
            "postgres://couch_sql@pg9/couch_sql",
            "postgres://pg9/d?password=secret-word",
            "state.url",
        ),
        ("amqp://", "kafka://", "broker.url"),
        ("path = \"/mnt/blobdb\"", "", "blobs.path"),
    ] {
        let error = read(&LEAST.replace(from, to)).expect_err(to);
        assert!(error.to_string().contains(&format!("key {key} ")), "{to}: {error}");
        assert!(!error.to_string().contains("secret-word"));
    }
}

#[test]
fn shards_must_cover_everything_in_order() {
    let shards = |ranges: &[(u32, u32)]| {
        let entries: Vec<String> = ranges
            .iter()
            .map(|(first, last)| format!("{{ range = [{first}, {last}], url = \"postgres://hq@pg{first}/p\" }}"))
            .collect();
        read(&with(
            "target",
            &format!("shard_count = 1024\nshards = [{}]", entries.join(", ")),
        ))
    };
    let config = shards(&[(0, 511), (512, 1023)]).unwrap();
    assert_eq!(config.target.shards[1].range, (512, 1023));
    for (ranges, key) in [
        (&[(0, 511)][..], "target.shards "),
        (&[(0, 511), (513, 1023)], "target.shards[1].range"),
        (&[(0, 511), (511, 1023)], "target.shards[1].range"),
        (&[(512, 1023), (0, 511)], "target.shards[0].range"),
        (&[(0, 1024)], "target.shards[0].range"),
        (&[(5, 2)], "target.shards[0].range"),
    ] {
        let error = shards(ranges).unwrap_err();
        assert!(error.to_string().contains(key), "{ranges:?}: {error}");
    }
}

#[test]
fn the_environment_lies_over_the_file() {
    let config = read_with(
        &with("source", "password = \"from the file\"\nusername = \"u\""),
        &[
            ("COUCH_SQL__SOURCE__URL", "http://other.example:5984"),
            // Looks like a number, and is a password.
            ("COUCH_SQL__SOURCE__PASSWORD", "12345"),
            ("COUCH_SQL__SOURCE__MAX_CONCURRENCY", "7"),
            ("COUCH_SQL__WORKER__LEASE", "45s"),
            ("COUCH_SQL__HQ__CACHE_HOOK", r#"["hq", "clear"]"#),
            ("COUCH_SQL__TARGET__SHARD_COUNT", "2"),
            (
                "COUCH_SQL__TARGET__SHARDS",
                r#"[{ range = [0, 1], url = "postgres://hq@pg1/p1" }]"#,
            ),
            ("COUCH_SQL__TELEMETRY__LOG_FORMAT", "text"),
        ],
    )
    .unwrap();
    assert_eq!(config.source.url.as_str(), "http://other.example:5984/");
    assert_eq!(config.source.password.unwrap().expose_secret(), "12345");
    assert_eq!(config.source.max_concurrency, 7);
    assert_eq!(config.worker.lease, Duration::from_secs(45));
    assert_eq!(config.hq.cache_hook.unwrap(), ["hq", "clear"]);
    assert_eq!(config.target.shards[0].range, (0, 1));
    assert_eq!(config.telemetry.log_format, LogFormat::Text);

    let error = read_with(LEAST, &[("COUCH_SQL__SOURCE__URLS", "x")]).unwrap_err();
    assert!(error.to_string().contains("COUCH_SQL__SOURCE__URLS"), "{error}");
    assert!(
        error.to_string().contains("did you mean COUCH_SQL__SOURCE__URL?"),
        "{error}"
    );
    let error = read_with(LEAST, &[("COUCH_SQL__WORKER__CONCURRENCY", "secret-word")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "configuration key worker.concurrency must be a whole number within its range"
    );
}

#[test]
fn the_environment_may_say_everything() {
    let environment = [
        ("COUCH_SQL__SOURCE__URL", "http://couch:5984"),
        ("COUCH_SQL__BLOBS__PATH", "/blobs"),
        ("COUCH_SQL__TARGET__DEFAULT", "postgres://pg/hq"),
        ("COUCH_SQL__STATE__URL", "postgres://pg/state"),
        ("COUCH_SQL__BROKER__URL", "memory:"),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::read(None, environment).unwrap();
    assert_eq!(config.broker.url.as_str(), "memory:");
}

#[test]
fn secrets_come_from_files_and_urls() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("password");
    std::fs::write(&path, "pass word\r\n").unwrap();
    let file = path.display().to_string();

    let config = read(&with("state", &format!("password_file = {file:?}"))).unwrap();
    assert_eq!(config.state.password.unwrap().expose_secret(), "pass word");

    let config = read_with(LEAST, &[("COUCH_SQL__BROKER__PASSWORD_FILE", &file)]).unwrap();
    assert_eq!(config.broker.password.unwrap().expose_secret(), "pass word");

    let error = read(&with("state", &format!("password = \"x\"\npassword_file = {file:?}"))).unwrap_err();
    assert!(error.to_string().contains("state.password is set twice"), "{error}");

    let error = read(&with("state", "password_file = \"/no/such/file\"")).unwrap_err();
    assert_eq!(error.code(), "C2S-1007");
    assert!(
        error
            .to_string()
            .contains("state.password_file names the file /no/such/file"),
        "{error}"
    );

    let toml = LEAST
        .replace("https://couch", "https://user:p%40ss@couch")
        .replace("postgres://hq@pg0", "postgres://hq:in-url@pg0");
    let config = read(&toml).unwrap();
    assert_eq!(config.source.url.as_str(), "https://couch.example:6984/");
    assert_eq!(config.source.username.as_deref(), Some("user"));
    assert_eq!(config.source.password.unwrap().expose_secret(), "p@ss");
    assert_eq!(config.target.default.as_str(), "postgres://hq@pg0/commcarehq");
    assert_eq!(config.target.password.unwrap().expose_secret(), "in-url");

    let shards = format!(
        "password = \"default\"\nshard_count = 4\nshards = [\
         {{ range = [0, 1], url = \"postgres://hq@a/p\" }},\
         {{ range = [2, 2], url = \"postgres://hq@b/p\", password_file = {file:?} }},\
         {{ range = [3, 3], url = \"postgres://hq:own@c/p\" }}]"
    );
    let config = read(&with("target", &shards)).unwrap();
    let passwords: Vec<_> = config
        .target
        .shards
        .iter()
        .map(|shard| shard.password.as_ref().unwrap().expose_secret())
        .collect();
    assert_eq!(passwords, ["default", "pass word", "own"]);
}

#[test]
fn description_shows_every_key_and_no_secret() {
    let shards = "password = \"secret-word\"\nshard_count = 1\n\
                  shards = [{ range = [0, 0], url = \"postgres://hq:secret-word@a/p\", password = \"secret-word\" }]";
    let toml = with("target", shards).replace("amqp://migrator@", "amqp://migrator:secret-word@");
    let environment = [
        ("COUCH_SQL__SOURCE__PASSWORD", "secret-word"),
        ("COUCH_SQL__SOURCE__USERNAME", "someone"),
    ];
    let config = read_with(&toml, &environment).unwrap();

    let lines = config.describe();
    assert_eq!(lines.len(), KEYS.len());
    assert!(!format!("{lines:?}").contains("secret-word"), "{lines:?}");
    assert!(!format!("{config:?}").contains("secret-word"));
    let line = |key: &str| lines.iter().find(|line| line.key == key).unwrap();
    assert_eq!(line("source.password").value.as_deref(), Some("***"));
    assert_eq!(
        line("source.password").origin,
        Origin::Environment("COUCH_SQL__SOURCE__PASSWORD".to_owned())
    );
    assert_eq!(line("source.username").value.as_deref(), Some("\"someone\""));
    assert_eq!(line("source.max_concurrency").value.as_deref(), Some("16"));
    assert_eq!(line("source.max_concurrency").origin, Origin::Default);
    assert_eq!(line("source.ca_file").value, None);
    assert!(matches!(&line("target.default").origin, Origin::File(path) if path.ends_with("couch-sql.toml")));
    assert_eq!(
        line("broker.url").value.as_deref(),
        Some("\"amqp://migrator:***@mq.example/couch-sql\"")
    );
    let shards = line("target.shards").value.as_deref().unwrap();
    assert!(
        shards.contains("range = [0, 0]") && shards.contains("postgres://hq:***@a/p"),
        "{shards}"
    );
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let error = Config::read(Some(Path::new("/no/such/couch-sql.toml")), []).unwrap_err();
    assert_eq!(error.code(), "C2S-1001");
    assert!(error.to_string().contains("/no/such/couch-sql.toml"), "{error}");

    for broken in [
        "[source]\npassword = secret-word",
        "[source\npassword = \"secret-word\"",
        "= \"secret-word\"",
    ] {
        let error = read(broken).unwrap_err();
        assert_eq!(error.code(), "C2S-1002", "{error}");
        let text = format!("{error} {error:?}");
        assert!(text.contains("line "), "{text}");
        assert!(!text.contains("secret-word"), "{text}");
    }
}
