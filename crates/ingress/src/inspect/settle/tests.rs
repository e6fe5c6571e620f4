//! Replays and drops as the command and the management API do them.

use std::cell::Cell;
use std::sync::Arc;

use prometheus::Registry;
use serde_json::{Value, json};
use tally_domain::{
    Event, EventTime, InteractionType, Resource, ResourceType, UserId, encode, partition,
};
use tally_log::AppendRefused;
use tally_log::storage::RealStorage;
use tally_projector::Options;

use super::*;
use crate::memory_log::{Fate, MemoryLog};

const PARTITIONS: u32 = 4;
const APPENDED: u64 = 1_764_000_000_000;
const HOUR: u64 = 3_600_000;

struct World {
    log: MemoryLog,
    projector: Projector,
    dir: tempfile::TempDir,
}

fn projector(log: &MemoryLog, dir: &std::path::Path) -> Projector {
    let options = Options {
        sled_cache_bytes: 1 << 20,
        ..Options::default()
    };
    let storage = Arc::new(RealStorage);
    Projector::open(log.arc(), storage, dir, options, &Registry::new()).unwrap()
}

fn viewed(id: u64, at: u64) -> Event {
    Event {
        id: EventId::now_v7(),
        at: EventTime::from_millis(at),
        user: UserId::new("1").unwrap(),
        resource: Resource::new(ResourceType::Quest, id).unwrap(),
        interaction: InteractionType::View,
        idempotency_key: None,
    }
}

fn home(id: u64) -> Partition {
    viewed(id, 0).resource.partition(PARTITIONS)
}

/// In the partition of quest 1: garbage, a view of it an hour ahead, one of quest `other()`, which
/// lives elsewhere.
fn world() -> World {
    let (log, dir) = (MemoryLog::new(PARTITIONS), tempfile::tempdir().unwrap());
    log.set_append_time(APPENDED);
    log.add(home(1), b"", b"garbage");
    log.add(home(1), b"", &encode(&viewed(1, APPENDED + HOUR)));
    log.add(home(1), b"", &encode(&viewed(other(), APPENDED)));
    let projector = projector(&log, dir.path());
    // The log gives its time when a record is read.
    catch_up(&projector, &never).unwrap();
    World {
        log,
        projector,
        dir,
    }
}

fn other() -> u64 {
    (2..).find(|id| home(*id) != home(1)).unwrap()
}

fn never() -> bool {
    false
}

impl World {
    fn settle(&self, action: SettleAction, settling: Settling) -> Result<Vec<Value>, InspectError> {
        let mut out = Vec::new();
        let done = settle(&self.projector, action, settling, &mut out, &never);
        let lines = std::str::from_utf8(&out).unwrap().lines();
        let lines = lines.map(|line| serde_json::from_str(line).unwrap());
        done.map(|()| lines.collect())
    }

    fn replay(&self) -> Vec<Value> {
        self.settle(SettleAction::Replay, Settling::default())
            .unwrap()
    }

    fn left(&self) -> Vec<Offset> {
        let from = Position {
            partition: home(1),
            offset: 0,
        };
        let letters = self.projector.dead_letters(from, 100).unwrap();
        letters
            .iter()
            .map(|letter| letter.position.offset)
            .collect()
    }

    fn views(&self, id: u64) -> u64 {
        let event = viewed(id, 0);
        let view = self.projector.read(event.resource, &event.user);
        view.unwrap().counters.views
    }

    /// Closes the state as a crash would, and folds the whole log anew.
    fn rebuilt(mut self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        self.projector = projector(&self.log, dir.path());
        self.dir = dir;
        catch_up(&self.projector, &never).unwrap();
        self
    }
}

fn settled(many: [u64; 5]) -> Value {
    let [dead_letters, folded, dropped, still, gone] = many;
    let action = if dropped > 0 { "drop" } else { "replay" };
    json!({"settled": {"action": action, "dead_letters": dead_letters, "folded": folded,
        "dropped": dropped, "still": still, "gone": gone}})
}

/// Protects the lines that programs parse, and that each letter comes to what it can: folded by now,
/// folded where it belongs, or left; and that nothing counts again.
#[test]
fn what_can_be_folded_is_folded_once_and_the_rest_stays() {
    let world = world();
    world.log.set_append_time(APPENDED + HOUR);
    let line = |offset, rest: Value| {
        let mut line = json!({"partition": home(1), "offset": offset});
        let fields = rest.as_object().unwrap().clone();
        line.as_object_mut().unwrap().extend(fields);
        line
    };
    let garbage = line(0, json!({"fate": "still", "reason": "undecodable"}));
    let folded = json!({"fate": "folded", "outcome": "applied"});
    let all = [
        garbage.clone(),
        line(1, folded.clone()),
        line(2, folded),
        settled([3, 2, 0, 1, 0]),
    ];
    assert_eq!(world.replay(), all);
    assert_eq!(world.replay(), [garbage, settled([1, 0, 0, 1, 0])]);
    assert_eq!(world.left(), [0]);
    assert_eq!([world.views(1), world.views(other())], [1, 1]);
    // What went elsewhere has its resource's key, like any event of it; the rest needs none.
    let of_other = format!("quest:{}", other());
    let partition = partition::partition_of(of_other.as_bytes(), PARTITIONS);
    assert_eq!(partition, home(other()));
    let moved = world.log.values(partition);
    assert!(moved[0].contains(r#""kind":"replay""#), "{moved:?}");
    assert!(moved[0].contains(r#""event":{"v":1"#), "{moved:?}");
    let world = world.rebuilt();
    assert_eq!(world.left(), [0]);
    assert_eq!([world.views(1), world.views(other())], [1, 1]);
}

/// Protects from a crash between the two steps of a letter that belongs elsewhere: it is folded there
/// and still a letter here, and the next replay says duplicate and ends it.
#[test]
fn a_move_that_broke_off_is_finished_by_the_next_one() {
    let world = world();
    let mut half = decision(
        SettleAction::Replay,
        Position {
            partition: home(1),
            offset: 2,
        },
    );
    half.event = Some(Box::new(viewed(other(), APPENDED)));
    world.log.add(home(other()), b"", &encode_settlement(&half));
    let world = world.rebuilt();
    assert_eq!((world.left().len(), world.views(other())), (3, 1));
    let only = Settling {
        partition: Some(home(1)),
        offset: Some(2),
        ..Settling::default()
    };
    let lines = world.settle(SettleAction::Replay, only).unwrap();
    assert_eq!(lines[0]["outcome"], "duplicate", "{lines:?}");
    assert_eq!(lines[1], settled([1, 1, 0, 0, 0]));
    assert_eq!((world.left(), world.views(other())), (vec![0, 1], 1));
}

/// Protects who drops: only what was asked for goes, never more than the limit, and a rebuild does not
/// bring it back.
#[test]
fn a_drop_can_be_narrowed_and_is_for_good() {
    let world = world();
    let dry = Settling {
        dry_run: true,
        ..Settling::default()
    };
    let planned = world.settle(SettleAction::Drop, dry).unwrap();
    assert_eq!(
        planned,
        [json!({"to_settle": {"action": "drop", "dead_letters": 3}})]
    );
    assert_eq!(world.log.appends(), 0, "a dry run changes nothing");
    let narrowed = |settling| {
        let lines = world.settle(SettleAction::Drop, settling).unwrap();
        lines.last().unwrap()["settled"]["dropped"].clone()
    };
    let reason = Settling {
        reason: Some(DeadLetterReason::FutureTime),
        ..Settling::default()
    };
    assert_eq!((narrowed(reason), world.left()), (json!(1), vec![0, 2]));
    let limit = Settling {
        limit: Some(1),
        ..Settling::default()
    };
    assert_eq!((narrowed(limit), world.left()), (json!(1), vec![2]));
    let nothing = Settling {
        partition: Some(home(other())),
        ..Settling::default()
    };
    assert_eq!((narrowed(nothing), world.left()), (json!(0), vec![2]));
    let world = world.rebuilt();
    assert_eq!((world.left(), world.views(1)), (vec![2], 0));
    let nowhere = Settling {
        partition: Some(PARTITIONS),
        ..Settling::default()
    };
    let refused = world.settle(SettleAction::Drop, nowhere);
    assert!(matches!(refused, Err(InspectError::NoSuchPartition { .. })));
}

/// Protects from a log that takes nothing or does not know: it is said, the letters stay or are
/// counted once, and doing it again is safe.
#[test]
fn a_log_that_fails_is_said_and_doing_it_again_is_safe() {
    let world = world();
    world.log.set_append_time(APPENDED + HOUR);
    let closed = || AppendRefused::Closed("as the test wants it".to_owned());
    world.log.set_fate(Fate::Refused(closed()));
    let refused = world.settle(SettleAction::Replay, Settling::default());
    assert!(
        matches!(refused, Err(InspectError::Refused(_))),
        "{refused:?}"
    );
    assert_eq!(world.left(), [0, 1, 2]);
    world.log.set_fate(Fate::Unknown);
    let unknown = world.settle(SettleAction::Replay, Settling::default());
    let said = unknown.unwrap_err().to_string();
    assert!(said.contains("Run it again"), "{said}");
    world.log.set_fate(Fate::Taken);
    catch_up(&world.projector, &never).unwrap();
    assert_eq!(
        world.left(),
        [0, 2],
        "one was folded, one waits for its drop"
    );
    assert_eq!(*world.replay().last().unwrap(), settled([2, 1, 0, 1, 0]));
    assert_eq!([world.views(1), world.views(other())], [1, 1]);
    assert_eq!(world.projector.status().waiters, 0);
}

/// Protects requests from a flood: many letters go a few at a time, at the rate that was asked for, and
/// whoever asks to stop is heard.
#[test]
fn many_letters_go_at_their_rate_and_stop_when_asked() {
    let world = world();
    for _ in 0..147 {
        world.log.add(home(1), b"", b"garbage");
    }
    let many = Settling {
        rate: NonZeroU32::new(1_000),
        ..Settling::default()
    };
    let started = Instant::now();
    let lines = world.settle(SettleAction::Drop, many).unwrap();
    assert!(started.elapsed() >= Duration::from_millis(150));
    assert_eq!(*lines.last().unwrap(), settled([150, 0, 150, 0, 0]));
    assert_eq!(lines.len(), 151);
    assert_eq!(world.log.appends(), 3, "at most {AT_ONCE} at once");
    world.log.add(home(1), b"", b"garbage");
    let asked = Cell::new(0);
    let stop = || asked.replace(asked.get() + 1) > 2;
    let slow = Settling {
        rate: NonZeroU32::new(1),
        ..Settling::default()
    };
    let mut out = Vec::new();
    let stopped = settle(&world.projector, SettleAction::Drop, slow, &mut out, &stop);
    assert!(matches!(stopped, Err(InspectError::Stopped)), "{stopped:?}");
}
