//! Events to read.

use std::error::Error;
use std::sync::mpsc;
use std::time::Duration;

use tally_domain::{
    Event, EventId, EventTime, IdempotencyKey, InteractionType, Resource, ResourceType, UserId,
};
use tally_log::{EventLog, NewRecord};

/// 2026-11-24T03:50:12.345Z.
const START_MILLIS: u64 = 1_795_492_212_345;
const RESOURCES: u64 = 10_000;
const USERS: u64 = 10_000;
/// Records of one append, and appends on their way.
const RECORDS: u64 = 512;
const APPENDS: usize = 64;
const DEADLINE: Duration = Duration::from_secs(60);

/// Steele, Lea and Flood's SplitMix64.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Appends events until the log has so many; how many it has. Resources and users are drawn
/// evenly, and every second event has an idempotency key: about 200 bytes each.
pub(crate) fn fill(log: &dyn EventLog, events: u64) -> Result<u64, Box<dyn Error + Send + Sync>> {
    let partitions = log.identity().partitions;
    let mut there: u64 = log.head()?.iter().sum();
    let mut random = SplitMix(there);
    let (done, acknowledged) = mpsc::channel::<bool>();
    let mut waiting = 0;
    while there < events || waiting > 0 {
        if there >= events || waiting >= APPENDS {
            if !acknowledged.recv_timeout(DEADLINE)? {
                return Err("an append failed".into());
            }
            waiting -= 1;
            continue;
        }
        let many = RECORDS.min(events - there);
        let records = (there..there + many).map(|n| record(n, &mut random, partitions));
        let done = done.clone();
        log.append(
            records.collect::<Result<_, _>>()?,
            Box::new(move |results| {
                let good = results.iter().all(Result::is_ok);
                done.send(good).unwrap_or_default();
            }),
        )?;
        there += many;
        waiting += 1;
    }
    Ok(there)
}

fn record(
    n: u64,
    random: &mut SplitMix,
    partitions: u32,
) -> Result<NewRecord, Box<dyn Error + Send + Sync>> {
    let interaction = match random.next() % 10 {
        0..4 => InteractionType::View,
        4..7 => InteractionType::Like,
        7 => InteractionType::Unlike,
        8 => InteractionType::Bookmark,
        _ => InteractionType::Share,
    };
    let resource = Resource::new(ResourceType::AiNote, random.next() % RESOURCES)?;
    let key = n.is_multiple_of(2).then(|| format!("key-{n:016}"));
    let event = Event {
        id: EventId::now_v7(),
        at: EventTime::from_millis(START_MILLIS),
        user: UserId::new((random.next() % USERS).to_string())?,
        resource,
        interaction,
        idempotency_key: key.map(IdempotencyKey::new).transpose()?,
    };
    Ok(NewRecord {
        partition: resource.partition(partitions),
        key: resource.key().as_bytes().to_vec(),
        value: tally_domain::encode(&event),
        traceparent: None,
    })
}
