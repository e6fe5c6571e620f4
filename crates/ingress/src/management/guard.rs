//! Who may administer: a program on this host that means to. A page in a browser on this host is
//! none, even when a name that its owner controls points at us (DNS rebinding), and neither is
//! somebody behind a proxy on this host.

use std::net::{IpAddr, SocketAddr};

use actix_web::HttpResponse;
use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HOST, HeaderMap};
use actix_web::middleware::Next;

use super::Detail;

/// Headers that only a browser or a proxy adds.
const FOREIGN: [&str; 6] = [
    "origin",
    "sec-fetch-site",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-real-ip",
];

pub(super) async fn local_only<B: MessageBody + 'static>(
    bound: SocketAddr,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, actix_web::Error> {
    match refusal(request.peer_addr(), request.headers(), bound) {
        None => Ok(next.call(request).await?.map_into_left_body()),
        Some(why) => {
            let answer = HttpResponse::Forbidden().json(Detail::new(why));
            Ok(request.into_response(answer).map_into_right_body())
        }
    }
}

/// Why a request may not administer.
fn refusal(
    peer: Option<SocketAddr>,
    headers: &HeaderMap,
    bound: SocketAddr,
) -> Option<&'static str> {
    // A peer with the address that is listened on is this host too.
    let here = |ip: IpAddr| ip.to_canonical().is_loopback() || ip == bound.ip();
    if !peer.is_some_and(|peer| here(peer.ip())) {
        return Some("Administration is answered to this host only.");
    }
    if FOREIGN.iter().any(|name| headers.contains_key(*name)) {
        return Some("Administration is not answered to browsers and proxies.");
    }
    let mut hosts = headers.get_all(HOST);
    let known = match (hosts.next().map(|host| host.to_str()), hosts.next()) {
        (Some(Ok(host)), None) => is_local(host, bound),
        _ => false,
    };
    (!known).then_some("Administration needs a Host header that names loopback.")
}

/// Whether a Host header names loopback or the bound address.
fn is_local(host: &str, bound: SocketAddr) -> bool {
    let local = |ip: IpAddr| ip.to_canonical().is_loopback() || ip == bound.ip();
    if let Ok(address) = host.parse::<SocketAddr>() {
        return local(address.ip());
    }
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    if let Ok(ip) = bare.unwrap_or(host).parse::<IpAddr>() {
        return local(ip);
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        Some(_) | None => host,
    };
    name.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn refused(peer: &str, headers: &[(&str, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        let bound = "127.0.0.1:8081".parse().unwrap();
        refusal(peer.parse().ok(), &map, bound).is_some()
    }

    /// Protects the log and the catalogue from everybody who is not on this host.
    #[test]
    fn only_loopback_peers_administer() {
        let host = [("host", "127.0.0.1:8081")];
        for peer in [
            "127.0.0.1:1",
            "127.8.9.10:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(!refused(peer, &host), "{peer}");
        }
        for peer in ["10.0.0.1:1", "[::ffff:10.0.0.1]:1", "[2001:db8::1]:1", ""] {
            assert!(refused(peer, &host), "{peer}");
        }
    }

    /// Protects commands on a host whose management API listens on one address that is no loopback.
    #[test]
    fn a_peer_with_the_address_that_is_listened_on_is_this_host() {
        let bound: SocketAddr = "192.0.2.2:8081".parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.append(HOST, HeaderValue::from_static("192.0.2.2:8081"));
        let of = |peer: &str| refusal(peer.parse().ok(), &headers, bound);
        assert_eq!(of("192.0.2.2:5000"), None);
        assert!(of("192.0.2.3:5000").is_some());
    }

    /// Protects against DNS rebinding: the peer is loopback, the name is the attacker's.
    #[test]
    fn the_host_must_name_loopback() {
        for host in [
            "127.0.0.1:8081",
            "127.0.0.1",
            "localhost:1",
            "LocalHost",
            "[::1]:8081",
            "[::1]",
        ] {
            assert!(!refused("127.0.0.1:1", &[("host", host)]), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8081",
            "localhost.evil.example",
            "10.0.0.1",
            "",
            "localhost:evil",
        ] {
            assert!(refused("127.0.0.1:1", &[("host", host)]), "{host}");
        }
        assert!(refused("127.0.0.1:1", &[]));
        assert!(refused(
            "127.0.0.1:1",
            &[("host", "localhost"), ("host", "evil.example")]
        ));
    }

    /// Protects against a page in a browser on this host, and against a proxy in front.
    #[test]
    fn browsers_and_proxies_do_not_administer() {
        for name in FOREIGN {
            let headers = [("host", "localhost"), (name, "null")];
            assert!(refused("127.0.0.1:1", &headers), "{name}");
        }
    }
}
