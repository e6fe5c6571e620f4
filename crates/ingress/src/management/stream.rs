//! Long answers from blocking code: a thread writes lines, a bounded channel hands them to the
//! connection, and a reader that is slow or gone holds up only its own thread.

use std::io::{self, Write};
use std::sync::Arc;

use actix_web::http::header::{self, RETRY_AFTER};
use actix_web::web::Bytes;
use actix_web::{HttpResponse, web};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{Detail, Management, health};
use crate::inspect::InspectError;

/// How much is collected before it is handed on, in bytes.
const CHUNK: usize = 64 << 10;
/// How many chunks wait for the connection at most.
const QUEUED_CHUNKS: usize = 8;

/// The last line of a stream that broke off: the status had been sent by then.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamError {
    /// Why.
    pub stream_error: String,
}

/// A piece of the answer; `None` is its end. A channel that closes without one broke off.
type Chunk = Option<Bytes>;

struct ChannelWriter {
    chunks: mpsc::Sender<Chunk>,
    buffer: Vec<u8>,
}

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::take(&mut self.buffer));
        self.chunks
            .blocking_send(Some(chunk))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Answers with what `work` writes, line by line, as it writes it. `work` gets a question to ask
/// now and then: whether to stop, since the reader is gone or the server is stopping.
pub(super) fn lines(
    management: web::Data<Management>,
    work: impl FnOnce(&Management, &mut dyn Write, &dyn Fn() -> bool) -> Result<(), InspectError>
    + Send
    + 'static,
) -> HttpResponse {
    let Ok(permit) = Arc::clone(&management.streams).try_acquire_owned() else {
        return HttpResponse::ServiceUnavailable()
            .insert_header((RETRY_AFTER, "1"))
            .json(Detail::new(
                "Too many administrative requests are under way.",
            ));
    };
    let (chunks, mut received) = mpsc::channel(QUEUED_CHUNKS);
    let body = move || {
        let _permit = permit;
        let reader = chunks.clone();
        let stop = || reader.is_closed() || management.draining();
        let mut out = ChannelWriter {
            chunks,
            buffer: Vec::new(),
        };
        let worked = work(&management, &mut out, &stop);
        let ended = match worked {
            Ok(()) | Err(InspectError::Write(_)) => Ok(()),
            Err(error) => last_line(&mut out, error.to_string()),
        };
        // The reader is gone: nobody is left to tell.
        let _ = ended.and_then(|()| out.end());
    };
    let thread = std::thread::Builder::new().name("tally-admin".to_owned());
    if let Err(error) = thread.spawn(body) {
        return health::failed(&error.to_string());
    }
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "application/x-ndjson"))
        .streaming(stream::poll_fn(move |context| {
            received.poll_recv(context).map(|chunk| match chunk {
                Some(Some(bytes)) => Some(Ok(bytes)),
                Some(None) => None,
                // The thread panicked: the reader must not take what it has for all there is.
                None => Some(Err(io::Error::other("the answer broke off"))),
            })
        }))
}

impl ChannelWriter {
    fn end(mut self) -> io::Result<()> {
        self.flush()?;
        let ended = self.chunks.blocking_send(None);
        ended.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

fn last_line(out: &mut ChannelWriter, stream_error: String) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &StreamError { stream_error })?;
    out.write_all(b"\n")
}
