//! What the safe wrapper does not reach: reading in batches, a topic's id, and what came of a commit.
//!
//! The wrapper hands out one message at a time at twice the cost, its metadata have no topic id, and
//! of a commit that it does not wait for it never says what came of it.
//! Everything unsafe of this crate is here and below.

#![expect(
    unsafe_code,
    reason = "librdkafka's batch reading, DescribeTopics and answered commits have no safe wrapper"
)]

mod consumer;
mod describe;

use std::ffi::{CStr, c_char, c_int};
use std::ptr::{self, NonNull};
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::bindings as sys;
#[cfg(test)]
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{IsError as _, KafkaError, KafkaResult};
use rdkafka::message::BorrowedMessage;

pub(super) use consumer::{Consumer, Taken};
pub(super) use describe::describe_topic;

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

/// Commits offsets of the consumer's group. It returns at once; what came of it is told to the
/// consumer's context when the consumer is polled.
pub(super) fn commit<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    offsets: &TopicPartitionList,
) -> KafkaResult<()> {
    let client = consumer.client().native_ptr();
    // SAFETY: the client is valid, and the queue is ours to give back.
    let queue = Queue::of(
        unsafe { sys::rd_kafka_queue_get_consumer(client) },
        "consumer",
    )?;
    // SAFETY: client, list and queue are valid; the list is copied, and the answer holds the queue
    // for itself. No callback is given, so the answer is an event.
    let code = unsafe {
        sys::rd_kafka_commit_queue(
            client,
            offsets.ptr(),
            queue.0.as_ptr(),
            None,
            ptr::null_mut(),
        )
    };
    if code.is_error() {
        return Err(KafkaError::ConsumerCommit(code.into()));
    }
    Ok(())
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
