//! A key set at an address of this host, which can be changed and counts who asks.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::set_of;
use crate::testing::Issuer;

/// A key set at an address of this host, which can be changed and counts who asks.
pub(crate) struct KeySet {
    address: SocketAddr,
    body: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
}

impl KeySet {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let set = Self {
            address: listener.local_addr().expect("its address"),
            body: Arc::default(),
            asked: Arc::default(),
        };
        let (body, asked) = (Arc::clone(&set.body), Arc::clone(&set.asked));
        // It ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut lines = BufReader::new(stream.try_clone().expect("a handle")).lines();
                while lines
                    .next()
                    .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
                {}
                let answer = match &*body.lock().expect("the body") {
                    Some(body) => format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                        body.len()
                    ),
                    None => {
                        "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                            .to_owned()
                    }
                };
                asked.fetch_add(1, Ordering::SeqCst);
                // Whoever asked may be gone.
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        set
    }

    pub(crate) fn serves(&self, issuers: &[(&str, &Issuer)]) {
        *self.body.lock().expect("the body") = Some(set_of(issuers));
    }

    pub(crate) fn is_away(&self) {
        *self.body.lock().expect("the body") = None;
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/jwks.json", self.address)
    }
}
