//! Random histories of one partition: dense in repeated keys, repeated toggles, times at the edges
//! of the rules, records that are no events, replays and drops of them, gaps and repetitions.

use proptest::collection::vec;
use proptest::prelude::*;
use tally_domain::{
    Event, EventId, EventTime, IdempotencyKey, InteractionType, PartitionState, Position, Record,
    Resource, ResourceType, Rules, SettleAction, Settlement, UserId, encode, encode_settlement,
};

pub(crate) const HOUR: u64 = 3_600_000;
/// 2026-11-24T00:00:00Z.
pub(crate) const BASE: u64 = 1_795_478_400_000;
const FIVE_MINUTES: u64 = 300_000;

/// A partition, its log's partition count, and the key memory's length.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene {
    pub(crate) partition: u32,
    pub(crate) partitions: u32,
    pub(crate) key_count: u32,
}

impl Scene {
    pub(crate) fn rules(self) -> Rules {
        Rules {
            key_count: self.key_count,
            ..Rules::CURRENT
        }
    }

    pub(crate) fn state(self) -> PartitionState {
        PartitionState::new(self.partition, self.partitions, self.rules())
    }

    /// A place in the next partition.
    fn elsewhere(self, offset: u64) -> Position {
        let partition = (self.partition + 1) % self.partitions;
        Position { partition, offset }
    }

    /// The `nth` resource of a fixed list that lives in this partition, or that does not.
    fn resource(self, nth: usize, here: bool) -> Resource {
        (1..)
            .flat_map(|id| ResourceType::ALL.iter().map(move |kind| (*kind, id)))
            .map(|(kind, id)| Resource::new(kind, id).unwrap())
            .filter(|resource| (resource.partition(self.partitions) == self.partition) == here)
            .nth(nth)
            .unwrap()
    }
}

/// An event before it is one.
#[derive(Debug, Clone)]
pub(crate) struct Act {
    user: usize,
    resource: usize,
    interaction: InteractionType,
    key: Option<usize>,
    at: u64,
}

/// What a record holds.
#[derive(Debug, Clone)]
pub(crate) enum Held {
    /// An event; its append time lies so far after its own, or before at most by what is allowed.
    Event(Act, i64),
    /// An event that lies this many milliseconds further past the append time than allowed.
    Future(Act, u64),
    /// An event of a resource that lives elsewhere.
    Misplaced(Act),
    /// An event of a schema version that will be written one day.
    Newer(Act, u64),
    /// Something that is not an event.
    Garbage(Vec<u8>),
    /// A replay or a drop of what stands so many records before, dead letter or not (counted round,
    /// and now and then where there is none), appended so many half days after the beginning.
    Settle(SettleAction, usize, u64),
    /// A replay of the dead letter of another partition at this offset, with its event; appended so
    /// long after it, or before.
    Moved(Act, u64, i64),
    /// A replay or a drop of a dead letter of another partition, and no event.
    Elsewhere(SettleAction),
}

/// One thing that reaches the fold.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// A new record, so many offsets after the one before.
    New { gap: u64, held: Held },
    /// The record given this many steps before, again (counted round where there are fewer).
    Again { back: usize },
}

/// What the slow model is told of a record: no more than a reader of the rules would ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Meaning {
    Event(Event),
    Undecodable,
    UnknownVersion,
    WrongPartition,
    Future(Event),
    Settle(Settlement),
}

/// A record that owns its bytes, and what it means.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) offset: u64,
    pub(crate) append_time_millis: u64,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) meaning: Meaning,
}

impl Line {
    pub(crate) fn record(&self) -> Record<'_> {
        Record {
            offset: self.offset,
            append_time_millis: self.append_time_millis,
            key: &self.key,
            value: &self.value,
        }
    }
}

pub(crate) fn scenes() -> impl Strategy<Value = Scene> {
    let partitions = prop_oneof![Just(2u32), Just(3), Just(16)];
    (partitions, any::<u32>(), 1u32..6).prop_map(|(partitions, any, key_count)| Scene {
        partition: any % partitions,
        partitions,
        key_count,
    })
}

pub(crate) fn interactions() -> impl Strategy<Value = InteractionType> {
    proptest::sample::select(InteractionType::ALL)
}

fn acts() -> impl Strategy<Value = Act> {
    // Half days give or take a millisecond, in no order: 24 h after another event, just before,
    // just after, are all common.
    let at = (0u64..8, 0u64..3).prop_map(|(half, jitter)| BASE + half * 12 * HOUR + jitter - 1);
    let key = prop_oneof![2 => Just(None), 3 => (0usize..4).prop_map(Some)];
    (0usize..3, 0usize..3, interactions(), key, at).prop_map(
        |(user, resource, interaction, key, at)| Act {
            user,
            resource,
            interaction,
            key,
            at,
        },
    )
}

fn helds() -> impl Strategy<Value = Held> {
    let allowed = i64::try_from(FIVE_MINUTES).unwrap();
    let late = prop_oneof![Just(-allowed), Just(0), 0i64..100_000_000];
    let action = || proptest::sample::select(SettleAction::ALL);
    let broken = prop_oneof![
        Just(Vec::new()),
        Just(b"{\"v\":1}".to_vec()),
        Just(b"[2]".to_vec()),
        Just(b"{\"v\":2,\"kind\":\"replay\"}".to_vec()),
        vec(any::<u8>(), 0..40),
    ];
    prop_oneof![
        20 => (acts(), late).prop_map(|(act, late)| Held::Event(act, late)),
        2 => (acts(), prop_oneof![Just(1u64), 1..HOUR]).prop_map(|(act, by)| Held::Future(act, by)),
        1 => acts().prop_map(Held::Misplaced),
        1 => (acts(), 3u64..10).prop_map(|(act, v)| Held::Newer(act, v)),
        1 => broken.prop_map(Held::Garbage),
        4 => (action(), 0usize..12, 0u64..9).prop_map(|(a, back, half)| Held::Settle(a, back, half)),
        1 => (acts(), 0u64..3, prop_oneof![Just(-allowed - 1), 0i64..100_000_000])
            .prop_map(|(act, offset, late)| Held::Moved(act, offset, late)),
        1 => action().prop_map(Held::Elsewhere),
    ]
}

pub(crate) fn histories(longest: usize) -> impl Strategy<Value = Vec<Step>> {
    let gap = prop_oneof![6 => Just(0u64), 1 => 1u64..1_000];
    let step = prop_oneof![
        12 => (gap, helds()).prop_map(|(gap, held)| Step::New { gap, held }),
        1 => (0usize..12).prop_map(|back| Step::Again { back }),
    ];
    vec(step, 1..longest)
}

/// The records of a history, in the order in which they reach the fold.
pub(crate) fn lines(scene: Scene, steps: &[Step]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut offsets = Vec::new();
    let mut next_offset = 0;
    for step in steps {
        match step {
            Step::Again { back } if !lines.is_empty() => {
                let again = lines[lines.len() - 1 - back % lines.len()].clone();
                lines.push(again);
            }
            Step::Again { .. } => {}
            Step::New { gap, held } => {
                let offset = next_offset + gap;
                next_offset = offset + 1;
                lines.push(line(scene, offset, held, &offsets));
                offsets.push(offset);
            }
        }
    }
    lines
}

/// The records of a history without the repetitions.
pub(crate) fn log(scene: Scene, steps: &[Step]) -> Vec<Line> {
    let new: Vec<_> = steps
        .iter()
        .filter(|step| matches!(step, Step::New { .. }))
        .cloned()
        .collect();
    lines(scene, &new)
}

fn line(scene: Scene, offset: u64, held: &Held, before: &[u64]) -> Line {
    let (append_time_millis, value, meaning) = match held {
        Held::Event(act, late) => {
            let event = event(scene, offset, act, true);
            let append_time = act.at.checked_add_signed(*late).unwrap();
            (append_time, encode(&event), Meaning::Event(event))
        }
        Held::Future(act, by) => {
            let event = event(scene, offset, act, true);
            let append_time = act.at - FIVE_MINUTES - by;
            (append_time, encode(&event), Meaning::Future(event))
        }
        Held::Misplaced(act) => {
            let event = event(scene, offset, act, false);
            (act.at, encode(&event), Meaning::WrongPartition)
        }
        Held::Newer(act, version) => {
            let bytes = encode(&event(scene, offset, act, true));
            let text = String::from_utf8(bytes).unwrap();
            let text = text.replacen("\"v\":1", &format!("\"v\":{version}"), 1);
            (act.at, text.into_bytes(), Meaning::UnknownVersion)
        }
        Held::Garbage(bytes) => (BASE, bytes.clone(), Meaning::Undecodable),
        Held::Settle(action, back, half) => {
            let past = before.len().checked_sub(1 + back % (before.len() + 1));
            let origin = past.and_then(|place| before.get(place));
            let at = Position {
                partition: scene.partition,
                offset: origin.copied().unwrap_or(offset + 1),
            };
            let settlement = settlement(offset, *action, at, None);
            let value = encode_settlement(&settlement);
            (BASE + half * 12 * HOUR, value, Meaning::Settle(settlement))
        }
        Held::Moved(act, of, late) => {
            let event = event(scene, 1_000_000 + of, act, true);
            let append_time = act.at.checked_add_signed(*late).unwrap();
            let action = SettleAction::Replay;
            let settlement = settlement(offset, action, scene.elsewhere(*of), Some(event));
            let value = encode_settlement(&settlement);
            (append_time, value, Meaning::Settle(settlement))
        }
        Held::Elsewhere(action) => {
            let settlement = settlement(offset, *action, scene.elsewhere(0), None);
            (
                BASE,
                encode_settlement(&settlement),
                Meaning::WrongPartition,
            )
        }
    };
    Line {
        offset,
        append_time_millis,
        key: format!("key of {offset}").into_bytes(),
        value,
        meaning,
    }
}

fn settlement(
    number: u64,
    action: SettleAction,
    origin: Position,
    event: Option<Event>,
) -> Settlement {
    Settlement {
        id: event_id(number),
        at: EventTime::from_millis(BASE),
        action,
        origin,
        event: event.map(Box::new),
    }
}

fn event(scene: Scene, offset: u64, act: &Act, here: bool) -> Event {
    Event {
        id: event_id(offset),
        at: EventTime::from_millis(act.at),
        user: UserId::new(["1", "2", "Зоя"][act.user]).unwrap(),
        resource: scene.resource(act.resource, here),
        interaction: act.interaction,
        idempotency_key: act
            .key
            .map(|key| IdempotencyKey::new(format!("key {key}")).unwrap()),
    }
}

/// A UUID of version 7 that tells its number.
pub(crate) fn event_id(number: u64) -> EventId {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&number.to_be_bytes());
    uuid::Builder::from_unix_timestamp_millis(BASE, &random).into_uuid()
}
