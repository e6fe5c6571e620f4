//! The live page at `/`, and its numbers at `/live`, as server-sent events: one a second.
//!
//! One thread makes the numbers for all who watch, and runs only while somebody does. Who reads slowly
//! misses some, and holds up nobody. The page is one text of ours without any number in it; the numbers
//! are for this host, or for an admin key (see `guard`).
//!
//! - `numbers`: what of the metrics is shown, and how fast it changes
//! - `page`: the page, and what its browser is told about it

mod numbers;
mod page;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use actix_web::middleware::from_fn;
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::stream;
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use super::guard::{Guard, Purpose, guarded};
use super::{Detail, Management, health};
use crate::supervise;
use numbers::Window;
use page::Page;

/// How many may watch at once.
const MAX_VIEWERS: usize = 16;
/// The time from one set of numbers to the next.
const EVERY: Duration = Duration::from_secs(1);
/// After this time without numbers a reader is told that there are none yet.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// A comment, which keeps the connection.
const NONE_YET: &[u8] = b": no numbers yet\n\n";

/// What all who watch share.
pub(super) struct Live {
    hub: Mutex<Hub>,
    wake: Condvar,
    latest: watch::Sender<Latest>,
}

#[derive(Default)]
struct Hub {
    viewers: usize,
    /// Whether the thread that makes the numbers runs.
    running: bool,
}

/// What there is for who watches.
#[derive(Debug, Clone)]
enum Latest {
    Nothing,
    /// A whole event.
    Numbers(Bytes),
    /// The server stops.
    End,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            hub: Mutex::default(),
            wake: Condvar::new(),
            latest: watch::Sender::new(Latest::Nothing),
        }
    }
}

impl Live {
    /// Lets the thread look whether it shall go on.
    pub(super) fn wake(&self) {
        self.wake.notify_all();
    }
}

/// Somebody who watches.
struct Viewer {
    management: Arc<Management>,
    latest: watch::Receiver<Latest>,
    greeted: bool,
    /// What came with the request, where there was an admin key: it may be revoked meanwhile.
    key: Option<HeaderMap>,
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.management.live.hub.lock().viewers -= 1;
        self.management.live.wake();
    }
}

impl Viewer {
    /// One more who watches; `None` where there are too many.
    fn enter(management: &Arc<Management>, headers: &HeaderMap) -> std::io::Result<Option<Self>> {
        let live = &management.live;
        let mut hub = live.hub.lock();
        if hub.viewers >= MAX_VIEWERS {
            return Ok(None);
        }
        // Before the thread starts, so that its first numbers are seen.
        let latest = live.latest.subscribe();
        if !hub.running {
            let watched = Arc::clone(management);
            let body = move || {
                supervise::begin_again_after_panic("tally-live", || watched.make_numbers());
            };
            let thread = std::thread::Builder::new().name("tally-live".to_owned());
            thread.spawn(body)?;
            hub.running = true;
        }
        hub.viewers += 1;
        drop(hub);
        Ok(Some(Self {
            management: Arc::clone(management),
            latest,
            greeted: false,
            key: management
                .admin_key(headers)
                .is_ok()
                .then(|| headers.clone()),
        }))
    }

    /// Whether who watches still may.
    fn still_may(&self) -> bool {
        let key = self.key.as_ref();
        key.is_none_or(|headers| self.management.admin_key(headers).is_ok())
    }

    /// What to send next, and whether that is the end.
    async fn next(&mut self) -> (Bytes, bool) {
        if !std::mem::replace(&mut self.greeted, true) {
            return (Bytes::from_static(b"retry: 2000\n\n"), false);
        }
        let changed = tokio::time::timeout(HEARTBEAT, self.latest.changed());
        let latest = match changed.await {
            Ok(Ok(())) => self.latest.borrow_and_update().clone(),
            Ok(Err(_)) => Latest::End,
            Err(_) => Latest::Nothing,
        };
        match latest {
            Latest::Numbers(event) => (event, false),
            Latest::Nothing if !self.management.draining() => (Bytes::from_static(NONE_YET), false),
            Latest::Nothing | Latest::End => {
                (Bytes::from_static(b"event: end\ndata: {}\n\n"), true)
            }
        }
    }
}

impl Management {
    /// Makes numbers while somebody watches and the server does not stop.
    fn make_numbers(&self) {
        let mut window = Window::default();
        loop {
            let ends = self.draining();
            let latest = if ends {
                Latest::End
            } else {
                Latest::Numbers(self.event(&mut window))
            };
            self.live.latest.send_replace(latest);
            let next = Instant::now() + EVERY;
            let mut hub = self.live.hub.lock();
            while !ends && hub.viewers > 0 && !self.draining() && Instant::now() < next {
                self.live.wake.wait_until(&mut hub, next);
            }
            if ends || hub.viewers == 0 {
                hub.running = false;
                return;
            }
        }
    }

    /// One event with the numbers as they are now.
    fn event(&self, window: &mut Window) -> Bytes {
        let reasons = self.reasons(Instant::now());
        self.refresh_metrics();
        let families = self.registry.gather();
        let hot = self.parts.get().map(|parts| parts.projector.hot(10));
        let rebuild = self.rebuild.now();
        let shown = window.show(&families, reasons, rebuild, hot.unwrap_or_default());
        match serde_json::to_string(&shown) {
            Ok(json) => Bytes::from(format!("data: {json}\n\n")),
            Err(error) => {
                tracing::error!(%error, "the numbers of the live page can't be written");
                Bytes::from_static(NONE_YET)
            }
        }
    }
}

pub(super) fn routes(config: &mut web::ServiceConfig, guard: &Arc<Guard>) {
    let (watching, showing) = (Arc::clone(guard), Arc::clone(guard));
    let page = Arc::new(Page::new());
    let live = web::resource("/live")
        .route(web::get().to(watch_live))
        .wrap(from_fn(move |request, next| {
            guarded(Arc::clone(&watching), Purpose::Watch, request, next)
        }));
    let show = move |request: HttpRequest, management: web::Data<Management>| {
        let answer = match showing.may_have_page(request.headers()) {
            Ok(()) => page.answer(),
            Err(refusal) => management.refusals.refuse(refusal),
        };
        async move { answer }
    };
    let index = web::resource("/").route(web::get().to(show));
    config.service(live).service(index);
}

async fn watch_live(request: HttpRequest, management: web::Data<Management>) -> HttpResponse {
    let busy = |detail: &str| {
        HttpResponse::ServiceUnavailable()
            .insert_header((RETRY_AFTER, "2"))
            .json(Detail::new(detail))
    };
    if management.draining() {
        return busy("The server is stopping.");
    }
    let viewer = match Viewer::enter(&management.into_inner(), request.headers()) {
        Ok(Some(viewer)) => viewer,
        Ok(None) => return busy("Too many are watching."),
        Err(error) => return health::failed(&error.to_string()),
    };
    let events = stream::unfold(Some(viewer), |viewer| async move {
        let mut viewer = viewer.filter(Viewer::still_may)?;
        let (event, last) = viewer.next().await;
        Some((Ok::<_, Infallible>(event), (!last).then_some(viewer)))
    });
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/event-stream"))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header(page::NOSNIFF)
        .insert_header(page::SAME_ORIGIN)
        .streaming(events)
}

#[cfg(test)]
mod tests;
