//! Records without end, the same ones for the same seed: a few users on a few resources, so that
//! toggles flip and keys come again; now and then one that is no event.

use tally_domain::{
    Event, EventId, EventTime, IdempotencyKey, InteractionType, Resource, ResourceType, UserId,
    encode,
};
use tally_log::NewRecord;
use tally_log::simulation::Chance;

/// How many partitions the simulated log has.
pub const PARTITIONS: u32 = 3;

/// 2023-11-14, in milliseconds since 1970: long before any append.
const FIRST_TIME: u64 = 1_700_000_000_000;

/// Makes records. No two have the same value.
#[derive(Debug)]
pub struct Events {
    made: u64,
}

impl Events {
    /// From the first one.
    #[must_use]
    pub fn new() -> Self {
        Self { made: 0 }
    }

    /// The next record.
    ///
    /// # Panics
    /// Never: what it makes is valid.
    pub fn next(&mut self, chance: &mut Chance) -> NewRecord {
        self.made += 1;
        if chance.one_in(16) {
            let partition = u32::try_from(self.made).expect("few") % PARTITIONS;
            return record(
                partition,
                b"?",
                format!("no event {}", self.made).into_bytes(),
            );
        }
        let resource = Resource::new(ResourceType::AiNote, chance.any() % 12).expect("an id");
        let key = (chance.below(2) == 0).then(|| {
            let key = format!("key-{}", chance.below(4));
            IdempotencyKey::new(key).expect("a key")
        });
        let all = InteractionType::ALL;
        let event = Event {
            id: id(self.made),
            at: EventTime::from_millis(FIRST_TIME + self.made),
            user: UserId::new(format!("user-{}", chance.below(4))).expect("a user"),
            resource,
            interaction: all[chance.below(all.len())],
            idempotency_key: key,
        };
        let key = resource.key();
        record(
            resource.partition(PARTITIONS),
            key.as_bytes(),
            encode(&event),
        )
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::new()
    }
}

fn record(partition: u32, key: &[u8], value: Vec<u8>) -> NewRecord {
    NewRecord {
        partition,
        key: key.to_vec(),
        value,
        traceparent: None,
    }
}

/// A UUID of version 7, by number.
fn id(number: u64) -> EventId {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    bytes[6] = 0x70;
    bytes[8] |= 0x80;
    EventId::from_bytes(bytes)
}
