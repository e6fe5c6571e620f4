//! What the safe wrapper does not reach: reading in batches, and a topic's id.
//!
//! The wrapper hands out one message at a time at twice the cost, and its metadata have no topic id.
//! Everything unsafe of this crate is here.

#![expect(
    unsafe_code,
    reason = "librdkafka's batch reading and DescribeTopics have no safe wrapper"
)]

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::{self, NonNull};
use std::time::{Duration, Instant};

use rdkafka::bindings as sys;
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{IsError, KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::types::RDKafkaType;
use tally_domain::{LogId, Offset, Partition, Position};

use super::topics::PartitionDescription;

/// How many messages are taken out of librdkafka's queue at once.
const AT_ONCE: usize = 1_024;

/// What the broker may have of a message that it did not acknowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Persisted {
    /// Certainly nothing.
    No,
    /// All of it, or nothing.
    Perhaps,
}

/// What librdkafka knows of a message that failed.
pub(super) fn persisted(message: &BorrowedMessage<'_>) -> Persisted {
    // SAFETY: the pointer is valid as long as the message is borrowed.
    let status = unsafe { sys::rd_kafka_message_status(message.ptr()) };
    match status {
        sys::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED => Persisted::No,
        sys::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_POSSIBLY_PERSISTED
        | sys::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_PERSISTED => Persisted::Perhaps,
    }
}

/// Ends a producer as an error does that it can't recover from.
#[cfg(test)]
pub(super) fn break_producer<C: ClientContext>(client: &Client<C>, why: &CStr) {
    let code = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
    // SAFETY: the client is valid, and the text is copied.
    unsafe { sys::rd_kafka_test_fatal_error(client.native_ptr(), code, why.as_ptr()) };
}

/// A librdkafka queue, given back when it is dropped.
struct Queue(NonNull<sys::rd_kafka_queue_t>);

// SAFETY: librdkafka's queues may be used from any thread.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: it is ours, and its client still lives: owners hold it before their client.
        unsafe { sys::rd_kafka_queue_destroy(self.0.as_ptr()) }
    }
}

impl Queue {
    fn of(pointer: *mut sys::rd_kafka_queue_t, what: &str) -> KafkaResult<Self> {
        let missing = || KafkaError::ClientCreation(format!("librdkafka has no {what} queue"));
        NonNull::new(pointer).map(Self).ok_or_else(missing)
    }

    fn poll(&self, wait: Duration) -> Option<Event> {
        // SAFETY: the queue is valid; the event is ours to destroy.
        NonNull::new(unsafe { sys::rd_kafka_queue_poll(self.0.as_ptr(), millis(wait)) }).map(Event)
    }
}

struct Event(NonNull<sys::rd_kafka_event_t>);

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: it was given to us, once.
        unsafe { sys::rd_kafka_event_destroy(self.0.as_ptr()) }
    }
}

fn millis(wait: Duration) -> c_int {
    c_int::try_from(wait.as_millis()).unwrap_or(c_int::MAX)
}

/// A text of librdkafka's, copied.
///
/// # Safety
/// `text` is null or a C string.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as the caller says.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

/// What came out of a consumer's queue.
#[derive(Debug)]
pub(super) enum Taken<'a> {
    /// A record.
    Record {
        position: Position,
        append_time_millis: u64,
        key: &'a [u8],
        value: &'a [u8],
    },
    /// Everything below this offset was given out: the reader stands at the end.
    End(Position),
    /// Something went wrong in one partition, or in all of them (`None`).
    Wrong {
        partition: Option<Partition>,
        code: RDKafkaErrorCode,
        why: String,
    },
}

/// A consumer that reads assigned partitions in batches. It belongs on one thread.
pub(super) struct Consumer<C: ClientContext> {
    // Before the client: they go first.
    messages: Queue,
    events: Queue,
    taken: Vec<*mut sys::rd_kafka_message_t>,
    topic: CString,
    client: Client<C>,
}

// SAFETY: the list of messages is empty between calls, and everything else is librdkafka's, which
// may be used from any thread.
unsafe impl<C: ClientContext> Send for Consumer<C> {}

impl<C: ClientContext> Consumer<C> {
    pub(super) fn new(config: &ClientConfig, context: C, topic: &str) -> KafkaResult<Self> {
        let topic = CString::new(topic)?;
        let native = config.create_native_config()?;
        // SAFETY: the configuration is valid; events are what `serve` takes.
        unsafe {
            sys::rd_kafka_conf_set_events(
                native.ptr(),
                sys::RD_KAFKA_EVENT_STATS | sys::RD_KAFKA_EVENT_ERROR,
            );
        }
        let client = Client::new(config, native, RDKafkaType::RD_KAFKA_CONSUMER, context)?;
        // SAFETY: the client is valid; both queues are ours to give back.
        let (messages, events) = unsafe {
            (
                sys::rd_kafka_queue_get_consumer(client.native_ptr()),
                sys::rd_kafka_queue_get_main(client.native_ptr()),
            )
        };
        Ok(Self {
            messages: Queue::of(messages, "consumer")?,
            events: Queue::of(events, "main")?,
            taken: Vec::with_capacity(AT_ONCE),
            topic,
            client,
        })
    }

    /// Reads these partitions from these offsets on, and no others.
    pub(super) fn assign(&self, from: &[Position]) -> KafkaResult<()> {
        let list = List::new(from.len());
        for Position { partition, offset } in from {
            list.add(&self.topic, *partition, *offset)?;
        }
        // SAFETY: client and list are valid; the list is copied.
        let code = unsafe { sys::rd_kafka_assign(self.client.native_ptr(), list.0.as_ptr()) };
        if code.is_error() {
            return Err(KafkaError::ConsumerCommit(code.into()));
        }
        Ok(())
    }

    /// Hands log lines, statistics and errors that came meanwhile to the context.
    pub(super) fn serve(&self) {
        while let Some(event) = self.events.poll(Duration::ZERO) {
            serve_event(&event, self.client.context().as_ref());
        }
    }

    /// Waits for something to come, and hands it over with what else is there: some 1,000 at most.
    pub(super) fn take(&mut self, wait: Duration, each: &mut dyn FnMut(Taken<'_>)) {
        // A batch waits until it is full, so only the first may wait.
        // SAFETY: the queue is valid; the message is ours to destroy.
        let first = unsafe { sys::rd_kafka_consume_queue(self.messages.0.as_ptr(), millis(wait)) };
        let Some(first) = NonNull::new(first) else {
            return;
        };
        let first = Message(first);
        each(first.taken());
        drop(first);
        // SAFETY: there is room for as many as are asked for, and as many as it says are filled.
        unsafe {
            let came = sys::rd_kafka_consume_batch_queue(
                self.messages.0.as_ptr(),
                0,
                self.taken.as_mut_ptr(),
                self.taken.capacity(),
            );
            let came = usize::try_from(came).unwrap_or(0);
            self.taken.set_len(came.min(self.taken.capacity()));
        }
        for message in self.taken.drain(..) {
            if let Some(message) = NonNull::new(message) {
                each(Message(message).taken());
            }
        }
    }
}

/// A message, given back when it is dropped.
struct Message(NonNull<sys::rd_kafka_message_t>);

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: it was given to us, once.
        unsafe { sys::rd_kafka_message_destroy(self.0.as_ptr()) }
    }
}

impl Message {
    fn taken(&self) -> Taken<'_> {
        // SAFETY: the message is valid until it is dropped.
        let message = unsafe { self.0.as_ref() };
        let partition = Partition::try_from(message.partition).ok();
        let offset = Offset::try_from(message.offset).ok();
        let at = partition
            .zip(offset)
            .map(|(partition, offset)| Position { partition, offset });
        match (message.err, at) {
            (sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR, Some(position)) => {
                let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
                // SAFETY: the message is valid.
                let time =
                    unsafe { sys::rd_kafka_message_timestamp(self.0.as_ptr(), &raw mut kind) };
                Taken::Record {
                    position,
                    append_time_millis: u64::try_from(time).unwrap_or(0),
                    // SAFETY: librdkafka says how long they are, and they live as the message does.
                    key: unsafe { bytes(message.key.cast(), message.key_len) },
                    // SAFETY: as above.
                    value: unsafe { bytes(message.payload.cast(), message.len) },
                }
            }
            (sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF, Some(position)) => {
                Taken::End(position)
            }
            (code, _) => Taken::Wrong {
                partition,
                code: code.into(),
                // SAFETY: the message is valid, and so is the text it gives.
                why: unsafe { text(sys::rd_kafka_message_errstr(self.0.as_ptr())) },
            },
        }
    }
}

/// # Safety
/// `len` bytes live at `start` for as long as the result does, where `start` is not null.
unsafe fn bytes<'a>(start: *const u8, len: usize) -> &'a [u8] {
    if start.is_null() {
        return &[];
    }
    // SAFETY: as the caller says.
    unsafe { std::slice::from_raw_parts(start, len) }
}

/// Partitions with offsets, as librdkafka takes them.
struct List(NonNull<sys::rd_kafka_topic_partition_list_t>);

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: it is ours.
        unsafe { sys::rd_kafka_topic_partition_list_destroy(self.0.as_ptr()) }
    }
}

impl List {
    fn new(len: usize) -> Self {
        let len = c_int::try_from(len).unwrap_or(c_int::MAX);
        // SAFETY: it returns a list that is ours; it ends the process where there is no memory.
        let list = unsafe { sys::rd_kafka_topic_partition_list_new(len) };
        Self(NonNull::new(list).unwrap_or(NonNull::dangling()))
    }

    fn add(&self, topic: &CStr, partition: Partition, offset: Offset) -> KafkaResult<()> {
        let invalid = |what: &str, number: u64| {
            KafkaError::ClientCreation(format!("Kafka has no {what} {number}"))
        };
        let number =
            i32::try_from(partition).map_err(|_| invalid("partition", partition.into()))?;
        let offset = i64::try_from(offset).map_err(|_| invalid("offset", offset))?;
        // SAFETY: the list is valid and grows as needed; the name is copied; the element that is
        // returned stays the list's.
        unsafe {
            let added =
                sys::rd_kafka_topic_partition_list_add(self.0.as_ptr(), topic.as_ptr(), number);
            if let Some(added) = added.as_mut() {
                added.offset = offset;
            }
        }
        Ok(())
    }
}

fn serve_event<C: ClientContext>(event: &Event, context: &C) {
    let event = event.0.as_ptr();
    // SAFETY: the event is valid, and the texts it gives live as it does.
    unsafe {
        match sys::rd_kafka_event_type(event) {
            sys::RD_KAFKA_EVENT_LOG => {
                let (mut facility, mut line, mut level) = (ptr::null(), ptr::null(), 0);
                let none = sys::rd_kafka_event_log(
                    event,
                    &raw mut facility,
                    &raw mut line,
                    &raw mut level,
                );
                if none == 0 {
                    context.log(log_level(level), &text(facility), &text(line));
                }
            }
            sys::RD_KAFKA_EVENT_STATS => {
                let json = sys::rd_kafka_event_stats(event);
                if !json.is_null() {
                    context.stats_raw(CStr::from_ptr(json).to_bytes());
                }
            }
            sys::RD_KAFKA_EVENT_ERROR => {
                let code = sys::rd_kafka_event_error(event);
                let why = text(sys::rd_kafka_event_error_string(event));
                context.error(KafkaError::Global(code.into()), &why);
            }
            _ => {}
        }
    }
}

/// Syslog's levels.
fn log_level(level: c_int) -> RDKafkaLogLevel {
    match level {
        ..=0 => RDKafkaLogLevel::Emerg,
        1 => RDKafkaLogLevel::Alert,
        2 => RDKafkaLogLevel::Critical,
        3 => RDKafkaLogLevel::Error,
        4 => RDKafkaLogLevel::Warning,
        5 => RDKafkaLogLevel::Notice,
        6 => RDKafkaLogLevel::Info,
        7.. => RDKafkaLogLevel::Debug,
    }
}

/// A topic's id and partitions, as a broker knows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) id: LogId,
    pub(super) partitions: Vec<PartitionDescription>,
}

/// Asks the cluster for a topic; `None` where there is none.
pub(super) fn describe_topic<C: ClientContext>(
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
