//! Promises 1 and 4 on a disk that forgets: log, state and keys together, cut off at any step.

use tally_tests::simulation::crash_points::{Without, run};

/// How many crash points.
const POINTS: u64 = 10_000;

/// Protects: what was acknowledged is there after any crash, once; an append is there whole or not
/// at all; the state is the log's fold; what is whole is never refused, however often a recovery is
/// cut off itself.
#[test]
fn ten_thousand_crashes_lose_and_double_nothing() {
    let (first, second) = std::thread::scope(|scope| {
        let other = scope.spawn(|| run(1 << 40, POINTS / 2, None, true));
        (run(1, POINTS / 2, None, true), other.join())
    });
    let mut totals = first;
    totals.merge(second.expect("a run"));
    println!("{totals}");
    assert!(totals.is_right(), "{totals}\n{:#?}", totals.shown);
    assert!(totals.points >= POINTS);
    assert!(totals.in_recovery > POINTS / 20, "{totals}");
    assert!(totals.checkpoints > POINTS / 20, "{totals}");
}

/// Histories that once found something: an append told to be not written that came back, and a redo
/// file that was put into the store before its name was durable.
#[test]
fn what_was_found_once_stays_right() {
    for seed in [3_689, 1_099_511_646_419, 1_099_511_652_033] {
        let totals = run(seed, 1, None, true);
        assert!(totals.is_right(), "{totals}\n{:#?}", totals.shown);
    }
}

/// Protects the test above from finding nothing: each sync that is left out is found out soon.
#[test]
fn a_sync_that_is_left_out_is_found_out() {
    for without in [
        Without::LogSync,
        Without::RedoSync,
        Without::StoreFlush,
        Without::KeysSync,
        Without::NameSync,
    ] {
        let totals = run(1, POINTS, Some(without), true);
        assert!(!totals.is_right(), "{without:?} is not found out");
        println!("{without:?}: after {} crash points", totals.points);
    }
}
