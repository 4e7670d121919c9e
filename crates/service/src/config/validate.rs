//! Whether values of the right kind can work together.

use std::path::Path;
use std::time::Duration;

use url::Url;

use super::{BlobsKind, Config, ConfigError};

/// A claim is renewed several times within its lease; below this, a pause of the machine would lose it.
const SHORTEST_LEASE: Duration = Duration::from_secs(3);
/// Above this, a page or a batch is too large to hold in memory.
const LARGEST_BATCH: usize = 100_000;
/// A socket and a task each: more than this is a slip of the pen.
const LARGEST_CONCURRENCY: usize = 10_000;

type Check = Result<(), ConfigError>;

impl Config {
    /// Checks what types cannot: ranges, schemes, and keys that need each other.
    ///
    /// # Errors
    /// Names the key and says what to do.
    pub fn validate(&self) -> Check {
        scheme("source.url", &self.source.url, &["http", "https"])?;
        not_empty("source.forms_db", &self.source.forms_db)?;
        not_empty("source.domains_db", &self.source.domains_db)?;
        within(
            "source.max_concurrency",
            self.source.max_concurrency,
            1,
            LARGEST_CONCURRENCY,
        )?;
        within(
            "source.max_requests_per_second",
            self.source.max_requests_per_second,
            1,
            1_000_000,
        )?;
        some_time("source.timeout", self.source.timeout)?;
        if self.source.password.is_some() && self.source.username.is_none() {
            return Err(ConfigError::unusable(
                "source.username",
                "is missing although there is a password: set both",
            ));
        }

        self.blobs()?;
        self.target()?;

        postgres("state.url", &self.state.url)?;
        within("state.max_connections", self.state.max_connections, 2, 1_000)?;

        scheme("broker.url", &self.broker.url, &["amqp", "amqps", "memory"])?;
        if let Some(prefetch) = self.broker.prefetch {
            within("broker.prefetch", prefetch, 1, 10_000)?;
        }

        within("worker.concurrency", self.worker.concurrency, 1, 256)?;
        within("worker.max_attempts", self.worker.max_attempts, 1, 1_000)?;
        within("worker.checkpoint_from", self.worker.checkpoint_from, 1, 1_000_000)?;
        if self.worker.lease < SHORTEST_LEASE {
            return Err(ConfigError::unusable("worker.lease", "is too short: use 3s or more"));
        }

        within("driver.window", self.driver.window, 1, 10_000)?;
        within("driver.scan_page", self.driver.scan_page, 2, LARGEST_BATCH)?;
        within("driver.scan_window", self.driver.scan_window, 1, 10_000_000)?;
        for (key, size) in [
            ("driver.form_batch", self.driver.form_batch),
            ("driver.case_batch", self.driver.case_batch),
            ("driver.diff_batch", self.driver.diff_batch),
        ] {
            within(key, size, 1, LARGEST_BATCH)?;
        }
        if self.driver.scan_window < self.driver.form_batch {
            let problem = "is smaller than driver.form_batch: raise it, since batches are cut from it";
            return Err(ConfigError::unusable("driver.scan_window", problem));
        }

        for (key, hook) in [
            ("hq.cache_hook", &self.hq.cache_hook),
            ("hq.committed_hook", &self.hq.committed_hook),
        ] {
            if let Some(hook) = hook
                && hook.first().is_none_or(String::is_empty)
            {
                let problem = "names no program: write it first, or remove the key";
                return Err(ConfigError::unusable(key, problem));
            }
        }

        if let Some(endpoint) = &self.telemetry.otlp_endpoint {
            if endpoint.scheme() == "https" {
                let problem = "is https: traces go to a collector near by over http, which may send them on encrypted";
                return Err(ConfigError::unusable("telemetry.otlp_endpoint", problem));
            }
            scheme("telemetry.otlp_endpoint", endpoint, &["http"])?;
        }
        if crate::telemetry::parse_filter(&self.telemetry.log_filter).is_err() {
            let problem = "is not a filter: write a level, or levels by module, such as \"info,broker=debug\"";
            return Err(ConfigError::unusable("telemetry.log_filter", problem));
        }

        for (key, path) in [
            ("source.ca_file", &self.source.ca_file),
            ("blobs.ca_file", &self.blobs.ca_file),
            ("target.ca_file", &self.target.ca_file),
            ("state.ca_file", &self.state.ca_file),
            ("broker.ca_file", &self.broker.ca_file),
        ] {
            readable(key, path.as_deref())?;
        }
        Ok(())
    }

    fn blobs(&self) -> Check {
        within(
            "blobs.max_concurrency",
            self.blobs.max_concurrency,
            1,
            LARGEST_CONCURRENCY,
        )?;
        some_time("blobs.timeout", self.blobs.timeout)?;
        let blobs = &self.blobs;
        match blobs.kind {
            BlobsKind::Fs => {
                if blobs.path.is_none() {
                    return Err(ConfigError::unusable(
                        "blobs.path",
                        "is missing: blobs.kind is \"fs\", which needs it",
                    ));
                }
            }
            BlobsKind::S3 => {
                if blobs.bucket.as_ref().is_none_or(String::is_empty) {
                    let problem = "is missing: blobs.kind is \"s3\", which needs it";
                    return Err(ConfigError::unusable("blobs.bucket", problem));
                }
                if blobs.access_key.is_some() != blobs.secret_key.is_some() {
                    let problem = "and blobs.secret_key belong together: set both or neither";
                    return Err(ConfigError::unusable("blobs.access_key", problem));
                }
                if let Some(endpoint) = &blobs.endpoint {
                    scheme("blobs.endpoint", endpoint, &["http", "https"])?;
                }
            }
        }
        Ok(())
    }

    fn target(&self) -> Check {
        let target = &self.target;
        postgres("target.default", &target.default)?;
        within("target.max_connections", target.max_connections, 2, 1_000)?;
        let Some(count) = target.shard_count else {
            if target.shards.is_empty() {
                return Ok(());
            }
            let problem = "is missing although there are target.shards: set it as HQ has it";
            return Err(ConfigError::unusable("target.shard_count", problem));
        };
        if !count.is_power_of_two() {
            return Err(ConfigError::unusable(
                "target.shard_count",
                "is not a power of two: copy HQ's own number",
            ));
        }
        let mut next = 0;
        for (position, shard) in target.shards.iter().enumerate() {
            let key = format!("target.shards[{position}]");
            postgres(&format!("{key}.url"), &shard.url)?;
            let (first, last) = shard.range;
            if first != next || last < first || last >= count {
                let problem = format!(
                    "must begin at {next}, where the one before it ends, and end below {count}: \
                     write the ranges in order, without gaps"
                );
                return Err(ConfigError::unusable(format!("{key}.range"), problem));
            }
            next = last + 1;
        }
        if next != count {
            let problem = format!("end at {next} of {count} shards: add the missing ranges");
            return Err(ConfigError::unusable("target.shards", problem));
        }
        Ok(())
    }
}

fn scheme(key: &str, url: &Url, allowed: &[&str]) -> Check {
    if !allowed.contains(&url.scheme()) {
        let problem = format!("has the wrong scheme: it must begin with {}:", allowed.join(": or "));
        return Err(ConfigError::unusable(key, problem));
    }
    if url.scheme() != "memory" && url.host_str().is_none_or(str::is_empty) {
        return Err(ConfigError::unusable(
            key,
            format!("names no host: write {}://host…", url.scheme()),
        ));
    }
    Ok(())
}

fn postgres(key: &str, url: &Url) -> Check {
    if !["postgres", "postgresql"].contains(&url.scheme()) {
        let problem = "has the wrong scheme: it must begin with postgres:// or postgresql://";
        return Err(ConfigError::unusable(key, problem));
    }
    if url.query_pairs().any(|(name, _)| name == "password") {
        let problem = "has a password among its options: use a password_file beside it";
        return Err(ConfigError::unusable(key, problem));
    }
    Ok(())
}

fn not_empty(key: &str, text: &str) -> Check {
    if text.is_empty() {
        Err(ConfigError::unusable(key, "is empty: give it a value or remove it"))
    } else {
        Ok(())
    }
}

fn within<T: Copy + PartialOrd + std::fmt::Display>(key: &str, value: T, least: T, most: T) -> Check {
    if value < least || value > most {
        return Err(ConfigError::unusable(key, format!("must be from {least} to {most}")));
    }
    Ok(())
}

fn some_time(key: &str, time: Duration) -> Check {
    if time.is_zero() {
        Err(ConfigError::unusable(key, "is zero: give it some time"))
    } else {
        Ok(())
    }
}

fn readable(key: &str, path: Option<&Path>) -> Check {
    let Some(path) = path else { return Ok(()) };
    match std::fs::File::open(path) {
        Ok(_) => Ok(()),
        Err(source) => Err(ConfigError::NamedFile {
            key: key.to_owned(),
            path: path.to_owned(),
            source,
        }),
    }
}
