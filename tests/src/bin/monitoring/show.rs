//! Servers with everything that has metrics in use, under load.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use tally_tests::kafka::Kafka;
use tally_tests::metrics::Metrics;
use tally_tests::server::resource_path;
use tally_tests::{Folder, Request, Server};

use crate::certificate;
use crate::load::Bench;
use crate::poison;
use crate::queries::{addresses, keep_on};

const RATE: u32 = 400;

/// What is looked at: a server on files, and one on Kafka.
pub(crate) struct Show {
    embedded: Loaded,
    kafka: Option<(Loaded, Kafka)>,
}

struct Loaded {
    _load: Bench,
    server: Server,
    folder: Folder,
}

impl Loaded {
    fn start(folder: Folder) -> Self {
        let server = folder.start();
        Self {
            _load: Bench::start(&folder, &server, RATE),
            server,
            folder,
        }
    }

    fn metrics(&self) -> Metrics {
        self.server.metrics()
    }
}

impl Show {
    /// Starts both, with their load.
    pub(crate) fn start(with_kafka: bool) -> Self {
        let kafka = with_kafka.then(|| {
            let kafka = Kafka::start(1);
            let folder = kafka.folder();
            let certificate = certificate::make(folder.root(), "ca.pem", 100);
            let folder = folder.with(certificate::SETTING, certificate.display());
            (Loaded::start(folder), kafka)
        });
        Self {
            embedded: Loaded::start(with_everything(Folder::local())),
            kafka,
        }
    }

    fn all(&self) -> Vec<&Loaded> {
        let kafka = self.kafka.iter().map(|(loaded, _)| loaded);
        std::iter::once(&self.embedded).chain(kafka).collect()
    }

    /// Their management listeners.
    pub(crate) fn targets(&self) -> Vec<SocketAddr> {
        let servers: Vec<&Server> = self.all().into_iter().map(|one| &one.server).collect();
        addresses(&servers)
    }

    /// The names of all series that they give out.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for loaded in self.all() {
            let series = loaded.metrics().series.into_keys();
            names.extend(series.filter_map(|one| one.split('{').next().map(str::to_owned)));
        }
        names
    }

    /// How many series a scrape of the server on files has.
    pub(crate) fn series(&self) -> usize {
        self.embedded.metrics().series.len()
    }

    /// Does for so long what the load does not: reads, requests that are refused, a rebuild.
    pub(crate) fn be_busy(&self, limit: Duration) {
        let rebuild = self.embedded.folder.clone();
        let rebuilt = std::thread::spawn(move || rebuild.run(&["rebuild"]).ok());
        keep_on(limit, || {
            for loaded in self.all() {
                assert_eq!(loaded.server.resource("quest", 42).status, 200);
                let unknown = Request::get(&resource_path("quest", 42)).bearer("nobody");
                assert_eq!(unknown.send(loaded.server.api()).status, 401);
                let foreign = Request::new("GET", "/").header("Host", "elsewhere.example");
                let _ = foreign.try_send(loaded.server.management());
            }
        });
        assert!(rebuilt.join().is_ok(), "the rebuild failed");
    }

    /// Ends all of it.
    pub(crate) fn end(self) {
        drop(self.embedded);
        if let Some((loaded, kafka)) = self.kafka {
            drop(loaded);
            drop(kafka);
        }
    }
}

/// A folder with tokens, snapshots, a key that expires and a dead letter.
fn with_everything(folder: Folder) -> Folder {
    let secret = folder.root().join("secret");
    fs::write(&secret, "a secret of at least thirty-two bytes").expect("a file");
    let kept = folder.root().join("kept");
    fs::create_dir(&kept).expect("a folder");
    let folder = folder
        .with("TALLY__AUTH__JWT__ALGORITHMS", "HS256")
        .with("TALLY__AUTH__JWT__SECRET_FILES", secret.display())
        .with(
            "TALLY__SNAPSHOTS__URL",
            format!("file://{}", kept.display()),
        )
        .with("TALLY__SNAPSHOTS__INTERVAL", "2s")
        .with("TALLY__PROJECTOR__CHECK_INTERVAL", "2s")
        .with("TALLY__LOG__SEGMENT_SIZE", "1 MiB");
    folder.start().stop();
    poison::append(&folder.data_dir().join("log"));
    let expires = ["keys", "create", "--user", "7", "--expires-in", "90d"];
    let _ = folder.run(&expires).ok();
    folder
}
