//! Where the load goes, as whom, and about what.

use std::net::{SocketAddr, ToSocketAddrs};

use tally_domain::{Resource, ResourceType};

use super::BenchError;
use super::args::BenchArgs;

/// Whom an interaction comes from.
#[derive(Debug, Clone)]
pub(super) struct User {
    /// The user as the server knows them; `None` where only the credential was given.
    pub(super) name: Option<String>,
    /// What follows `Bearer `.
    pub(super) credential: String,
}

/// A server's address and what to say in the `Host` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) socket: SocketAddr,
    pub(super) host: String,
}

/// Resolves a base address as in `http://127.0.0.1:8080`.
///
/// # Errors
/// [`BenchError::Url`] where it is not plain HTTP to the root of a host that exists.
pub(super) fn resolve(url: &str) -> Result<Address, BenchError> {
    let refuse = |why: String| BenchError::Url {
        url: url.to_owned(),
        why,
    };
    let Some(rest) = url.strip_prefix("http://") else {
        return Err(refuse(
            "only http:// is spoken; for TLS, load the server behind the proxy".into(),
        ));
    };
    let host = rest.strip_suffix('/').unwrap_or(rest);
    if host.is_empty() || host.contains(['/', '?', '#', '@']) {
        return Err(refuse(
            "give scheme, host and port only, as in http://127.0.0.1:8080".into(),
        ));
    }
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let with_port = if has_port {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let socket = with_port
        .to_socket_addrs()
        .map_err(|error| refuse(format!("can't find {with_port}: {error}")))?
        .next()
        .ok_or_else(|| refuse(format!("{with_port} has no address")))?;
    Ok(Address {
        socket,
        host: host.to_owned(),
    })
}

/// The credentials of `--key` and `--keys-from`.
///
/// # Errors
/// Where there is none, one can't be sent in a header, or the file can't be read.
pub(super) fn given_users(args: &BenchArgs) -> Result<Vec<User>, BenchError> {
    let mut users: Vec<User> = args
        .key
        .iter()
        .map(|key| User {
            name: None,
            credential: key.clone(),
        })
        .collect();
    if let Some(path) = &args.keys_from {
        let text = std::fs::read_to_string(path).map_err(|source| BenchError::KeysFrom {
            path: path.clone(),
            source,
        })?;
        users.extend(text.lines().filter_map(user_of_line));
    }
    if users.is_empty() {
        return Err(BenchError::NoKeys);
    }
    match users.iter().position(|user| !can_be_sent(&user.credential)) {
        Some(place) => Err(BenchError::BadKey { place: place + 1 }),
        None => Ok(users),
    }
}

/// `USER KEY` or `KEY`; empty lines and those that start with `#` are nothing.
fn user_of_line(line: &str) -> Option<User> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let (name, credential) = match line.rsplit_once(char::is_whitespace) {
        Some((name, credential)) => (Some(name.trim().to_owned()), credential),
        None => (None, line),
    };
    Some(User {
        name,
        credential: credential.to_owned(),
    })
}

fn can_be_sent(credential: &str) -> bool {
    !credential.is_empty() && credential.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The resources, most popular first: those named, else `--resources` of them in turn over all
/// types.
///
/// # Errors
/// [`BenchError::FirstId`] where the ids would pass 2^63-1.
pub(super) fn resources(args: &BenchArgs) -> Result<Vec<Resource>, BenchError> {
    if !args.resource.is_empty() {
        return Ok(args.resource.clone());
    }
    let ids = (0..).map(|step| args.first_id.checked_add(step));
    ids.flat_map(|id| ResourceType::ALL.iter().map(move |kind| (*kind, id)))
        .take(usize::try_from(args.resources).unwrap_or(usize::MAX))
        .map(|(kind, id)| {
            let resource = id.and_then(|id| Resource::new(kind, id).ok());
            resource.ok_or(BenchError::FirstId)
        })
        .collect()
}

/// The names of the users that a run on the local folder makes.
pub(super) fn local_user_names(count: u32) -> Vec<String> {
    (0..count).map(|place| format!("bench-{place}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects the addresses a person writes; what can't be spoken is refused, not guessed.
    #[test]
    fn addresses_are_plain_http_to_a_host() {
        let address = resolve("http://127.0.0.1:8090/").unwrap();
        assert_eq!(address.socket, "127.0.0.1:8090".parse().unwrap());
        assert_eq!(address.host, "127.0.0.1:8090");
        assert_eq!(
            resolve("http://[::1]").unwrap().socket,
            "[::1]:80".parse().unwrap()
        );
        for wrong in [
            "https://127.0.0.1",
            "127.0.0.1:80",
            "http://",
            "http://127.0.0.1/x",
            "http://u@127.0.0.1",
        ] {
            assert!(resolve(wrong).is_err(), "{wrong}");
        }
    }

    /// Protects the file of credentials: both forms of line, and no comment taken for a key.
    #[test]
    fn lines_are_a_key_or_a_user_and_a_key() {
        let of = |line| user_of_line(line).map(|user| (user.name, user.credential));
        assert_eq!(of("k1"), Some((None, "k1".into())));
        assert_eq!(of(" anna  k2 "), Some((Some("anna".into()), "k2".into())));
        assert_eq!(of("# anna k2"), None);
        assert_eq!(of("  "), None);
        assert!(!can_be_sent("a\r\nX: y"));
    }
}
