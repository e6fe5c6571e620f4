//! Who gets past the guard, from where, by which name.

use actix_web::http::header::{HeaderName, HeaderValue};

use super::*;

const BOUND: &str = "127.0.0.1:8081";

fn headers(sent: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in sent {
        let name: HeaderName = name.parse().unwrap();
        map.append(name, HeaderValue::from_str(value).unwrap());
    }
    map
}

/// Without a key: `None` where it may pass.
fn refused(purpose: Purpose, bound: &str, peer: &str, sent: &[(&str, &str)]) -> Option<Refusal> {
    let guard = Guard::new(bound.parse().unwrap(), vec!["Ops.example".to_owned()]);
    let none = || Err(Refusal::Key(AuthError::NotProvided.into()));
    let checked = guard.check(purpose, peer.parse().ok(), &headers(sent), none);
    checked.err()
}

/// With an admin key.
fn keyed(purpose: Purpose, peer: &str, sent: &[(&str, &str)]) -> Option<Refusal> {
    let guard = Guard::new(BOUND.parse().unwrap(), vec!["Ops.example".to_owned()]);
    let checked = guard.check(purpose, peer.parse().ok(), &headers(sent), || Ok(()));
    checked.err()
}

const NO_KEY: Option<Refusal> = Some(Refusal::Key(AdminError::Key(AuthError::NotProvided)));

/// Protects the log and the catalogue from everybody who is not on this host and has no key.
#[test]
fn only_loopback_peers_need_no_key() {
    let host = [("host", BOUND)];
    for purpose in [Purpose::Administer, Purpose::Watch] {
        for peer in [
            "127.0.0.1:1",
            "127.8.9.10:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert_eq!(refused(purpose, BOUND, peer, &host), None, "{peer}");
        }
        for peer in ["10.0.0.1:1", "[::ffff:10.0.0.1]:1", "[2001:db8::1]:1", ""] {
            assert_eq!(refused(purpose, BOUND, peer, &host), NO_KEY, "{peer}");
            assert_eq!(keyed(purpose, peer, &host), None, "{peer}");
        }
    }
}

/// Protects commands on a host whose management API listens on one address that is no loopback.
#[test]
fn a_peer_with_the_address_that_is_listened_on_is_this_host() {
    let bound = "192.0.2.2:8081";
    let of = |peer| refused(Purpose::Administer, bound, peer, &[("host", bound)]);
    assert_eq!(of("192.0.2.2:5000"), None);
    assert_eq!(of("192.0.2.3:5000"), NO_KEY);
    // To listen on all is to have no address by which a page could be led here.
    let host = [("host", "0.0.0.0:8081")];
    let everywhere = refused(Purpose::Administer, "0.0.0.0:8081", "127.0.0.1:1", &host);
    assert_eq!(everywhere, NO_KEY);
}

/// Protects against DNS rebinding: the peer is loopback, the name is the attacker's. What others can
/// call us by needs a key, and a name that nobody listed is refused with one too.
#[test]
fn the_host_must_be_one_that_nobody_can_point_elsewhere() {
    for purpose in [Purpose::Administer, Purpose::Watch] {
        let of = |host| refused(purpose, BOUND, "127.0.0.1:1", &[("host", host)]);
        for host in [
            "127.0.0.1:8081",
            "127.0.0.1",
            "localhost:1",
            "LocalHost",
            "[::1]:8081",
            "[::1]",
        ] {
            assert_eq!(of(host), None, "{host}");
        }
        for host in [
            "10.0.0.1",
            "10.0.0.1:8081",
            "[2001:db8::1]:8081",
            "ops.example:8081",
        ] {
            assert_eq!(of(host), NO_KEY, "{host}");
            let sent = [("host", host)];
            assert_eq!(keyed(purpose, "10.0.0.9:1", &sent), None, "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8081",
            "localhost.evil.example",
            "ops.example.evil",
            "",
            "localhost:evil",
        ] {
            assert_eq!(of(host), Some(Refusal::Host), "{host}");
            let sent = [("host", host)];
            let with_key = keyed(purpose, "10.0.0.9:1", &sent);
            assert_eq!(with_key, Some(Refusal::Host), "{host}");
        }
        let twice = [("host", "localhost"), ("host", "evil.example")];
        for sent in [&[][..], &twice] {
            assert_eq!(
                keyed(purpose, "127.0.0.1:1", sent),
                Some(Refusal::Host),
                "{sent:?}"
            );
        }
    }
}

/// Protects against a page in a browser: it never administers, wherever it is, with a key or without.
#[test]
fn browsers_do_not_administer() {
    for (name, value) in [
        ("origin", "null"),
        ("origin", "http://localhost"),
        (FETCH_SITE, "same-origin"),
        (FETCH_SITE, "none"),
        (
            "user-agent",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
        ),
    ] {
        for peer in ["127.0.0.1:1", "10.0.0.1:1"] {
            let sent = [("host", "localhost"), (name, value)];
            let with_key = keyed(Purpose::Administer, peer, &sent);
            assert_eq!(with_key, Some(Refusal::Browser), "{name} {value}");
        }
    }
}

/// Protects a host with a proxy on it: who comes through that is somebody from elsewhere.
#[test]
fn behind_a_proxy_a_key_is_needed() {
    for name in PROXY {
        for purpose in [Purpose::Administer, Purpose::Watch] {
            let sent = [("host", "localhost"), (name, "10.0.0.1")];
            assert_eq!(
                refused(purpose, BOUND, "127.0.0.1:1", &sent),
                NO_KEY,
                "{name}"
            );
            assert_eq!(keyed(purpose, "127.0.0.1:1", &sent), None, "{name}");
        }
    }
}

/// Protects the numbers of the live page from other pages, those of other ports of this host too.
#[test]
fn only_our_own_page_watches() {
    let of = |sent: &[(&str, &str)]| {
        let host = [("host", "localhost:8081")];
        let sent = [&host[..], sent].concat();
        keyed(Purpose::Watch, "127.0.0.1:1", &sent)
    };
    for ours in [
        &[(FETCH_SITE, "same-origin")][..],
        &[("origin", "http://localhost:8081")],
        &[
            ("origin", "https://LOCALHOST:8081"),
            (FETCH_SITE, "same-origin"),
        ],
    ] {
        assert_eq!(of(ours), None, "{ours:?}");
    }
    for foreign in [
        &[(FETCH_SITE, "same-site")][..],
        &[(FETCH_SITE, "cross-site")],
        &[(FETCH_SITE, "none")],
        &[("origin", "null")],
        &[("origin", "http://localhost:3000")],
        &[("origin", "http://localhost")],
        &[("origin", "https://evil.example")],
        &[
            ("origin", "http://localhost:8081"),
            ("origin", "https://evil.example"),
        ],
        &[
            ("origin", "https://evil.example"),
            (FETCH_SITE, "same-origin"),
        ],
    ] {
        assert_eq!(of(foreign), Some(Refusal::Browser), "{foreign:?}");
    }
}
