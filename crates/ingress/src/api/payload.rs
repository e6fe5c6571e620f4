//! A request's body: read whole, up to a limit, in time.

use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::Payload;
use actix_web::http::header::CONTENT_LENGTH;
use actix_web::web::{Bytes, BytesMut};
use actix_web::{HttpMessage, HttpRequest, HttpResponse};
use futures_util::{FutureExt, StreamExt};
use tokio::time::timeout;

use super::error::ApiError;

/// A body on its way.
pub(crate) struct RequestBody {
    payload: Payload,
    /// As declared, in bytes.
    length: Option<u64>,
    chunked: bool,
    ended: bool,
}

impl RequestBody {
    /// The body of a request.
    pub(crate) fn new(request: &HttpRequest, payload: Payload) -> Self {
        let length = request.headers().get(CONTENT_LENGTH);
        Self {
            payload,
            length: length.and_then(|length| length.to_str().ok()?.parse().ok()),
            chunked: request.chunked().unwrap_or(false),
            ended: false,
        }
    }

    /// Whether it is known to be empty.
    pub(crate) fn is_empty(&self) -> bool {
        !self.chunked && self.length.unwrap_or(0) == 0
    }

    /// Reads it whole.
    ///
    /// # Errors
    /// [`ApiError::TooLarge`], as soon as that is known; [`ApiError::Timeout`];
    /// [`ApiError::BrokenBody`] where the client ends it too early or garbles it.
    pub(crate) async fn read(&mut self, limit: usize, time: Duration) -> Result<Bytes, ApiError> {
        let declared = self.length.filter(|_| !self.chunked).unwrap_or(0);
        if usize::try_from(declared).map_or(true, |declared| declared > limit) {
            return Err(ApiError::TooLarge { limit });
        }
        let mut body = pin!(self.collect(limit));
        // It nearly always came with the head: then there is nothing to set a timer for.
        if let Some(body) = body.as_mut().now_or_never() {
            return body;
        }
        timeout(time, body).await.unwrap_or(Err(ApiError::Timeout))
    }

    async fn collect(&mut self, limit: usize) -> Result<Bytes, ApiError> {
        let Some(first) = self.chunk(0, limit).await? else {
            return Ok(Bytes::new());
        };
        // Nearly always all there is.
        let Some(second) = self.chunk(first.len(), limit).await? else {
            return Ok(first);
        };
        let mut body = BytesMut::with_capacity(first.len() + second.len());
        body.extend_from_slice(&first);
        body.extend_from_slice(&second);
        while let Some(more) = self.chunk(body.len(), limit).await? {
            body.extend_from_slice(&more);
        }
        Ok(body.freeze())
    }

    /// The next piece, where `so_far` bytes and it are within the limit.
    async fn chunk(&mut self, so_far: usize, limit: usize) -> Result<Option<Bytes>, ApiError> {
        match self.payload.next().await {
            None => {
                self.ended = true;
                Ok(None)
            }
            Some(Ok(chunk)) if chunk.len() > limit - so_far => Err(ApiError::TooLarge { limit }),
            Some(Ok(chunk)) => Ok(Some(chunk)),
            Some(Err(error)) => Err(ApiError::BrokenBody(error.to_string())),
        }
    }

    /// Answers while the client may still be sending. Of a chunked body that nobody reads, the
    /// server would otherwise read on without end before it closes the connection; while its
    /// reader lives, the server closes the connection after the answer, and waits a bounded time
    /// for the client to notice.
    pub(crate) fn answer(self, response: HttpResponse) -> HttpResponse {
        if self.ended || !self.chunked {
            return response;
        }
        let payload = self.payload;
        response.map_body(|_, body| {
            BoxBody::new(Held {
                body,
                _payload: payload,
            })
        })
    }
}

/// An answer's body that keeps the request's.
struct Held {
    body: BoxBody,
    _payload: Payload,
}

impl MessageBody for Held {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(context)
    }
}
