//! `/openapi.json`, and Swagger UI at `/docs/`, both from the binary itself.

use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::http::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use actix_web::web::Bytes;
use utoipa_swagger_ui::Config;

use super::error::ApiError;
use super::openapi;
use super::route::{OPENAPI, Route};

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
        Ok(HttpResponse::Ok()
            .content_type(file.content_type)
            .body(file.bytes.into_owned()))
    }
}
