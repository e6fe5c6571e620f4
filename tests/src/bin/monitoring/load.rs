//! `tally bench` on a folder's server, for as long as it is wanted.

use std::fs::File;
use std::process::{Child, Stdio};

use tally_tests::{Folder, wait};

/// A running load. Dropped, it ends.
pub(crate) struct Bench(Child);

impl Bench {
    /// Starts so many interactions a second, that go on whatever happens to the server, and waits
    /// for the first to be in the log.
    pub(crate) fn start(folder: &Folder, server: &tally_tests::Server, rate: u32) -> Self {
        let rate = rate.to_string();
        let args = [
            "bench",
            "--connections",
            "16",
            "--threads",
            "1",
            "--resources",
            "200",
            "--users",
            "50",
            "--tolerate-disconnects",
            "--timeout",
            "3s",
            "--duration",
            "60m",
            "--rate",
            &rate,
        ];
        let said = || File::create(folder.root().join("bench.said")).expect("a file");
        let child = folder
            .command(&args)
            .stdout(Stdio::null())
            .stderr(said())
            .spawn();
        let mut bench = Self(child.expect("the binary starts"));
        let before = server.events_folded();
        wait::until("the first interactions of the load", || {
            let ended = bench.0.try_wait().expect("a child of ours");
            let said = std::fs::read_to_string(folder.root().join("bench.said"));
            assert!(ended.is_none(), "the load ended: {said:?}");
            (server.events_folded() > before).then_some(())
        });
        bench
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
