//! One keep-alive connection: a request out, an answer in.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::wire::{Head, WireError, parse_head};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A connection unused for so long may have been closed by the server's keep-alive limit.
const STALE_AFTER: Duration = Duration::from_millis(500);
const READ_BYTES: usize = 4 << 10;

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    /// Not one byte left this machine's process: the request can't have been handled.
    #[error("not sent: {0}")]
    NotSent(io::Error),
    #[error("connection lost: {0}")]
    Broken(io::Error),
    #[error("connection closed by the server before its answer")]
    Closed,
    #[error("no answer in time")]
    TimedOut,
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// A connection, or the place of one.
#[derive(Debug)]
pub(super) struct Connection {
    address: SocketAddr,
    timeout: Duration,
    stream: Option<TcpStream>,
    used: Instant,
    /// The request being sent; filled by the caller before [`exchange`](Self::exchange).
    pub(super) request: Vec<u8>,
    answer: Vec<u8>,
    /// One timer for all requests of the connection, moved only when it fires: setting one for
    /// each request would cost more than sending it.
    timer: Pin<Box<Sleep>>,
}

impl Connection {
    /// A place with no connection yet. Must be called inside a runtime.
    pub(super) fn new(address: SocketAddr, timeout: Duration) -> Self {
        Self {
            address,
            timeout,
            stream: None,
            used: Instant::now(),
            request: Vec::with_capacity(512),
            answer: Vec::with_capacity(READ_BYTES),
            timer: Box::pin(tokio::time::sleep(timeout)),
        }
    }

    /// Whether a request can be sent, as far as one can know.
    pub(super) fn is_connected(&mut self, now: Instant) -> bool {
        let Some(stream) = &self.stream else {
            return false;
        };
        if now.saturating_duration_since(self.used) >= STALE_AFTER {
            let quiet = stream
                .try_read(&mut [0_u8; 1])
                .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
            if !quiet {
                self.stream = None;
            }
        }
        self.stream.is_some()
    }

    /// Makes the connection anew.
    ///
    /// # Errors
    /// Where the server can't be reached within 5 s.
    pub(super) async fn connect(&mut self) -> io::Result<()> {
        self.stream = None;
        let stream = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(self.address))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        self.used = Instant::now();
        self.stream = Some(stream);
        Ok(())
    }

    /// Sends the request and reads its answer; [`body`](Self::body) then has the body.
    ///
    /// # Errors
    /// Where no whole answer came; the connection is gone then.
    pub(super) async fn exchange(&mut self) -> Result<Head, Lost> {
        let started = Instant::now();
        let deadline = started + self.timeout;
        let Some(stream) = &mut self.stream else {
            return Err(Lost::NotSent(io::ErrorKind::NotConnected.into()));
        };
        let (request, answer, timer) = (&self.request, &mut self.answer, &mut self.timer);
        let result = {
            let mut io = pin!(send_and_receive(stream, request, answer));
            poll_fn(|context| {
                if let Poll::Ready(result) = io.as_mut().poll(context) {
                    return Poll::Ready(result);
                }
                while timer.as_mut().poll(context).is_ready() {
                    if Instant::now() >= deadline {
                        return Poll::Ready(Err(Lost::TimedOut));
                    }
                    timer.as_mut().reset(deadline.into());
                }
                Poll::Pending
            })
            .await
        };
        self.used = started;
        if result.as_ref().map_or(true, |head| head.closes) {
            self.stream = None;
        }
        result
    }

    /// The body of the newest answer.
    pub(super) fn body(&self, head: &Head) -> &[u8] {
        self.answer
            .get(head.head_bytes..head.head_bytes + head.body_bytes)
            .unwrap_or_default()
    }
}

async fn send_and_receive(
    stream: &mut TcpStream,
    request: &[u8],
    answer: &mut Vec<u8>,
) -> Result<Head, Lost> {
    let mut sent = 0;
    while let Some(rest) = request.get(sent..).filter(|rest| !rest.is_empty()) {
        match stream.write(rest).await {
            Ok(bytes) => sent += bytes,
            Err(error) if sent == 0 => return Err(Lost::NotSent(error)),
            Err(error) => return Err(Lost::Broken(error)),
        }
    }
    answer.clear();
    let mut head = None;
    loop {
        if stream.read_buf(answer).await.map_err(Lost::Broken)? == 0 {
            return Err(Lost::Closed);
        }
        if head.is_none() {
            head = parse_head(answer)?;
            if let Some(head) = head {
                // Room for the rest, so that one read can take it.
                let whole = head.head_bytes + head.body_bytes;
                answer.reserve(whole.saturating_sub(answer.len()));
            } else if answer.len() > super::wire::MAX_ANSWER_BYTES {
                return Err(WireError::TooLarge.into());
            }
        }
        if let Some(head) = head
            && answer.len() >= head.head_bytes + head.body_bytes
        {
            return Ok(head);
        }
    }
}
