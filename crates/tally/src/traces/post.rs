//! A request with spans to the collector.

use std::time::Duration;

use ureq::Agent;
use ureq::http::StatusCode;
use ureq::http::header::CONTENT_TYPE;

use crate::config::TraceSettings;
use crate::failure::Failure;
use crate::serve::tls;

/// The longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 64 << 10;

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It was taken; the answer says which spans were not.
    Taken(Vec<u8>),
    /// It was not, and never will be; why, in words without secrets.
    Refused(String),
    /// It was not, and may be taken later; why, in words without secrets.
    Away(String),
}

/// Sends spans.
pub(crate) trait Post: Send {
    /// Sends a body, in no more than this time.
    fn post(&self, body: &[u8], limit: Duration) -> Answer;
}

/// Posts to a collector.
struct Collector {
    agent: Agent,
    settings: TraceSettings,
}

/// What posts to the collector of the settings. Proxies of the environment are used, as its `NO_PROXY`
/// says. With https, the authorities that this host trusts count; no redirection is followed, since
/// headers go along.
///
/// # Errors
/// Where the address needs TLS, and this host trusts nobody.
pub(crate) fn collector(settings: &TraceSettings) -> Result<Box<dyn Post>, Failure> {
    let secure = tls::is_https(&settings.url);
    let mut config = Agent::config_builder()
        .https_only(secure)
        .max_redirects(0)
        .http_status_as_error(false)
        .user_agent(concat!("tally/", env!("CARGO_PKG_VERSION")));
    if secure {
        config = config.tls_config(tls::of_host("tracing.otlp_endpoint")?);
    } else if !settings.headers.is_empty() {
        tracing::warn!(
            "tracing.otlp_endpoint is not https: whoever is on the way there can read tracing.headers"
        );
    }
    Ok(Box::new(Collector {
        agent: config.build().new_agent(),
        settings: settings.clone(),
    }))
}

impl Post for Collector {
    fn post(&self, body: &[u8], limit: Duration) -> Answer {
        let request = self.agent.post(&self.settings.url);
        let request = request.config().timeout_global(Some(limit)).build();
        let mut request = request.header(CONTENT_TYPE, "application/json");
        for (name, value) in &self.settings.headers {
            request = request.header(name, value);
        }
        let mut answer = match request.send(body) {
            Ok(answer) => answer,
            Err(error) => return Answer::Away(format!("it can't be reached: {error}")),
        };
        let status = answer.status();
        let body = answer.body_mut().with_config().limit(MAX_ANSWER);
        let body = body.read_to_vec().unwrap_or_default();
        match status {
            _ if status.is_success() => Answer::Taken(body),
            // These are to be tried again, as the protocol says.
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Answer::Away(format!("the answer is {status}")),
            _ => Answer::Refused(format!("the answer is {status}")),
        }
    }
}
