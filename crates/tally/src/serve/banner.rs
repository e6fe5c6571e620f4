//! What a person sees first: where it listens, and a line to try it with.

use std::net::{IpAddr, SocketAddr};

use super::listen::Listeners;
use crate::config::{CatalogueMode, Config, LogKind};

/// The banner. The curl line works as pasted where the local key is valid and the catalogue has
/// the local default's resources.
pub(super) fn banner(config: &Config, listeners: &Listeners) -> String {
    let api = url(listeners.api_address);
    let management = url(listeners.management_address);
    let version = env!("CARGO_PKG_VERSION");
    let data = config.data_dir.display();
    let log = log(config);
    let (key, hint) = if config.auth.local_dev_key {
        ("local-dev-key", "")
    } else {
        (
            "$KEY",
            "  (KEY is what `tally keys create --user U` prints)",
        )
    };
    let resource = if config.catalogue.seed || config.catalogue.mode == CatalogueMode::Open {
        ""
    } else {
        "  (after `tally resources add ai_note 15`)"
    };
    format!(
        "Tally {version}
  API         {api}/api/v1/metrics/interact/  (described at {api}/docs)
  Management  {management}/  (the live page)  /readyz  /metrics
  Log         {log}
  Data        {data}

Try it:{hint}{resource}
  curl -s {api}/api/v1/metrics/interact/ -H \"Authorization: Bearer {key}\" -H \"Content-Type: application/json\" -d '{{\"resource_type\":\"ai_note\",\"resource_id\":15,\"interaction_type\":\"bookmark\"}}'
"
    )
}

/// What the log is.
fn log(config: &Config) -> String {
    let partitions = config.log.partitions;
    match config.log.kind {
        LogKind::Embedded => format!("embedded, {partitions} partitions"),
        LogKind::Kafka => {
            let servers = config.kafka.bootstrap_servers.as_deref();
            let (servers, prefix) = (servers.unwrap_or_default(), &config.kafka.topic_prefix);
            format!("Kafka at {servers}, topics {prefix}.*, {partitions} partitions")
        }
    }
}

/// How a listener is reached from this host.
fn url(listener: SocketAddr) -> String {
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => "127.0.0.1".to_owned(),
        IpAddr::V6(ip) if ip.is_unspecified() => "[::1]".to_owned(),
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    format!("http://{ip}:{}", listener.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects addresses that people paste.
    #[test]
    fn an_address_is_shown_as_it_is_reached() {
        for (listener, wanted) in [
            ("127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("0.0.0.0:8080", "http://127.0.0.1:8080"),
            ("[::]:8080", "http://[::1]:8080"),
            ("[2001:db8::1]:80", "http://[2001:db8::1]:80"),
        ] {
            assert_eq!(url(listener.parse().unwrap()), wanted);
        }
    }
}
