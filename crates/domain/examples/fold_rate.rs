//! What one event costs: nanoseconds per encode, decode and apply, on one thread.
//!
//! `cargo run --release -p tally-domain --example fold_rate [EVENTS]`
//!
//! The mix is the load test's: views 70 %, likes 10, unlikes 3, shares 5, bookmarks 6,
//! unbookmarks 2, comments 4, over Zipf-distributed resources and users (10,000 each).

use std::hint::black_box;
use std::time::Instant;

use tally_domain::{
    Event, EventTime, IdempotencyKey, InteractionType, NoBacking, PartitionState, Record, Resource,
    ResourceType, Rules, UserId, decode, encode, partition::partition_of,
};

/// Resources, and users.
const POPULATION: u64 = 10_000;
const PARTITIONS: u32 = 16;
/// 2026-11-24T03:50:12.345Z.
const START_MILLIS: u64 = 1_795_492_212_345;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let events = match std::env::args().nth(1) {
        Some(count) => count.parse()?,
        None => 1_000_000_usize,
    };
    for keyed in [false, true] {
        measure(events, keyed)?;
    }
    Ok(())
}

#[expect(
    clippy::print_stdout,
    reason = "printing the measurement is what this program is for"
)]
fn measure(count: usize, keyed: bool) -> Result<(), Box<dyn std::error::Error>> {
    let events = history(count, keyed)?;
    let bytes: Vec<_> = events.iter().map(encode).collect();
    let keys: Vec<_> = events.iter().map(|event| event.resource.key()).collect();
    let records: Vec<_> = (0..)
        .zip(bytes.iter().zip(&keys))
        .map(|(offset, (value, key))| Record {
            offset,
            append_time_millis: START_MILLIS + offset,
            key: key.as_bytes(),
            value,
        })
        .collect();
    let mut states: Vec<_> = (0..PARTITIONS)
        .map(|partition| PartitionState::new(partition, PARTITIONS, Rules::CURRENT))
        .collect();

    let encoding = nanos_each(&events, |event| {
        black_box(encode(black_box(event)));
    });
    let decoding = nanos_each(&records, |record| {
        black_box(decode(black_box(record.value)).is_ok());
    });
    let applying = nanos_each(&records, |record| {
        let home = partition_of(record.key, PARTITIONS);
        let state = usize::try_from(home)
            .ok()
            .and_then(|home| states.get_mut(home));
        black_box(state.map(|state| state.apply(*record, &NoBacking).is_ok()));
    });
    let dead: u64 = states.iter().map(PartitionState::dead_letter_count).sum();
    let mean_bytes = bytes.iter().map(Vec::len).sum::<usize>() / count.max(1);
    println!(
        "{count} events, {mean_bytes} bytes each, {} an idempotency key: encode {encoding:.0} ns, \
         decode {decoding:.0} ns, apply {applying:.0} ns with its decode and {:.0} ns without, \
         {dead} dead letters",
        if keyed { "each with" } else { "without" },
        applying - decoding,
    );
    Ok(())
}

/// The median over groups of items, which a busy machine disturbs less than the mean.
fn nanos_each<T>(items: &[T], mut work: impl FnMut(&T)) -> f64 {
    let mut nanos: Vec<f64> = items
        .chunks(1_000)
        .map(|group| {
            let start = Instant::now();
            group.iter().for_each(&mut work);
            let count = u32::try_from(group.len()).unwrap_or(u32::MAX);
            start.elapsed().as_secs_f64() * 1e9 / f64::from(count)
        })
        .collect();
    nanos.sort_by(f64::total_cmp);
    nanos.get(nanos.len() / 2).copied().unwrap_or(0.0)
}

fn history(count: usize, keyed: bool) -> Result<Vec<Event>, Box<dyn std::error::Error>> {
    let mut random = SplitMix(42);
    let zipf = Zipf::new(POPULATION);
    (0..count)
        .map(|n| {
            let rank = zipf.rank(random.unit());
            let kind = usize::try_from(rank)? % ResourceType::ALL.len();
            let kind = ResourceType::ALL.get(kind).ok_or("no resource types")?;
            let millis = START_MILLIS + u64::try_from(n)?;
            Ok(Event {
                id: uuid::Builder::from_unix_timestamp_millis(millis, &random.bytes()).into_uuid(),
                at: EventTime::from_millis(millis),
                user: UserId::new(zipf.rank(random.unit()).to_string())?,
                resource: Resource::new(*kind, rank)?,
                interaction: interaction(random.next() % 100),
                idempotency_key: keyed
                    .then(|| IdempotencyKey::new(format!("key-{:016x}", random.next())))
                    .transpose()?,
            })
        })
        .collect()
}

fn interaction(percent: u64) -> InteractionType {
    match percent {
        0..70 => InteractionType::View,
        70..80 => InteractionType::Like,
        80..83 => InteractionType::Unlike,
        83..88 => InteractionType::Share,
        88..94 => InteractionType::Bookmark,
        94..96 => InteractionType::Unbookmark,
        _ => InteractionType::Comment,
    }
}

/// Ranks 1.. with weights 1/rank, by looking up the cumulative sum.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(ranks: u64) -> Self {
        let mut sum = 0.0;
        let ranks = u32::try_from(ranks).unwrap_or(u32::MAX);
        let cumulative = (1..=ranks).map(|rank| {
            sum += 1.0 / f64::from(rank);
            sum
        });
        Self(cumulative.collect())
    }

    fn rank(&self, unit: f64) -> u64 {
        let wanted = unit * self.0.last().copied().unwrap_or(1.0);
        self.0.partition_point(|sum| *sum < wanted) as u64 + 1
    }
}

/// SplitMix64: the same history on every machine.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f64 {
        let high = u32::try_from(self.next() >> 32).unwrap_or(0);
        f64::from(high) / (f64::from(u32::MAX) + 1.0)
    }

    fn bytes(&mut self) -> [u8; 10] {
        let mut bytes = [0; 10];
        let random = [self.next().to_le_bytes(), self.next().to_le_bytes()];
        for (to, from) in bytes.iter_mut().zip(random.as_flattened()) {
            *to = *from;
        }
        bytes
    }
}
