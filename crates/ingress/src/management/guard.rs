//! Who may see and do more than metrics and health: a program on this host that means to, and from
//! elsewhere whoever has an admin key. A page in a browser is none of them, even when a name that its owner
//! controls points at us (DNS rebinding); only our own page may watch.
//!
//! | | on this host | from elsewhere, or through a proxy |
//! |---|---|---|
//! | `Host` | loopback, or the address that is listened on | those, any IP address, or one of `management.hosts` |
//! | credential | none | an admin key |
//! | `/admin/…` | no browser | no browser |
//! | `/live` | no page but ours | no page but ours |
//!
//! An IP address as `Host` is nobody's to point elsewhere, so it needs no list.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{HOST, HeaderMap, ORIGIN, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE};
use actix_web::middleware::Next;
use actix_web::{HttpResponse, web};
use prometheus::{IntCounterVec, Registry};
use tally_log::metric::Declare;

use super::{Detail, Management};
use crate::auth::{AdminError, AuthError};
use crate::metrics::ADMIN_REFUSALS;

/// Where a page's request comes from, as its browser says.
const FETCH_SITE: &str = "sec-fetch-site";

/// Headers that only a proxy adds.
const PROXY: [&str; 9] = [
    "forwarded",
    "via",
    "x-envoy-external-address",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-real-ip",
];

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// `/admin/…`
    Administer,
    /// The numbers of the live page.
    Watch,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It was sent to a name that may be anybody's.
    Host,
    /// A page sent it, or may have.
    Browser,
    /// The keys are not read yet.
    Starting,
    /// There is no key with it that may.
    Key(AdminError),
}

/// How a request names us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    /// As only this host can reach us.
    Here,
    /// As others can.
    Elsewhere,
}

/// Decides; the same for all requests of a listener.
pub(super) struct Guard {
    bound: SocketAddr,
    hosts: Vec<String>,
}

impl Guard {
    /// The guard of a listener on `bound` that is also known by the names `hosts`.
    pub(super) fn new(bound: SocketAddr, hosts: Vec<String>) -> Arc<Self> {
        Arc::new(Self { bound, hosts })
    }

    /// Whether a request may do what it is for. `key` says whether there is an admin key with it.
    fn check(
        &self,
        purpose: Purpose,
        peer: Option<SocketAddr>,
        headers: &HeaderMap,
        key: impl FnOnce() -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let (name, host) = self.name(headers).ok_or(Refusal::Host)?;
        let allowed = match purpose {
            Purpose::Administer => {
                let told = headers.contains_key(ORIGIN) || headers.contains_key(FETCH_SITE);
                !told && !is_browser(headers)
            }
            Purpose::Watch => is_our_page(headers, host),
        };
        if !allowed {
            return Err(Refusal::Browser);
        }
        let proxied = PROXY.iter().any(|name| headers.contains_key(*name));
        let near = peer.is_some_and(|peer| self.is_here(peer.ip()));
        if near && name == Name::Here && !proxied {
            return Ok(());
        }
        key()
    }

    /// A peer with the address that is listened on is this host too.
    fn is_here(&self, ip: IpAddr) -> bool {
        let bound = self.bound.ip();
        // To listen on all addresses is to have none of them.
        ip.to_canonical().is_loopback() || (ip == bound && !bound.is_unspecified())
    }

    /// How the one Host header names us, where it does.
    fn name<'a>(&self, headers: &'a HeaderMap) -> Option<(Name, &'a str)> {
        let mut hosts = headers.get_all(HOST);
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return None;
        };
        let host = host.to_str().ok()?;
        let address = |ip: IpAddr| {
            if self.is_here(ip) {
                Name::Here
            } else {
                Name::Elsewhere
            }
        };
        if let Ok(socket) = host.parse::<SocketAddr>() {
            return Some((address(socket.ip()), host));
        }
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        if let Ok(ip) = bare.unwrap_or(host).parse::<IpAddr>() {
            return Some((address(ip), host));
        }
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.parse::<u16>().is_ok() => name,
            Some(_) | None => host,
        };
        if name.eq_ignore_ascii_case("localhost") {
            return Some((Name::Here, host));
        }
        let listed = self
            .hosts
            .iter()
            .any(|host| host.eq_ignore_ascii_case(name));
        listed.then_some((Name::Elsewhere, host))
    }

    /// Whether the live page may be sent. It has no numbers in it, so that anybody may have it who
    /// knows how we are called.
    pub(super) fn may_have_page(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        self.name(headers).map(|_| ()).ok_or(Refusal::Host)
    }
}

/// Whether no other page than one of ours sent this. Where a browser says nothing of it, it is told by
/// the origin; a page that is not allowed to read the answer gets nothing out of it either way.
fn is_our_page(headers: &HeaderMap, host: &str) -> bool {
    let site = headers.get(FETCH_SITE);
    let ours = |origin: &str| {
        let scheme = ["http://", "https://"];
        let named = scheme.iter().find_map(|scheme| origin.strip_prefix(scheme));
        named.is_some_and(|named| named.eq_ignore_ascii_case(host))
    };
    site.is_none_or(|site| site == "same-origin")
        && headers
            .get_all(ORIGIN)
            .all(|origin| origin.to_str().is_ok_and(ours))
}

/// Whether a browser sent this, by what all of them call themselves and no page can change. A picture that a page
/// asks for has neither of the other marks, where the address is not a trustworthy one.
fn is_browser(headers: &HeaderMap) -> bool {
    let mut agents = headers.get_all(USER_AGENT);
    agents.any(|agent| agent.as_bytes().starts_with(b"Mozilla/"))
}

/// Lets through what may pass, for middleware.
pub(super) async fn guarded<B: MessageBody + 'static>(
    guard: Arc<Guard>,
    purpose: Purpose,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, actix_web::Error> {
    let management = request.app_data::<web::Data<Management>>().cloned();
    let headers = request.headers();
    let key = || match &management {
        Some(management) => management.admin_key(headers),
        None => Err(Refusal::Starting),
    };
    match guard.check(purpose, request.peer_addr(), headers, key) {
        Ok(()) => Ok(next.call(request).await?.map_into_left_body()),
        Err(refusal) => {
            let answer = management.map_or_else(
                || refusal.answer(),
                |management| management.refusals.refuse(refusal),
            );
            Ok(request.into_response(answer).map_into_right_body())
        }
    }
}

impl Refusal {
    const OURS: [Self; 4] = [
        Self::Host,
        Self::Browser,
        Self::Starting,
        Self::Key(AdminError::NotAdmin),
    ];

    /// Each of them.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let keys = AuthError::all().filter(|error| !matches!(error, AuthError::Token(_)));
        let keys = keys.map(|error| Self::Key(error.into()));
        Self::OURS.into_iter().chain(keys)
    }

    /// The metric's label.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Browser => "browser",
            Self::Starting => "starting",
            Self::Key(AdminError::NotAdmin) => "not_admin",
            Self::Key(AdminError::Key(error)) => error.reason(),
        }
    }

    /// What is answered: an error of the API's shape.
    pub(super) fn answer(self) -> HttpResponse {
        let forbidden =
            |code, detail: &str| HttpResponse::Forbidden().json(Detail::coded(Some(code), detail));
        match self {
            Self::Host => forbidden(
                "host_not_allowed",
                "The Host header names no address of this server: ask for its IP address, or put the name into the setting management.hosts.",
            ),
            Self::Browser => forbidden(
                "browser_not_allowed",
                "This is not answered to pages in a browser, but for the live page of this server.",
            ),
            Self::Starting => HttpResponse::ServiceUnavailable()
                .insert_header((RETRY_AFTER, "1"))
                .json(Detail::new("The server is starting: reading the API keys.")),
            Self::Key(AdminError::NotAdmin) => forbidden(
                "not_admin",
                "This API key is no admin key; `tally keys create --admin` makes one.",
            ),
            Self::Key(AdminError::Key(error)) => HttpResponse::build(StatusCode::UNAUTHORIZED)
                .insert_header((WWW_AUTHENTICATE, "Bearer realm=\"api\""))
                .json(Detail::coded(error.code(), error.to_string())),
        }
    }
}

/// Counts them.
pub(super) struct Refusals(IntCounterVec);

impl Refusals {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let refusals = Declare::with(registry).counters(&ADMIN_REFUSALS)?;
        // There from the start, so that the first one is seen as a rise.
        for refusal in Refusal::all() {
            refusals.with_label_values(&[refusal.reason()]);
        }
        Ok(Self(refusals))
    }

    /// The answer, counted.
    pub(super) fn refuse(&self, refusal: Refusal) -> HttpResponse {
        self.0.with_label_values(&[refusal.reason()]).inc();
        refusal.answer()
    }
}

#[cfg(test)]
mod tests;
