//! A state that turns out to be damaged while the server serves is recovered beneath it.

use tally_projector::store::{SledStore, Store as _, values};
use tally_tests::fold::{assert_state_is_fold_of_log, state};
use tally_tests::{Folder, wait};

/// Flips a bit in every value of counters and toggles that is written down.
fn damage_all_values(folder: &Folder) {
    let sled = folder.data_dir().join("state/sled");
    let store = SledStore::open(&sled, 1 << 20).expect("the server has ended");
    let mut puts = Vec::new();
    for partition in 0..16 {
        let first = values::bucket_key(partition, 0);
        let (prefix, _) = first.split_at(5);
        let scanned = store.scan(prefix, &mut |key, value| {
            puts.push((key.to_vec(), value.to_vec()));
            Ok(())
        });
        scanned.expect("sled reads what it wrote");
    }
    assert!(!puts.is_empty(), "nothing was written down");
    for (key, mut value) in puts {
        value[0] ^= 1;
        store.put(&key, Some(&value)).expect("sled takes a put");
    }
    store.flush().expect("sled flushes");
}

/// Protects: damage that a request meets ends in no wrong answer and in no half-life: the server
/// says so, opens the state again, rebuilds the state from the log, and goes on.
#[test]
fn damage_met_while_serving_is_rebuilt_in_the_same_process() {
    let folder = Folder::new();
    let server = folder.start();
    for _ in 0..3 {
        assert_eq!(server.interact("quest", 42, "view").status, 200);
    }
    assert_eq!(server.interact("ai_note", 15, "like").status, 200);
    server.stop();
    let before = state(&folder);
    damage_all_values(&folder);

    let mut server = folder.start();
    let pid = server.pid();
    let met = server.resource("quest", 42);
    assert_eq!(met.status, 503, "{}", met.text());
    wait::until("the state is rebuilt", || {
        let metrics = server.metrics();
        let rebuilt = metrics.sum("tally_projector_rebuilds_total", &["cause=\"damage\""]);
        (rebuilt == 1.0).then_some(())
    });
    server.wait_until_ready();
    assert_eq!(server.pid(), pid);
    let read = server.resource("quest", 42);
    assert_eq!(read.status, 200, "{}", read.text());
    assert_eq!(read.json()["counters"]["views"], 3);
    let output = server.output();
    for said in ["damaged", "rebuilt from the log", "open again"] {
        assert!(output.contains(said), "{said:?} in {output}");
    }
    assert_eq!(state(&folder).digest, before.digest);
    assert_eq!(server.interact("quest", 42, "view").status, 200);
    assert_state_is_fold_of_log(&folder);
    server.stop();
}
