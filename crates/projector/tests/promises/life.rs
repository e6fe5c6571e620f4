//! Promises 3 and 4: whatever befalls the process, the state is a fold of the log.

use proptest::collection::vec;
use proptest::prelude::*;
use tally_domain::InteractionType;
use tally_projector::{EventFate, Options, Projector};

use crate::common::{
    LIMIT, MemoryLog, Opening, PARTITIONS, catch_up, event, folded, history, options, user,
    verdicts, wait, waiter,
};

#[derive(Debug, Clone)]
enum Doing {
    /// So many events are appended, some poison among them.
    Append { seed: u64, count: u64 },
    /// Offsets are left out.
    Skip { partition: u32, count: u64 },
    /// What was appended is written down.
    Checkpoint,
    /// Events are appended, and a checkpoint comes while they are folded.
    CheckpointAmid { seed: u64 },
    /// The process dies, and another comes with so many workers.
    Crash { workers: usize },
    /// The process ends cleanly, and another comes.
    Stop { workers: usize },
    /// The process dies, and somebody removes the state.
    DropState { workers: usize },
}

fn doings() -> impl Strategy<Value = Vec<Doing>> {
    let doing = prop_oneof![
        6 => (any::<u32>(), 1u64..60).prop_map(|(seed, count)| Doing::Append {
            seed: seed.into(),
            count,
        }),
        1 => (0..PARTITIONS, 1u64..4)
            .prop_map(|(partition, count)| Doing::Skip { partition, count }),
        3 => Just(Doing::Checkpoint),
        2 => any::<u32>().prop_map(|seed| Doing::CheckpointAmid { seed: seed.into() }),
        3 => (1usize..6).prop_map(|workers| Doing::Crash { workers }),
        2 => (1usize..6).prop_map(|workers| Doing::Stop { workers }),
        1 => (1usize..6).prop_map(|workers| Doing::DropState { workers }),
    ];
    vec(doing, 1..20)
}

/// So little stays in memory that most values are dropped and read again.
fn opening(workers: usize) -> Opening {
    Opening::with(Options {
        workers,
        memory: 2_000,
        ..options()
    })
}

struct Life {
    log: MemoryLog,
    dir: tempfile::TempDir,
    opening: Opening,
    projector: Option<Projector>,
    records: u64,
    /// The most records that a crash now leaves to replay.
    unwritten: u64,
}

impl Life {
    fn new() -> Self {
        let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
        let opening = opening(2);
        let projector = Some(opening.open(&log, dir.path()));
        Self {
            log,
            dir,
            opening,
            projector,
            records: 0,
            unwritten: 0,
        }
    }

    fn projector(&self) -> &Projector {
        self.projector.as_ref().unwrap()
    }

    fn append(&mut self, seed: u64, count: u64) {
        let events = history(seed, count);
        let waiters: Vec<_> = events
            .iter()
            .map(|event| (event.id, waiter(self.projector(), event)))
            .collect();
        self.log.add_all(&events);
        self.log
            .add_raw(u32::try_from(seed % 4).unwrap(), b"", b"poison");
        let verdicts: std::collections::HashMap<_, _> = verdicts(&self.log).into_iter().collect();
        for (id, waiter) in waiters {
            assert_eq!(wait(waiter), Ok(EventFate::Folded(verdicts[&id])));
        }
        self.appended(count + 1);
    }

    fn appended(&mut self, count: u64) {
        self.records += count;
        self.unwritten += count;
    }

    fn checkpoint_amid(&mut self, seed: u64) {
        let projector = self.projector.as_ref().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..10 {
                    self.log.add_all(&history(seed + n * 5, 5));
                }
            });
            projector.checkpoint().unwrap();
        });
        self.appended(50);
        self.unwritten = self.unwritten.min(50);
    }

    /// Another process comes; it must replay what was not written, and no more.
    fn restart(&mut self, workers: usize) {
        self.projector = None;
        self.opening = opening(workers);
        self.projector = Some(self.opening.open(&self.log, self.dir.path()));
        catch_up(self.projector());
        // Short of memory, a checkpoint comes whenever it must.
        let replayed = self.opening.replayed();
        assert!(
            replayed <= self.unwritten,
            "{replayed} were replayed, of {}",
            self.unwritten
        );
    }

    fn run(&mut self, doing: &Doing) {
        match *doing {
            Doing::Append { seed, count } => self.append(seed, count),
            Doing::Skip { partition, count } => self.log.skip(partition, count),
            Doing::Checkpoint => {
                self.projector().checkpoint().unwrap();
                self.unwritten = 0;
            }
            Doing::CheckpointAmid { seed } => self.checkpoint_amid(seed),
            Doing::Crash { workers } => self.restart(workers),
            Doing::Stop { workers } => {
                self.projector().stop(LIMIT).unwrap();
                self.unwritten = 0;
                self.restart(workers);
            }
            Doing::DropState { workers } => {
                self.projector = None;
                for entry in std::fs::read_dir(self.dir.path()).unwrap() {
                    std::fs::remove_dir_all(entry.unwrap().path()).unwrap();
                }
                self.unwritten = self.records;
                self.restart(workers);
            }
        }
    }

    /// Digest, counters, toggles, remembered keys, dead letters and positions are the fold's, in
    /// the copy and in every answer.
    fn check(&self) {
        catch_up(self.projector());
        let expected = folded(&self.log);
        assert_eq!(self.projector().dump().unwrap(), expected);
        let head = self.log.arc().head().unwrap();
        let status = self.projector().status();
        let applied: Vec<_> = status.partitions.iter().map(|p| p.next_offset).collect();
        assert_eq!(applied, head);
        for (resource, counters) in &expected.counters {
            for by in 0..4 {
                let read = self.projector().read(*resource, &user(by)).unwrap();
                let set = expected
                    .toggles
                    .iter()
                    .find(|(on, who, _)| on == resource && *who == user(by))
                    .map(|(_, _, toggles)| *toggles)
                    .unwrap_or_default();
                assert_eq!((read.counters, read.toggles), (*counters, set));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Protects: after every step of every life the state and all answers are those of a fresh
    /// fold of the whole log; a clean stop leaves nothing to replay, and a crash only what came
    /// since the last checkpoint.
    #[test]
    fn every_life_is_a_fold(doings in doings()) {
        let mut life = Life::new();
        for doing in &doings {
            life.run(doing);
            life.check();
        }
    }
}

/// Protects: more keys than are remembered go round the ring of chunks: what is written over is
/// what no longer holds, in whatever portions checkpoints come.
#[test]
fn remembered_keys_go_round() {
    let log = MemoryLog::with(tally_domain::LogId::now_v7(), 1);
    let dir = tempfile::tempdir().unwrap();
    let most = u64::from(tally_domain::Rules::CURRENT.key_count);
    let projector = Opening::default().open(&log, dir.path());
    let mut key = 0;
    for portion in [1, 255, 300, most - 700, 20, 512, 1_000] {
        let events: Vec<_> = (key..key + portion)
            .map(|key| event(1, 15, InteractionType::View, Some(key)))
            .collect();
        log.add_all(&events);
        key += portion;
        catch_up(&projector);
        projector.checkpoint().unwrap();
    }
    drop(projector);
    let opening = Opening::default();
    let projector = opening.open(&log, dir.path());
    catch_up(&projector);
    assert_eq!(opening.replayed(), 0);
    let dump = projector.dump().unwrap();
    assert_eq!(dump.remembered_keys, most);
    assert_eq!(dump, folded(&log));
}
