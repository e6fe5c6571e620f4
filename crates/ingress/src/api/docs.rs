//! `/openapi.json`, and Swagger UI at `/docs/`, both from the binary itself.

use std::borrow::Cow;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::HttpResponse;
use actix_web::body::{BodySize, MessageBody};
use actix_web::http::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use actix_web::web::Bytes;
use utoipa_swagger_ui::Config;

use super::error::ApiError;
use super::openapi;
use super::route::{OPENAPI, Route};

/// At most how many bytes of a file wait for a connection at once, about.
const PIECE: usize = 16 << 10;

/// What there is to read about the API.
pub(crate) struct Docs {
    description: Bytes,
    ui: Arc<Config<'static>>,
}

impl Docs {
    /// Writes the description.
    ///
    /// # Errors
    /// Where it can't be written.
    pub(crate) fn new() -> Result<Self, serde_json::Error> {
        let description = openapi::description().to_json()?;
        // Nothing is loaded from, or sent to, anywhere else.
        let ui = Config::from(OPENAPI).validator_url("none");
        Ok(Self {
            description: description.into(),
            ui: Arc::new(ui),
        })
    }

    /// `/openapi.json`
    pub(crate) fn description(&self) -> HttpResponse {
        HttpResponse::Ok()
            .insert_header((CONTENT_TYPE, HeaderValue::from_static("application/json")))
            .body(self.description.clone())
    }

    /// `/docs/…`. The page names its files relative to itself, so it has to end in a slash.
    pub(crate) fn file(&self, path: &str) -> Result<HttpResponse, ApiError> {
        let Some(name) = Route::docs_file(path) else {
            return Ok(HttpResponse::PermanentRedirect()
                .insert_header((LOCATION, HeaderValue::from_static("/docs/")))
                .finish());
        };
        let file = utoipa_swagger_ui::serve(name, Arc::clone(&self.ui))
            .map_err(|error| ApiError::Internal(error.to_string()))?
            .ok_or(ApiError::NotFound)?;
        let bytes = match file.bytes {
            Cow::Borrowed(bytes) => Bytes::from_static(bytes),
            Cow::Owned(bytes) => bytes.into(),
        };
        Ok(HttpResponse::Ok()
            .content_type(file.content_type)
            .body(Pieces(bytes)))
    }
}

/// A body that goes out in pieces: in one, every connection that does not read would hold a copy of
/// all of it.
struct Pieces(Bytes);

impl MessageBody for Pieces {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(u64::try_from(self.0.len()).unwrap_or(u64::MAX))
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        let piece = self.0.len().min(PIECE);
        Poll::Ready((piece > 0).then(|| Ok(self.0.split_to(piece))))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::poll_fn;

    use super::*;

    /// Protects memory from clients that ask for large files and do not read them.
    #[actix_web::test]
    async fn a_large_file_goes_out_in_pieces_and_is_not_copied() {
        static FILE: [u8; 3 * PIECE + 5] = [7; 3 * PIECE + 5];
        let mut body = std::pin::pin!(Pieces(Bytes::from_static(&FILE)));
        assert_eq!(body.size(), BodySize::Sized(FILE.len() as u64));
        let mut at = 0;
        while let Some(Ok(piece)) = poll_fn(|context| body.as_mut().poll_next(context)).await {
            assert!(piece.len() <= PIECE);
            assert_eq!(piece.as_ptr(), FILE[at..].as_ptr());
            at += piece.len();
        }
        assert_eq!(at, FILE.len());
    }
}
