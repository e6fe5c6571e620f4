//! Events in a log, without a server: the mix of `tally bench`, its users and its resources.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use tally_domain::{Event, EventId, EventTime, Resource, ResourceType, UserId};
use tally_log::{EventLog, NewRecord};

use crate::Args;
use crate::mix::{Interaction, Workload};

/// The first of each type of resource, as in `tally bench`.
const FIRST_ID: u64 = 1_000_000;
/// 2026-11-24T03:50:12.345Z.
const START_MILLIS: u64 = 1_795_492_212_345;
/// Events a second of event time.
const EVENTS_PER_MILLI: u64 = 20;
/// Records of one append, and appends on their way.
const RECORDS: u32 = 512;
const APPENDS: usize = 64;
const DEADLINE: Duration = Duration::from_secs(60);

/// Fills it; what was written, in words.
pub(crate) fn fill(log: &std::sync::Arc<dyn EventLog>, args: &Args) -> String {
    let partitions = log.identity().partitions;
    let count = |number: u32| usize::try_from(number).expect("a count");
    let mut workload = Workload::new(1, 0, count(args.users), count(args.resources), args.zipf);
    let began = Instant::now();
    let (done, acknowledged) = mpsc::channel::<bool>();
    let (mut there, mut waiting, mut bytes) = (0_u32, 0, 0);
    while there < args.events || waiting > 0 {
        if there >= args.events || waiting >= APPENDS {
            let good = acknowledged.recv_timeout(DEADLINE);
            assert!(good.expect("an answer of the log"), "an append failed");
            waiting -= 1;
            continue;
        }
        let many = RECORDS.min(args.events - there);
        let records: Vec<NewRecord> = (there..there + many)
            .map(|number| record(number, workload.next(), partitions))
            .collect();
        let sizes = records.iter().map(|record| record.value.len());
        bytes += sizes.sum::<usize>();
        let done = done.clone();
        let appended = log.append(
            records,
            Box::new(move |results| {
                // Whoever waited may have given up.
                let _ = done.send(results.iter().all(Result::is_ok));
            }),
        );
        appended.expect("room in the queue");
        there += many;
        waiting += 1;
    }
    format!(
        "{there} events of {} bytes, written in {:.0?}",
        bytes / count(there),
        began.elapsed()
    )
}

fn record(number: u32, next: Interaction, partitions: u32) -> NewRecord {
    let Interaction {
        user,
        resource,
        kind,
    } = next;
    let kinds = ResourceType::ALL;
    let id = FIRST_ID + u64::try_from(resource / kinds.len()).expect("a place");
    let resource = Resource::new(kinds[resource % kinds.len()], id).expect("a small id");
    let event = Event {
        id: EventId::now_v7(),
        at: EventTime::from_millis(START_MILLIS + u64::from(number) / EVENTS_PER_MILLI),
        user: UserId::new(format!("bench-{user}")).expect("a short name"),
        resource,
        interaction: kind,
        idempotency_key: None,
    };
    NewRecord {
        partition: resource.partition(partitions),
        key: resource.key().as_bytes().to_vec(),
        value: tally_domain::encode(&event),
        traceparent: None,
    }
}
