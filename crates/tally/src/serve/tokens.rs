//! Which tokens are taken, from the settings; and how a key set is got from its address.

use std::time::Duration;

use tally_ingress::auth::jwt::{Fetch, JwtOptions, KeySource, MAX_JWKS};
use ureq::Agent;
use ureq::http::StatusCode;

use super::tls;
use crate::config::{JwtKeys, JwtSettings};
use crate::failure::Failure;

/// How long getting a key set may take in all.
const PATIENCE: Duration = Duration::from_secs(5);

/// What checks tokens is told.
///
/// # Errors
/// Where an address needs TLS, and this host trusts nobody.
pub(super) fn options(settings: &JwtSettings) -> Result<JwtOptions, Failure> {
    let keys = match &settings.keys {
        JwtKeys::Secrets(paths) => KeySource::Secrets(paths.clone()),
        JwtKeys::PublicKeys(paths) => KeySource::PublicKeys(paths.clone()),
        JwtKeys::JwksFile(path) => KeySource::JwksFile(path.clone()),
        JwtKeys::JwksUrl {
            url,
            refresh,
            min_refresh,
            keep,
        } => KeySource::JwksUrl {
            fetch: fetch(url.clone())?,
            refresh: *refresh,
            min_refresh: *min_refresh,
            keep: *keep,
        },
    };
    Ok(JwtOptions {
        algorithms: settings.algorithms.clone(),
        keys,
        issuer: settings.issuer.clone(),
        audiences: settings.audiences.clone(),
        leeway: settings.leeway,
    })
}

/// Gets the set at an address. Proxies of the environment are used, as its `NO_PROXY` says. With
/// https, the authorities that this host trusts (`SSL_CERT_FILE`, `SSL_CERT_DIR`) count, and some
/// redirections are followed, none of them away from https; with http, none is.
fn fetch(url: String) -> Result<Fetch, Failure> {
    let secure = tls::is_https(&url);
    let mut config = Agent::config_builder()
        .https_only(secure)
        .max_redirects(if secure { 3 } else { 0 })
        // Which of them is an answer is said in one place.
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE))
        .accept("application/json")
        .user_agent(concat!("tally/", env!("CARGO_PKG_VERSION")));
    if secure {
        config = config.tls_config(tls::of_host("auth.jwt.jwks_url")?);
    } else {
        tracing::warn!(
            "auth.jwt.jwks_url is not https: whoever can change what comes from there can make valid tokens"
        );
    }
    let agent = config.build().new_agent();
    Ok(Box::new(move || get(&agent, &url)))
}

fn get(agent: &Agent, url: &str) -> Result<Vec<u8>, String> {
    let failed = |error: ureq::Error| format!("can't be had: {error}");
    let mut answer = agent.get(url).call().map_err(failed)?;
    // A redirection that is not followed, or a part, is no key set, whatever its body looks like.
    if answer.status() != StatusCode::OK {
        return Err(format!("can't be had: the answer is {}", answer.status()));
    }
    // One more than it may have, so that it is refused by what reads it.
    let most = u64::try_from(MAX_JWKS)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    let body = answer.body_mut().with_config().limit(most);
    body.read_to_vec().map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// Protects against keys from somewhere else than the address that is set: whatever comes with
    /// another status than 200 is no key set, and the words name the status.
    #[test]
    fn only_a_200_is_a_key_set() {
        let statuses = [
            "200 OK",
            "201 Created",
            "202 Accepted",
            "206 Partial Content",
            "300 Multiple Choices",
            "301 Moved Permanently",
            "302 Found",
            "303 See Other",
            "304 Not Modified",
            "307 Temporary Redirect",
            "308 Permanent Redirect",
            "404 Not Found",
            "503 Service Unavailable",
        ];
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            for status in statuses {
                let (mut stream, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
                let body = if status.starts_with("304") {
                    ""
                } else {
                    "keys"
                };
                let answer = format!(
                    "HTTP/1.1 {status}\r\nLocation: /elsewhere\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let fetch = fetch(url).unwrap();
        for status in statuses {
            let wanted = if status == "200 OK" {
                Ok(b"keys".to_vec())
            } else {
                Err(format!("can't be had: the answer is {status}"))
            };
            assert_eq!(fetch(), wanted, "{status}");
        }
        server.join().unwrap();
    }
}
