//! The two listeners. Both are bound before anything is opened, so that a port that is taken is
//! an error at once.

use std::io;
use std::net::{SocketAddr, TcpListener};

use crate::config::Config;
use crate::failure::Failure;

/// Connections that wait for us to take them; beyond it the system refuses.
const BACKLOG: i32 = 4_096;

/// Both listeners, bound.
pub(super) struct Listeners {
    pub(super) api: TcpListener,
    pub(super) api_address: SocketAddr,
    pub(super) management: TcpListener,
    pub(super) management_address: SocketAddr,
}

impl Listeners {
    /// Binds both.
    pub(super) fn bind(config: &Config) -> Result<Self, Failure> {
        let (api, api_address) = bind(config.api.listen, "api.listen")?;
        let (management, management_address) = bind(config.management.listen, "management.listen")?;
        Ok(Self {
            api,
            api_address,
            management,
            management_address,
        })
    }
}

fn bind(address: SocketAddr, setting: &str) -> Result<(TcpListener, SocketAddr), Failure> {
    let bound = || {
        let listener = TcpListener::bind(address)?;
        // Listening again only sets the length of the queue.
        rustix::net::listen(&listener, BACKLOG)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound().map_err(|error: io::Error| {
        let hints = [
            (
                io::ErrorKind::AddrInUse,
                "; another program has it: stop that, or set another port (0 takes a free one)",
            ),
            (
                io::ErrorKind::PermissionDenied,
                "; ports below 1024 need privileges",
            ),
            (
                io::ErrorKind::AddrNotAvailable,
                "; this host has no such address",
            ),
        ];
        let hint = hints.iter().find(|(kind, _)| *kind == error.kind());
        let hint = hint.map_or("", |(_, hint)| *hint);
        Failure::run(format!(
            "can't listen on {address} (setting {setting}): {error}{hint}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects the operator whose port is taken: the message names port and setting.
    #[test]
    fn a_port_in_use_is_named_with_its_setting() {
        let (_held, address) = bind("127.0.0.1:0".parse().unwrap(), "api.listen")
            .ok()
            .unwrap();
        let Err(Failure::Run(error)) = bind(address, "management.listen") else {
            panic!("the port is taken");
        };
        let error = error.to_string();
        for part in [
            address.to_string().as_str(),
            "management.listen",
            "another program",
        ] {
            assert!(error.contains(part), "{part:?} in {error}");
        }
    }
}
