//! The Kafka log keeps the contract that every log keeps.

use std::sync::Arc;

use tally_log::EventLog;
use tally_log::conformance::{PARTITIONS, SMALL_QUEUE_RECORDS, TestLog};
use tally_log::kafka::KafkaOptions;

use crate::support::InTopic;

fn in_topic() -> InTopic {
    InTopic::new(PARTITIONS)
}

impl TestLog for InTopic {
    fn open(&self) -> Arc<dyn EventLog> {
        InTopic::open(self)
    }

    fn open_with_small_queue(&self) -> Arc<dyn EventLog> {
        let small = KafkaOptions {
            max_queue_records: SMALL_QUEUE_RECORDS,
            ..self.options.clone()
        };
        Arc::new(self.try_open(&small).unwrap())
    }

    fn remove_oldest(&self) {
        let half: Vec<u64> = InTopic::open(self)
            .head()
            .unwrap()
            .iter()
            .map(|head| head / 2)
            .collect();
        self.remove_below(&half);
    }
}

tally_log::conformance_suite!(in_topic);
