//! Reading in batches: at half the cost of one message at a time, which is all the safe wrapper has.

#![expect(unsafe_code, reason = "librdkafka's batch reading has no safe wrapper")]

use std::ffi::{CStr, CString, c_int};
use std::ptr::{self, NonNull};
use std::time::Duration;

use rdkafka::bindings as sys;
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{IsError, KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaType;
use tally_domain::{Offset, Partition, Position};

use super::{Event, Queue, millis, text};

/// How many messages are taken out of librdkafka's queue at once.
const AT_ONCE: usize = 1_024;

/// What came out of a consumer's queue.
#[derive(Debug)]
pub(in crate::kafka) enum Taken<'a> {
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
pub(in crate::kafka) struct Consumer<C: ClientContext> {
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
    pub(in crate::kafka) fn new(
        config: &ClientConfig,
        context: C,
        topic: &str,
    ) -> KafkaResult<Self> {
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
    pub(in crate::kafka) fn assign(&self, from: &[Position]) -> KafkaResult<()> {
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
    pub(in crate::kafka) fn serve(&self) {
        while let Some(event) = self.events.poll(Duration::ZERO) {
            serve_event(&event, self.client.context().as_ref());
        }
    }

    /// Waits for something to come, and hands it over with what else is there: some 1,000 at most.
    pub(in crate::kafka) fn take(&mut self, wait: Duration, each: &mut dyn FnMut(Taken<'_>)) {
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
