//! A small load of our own on a server: a few connections, each with one interaction under way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use serde_json::Value;

use crate::fold::Folded;
use crate::http::Connection;
use crate::server::interaction_request;
use crate::wait;

/// What clients of the load were told.
#[derive(Debug, Default)]
pub struct Told {
    /// The bodies of all 200s.
    pub acknowledged: Vec<Value>,
    /// Status and body of everything else.
    pub refused: Vec<(u16, String)>,
}

impl Told {
    /// Each acknowledged event is in the log exactly once, with the outcome its client was told.
    ///
    /// # Panics
    /// When it is not so, or none was acknowledged.
    pub fn assert_all_there(&self, folded: &Folded) {
        assert!(!self.acknowledged.is_empty());
        for answer in &self.acknowledged {
            let id = answer["event_id"].as_str().expect("an event id");
            assert_eq!(folded.records_of_event.get(id), Some(&1), "{answer}");
            if answer["visible"] == true {
                assert_eq!(answer["outcome"], folded.outcomes[id], "{answer}");
            }
        }
    }

    /// Nothing was refused but a key used with another interaction (422), and what can't be taken
    /// at the moment (503).
    ///
    /// # Panics
    /// When something was.
    pub fn assert_only_conflicts_and_unavailable(&self) {
        for (status, body) in &self.refused {
            assert!([422, 503].contains(status), "{status} {body}");
        }
    }
}

/// A load that runs until it is stopped or the server is gone.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Told>>,
}

const RESOURCES: [(&str, u64); 3] = [("ai_note", 15), ("ai_expert", 7), ("quest", 42)];
const INTERACTIONS: [&str; 7] = [
    "view",
    "like",
    "share",
    "bookmark",
    "unlike",
    "comment",
    "unbookmark",
];

impl Load {
    /// Starts `clients` connections, which go round the seeded resources and all interactions.
    #[must_use]
    pub fn start(api: SocketAddr, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let client = |number: usize| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            std::thread::spawn(move || run(api, number, &stop, &answered))
        };
        let clients = (0..clients).map(client).collect();
        Self {
            stop,
            answered,
            clients,
        }
    }

    /// Waits for so many more answers.
    ///
    /// # Panics
    /// When they don't come.
    pub fn answers(&self, more: usize) {
        let enough = self.answered() + more;
        wait::until("answers", || (self.answered() >= enough).then_some(()));
    }

    /// How many answers came so far.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Ends it, after the answers to what is under way, and says what came of it.
    ///
    /// # Panics
    /// When a client was told something that is no answer.
    #[must_use]
    pub fn stop(self) -> Told {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Told::default();
        for client in self.clients {
            let told = client.join().expect("a client ends");
            all.acknowledged.extend(told.acknowledged);
            all.refused.extend(told.refused);
        }
        all
    }
}

fn run(api: SocketAddr, number: usize, stop: &AtomicBool, answered: &AtomicUsize) -> Told {
    let mut told = Told::default();
    let Ok(mut connection) = Connection::open(api) else {
        return told;
    };
    for turn in number.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (kind, id) = RESOURCES[turn % RESOURCES.len()];
        let interaction = INTERACTIONS[turn % INTERACTIONS.len()];
        let mut request = interaction_request(kind, id, interaction);
        // The same key comes again with the same interaction once, and with others often.
        if turn % 5 == 0 {
            request = request.header("Idempotency-Key", format!("{number}-{}", turn / 210));
        }
        let Ok(answer) = connection.send(&request) else {
            break;
        };
        answered.fetch_add(1, Ordering::Relaxed);
        let closing = answer.header("connection") == Some("close");
        if answer.status == 200 {
            told.acknowledged.push(answer.json());
        } else {
            told.refused.push((answer.status, answer.text()));
        }
        if closing {
            break;
        }
    }
    told
}
