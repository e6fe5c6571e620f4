//! What an operator sets: the settings as types, their layers, and what is refused.
//!
//! The layers, the last one wins: the compiled-in `config/local.toml`; the file given with
//! `--config`; the environment, where `section.key` is `TALLY__SECTION__KEY`. As soon as a file is
//! given, what makes the local default convenient but unsafe elsewhere (`auth.local_dev_key`,
//! `catalogue.seed`) starts as off and has to be said by name.
//!
//! - [`values`]: times, sizes and numbers that know their own range
//! - [`mod@kafka`]: what the Kafka log is told
//! - [`jwt`]: which tokens are taken
//! - [`traces`]: where traces go
//! - [`layers`]: where settings come from
//! - [`error`]: what is wrong, by the setting's full name, where it came from, and what is valid

pub(crate) mod error;
pub(crate) mod jwt;
pub(crate) mod kafka;
pub(crate) mod layers;
pub(crate) mod traces;
pub(crate) mod values;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(crate) use error::ConfigError;
pub(crate) use jwt::{Jwt, JwtKeys, JwtSettings};
pub(crate) use kafka::Kafka;
pub(crate) use layers::Sources;
pub(crate) use traces::{TraceSettings, Tracing};
use values::{Size, Span, Texts, Whole};

use crate::objects::Place;

/// All settings, valid as they stand. `config/local.toml` says what each of them means.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(deserialize_with = "values::text")]
    pub(crate) data_dir: PathBuf,
    pub(crate) shutdown_limit: Span<100, 3_600_000>,
    pub(crate) drain_delay: Span<0, 600_000>,
    pub(crate) api: Api,
    pub(crate) management: Management,
    pub(crate) log: Log,
    pub(crate) kafka: Kafka,
    pub(crate) catalogue: Catalogue,
    pub(crate) auth: Auth,
    pub(crate) projector: Projector,
    pub(crate) snapshots: Snapshots,
    pub(crate) logging: Logging,
    pub(crate) tracing: Tracing,
}

/// The public API.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Api {
    #[serde(deserialize_with = "values::address")]
    pub(crate) listen: SocketAddr,
    /// 0: one per core.
    pub(crate) workers: Whole<0, 1_024>,
    pub(crate) max_connections: Whole<1, 1_000_000>,
    pub(crate) max_body: Size<1_024, { 64 << 20 }>,
    pub(crate) head_timeout: Span<1, 600_000>,
    pub(crate) body_timeout: Span<1, 600_000>,
    pub(crate) keep_alive: Span<1_000, 3_600_000>,
    pub(crate) cors_origins: Texts,
}

/// Metrics, health and administration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Management {
    #[serde(deserialize_with = "values::address")]
    pub(crate) listen: SocketAddr,
    pub(crate) hosts: Texts,
    pub(crate) stalled_after: Span<100, 3_600_000>,
}

/// The event log.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Log {
    pub(crate) kind: LogKind,
    pub(crate) partitions: Whole<1, 1_024>,
    pub(crate) segment_size: Size<{ 64 << 10 }, { 2 << 30 }>,
    pub(crate) max_queued: Size<{ 2 << 20 }, { 4 << 30 }>,
    /// Bytes a second; 0: no check.
    pub(crate) check_rate: Size<0, { 16 << 30 }>,
}

/// Which implementation of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogKind {
    /// Files of our own.
    Embedded,
    /// Topics of a Kafka cluster.
    Kafka,
}

/// Which resources exist.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Catalogue {
    pub(crate) mode: CatalogueMode,
    pub(crate) seed: bool,
}

/// What makes a resource exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CatalogueMode {
    /// Being in the catalogue.
    Registered,
    /// Having a valid id.
    Open,
}

/// Who may call the API.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Auth {
    #[serde(
        default,
        deserialize_with = "values::optional_text",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) keys_file: Option<PathBuf>,
    pub(crate) local_dev_key: bool,
    pub(crate) jwt: Jwt,
    /// What `jwt` says, checked; `None` where no tokens are taken.
    #[serde(skip)]
    pub(crate) tokens: Option<JwtSettings>,
}

/// The fold and the state.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Projector {
    pub(crate) wait_limit: Span<1, 600_000>,
    /// 0: half of the cores.
    pub(crate) workers: Whole<0, 1_024>,
    pub(crate) max_waiters: Whole<1, 10_000_000>,
    pub(crate) checkpoint_interval: Span<10, 3_600_000>,
    pub(crate) checkpoint_changes: Whole<1, 100_000_000>,
    pub(crate) memory: Size<{ 1 << 20 }, { 64 << 40 }>,
    pub(crate) cache_size: Size<{ 1 << 20 }, { 64 << 30 }>,
    /// Zero: never.
    pub(crate) check_interval: Span<0, 604_800_000>,
    /// Zero: as many as can be.
    pub(crate) rebuild_rate: Whole<0, 1_000_000_000>,
}

/// Snapshots of the state.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Snapshots {
    /// Empty: none are taken.
    #[serde(deserialize_with = "values::text")]
    pub(crate) url: String,
    pub(crate) interval: Span<1_000, 604_800_000>,
    pub(crate) keep: Whole<1, 1_000>,
}

/// Log lines.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Logging {
    pub(crate) format: LogFormat,
    #[serde(deserialize_with = "values::text")]
    pub(crate) level: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// Where the API keys are.
    pub(crate) fn keys_file(&self) -> PathBuf {
        let own = || self.data_dir.join("keys.json");
        self.auth.keys_file.clone().unwrap_or_else(own)
    }

    /// Refuses what each setting alone can't see.
    fn check(&self, sources: &Sources) -> Result<(), ConfigError> {
        let refuse = |setting: &str, why: &str| Err(sources.invalid(setting, why.to_owned()));
        if self.data_dir.as_os_str().is_empty() {
            return refuse("data_dir", "it is empty; valid is the path of a folder");
        }
        let (api, management) = (self.api.listen, self.management.listen);
        if api == management && api.port() != 0 {
            return refuse(
                "management.listen",
                "it is the same as api.listen; valid is another port",
            );
        }
        if self.auth.local_dev_key {
            for (setting, address) in [("api.listen", api), ("management.listen", management)] {
                if !address.ip().to_canonical().is_loopback() {
                    let why = format!(
                        "the well-known local-dev-key is only for loopback, and {setting} is {address}; set auth.local_dev_key to false and use `tally keys create`, or listen on 127.0.0.1"
                    );
                    return Err(sources.invalid("auth.local_dev_key", why));
                }
            }
        }
        if let Err(why) = Place::of(&self.snapshots.url) {
            return refuse("snapshots.url", &why);
        }
        for origin in self.api.cors_origins.as_slice() {
            let scheme = ["http://", "https://"]
                .iter()
                .find_map(|s| origin.strip_prefix(s));
            let host =
                scheme.is_some_and(|host| !host.is_empty() && !host.contains(['/', ' ', '*']));
            if origin != "*" && !host {
                let why = format!(
                    "{origin:?} is not an origin; valid are scheme, host and port as in \"https://app.example.com\", or \"*\""
                );
                return Err(sources.invalid("api.cors_origins", why));
            }
        }
        for host in self.management.hosts.as_slice() {
            let char = |char: char| char.is_ascii_alphanumeric() || "-._".contains(char);
            if host.is_empty() || host.len() > 253 || !host.chars().all(char) {
                let why = format!(
                    "{host:?} is not the name of a host; valid are names without scheme and port, as in \"tally.example.com\""
                );
                return Err(sources.invalid("management.hosts", why));
            }
        }
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&self.logging.level) {
            let why = format!(
                "{:?} is not a log level ({error}); valid are error, warn, info, debug, trace, or a list as in \"info,tally_log=debug\"",
                self.logging.level
            );
            return Err(sources.invalid("logging.level", why));
        }
        Ok(())
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
