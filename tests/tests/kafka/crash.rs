//! Kill -9 under load, of servers and of brokers. Prints what each kill left.

use tally_tests::crash::{Acknowledged, Bench, Chance, KILLS_PER_FOLDER, number_from_env};
use tally_tests::fold::{assert_state_is_fold_of_log, state};
use tally_tests::kafka::Kafka;
use tally_tests::{Folder, Server};

/// A folder whose servers and load find each other again.
fn folder(kafka: &Kafka) -> Folder {
    kafka
        .folder()
        .with_fixed_ports()
        .with("TALLY__PROJECTOR__CHECKPOINT_INTERVAL", "100ms")
}

/// What clients were told so far is in the log, counts once, and is what the state says.
fn check(what: &str, folder: &Folder, bench: &mut Bench, acknowledged: &mut Acknowledged) {
    acknowledged.take(bench.new_lines());
    let folded = assert_state_is_fold_of_log(folder);
    acknowledged.assert_counted_once(&folded);
    println!(
        "{what}: {:>6} events, {:>6} acknowledged, 0 lost, 0 counted twice",
        folded.outcomes.len(),
        acknowledged.len()
    );
}

/// The state is also what a rebuild from nothing makes of the log.
fn rebuilt_is_the_same(folder: &Folder, server: Server) {
    server.stop();
    let before = state(folder);
    let state_dir = folder.data_dir().join("state");
    std::fs::remove_dir_all(state_dir).expect("the state's folder");
    let server = folder.start();
    assert_eq!(state(folder), before);
    server.stop();
}

/// Runs kills in turns that share a folder: the first kill of each turn, and how many.
fn in_turns(kills: u64, mut turn: impl FnMut(u64, u64)) {
    let mut done = 0;
    while done < kills {
        let some = KILLS_PER_FOLDER.min(kills - done);
        turn(done, some);
        done += some;
    }
}

/// Protects what was acknowledged, and every counter, from the server's sudden end.
#[test]
fn kill_9_of_the_server_loses_nothing_and_counts_nothing_twice() {
    let kills = number_from_env("TALLY_KAFKA_SERVER_KILLS", 10);
    let mut chance = Chance::from_env();
    let kafka = Kafka::shared();
    in_turns(kills, |first, some| {
        let folder = folder(kafka);
        let mut server = folder.start();
        let mut bench = Bench::start(&folder, chance.below(1_000_000));
        let mut acknowledged = Acknowledged::default();
        for kill in first..first + some {
            server = bench.kill_server(server, &mut chance);
            let what = format!("server kill {:>3} of {kills}", kill + 1);
            check(&what, &folder, &mut bench, &mut acknowledged);
            bench.go_on();
        }
        drop(bench);
        rebuilt_is_the_same(&folder, server);
    });
}

/// Protects the same from the sudden end of brokers: of one in three, which is not missed, and of
/// the only one, which leaves the fate of all that is under way unknown.
#[test]
fn kill_9_of_a_broker_loses_nothing_and_counts_nothing_twice() {
    let kills = number_from_env("TALLY_KAFKA_BROKER_KILLS", 5);
    let mut chance = Chance::from_env();
    for nodes in [3, 1] {
        let kafka = Kafka::start(nodes);
        in_turns(kills, |first, some| {
            let folder = folder(&kafka);
            let mut server = folder.start();
            let mut bench = Bench::start(&folder, chance.below(1_000_000));
            let mut acknowledged = Acknowledged::default();
            for kill in first..first + some {
                bench.load(&server, 500 + chance.below(6_000));
                let node = u32::try_from(chance.below(u64::from(nodes))).expect("few") + 1;
                kafka.kill(node);
                kafka.revive(node);
                // It goes on by itself.
                bench.load(&server, 500);
                bench.hold();
                server.wait_until_ready();
                server.wait_until_quiet();
                let what = format!("{nodes} nodes, broker kill {:>3} of {kills}", kill + 1);
                check(&what, &folder, &mut bench, &mut acknowledged);
                bench.go_on();
            }
            drop(bench);
            rebuilt_is_the_same(&folder, server);
        });
    }
}
