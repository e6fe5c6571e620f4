//! `tally health`: what a server's health pages say, as an exit code, for images without a shell.

use std::io::Read as _;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use ureq::Agent;
use ureq::http::StatusCode;

use crate::client::reachable;
use crate::config::Config;
use crate::data_dir;
use crate::failure::Failure;
use crate::output;

/// How long an answer may take. A server that needs longer is in no good health.
const LIMIT: Duration = Duration::from_secs(5);

/// The largest answer that is read.
const MAX_ANSWER: u64 = 64 << 10;

const EXAMPLES: &str = "\
Examples:
  tally health                       whether it is ready; exit code 0, else 1 and why it is not
  tally health --live                whether it answers at all
  HEALTHCHECK CMD [\"tally\", \"health\"]

It asks the management listener of the settings (management.listen) on this host; where that has port
0, the one that the data folder's server.json names.";

/// Which page to ask.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct HealthArgs {
    /// Ask whether it is alive (/livez), not whether it is ready (/readyz)
    #[arg(long)]
    live: bool,
}

/// What the pages answer.
#[derive(Deserialize)]
struct Status {
    status: String,
    #[serde(default)]
    reasons: Vec<Reason>,
}

#[derive(Deserialize)]
struct Reason {
    code: String,
    detail: String,
}

/// Asks the server, and fails with its reasons where it is not in good health.
pub(crate) fn run(args: &HealthArgs, config: &Config) -> Result<(), Failure> {
    let address = reachable(listener(config)?);
    let page = if args.live { "/livez" } else { "/readyz" };
    let (status, text) = ask(address, page).map_err(|error| {
        Failure::run(format!(
            "no server answers at {address} (setting management.listen): {error}"
        ))
    })?;
    let status_page: Option<Status> = serde_json::from_slice(&text).ok();
    match (status, status_page) {
        (StatusCode::OK, Some(page)) => output::line(&page.status),
        (_, Some(page)) => Err(Failure::run(said(address, &page))),
        (_, None) => Err(Failure::run(format!(
            "what answers {} at {address} (setting management.listen) is no Tally",
            status.as_u16()
        ))),
    }
}

/// Where the server listens, as the settings say, or as it has said itself.
fn listener(config: &Config) -> Result<SocketAddr, Failure> {
    let set = config.management.listen;
    if set.port() != 0 {
        return Ok(set);
    }
    let announced = data_dir::announced(&config.data_dir);
    announced.map(|server| server.management).ok_or_else(|| {
        Failure::run(format!(
            "no server runs on {} (setting data_dir)",
            config.data_dir.display()
        ))
    })
}

fn ask(address: SocketAddr, page: &str) -> Result<(StatusCode, Vec<u8>), ureq::Error> {
    let agent: Agent = Agent::config_builder()
        // What is asked for on this host does not go through a proxy of the environment.
        .proxy(None)
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_global(Some(LIMIT))
        .build()
        .new_agent();
    let answer = agent.get(format!("http://{address}{page}")).call()?;
    let status = answer.status();
    let mut text = Vec::new();
    let mut reader = answer.into_body().into_reader().take(MAX_ANSWER);
    reader.read_to_end(&mut text)?;
    Ok((status, text))
}

/// The reasons, in the words of the server.
fn said(address: SocketAddr, page: &Status) -> String {
    let reasons = page.reasons.iter();
    let reasons: Vec<String> = reasons
        .map(|Reason { code, detail }| format!("{code}: {detail}"))
        .collect();
    format!(
        "the server at {address} is {}: {}",
        page.status.replace('_', " "),
        reasons.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// What `tally health` makes of an answer.
    fn of(answer: &'static str) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let mut head = [0; 1024];
            let _ = peer.read(&mut head).unwrap();
            peer.write_all(answer.as_bytes()).unwrap();
        });
        let (mut config, _) = Config::load(None, None).unwrap();
        config.management.listen = address;
        let outcome = run(&HealthArgs { live: false }, &config);
        server.join().unwrap();
        outcome.map_err(|failure| failure.into_error().to_string())
    }

    /// Protects who restarts or routes by the exit code: only a 200 of a Tally is good health, and else
    /// the reasons are said.
    #[test]
    fn only_the_right_answer_is_good_health() {
        let ready = "HTTP/1.1 200 OK\r\ncontent-length: 18\r\n\r\n{\"status\":\"ready\"}";
        assert_eq!(of(ready), Ok(()));
        let not_ready = "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n\r\n{\"status\":\"not_ready\",\"reasons\":[{\"code\":\"stalled\",\"detail\":\"Partition 3.\"}]}";
        let why = of(not_ready).unwrap_err();
        assert!(why.contains("is not ready: stalled: Partition 3."), "{why}");
        for other in [
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n<html>",
            "HTTP/1.1 404 Not Found\r\nconnection: close\r\n\r\n",
            "HTTP/1.1 302 Found\r\nlocation: /\r\nconnection: close\r\n\r\n",
        ] {
            let why = of(other).unwrap_err();
            assert!(why.contains("is no Tally"), "{other}: {why}");
        }
        let why = of("").unwrap_err();
        assert!(why.contains("management.listen"), "{why}");
    }
}
