//! The fold done again, in plain Rust, over the output of `tally log cat`: what the service should
//! have made of its log. It shares no code with the service, on purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::folder::Folder;

/// `(resource_type, resource_id)`.
pub type Resource = (String, u64);

/// Views, likes, shares, bookmarks, comments.
pub type Counts = [u64; 5];

/// The names of [`Counts`], in their order.
pub const COUNTERS: [&str; 5] = ["views", "likes", "shares", "bookmarks", "comments"];

const KEY_MILLIS: i64 = 24 * 60 * 60 * 1_000;
const FUTURE_MILLIS: i64 = 5 * 60 * 1_000;
const KEYS_OF_A_PARTITION: u64 = 1 << 18;

/// What a log comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Folded {
    /// Every resource with an event.
    pub counters: BTreeMap<Resource, Counts>,
    /// Every user who has something set on a resource: liked, bookmarked.
    pub toggles: BTreeMap<(Resource, String), (bool, bool)>,
    /// What each event came to.
    pub outcomes: BTreeMap<String, &'static str>,
    /// How often each acknowledgeable thing is there: event id to number of records.
    pub records_of_event: BTreeMap<String, u32>,
    /// The offset after the last record of each partition.
    pub next_offsets: BTreeMap<u64, u64>,
    /// Records that are no foldable event, and were neither replayed nor dropped.
    pub dead_letters: u64,
    /// Events with several records of which more than one counted.
    pub counted_again: Vec<String>,
}

/// A key as the service scopes it: user, resource, key.
type Key = (String, Resource, String);

/// What is remembered of a key: its number in the partition, its time, its interaction.
type Remembered = (u64, i64, String);

#[derive(Default)]
struct Keys {
    came: u64,
    of: BTreeMap<Key, Remembered>,
}

/// What `state cat` says, in the same shape.
#[derive(Debug, PartialEq, Eq)]
pub struct State {
    /// The next offset of each partition.
    pub positions: Vec<u64>,
    /// The digest.
    pub digest: String,
    /// Every resource with an event.
    pub counters: BTreeMap<Resource, Counts>,
    /// Every user who has something set on a resource: liked, bookmarked.
    pub toggles: BTreeMap<(Resource, String), (bool, bool)>,
}

/// Folds lines of `tally log cat` of a log with `partitions`.
///
/// # Panics
/// When a line has not the documented shape, or offsets do not increase.
#[must_use]
pub fn fold<'a>(lines: impl Iterator<Item = &'a str>, partitions: u32) -> Folded {
    fold_as_of(lines, partitions, i64::MAX)
}

/// As [`fold`], of records that the log took before `now` (milliseconds since 1970): an event more
/// than 5 minutes past it is none.
fn fold_as_of<'a>(lines: impl Iterator<Item = &'a str>, partitions: u32, now: i64) -> Folded {
    let mut folded = Folded::default();
    let mut keys: BTreeMap<u64, Keys> = BTreeMap::new();
    let mut letters = Letters::default();
    for line in lines {
        let record: Value = serde_json::from_str(line).expect("a line of log cat is JSON");
        let partition = number(&record["partition"]);
        let offset = number(&record["offset"]);
        let next = folded.next_offsets.entry(partition).or_default();
        assert!(offset >= *next, "offsets must increase: {line}");
        *next = offset + 1;
        let foldable = |event: &Value| {
            lives_in(event, partitions) == Some(partition)
                && millis(&string(&event["at"])) <= now.saturating_add(FUTURE_MILLIS)
        };
        let keys = keys.entry(partition).or_default();
        match record.get("event") {
            Some(event) if event["v"] == 2 => {
                if let Some(event) = letters.settle(event, partition, &foldable) {
                    folded.event(&event, keys);
                }
            }
            Some(event) if foldable(event) => folded.event(event, keys),
            event => {
                if event.is_none() {
                    assert!(record["error"].is_string(), "{line}");
                    assert!(record["raw_base64"].is_string(), "{line}");
                }
                letters.kept.insert((partition, offset), event.cloned());
            }
        }
    }
    folded.dead_letters = u64::try_from(letters.kept.len()).expect("few letters");
    folded
}

/// Dead letters by place, with their event where they have one; and those of other partitions that
/// were folded where they belong.
#[derive(Default)]
struct Letters {
    kept: BTreeMap<(u64, u64), Option<Value>>,
    moved: BTreeSet<(u64, u64)>,
}

impl Letters {
    /// What a replay or a drop in a partition folds. It has no part in what another partition has.
    fn settle(
        &mut self,
        settlement: &Value,
        partition: u64,
        foldable: &dyn Fn(&Value) -> bool,
    ) -> Option<Value> {
        let origin = &settlement["origin"];
        let place = (number(&origin["partition"]), number(&origin["offset"]));
        let replays = settlement["kind"] == "replay";
        assert!(replays || settlement["kind"] == "drop", "{settlement}");
        if place.0 != partition {
            let event = settlement.get("event").filter(|event| foldable(event))?;
            return self.moved.insert(place).then(|| event.clone());
        }
        let letter = self.kept.get(&place)?.clone();
        let event = letter.filter(|event| replays && foldable(event));
        if event.is_some() || !replays {
            self.kept.remove(&place);
        }
        event
    }
}

impl Folded {
    fn event(&mut self, event: &Value, keys: &mut Keys) {
        assert_eq!(event["v"], 1, "{event}");
        let id = string(&event["id"]);
        let user = string(&event["user"]);
        let interaction = string(&event["interaction_type"]);
        let resource = (
            string(&event["resource_type"]),
            number(&event["resource_id"]),
        );
        let at = millis(&string(&event["at"]));
        *self.records_of_event.entry(id.clone()).or_default() += 1;
        let counts = self.counters.entry(resource.clone()).or_default();

        if let Some(key) = event.get("idempotency_key") {
            let key = (user.clone(), resource.clone(), string(key));
            if let Some((number, first_at, first)) = keys.of.get(&key) {
                let newer = keys.came - number - 1;
                if newer < KEYS_OF_A_PARTITION && at - first_at < KEY_MILLIS {
                    let same = *first == interaction;
                    self.came_to(id, if same { "duplicate" } else { "conflict" });
                    return;
                }
            }
            keys.of.insert(key, (keys.came, at, interaction.clone()));
            keys.came += 1;
        }

        let outcome = match interaction.as_str() {
            "view" => count(&mut counts[0]),
            "share" => count(&mut counts[2]),
            "comment" => count(&mut counts[4]),
            toggle => {
                let who = (resource, user);
                let (mut liked, mut bookmarked) =
                    self.toggles.get(&who).copied().unwrap_or_default();
                let outcome = match toggle {
                    "like" => set(&mut liked, true, &mut counts[1]),
                    "unlike" => set(&mut liked, false, &mut counts[1]),
                    "bookmark" => set(&mut bookmarked, true, &mut counts[3]),
                    "unbookmark" => set(&mut bookmarked, false, &mut counts[3]),
                    other => panic!("no interaction: {other}"),
                };
                if liked || bookmarked {
                    self.toggles.insert(who, (liked, bookmarked));
                } else {
                    self.toggles.remove(&who);
                }
                outcome
            }
        };
        self.came_to(id, outcome);
    }

    /// The first record of an event is what it came to; another one may be there under its key.
    fn came_to(&mut self, id: String, outcome: &'static str) {
        if let Some(first) = self.outcomes.get(&id) {
            if *first == "applied" && outcome == "applied" {
                self.counted_again.push(id);
            }
        } else {
            self.outcomes.insert(id, outcome);
        }
    }
}

fn count(counter: &mut u64) -> &'static str {
    *counter += 1;
    "applied"
}

fn set(toggle: &mut bool, to: bool, counter: &mut u64) -> &'static str {
    if *toggle == to {
        return "no_change";
    }
    *toggle = to;
    if to {
        *counter += 1;
    } else {
        *counter = counter.checked_sub(1).expect("a count below zero");
    }
    "applied"
}

/// All of `tally log cat` of a folder, folded.
///
/// # Panics
/// When a command fails.
#[must_use]
pub fn fold_log(folder: &Folder) -> Folded {
    let output = folder.run(&["log", "cat"]).ok();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let now = i64::try_from(now.as_millis()).expect("before the year 292277026");
    fold_as_of(output.lines(), partitions(folder), now)
}

/// How many partitions the folder's log has, from `state cat`.
fn partitions(folder: &Folder) -> u32 {
    let head = folder.run(&["state", "cat"]).ok();
    let first: Value = serde_json::from_str(head.lines().next().expect("a first line"))
        .expect("a first line of JSON");
    let positions = first["state"]["positions"].as_array().expect("positions");
    u32::try_from(positions.len()).expect("few partitions")
}

/// Reads `tally state cat`, both forms.
///
/// # Panics
/// When a line has not the documented shape, or lines are not in order.
#[must_use]
pub fn state(folder: &Folder) -> State {
    let lines = folder.run(&["state", "cat"]).json_lines();
    let (first, lines) = lines.split_first().expect("a first line");
    let mut state = State {
        positions: Vec::new(),
        digest: string(&first["state"]["digest"]),
        counters: BTreeMap::new(),
        toggles: BTreeMap::new(),
    };
    let positions = first["state"]["positions"].as_array().expect("positions");
    state.positions = positions.iter().map(number).collect();
    let mut before: Option<Resource> = None;
    for line in lines {
        let resource = resource(line);
        if let Some(before) = before.filter(|before| before.0 == resource.0) {
            assert!(before.1 < resource.1, "not in order of id: {line}");
        }
        let counts = COUNTERS.map(|name| number(&line["counters"][name]));
        let twice = state.counters.insert(resource.clone(), counts);
        assert!(twice.is_none(), "twice in state cat: {line}");
        before = Some(resource);
    }
    let lines = folder.run(&["state", "cat", "--toggles"]).json_lines();
    let (again, lines) = lines.split_first().expect("a first line");
    assert_eq!(again, first, "the state moved between the two commands");
    for line in lines {
        let who = (resource(line), string(&line["user"]));
        let set = |name: &str| line[name].as_bool().expect("a boolean");
        let toggles = (set("liked"), set("bookmarked"));
        assert_ne!(toggles, (false, false), "nothing set: {line}");
        let twice = state.toggles.insert(who, toggles);
        assert!(twice.is_none(), "twice in state cat --toggles: {line}");
    }
    state
}

/// Folds the folder's log and asserts that the service's state says the same, in every counter,
/// toggle and position.
///
/// # Panics
/// When it does not.
pub fn assert_state_is_fold_of_log(folder: &Folder) -> Folded {
    let folded = fold_log(folder);
    let state = state(folder);
    assert_same(&state.counters, &folded.counters, "counters");
    assert_same(&state.toggles, &folded.toggles, "toggles");
    for (partition, next) in state.positions.iter().enumerate() {
        let partition = u64::try_from(partition).expect("few partitions");
        let expected = folded.next_offsets.get(&partition).copied().unwrap_or(0);
        assert_eq!(*next, expected, "next offset of partition {partition}");
    }
    folded
}

fn assert_same<K, V>(service: &BTreeMap<K, V>, ours: &BTreeMap<K, V>, what: &str)
where
    K: Ord + std::fmt::Debug,
    V: PartialEq + std::fmt::Debug,
{
    let wrong = |key: &&K| service.get(key) != ours.get(key);
    let mut all: Vec<&K> = service.keys().chain(ours.keys()).filter(wrong).collect();
    all.dedup();
    let shown: Vec<_> = all
        .iter()
        .take(10)
        .map(|key| (key, service.get(key), ours.get(key)))
        .collect();
    assert!(
        all.is_empty(),
        "{} {what} differ (which, the service's, the fold's): {shown:#?}",
        all.len()
    );
}

fn resource(line: &Value) -> Resource {
    (string(&line["resource_type"]), number(&line["resource_id"]))
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("no whole number: {value}"))
}

fn string(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no string: {value}"))
        .to_owned()
}

/// The partition an event belongs to.
fn lives_in(event: &Value, partitions: u32) -> Option<u64> {
    let key = format!(
        "{}:{}",
        event.get("resource_type")?.as_str()?,
        event.get("resource_id")?.as_u64()?
    );
    Some(u64::from(kafka_partition(&key, partitions)))
}

/// The partition that Kafka's Java client chooses for a key: murmur2 of it, made positive, modulo
/// the number of partitions. Java computes with wrapping signed integers, and so does this.
#[must_use]
pub fn kafka_partition(key: &str, partitions: u32) -> u32 {
    const M: i32 = 0x5bd1_e995;
    let data = key.as_bytes();
    let length = i32::try_from(data.len()).expect("a short key");
    let mut h = 0x9747_b28c_u32.cast_signed() ^ length;
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = i32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]).wrapping_mul(M);
        k ^= shift(k, 24);
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = chunks.remainder();
    for (place, byte) in rest.iter().enumerate() {
        h ^= i32::from(*byte) << (8 * place);
    }
    if !rest.is_empty() {
        h = h.wrapping_mul(M);
    }
    h ^= shift(h, 13);
    h = h.wrapping_mul(M);
    h ^= shift(h, 15);
    (h & i32::MAX).cast_unsigned() % partitions
}

/// Java's `>>>`.
fn shift(value: i32, by: u32) -> i32 {
    (value.cast_unsigned() >> by).cast_signed()
}

/// Milliseconds since 1970 of `2026-11-24T03:50:12.345Z`, the only form events are written in.
fn millis(at: &str) -> i64 {
    let form = "0000-00-00T00:00:00.000Z";
    let like = |(c, f): (char, char)| if f == '0' { c.is_ascii_digit() } else { c == f };
    assert!(
        at.len() == form.len() && at.chars().zip(form.chars()).all(like),
        "no event time: {at}"
    );
    let part = |from: usize, to: usize| at[from..to].parse::<i64>().expect("digits");
    let (year, month, day) = (part(0, 4), part(5, 7), part(8, 10));
    let leap = |year: i64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let mut days: i64 = (1970..year).map(|y| if leap(y) { 366 } else { 365 }).sum();
    let february = if leap(year) { 29 } else { 28 };
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let before = usize::try_from(month - 1).expect("a month");
    days += months[..before].iter().sum::<i64>() + day - 1;
    ((days * 24 + part(11, 13)) * 60 + part(14, 16)) * 60_000 + part(17, 19) * 1_000 + part(20, 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers Kafka's own test suite pins for its Java client.
    #[test]
    fn keys_go_where_kafka_puts_them() {
        let murmur2 = |key| kafka_partition(key, 1 << 31);
        let pinned: [(&str, i32); 5] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("abc", 479_470_107),
        ];
        for (key, hash) in pinned {
            assert_eq!(murmur2(key), hash.cast_unsigned() & 0x7fff_ffff, "{key}");
        }
    }

    #[test]
    fn event_times_are_read() {
        assert_eq!(millis("1970-01-01T00:00:00.000Z"), 0);
        assert_eq!(millis("2000-02-29T12:00:00.001Z"), 951_825_600_001);
        assert_eq!(millis("2026-11-24T03:50:12.345Z"), 1_795_492_212_345);
    }

    fn line(offset: u64, at: &str, interaction: &str, key: Option<&str>) -> String {
        let mut event = serde_json::json!({
            "v": 1, "id": format!("e{offset}"), "at": at, "user": "1",
            "resource_type": "quest", "resource_id": 42, "interaction_type": interaction,
        });
        if let Some(key) = key {
            event["idempotency_key"] = key.into();
        }
        serde_json::json!({"partition": 0, "offset": offset, "event": event}).to_string()
    }

    /// The judge itself: toggles, keys, their scope in time, and no renewal.
    #[test]
    fn the_rules_are_those_of_the_service() {
        let day_1 = "2026-11-24T03:50:12.345Z";
        let later = "2026-11-25T03:50:12.344Z";
        let day_2 = "2026-11-25T03:50:12.345Z";
        let lines = [
            line(0, day_1, "like", Some("k")),
            line(2, day_1, "like", None),
            line(3, later, "like", Some("k")),
            line(4, later, "unlike", Some("k")),
            line(5, day_2, "unlike", Some("k")),
            line(6, day_2, "unlike", None),
            line(7, day_2, "view", None),
        ];
        let folded = fold(lines.iter().map(String::as_str), 1);
        let outcomes: Vec<_> = folded.outcomes.values().copied().collect();
        let expected = [
            "applied",
            "no_change",
            "duplicate",
            "conflict",
            "applied",
            "no_change",
            "applied",
        ];
        assert_eq!(outcomes, expected);
        assert_eq!(folded.counters[&("quest".to_owned(), 42)], [1, 0, 0, 0, 0]);
        assert!(folded.toggles.is_empty());
        assert_eq!(folded.next_offsets[&0], 8);
    }
}
