//! Which request goes where. Both spellings of a route, with and without the slash at its end, are
//! the same route, and there is never a redirect between them: a POST would not survive it.

use actix_web::http::Method;
use tally_domain::Resource;

/// Where interactions are recorded, without the slash at its end.
const INTERACT: &str = "/api/v1/metrics/interact";
/// Where resources are read; type and id follow.
const RESOURCES: &str = "/api/v1/metrics/resources/";
/// The API's own description.
pub(crate) const OPENAPI: &str = "/openapi.json";
/// The documentation, without the slash at its end.
const DOCS: &str = "/docs";

/// A route, and what its path says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/api/v1/metrics/interact/`
    Interact,
    /// `/api/v1/metrics/resources/{type}/{id}/`, with the resource where there can be such one.
    Resource(Option<Resource>),
    /// `/openapi.json`
    OpenApi,
    /// `/docs`, and what is below it.
    Docs,
    /// Any other path.
    None,
}

impl Route {
    /// A word for each route, for metrics.
    pub(crate) const LABELS: [&'static str; 5] =
        ["interact", "resource", "openapi", "docs", "none"];

    /// The place in [`Self::LABELS`].
    pub(crate) const fn place(self) -> usize {
        match self {
            Self::Interact => 0,
            Self::Resource(_) => 1,
            Self::OpenApi => 2,
            Self::Docs => 3,
            Self::None => 4,
        }
    }

    /// The route of a path.
    pub(crate) fn of(path: &str) -> Self {
        if let Some(rest) = path.strip_prefix(INTERACT) {
            return if matches!(rest, "" | "/") {
                Self::Interact
            } else {
                Self::None
            };
        }
        if let Some(rest) = path.strip_prefix(RESOURCES) {
            let rest = rest.strip_suffix('/').unwrap_or(rest);
            return match rest.split_once('/') {
                Some((kind, id)) if !kind.is_empty() && !id.is_empty() && !id.contains('/') => {
                    Self::Resource(resource(kind, id))
                }
                Some(_) | None => Self::None,
            };
        }
        match path.strip_prefix(DOCS) {
            Some("") => Self::Docs,
            Some(below) if below.starts_with('/') => Self::Docs,
            Some(_) | None if path == OPENAPI => Self::OpenApi,
            Some(_) | None => Self::None,
        }
    }

    /// The path as the description of the API has it, without what a client puts into it.
    pub(crate) const fn template(self) -> Option<&'static str> {
        match self {
            Self::Interact => Some("/api/v1/metrics/interact/"),
            Self::Resource(_) => Some("/api/v1/metrics/resources/{type}/{id}/"),
            Self::OpenApi => Some("/openapi.json"),
            Self::Docs => Some("/docs"),
            Self::None => None,
        }
    }

    /// What the span of a request is called: the method and the template, where the route has the
    /// method.
    pub(crate) fn span_name(self, method: &Method) -> &'static str {
        if !self.allows(method) {
            return "HTTP";
        }
        let head = *method == Method::HEAD;
        match self {
            Self::None => "HTTP",
            Self::Interact => "POST /api/v1/metrics/interact/",
            Self::Resource(_) if head => "HEAD /api/v1/metrics/resources/{type}/{id}/",
            Self::Resource(_) => "GET /api/v1/metrics/resources/{type}/{id}/",
            Self::OpenApi if head => "HEAD /openapi.json",
            Self::OpenApi => "GET /openapi.json",
            Self::Docs if head => "HEAD /docs",
            Self::Docs => "GET /docs",
        }
    }

    /// What is below `/docs`; `None` for `/docs` itself.
    pub(crate) fn docs_file(path: &str) -> Option<&str> {
        path.strip_prefix(DOCS)?.strip_prefix('/')
    }

    /// What may be asked of it, as `Allow` says it.
    pub(crate) const fn allow(self) -> &'static str {
        match self {
            Self::Interact => "POST, OPTIONS",
            Self::Resource(_) | Self::OpenApi | Self::Docs => "GET, HEAD, OPTIONS",
            Self::None => "",
        }
    }

    /// Whether it has the method; `OPTIONS` aside, which all have.
    pub(crate) fn allows(self, method: &Method) -> bool {
        match self {
            Self::Interact => *method == Method::POST,
            Self::Resource(_) | Self::OpenApi | Self::Docs => {
                *method == Method::GET || *method == Method::HEAD
            }
            Self::None => false,
        }
    }

    /// Whether one has to say who one is.
    pub(crate) const fn authenticated(self) -> bool {
        matches!(self, Self::Interact | Self::Resource(_))
    }
}

fn resource(kind: &str, id: &str) -> Option<Resource> {
    let kind = kind.parse().ok()?;
    // `+15` is a number to Rust, but not here.
    let digits = id.bytes().all(|byte| byte.is_ascii_digit());
    Resource::new(kind, id.parse().ok().filter(|_| digits)?).ok()
}

#[cfg(test)]
mod tests {
    use tally_domain::ResourceType;

    use super::*;

    /// Protects clients of both spellings, and that nothing else is taken for a route.
    #[test]
    fn a_slash_at_the_end_makes_no_difference_and_everything_else_does() {
        let quest = Resource::new(ResourceType::Quest, 42).ok();
        let routes = [
            ("/api/v1/metrics/interact/", Route::Interact),
            ("/api/v1/metrics/interact", Route::Interact),
            (
                "/api/v1/metrics/resources/quest/42/",
                Route::Resource(quest),
            ),
            ("/api/v1/metrics/resources/quest/42", Route::Resource(quest)),
            ("/api/v1/metrics/resources/Quest/42/", Route::Resource(None)),
            (
                "/api/v1/metrics/resources/quest/+42/",
                Route::Resource(None),
            ),
            ("/api/v1/metrics/resources/quest/-1/", Route::Resource(None)),
            (
                "/api/v1/metrics/resources/quest/9223372036854775808/",
                Route::Resource(None),
            ),
            ("/openapi.json", Route::OpenApi),
            ("/docs", Route::Docs),
            ("/docs/", Route::Docs),
            ("/docs/swagger-ui.css", Route::Docs),
        ];
        for (path, route) in routes {
            assert_eq!(Route::of(path), route, "{path}");
        }
        let nowhere = [
            "",
            "/",
            "/api/v1/metrics/interact//",
            "/api/v1/metrics/interact/more",
            "/api/v1/metrics/interactions/",
            "/api/v1/metrics/resources/",
            "/api/v1/metrics/resources/quest",
            "/api/v1/metrics/resources/quest/",
            "/api/v1/metrics/resources//42/",
            "/api/v1/metrics/resources/quest/42//",
            "/api/v1/metrics/resources/quest/42/more",
            "/openapi.json/",
            "/docsx",
            "/metrics",
        ];
        for path in nowhere {
            assert_eq!(Route::of(path), Route::None, "{path}");
        }
    }

    /// Protects the labels of metrics from being mixed up.
    #[test]
    fn every_route_has_its_label() {
        let routes = [
            Route::Interact,
            Route::Resource(None),
            Route::OpenApi,
            Route::Docs,
            Route::None,
        ];
        let places = routes.map(Route::place);
        assert_eq!(places, [0, 1, 2, 3, 4]);
        assert_eq!(Route::LABELS.len(), routes.len());
    }

    /// Protects traces from being told apart by what clients send: a span is called by its method and
    /// the template of its route, where there are such, and by one word for all the rest.
    #[test]
    fn spans_are_called_by_method_and_template() {
        let resource = "/api/v1/metrics/resources/quest/42";
        for path in [
            "/api/v1/metrics/interact",
            resource,
            "/openapi.json",
            "/docs/x",
        ] {
            let route = Route::of(path);
            let template = route.template().unwrap();
            for method in [Method::GET, Method::HEAD, Method::POST, Method::DELETE] {
                let named = format!("{method} {template}");
                let wanted = if route.allows(&method) {
                    &named
                } else {
                    "HTTP"
                };
                assert_eq!(route.span_name(&method), wanted);
            }
        }
        assert_eq!(Route::of("/x").template(), None);
        assert_eq!(Route::of("/x").span_name(&Method::GET), "HTTP");
    }
}
