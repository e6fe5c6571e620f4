//! A topic's id, which the safe wrapper's metadata lack.

#![expect(
    unsafe_code,
    reason = "librdkafka's DescribeTopics has no safe wrapper"
)]

use std::ffi::{CString, c_char};
use std::time::{Duration, Instant};

use rdkafka::bindings as sys;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{IsError, RDKafkaErrorCode};
use tally_domain::{LogId, Partition};

use super::{Event, Queue, millis, text};
use crate::kafka::topics::PartitionDescription;

/// A topic's id and partitions, as a broker knows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::kafka) struct Described {
    pub(in crate::kafka) id: LogId,
    pub(in crate::kafka) partitions: Vec<PartitionDescription>,
}

/// Asks the cluster for a topic; `None` where there is none.
pub(in crate::kafka) fn describe_topic<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<Option<Described>, (RDKafkaErrorCode, String)> {
    let until = Instant::now() + timeout;
    let failed = |code: RDKafkaErrorCode| (code, code.to_string());
    let name = CString::new(topic).map_err(|_| failed(RDKafkaErrorCode::InvalidTopic))?;
    let internal = || failed(RDKafkaErrorCode::Fail);
    // SAFETY: the client outlives this call, and with it the queue, the options and the list, each
    // of which is ours and given back; the name is copied.
    let queue = unsafe {
        let rk = client.native_ptr();
        let queue = Queue::of(sys::rd_kafka_queue_new(rk), "new").map_err(|_| internal())?;
        let options = sys::rd_kafka_AdminOptions_new(
            rk,
            sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
        );
        let mut error = [0 as c_char; 256];
        sys::rd_kafka_AdminOptions_set_request_timeout(
            options,
            millis(timeout),
            error.as_mut_ptr(),
            error.len(),
        );
        let mut names = [name.as_ptr()];
        let topics = sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        sys::rd_kafka_DescribeTopics(rk, topics, options, queue.0.as_ptr());
        sys::rd_kafka_TopicCollection_destroy(topics);
        sys::rd_kafka_AdminOptions_destroy(options);
        queue
    };
    // A little longer than the library itself waits.
    let slack = Duration::from_millis(500);
    let left = until.saturating_duration_since(Instant::now()) + slack;
    let Some(event) = queue.poll(left) else {
        return Err(failed(RDKafkaErrorCode::OperationTimedOut));
    };
    // SAFETY: the event is valid, and everything it gives lives as it does.
    unsafe { described(&event) }
}

/// # Safety
/// What an event of this kind gives is as librdkafka documents it.
unsafe fn described(event: &Event) -> Result<Option<Described>, (RDKafkaErrorCode, String)> {
    let event = event.0.as_ptr();
    // SAFETY: as the caller says; each pointer is checked before it is read.
    unsafe {
        let code = sys::rd_kafka_event_error(event);
        if code.is_error() {
            return Err((code.into(), text(sys::rd_kafka_event_error_string(event))));
        }
        let result = sys::rd_kafka_event_DescribeTopics_result(event);
        let nothing = || {
            let code = RDKafkaErrorCode::Fail;
            (code, "the answer has no topic".to_owned())
        };
        if result.is_null() {
            return Err(nothing());
        }
        let mut count = 0;
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        let Some(topic) = list(topics, count).first().copied() else {
            return Err(nothing());
        };
        let error = sys::rd_kafka_TopicDescription_error(topic);
        let code: RDKafkaErrorCode = sys::rd_kafka_error_code(error).into();
        let missing = [
            RDKafkaErrorCode::UnknownTopicOrPartition,
            RDKafkaErrorCode::UnknownTopic,
        ];
        if missing.contains(&code) {
            return Ok(None);
        }
        if code != RDKafkaErrorCode::NoError {
            return Err((code, text(sys::rd_kafka_error_string(error))));
        }
        let id = sys::rd_kafka_TopicDescription_topic_id(topic);
        if id.is_null() {
            return Err(nothing());
        }
        let id = LogId::from_u64_pair(
            sys::rd_kafka_Uuid_most_significant_bits(id).cast_unsigned(),
            sys::rd_kafka_Uuid_least_significant_bits(id).cast_unsigned(),
        );
        let mut count = 0;
        let found = sys::rd_kafka_TopicDescription_partitions(topic, &raw mut count);
        let mut partitions: Vec<PartitionDescription> = list(found, count)
            .iter()
            .map(|partition| partition_of(*partition))
            .collect();
        partitions.sort_by_key(|partition| partition.partition);
        Ok(Some(Described { id, partitions }))
    }
}

/// # Safety
/// `info` is a partition of a topic's description.
unsafe fn partition_of(info: *const sys::rd_kafka_TopicPartitionInfo_t) -> PartitionDescription {
    // SAFETY: as the caller says; nodes are checked before they are read.
    unsafe {
        let ids = |nodes: *mut *const sys::rd_kafka_Node_t, count| {
            let nodes = list(nodes, count).iter();
            let ids = nodes.filter(|node| !node.is_null());
            ids.map(|node| sys::rd_kafka_Node_id(*node)).collect()
        };
        let mut count = 0;
        let replicas = sys::rd_kafka_TopicPartitionInfo_replicas(info, &raw mut count);
        let replicas = ids(replicas, count);
        let in_sync = sys::rd_kafka_TopicPartitionInfo_isr(info, &raw mut count);
        let in_sync = ids(in_sync, count);
        let leader = sys::rd_kafka_TopicPartitionInfo_leader(info);
        let leader = if leader.is_null() {
            None
        } else {
            Some(sys::rd_kafka_Node_id(leader)).filter(|id| *id >= 0)
        };
        PartitionDescription {
            partition: Partition::try_from(sys::rd_kafka_TopicPartitionInfo_partition(info))
                .unwrap_or(Partition::MAX),
            leader,
            replicas,
            in_sync,
        }
    }
}

/// # Safety
/// `count` pointers live at `start` for as long as the result does, where `start` is not null.
unsafe fn list<'a, T>(start: *mut *const T, count: usize) -> &'a [*const T] {
    if start.is_null() {
        return &[];
    }
    // SAFETY: as the caller says.
    unsafe { std::slice::from_raw_parts(start, count) }
}
