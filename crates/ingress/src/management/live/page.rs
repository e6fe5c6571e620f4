//! The live page: one text, and headers that let its browser do nothing but show it.

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest as _, Sha256};

const HTML: &str = include_str!("page.html");

/// What is sent is what it says it is.
pub(super) const NOSNIFF: (&str, &str) = ("X-Content-Type-Options", "nosniff");
/// No other page has any use for it.
pub(super) const SAME_ORIGIN: (&str, &str) = ("Cross-Origin-Resource-Policy", "same-origin");

/// The page with its policy.
pub(super) struct Page {
    policy: String,
}

impl Page {
    pub(super) fn new() -> Self {
        // Nothing is loaded from anywhere, and of script and style exactly what is in the page counts.
        let (script, style) = (
            hash(between("<script>", "</script>")),
            hash(between("<style>", "</style>")),
        );
        let policy = format!(
            "default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
        );
        Self { policy }
    }

    pub(super) fn answer(&self) -> HttpResponse {
        HttpResponse::Ok()
            .insert_header((CONTENT_TYPE, "text/html; charset=utf-8"))
            .insert_header((CACHE_CONTROL, "no-store"))
            .insert_header(("Content-Security-Policy", self.policy.as_str()))
            .insert_header(("Cross-Origin-Opener-Policy", "same-origin"))
            .insert_header(("Referrer-Policy", "no-referrer"))
            .insert_header(("X-Frame-Options", "DENY"))
            .insert_header(NOSNIFF)
            .insert_header(SAME_ORIGIN)
            .body(HTML)
    }
}

/// What is between two tags of the page.
fn between(open: &str, close: &str) -> &'static str {
    let rest = HTML.split_once(open).map_or("", |(_, rest)| rest);
    rest.split_once(close).map_or("", |(text, _)| text)
}

fn hash(text: &str) -> String {
    BASE64_STANDARD.encode(Sha256::digest(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects whoever opens it: it is small, asks nobody else for anything, and its policy is that of
    /// its one script and its one style.
    #[test]
    fn the_page_is_small_and_needs_nothing_else() {
        assert!(HTML.len() < 40_000, "{} bytes", HTML.len());
        for (tag, count) in [("<script", 1), ("<style", 1), ("<link", 1), ("<img", 0)] {
            assert_eq!(HTML.matches(tag).count(), count, "{tag}");
        }
        // The address of the namespace of pictures is none that is asked.
        let addresses = HTML.replace("http://www.w3.org/2000/svg", "");
        for word in [
            "http://",
            "https://",
            "//cdn",
            "innerHTML",
            " style=",
            " on",
        ] {
            let found = addresses.find(word);
            let attribute = |at: usize| word != " on" || addresses[at..].contains(" onclick=");
            assert!(!found.is_some_and(attribute), "{word}");
        }
        let page = Page::new();
        assert!(between("<script>", "</script>").len() > 1_000);
        assert!(between("<style>", "</style>").len() > 1_000);
        for word in ["default-src 'none'", "frame-ancestors 'none'"] {
            assert!(page.policy.contains(word), "{}", page.policy);
        }
        assert!(!page.policy.contains("unsafe"), "{}", page.policy);
    }
}
