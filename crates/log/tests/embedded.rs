//! What the embedded log promises.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use tally_domain::Position;
use tally_log::embedded::{EmbeddedLog, EmbeddedOptions};
use tally_log::storage::RealStorage;
use tally_log::{Batch, EventLog as _, LogMetrics, NewRecord};

/// The first promise: what was acknowledged is read back, by this process and by the next.
#[test]
fn acknowledged_records_survive_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let metrics = LogMetrics::unregistered().unwrap();
        let options = EmbeddedOptions {
            partitions: 3,
            segment_bytes: 4096,
            ..EmbeddedOptions::default()
        };
        EmbeddedLog::open(Arc::new(RealStorage), dir.path(), "test", options, &metrics).unwrap()
    };
    let mut expected = Vec::new();
    for life in 0..4 {
        let (log, recovery) = open();
        assert_eq!(recovery.created, life == 0);
        for number in 0..100_u64 {
            let value = format!("{life} {number}").into_bytes();
            let partition = u32::try_from(number % 3).unwrap();
            let (done, results) = mpsc::channel();
            let record = NewRecord {
                partition,
                key: b"key".to_vec(),
                value: value.clone(),
            };
            log.append(
                vec![record],
                Box::new(move |results| done.send(results).unwrap()),
            )
            .unwrap();
            let offset = results.recv().unwrap()[0].clone().unwrap();
            expected.push((partition, offset, value));
        }
        let from: Vec<Position> = (0..3)
            .map(|partition| Position {
                partition,
                offset: 0,
            })
            .collect();
        let mut reader = log.reader(&from).unwrap();
        let mut batch = Batch::new();
        let mut found = Vec::new();
        while reader
            .positions()
            .iter()
            .map(|p| p.offset)
            .collect::<Vec<_>>()
            != log.head().unwrap()
        {
            reader.next(&mut batch, Duration::from_secs(10)).unwrap();
            let record = |r: tally_log::BatchRecord<'_>| {
                (r.position.partition, r.position.offset, r.value.to_vec())
            };
            found.extend(batch.iter().map(record));
        }
        assert_eq!(found, expected);
        if life % 2 == 0 {
            log.close(Duration::from_secs(10)).unwrap();
        }
    }
}
