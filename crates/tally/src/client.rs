//! A running server's management API, as commands on its folder use it.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tally_ingress::management::admin::{ResourceChange, ResourcesChanged};
use tally_ingress::management::stream::StreamError;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use crate::data_dir::ServerFile;
use crate::failure::Failure;
use crate::output;

/// How long to wait for a server that is still starting.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks one server.
pub(crate) struct Client {
    agent: Agent,
    address: SocketAddr,
    pid: u32,
}

#[derive(Deserialize)]
struct Detail {
    detail: String,
}

impl Client {
    /// A client of the server that holds the folder.
    pub(crate) fn new(server: &ServerFile) -> Self {
        Self::at(server.management, server.pid)
    }

    /// A client of the process that has its management API there.
    pub(crate) fn at(management: SocketAddr, pid: u32) -> Self {
        let agent = Agent::config_builder()
            // What is asked for on this host does not go through a proxy of the environment.
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(Duration::from_secs(5)))
            .user_agent(concat!("tally/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Self {
            agent,
            address: reachable(management),
            pid,
        }
    }

    /// Copies a streamed answer to `out`, line by line as it comes.
    pub(crate) fn lines(&self, path: &str, out: &mut dyn Write) -> Result<(), Failure> {
        let answer = self.send(|| self.agent.get(self.url(path)).call())?;
        self.copy(answer, out)
    }

    /// The same of a request with a body of JSON.
    pub(crate) fn post_lines(
        &self,
        path: &str,
        body: &impl Serialize,
        out: &mut dyn Write,
    ) -> Result<(), Failure> {
        let answer = self.post(path, body)?;
        self.copy(answer, out)
    }

    fn copy(&self, answer: Response<Body>, out: &mut dyn Write) -> Result<(), Failure> {
        let mut reader = BufReader::with_capacity(64 << 10, answer.into_body().into_reader());
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line);
            if read.map_err(|error| self.broken(&error))? == 0 {
                return output::written(out.flush());
            }
            if line.starts_with(b"{\"stream_error\":")
                && let Ok(StreamError { stream_error }) = serde_json::from_slice(&line)
            {
                output::written(out.flush())?;
                return Err(Failure::run(stream_error));
            }
            output::written(out.write_all(&line))?;
            if reader.buffer().is_empty() {
                output::written(out.flush())?;
            }
        }
    }

    /// Changes the catalogue; returns once the server has the change.
    pub(crate) fn change(&self, change: &ResourceChange) -> Result<ResourcesChanged, Failure> {
        self.ask("/admin/resources", change)
    }

    /// Sends something, and returns what the server says to it.
    pub(crate) fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        what: &impl Serialize,
    ) -> Result<T, Failure> {
        let answer = self.post(path, what)?;
        let mut text = Vec::new();
        let mut reader = answer.into_body().into_reader().take(64 << 10);
        reader
            .read_to_end(&mut text)
            .map_err(|error| self.broken(&error))?;
        serde_json::from_slice(&text).map_err(Failure::of)
    }

    fn post(&self, path: &str, body: &impl Serialize) -> Result<Response<Body>, Failure> {
        let body = serde_json::to_vec(body).map_err(Failure::of)?;
        self.send(|| {
            let request = self.agent.post(self.url(path));
            request
                .header("Content-Type", "application/json")
                .send(&body[..])
        })
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sends a request, again while the server says that it is starting.
    fn send(
        &self,
        request: impl Fn() -> Result<Response<Body>, ureq::Error>,
    ) -> Result<Response<Body>, Failure> {
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = request().map_err(|error| self.broken(&error))?;
            let status = answer.status();
            if status == StatusCode::OK {
                return Ok(answer);
            }
            let mut text = Vec::new();
            let mut reader = answer.into_body().into_reader().take(64 << 10);
            let read = reader.read_to_end(&mut text);
            read.map_err(|error| self.broken(&error))?;
            let detail = serde_json::from_slice(&text).map_or_else(
                |_| String::from_utf8_lossy(&text).into_owned(),
                |Detail { detail }| detail,
            );
            let starting = status == StatusCode::SERVICE_UNAVAILABLE
                && detail.starts_with("The server is starting");
            if !starting || Instant::now() >= until {
                return Err(Failure::run(format!(
                    "the server (pid {}) answered {}: {detail}",
                    self.pid,
                    status.as_u16()
                )));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn broken(&self, error: &dyn std::fmt::Display) -> Failure {
        Failure::run(format!(
            "the server (pid {}) that holds the data folder can't be asked at {} (setting management.listen): {error}",
            self.pid, self.address
        ))
    }
}

/// Where a listener of this host is reached: loopback for one that listens everywhere.
pub(crate) fn reachable(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        IpAddr::V4(_) | IpAddr::V6(_) => listener.ip(),
    };
    SocketAddr::new(ip, listener.port())
}

impl From<crate::data_dir::DataDirError> for Failure {
    fn from(error: crate::data_dir::DataDirError) -> Self {
        Self::Run(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects commands against a server that listens on all addresses.
    #[test]
    fn a_listener_on_all_addresses_is_reached_on_loopback() {
        for (listener, wanted) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("10.0.0.5:1", "10.0.0.5:1"),
        ] {
            let reached = reachable(listener.parse().unwrap());
            assert_eq!(reached.to_string(), wanted);
        }
    }
}
