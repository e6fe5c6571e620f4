//! Events for tests of what copies logs.

use tally_domain::{
    Event, EventId, EventTime, IdempotencyKey, InteractionType, Resource, ResourceType, UserId,
    encode,
};
use tally_log::NewRecord;

/// The number-th event of a log of so many partitions; every third is a like, and has a key.
pub(crate) fn event(number: u64, at: u64, partitions: u32) -> NewRecord {
    let likes = number.is_multiple_of(3);
    let resource = Resource::new(ResourceType::Quest, number % 17).unwrap();
    let event = Event {
        id: EventId::from_u128(u128::from(number)),
        at: EventTime::from_millis(at),
        user: UserId::new((number % 5).to_string()).unwrap(),
        resource,
        interaction: if likes {
            InteractionType::Like
        } else {
            InteractionType::View
        },
        idempotency_key: likes.then(|| IdempotencyKey::new(format!("k{number}")).unwrap()),
    };
    NewRecord {
        partition: resource.partition(partitions),
        key: resource.key().as_bytes().to_vec(),
        value: encode(&event),
        traceparent: None,
    }
}
