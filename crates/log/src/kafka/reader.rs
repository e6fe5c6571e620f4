//! Reading: a thread takes batches out of librdkafka and hands them over through a bounded queue.
//!
//! The thread keeps the positions: an offset below is never given out again, and where a partition's
//! end is reached the position moves over what is not given out (gaps, control records). What can't
//! be read as it was written stops its partition; nothing is ever skipped.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use tally_domain::{Offset, Partition, Position};

use super::client::Context;
use super::control::{Control, End};
use super::health::{Health, Pulse};
use super::native::{Consumer, Taken};
use crate::batch::Batch;
use crate::bounds::{BATCH_BYTES, RECORD_BYTES};
use crate::contract::{LogReader, ReadError};

/// How long the thread waits for records before it looks what else there is.
const TAKE_WAIT: Duration = Duration::from_millis(100);
/// A batch is handed over once it has so much, or nothing more is there.
const ENOUGH_BYTES: usize = 256 * 1024;
/// How many batches may wait to be taken.
const MAX_READY: usize = 4;

/// Between the thread and whoever reads.
#[derive(Default)]
struct Handover {
    state: Mutex<State>,
    filled: Condvar,
    taken: Condvar,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Fetched>,
    /// Buffers to be used again.
    spare: Vec<Batch>,
    woken: bool,
    /// Nobody reads any more.
    ended: bool,
}

/// What came, in its order.
enum Fetched {
    /// Records, and where their partitions stand after them.
    Batch(Batch, Vec<Position>),
    /// A partition's reading ends here, or all reading pauses.
    Wrong(Option<Partition>, ReadError),
}

/// A reader of a topic's partitions.
pub(super) struct KafkaReader {
    handover: Arc<Handover>,
    positions: BTreeMap<Partition, Offset>,
}

impl KafkaReader {
    /// Reads from positions that are in range.
    pub(super) fn start(
        config: &ClientConfig,
        context: Context,
        (topic, label): (&str, &str),
        from: &[Position],
        control: Arc<Control>,
        health: &Arc<Health>,
    ) -> Result<Self, ReadError> {
        let unavailable = |why: String| ReadError::Unavailable(why);
        let consumer = Consumer::new(config, context, topic);
        let consumer = consumer.map_err(|error| unavailable(error.to_string()))?;
        let assigned = consumer.assign(from);
        assigned.map_err(|error| unavailable(error.to_string()))?;
        let handover = Arc::new(Handover::default());
        let positions: BTreeMap<_, _> = from
            .iter()
            .map(|position| (position.partition, position.offset))
            .collect();
        let fetch = Fetch {
            consumer,
            topic: topic.to_owned(),
            next: positions.clone(),
            control,
            health: Arc::clone(health),
            handover: Arc::clone(&handover),
        };
        let pulse = health.watchdog.watch(label);
        let thread = thread::Builder::new().name(label.to_owned());
        let spawned = thread.spawn(move || fetch.run(&pulse));
        spawned.map_err(|error| unavailable(format!("no thread can be started: {error}")))?;
        Ok(Self {
            handover,
            positions,
        })
    }
}

impl Drop for KafkaReader {
    /// The thread ends by itself: the library may take its time to let a consumer go.
    fn drop(&mut self) {
        self.handover.state.lock().ended = true;
        self.handover.taken.notify_all();
    }
}

impl LogReader for KafkaReader {
    fn next(&mut self, batch: &mut Batch, wait: Duration) -> Result<(), ReadError> {
        batch.clear();
        let deadline = Instant::now().checked_add(wait);
        let mut state = self.handover.state.lock();
        loop {
            match state.ready.pop_front() {
                Some(Fetched::Batch(came, ends)) => {
                    self.handover.taken.notify_one();
                    state.spare.push(std::mem::replace(batch, came));
                    let mut moved = false;
                    for Position { partition, offset } in ends {
                        if let Some(next) = self.positions.get_mut(&partition) {
                            moved |= offset > *next;
                            *next = offset.max(*next);
                        }
                    }
                    if moved {
                        return Ok(());
                    }
                    continue;
                }
                Some(Fetched::Wrong(partition, error)) => {
                    self.handover.taken.notify_one();
                    if let Some(partition) = partition {
                        self.positions.remove(&partition);
                    }
                    return Err(error);
                }
                None => {}
            }
            if std::mem::take(&mut state.woken) {
                return Ok(());
            }
            let over = match deadline {
                Some(deadline) => {
                    let filled = &self.handover.filled;
                    filled.wait_until(&mut state, deadline).timed_out()
                }
                None => {
                    self.handover.filled.wait(&mut state);
                    false
                }
            };
            if over && state.ready.is_empty() && !state.woken {
                return Ok(());
            }
        }
    }

    fn positions(&self) -> Vec<Position> {
        let pairs = self.positions.iter();
        pairs
            .map(|(partition, offset)| Position {
                partition: *partition,
                offset: *offset,
            })
            .collect()
    }

    fn waker(&self) -> Box<dyn Fn() + Send + Sync> {
        let handover = Arc::clone(&self.handover);
        Box::new(move || {
            handover.state.lock().woken = true;
            handover.filled.notify_all();
        })
    }
}

/// The thread's side.
struct Fetch {
    consumer: Consumer<Context>,
    topic: String,
    /// Of the partitions that are still read.
    next: BTreeMap<Partition, Offset>,
    control: Arc<Control>,
    health: Arc<Health>,
    handover: Arc<Handover>,
}

/// What one turn of the thread gathered.
#[derive(Default)]
struct Gathered {
    batch: Batch,
    moved: BTreeMap<Partition, Offset>,
}

impl Gathered {
    fn bytes(&self) -> usize {
        self.batch.byte_len() + self.batch.len() * RECORD_BYTES
    }
}

impl Fetch {
    fn run(mut self, pulse: &Pulse) {
        let mut failed = false;
        while !self.handover.state.lock().ended {
            pulse.beat();
            self.consumer.serve();
            if let Some(why) = self.health.failed()
                && !std::mem::replace(&mut failed, true)
            {
                self.hand_over(Fetched::Wrong(None, ReadError::Replaced(why)), pulse);
            }
            if failed {
                // Nothing of another log is given out.
                self.consumer.take(TAKE_WAIT, &mut |_| {});
                continue;
            }
            let mut gathered = self.gathered();
            let mut came = self.take(&mut gathered, TAKE_WAIT, pulse);
            while came && gathered.bytes() < ENOUGH_BYTES {
                came = self.take(&mut gathered, Duration::ZERO, pulse);
            }
            self.flush(&mut gathered, pulse);
            self.give_back(gathered.batch);
        }
    }

    /// Takes what is there; whether there was anything.
    fn take(&mut self, gathered: &mut Gathered, wait: Duration, pulse: &Pulse) -> bool {
        let mut any = false;
        let mut full = Vec::new();
        let mut wrong = Vec::new();
        let next = &mut self.next;
        self.consumer.take(wait, &mut |taken| {
            any = true;
            match taken {
                Taken::Record {
                    position: Position { partition, offset },
                    append_time_millis,
                    key,
                    value,
                } => {
                    let Some(next) = next.get_mut(&partition).filter(|next| offset >= **next)
                    else {
                        return;
                    };
                    let with = gathered.bytes() + key.len() + value.len();
                    if !gathered.batch.is_empty() && with > BATCH_BYTES {
                        full.push(std::mem::take(gathered));
                    }
                    let batch = &mut gathered.batch;
                    batch.push(partition, offset, append_time_millis, key, value);
                    *next = offset + 1;
                    gathered.moved.insert(partition, *next);
                }
                Taken::End(Position { partition, offset }) => {
                    if let Some(next) = next.get_mut(&partition).filter(|next| offset > **next) {
                        *next = offset;
                        gathered.moved.insert(partition, offset);
                    }
                }
                Taken::Wrong {
                    partition,
                    code,
                    why,
                } => {
                    // A partition that is given up gives nothing more, of this turn neither.
                    let at =
                        partition.and_then(|partition| Some((partition, *next.get(&partition)?)));
                    if at.is_some()
                        && ends_reading(code)
                        && let Some(partition) = partition
                    {
                        next.remove(&partition);
                    }
                    wrong.push((at, code, why));
                }
            }
        });
        for mut part in full {
            self.flush(&mut part, pulse);
        }
        if !wrong.is_empty() {
            // What is whole before it is good.
            self.flush(gathered, pulse);
        }
        for (at, code, why) in wrong {
            if let Some(fetched) = self.wrong(at, code, why) {
                self.hand_over(fetched, pulse);
            }
        }
        any
    }

    /// What an error means to whoever reads; `None` where the library gets over it by itself.
    fn wrong(
        &self,
        at: Option<(Partition, Offset)>,
        code: RDKafkaErrorCode,
        why: String,
    ) -> Option<Fetched> {
        let topic = &self.topic;
        if let Some((partition, offset)) = at.filter(|_| ends_reading(code)) {
            tracing::error!(topic, partition, offset, %code, why, "a partition is read no further");
            let error = if let Some(why) = self.control.replaced() {
                ReadError::Replaced(why)
            } else if code == RDKafkaErrorCode::BadMessage {
                ReadError::Damaged {
                    place: format!(
                        "offset {offset} or after of partition {partition} of topic {topic}"
                    ),
                    what: why,
                }
            } else {
                self.out_of_range(partition, offset)
            };
            return Some(Fetched::Wrong(Some(partition), error));
        }
        if asks_for_help(code) {
            let why = format!("topic {topic}: {why}");
            return Some(Fetched::Wrong(None, ReadError::Unavailable(why)));
        }
        tracing::debug!(topic, %code, why, "the library is getting over an error");
        None
    }

    fn out_of_range(&self, partition: Partition, wanted: Offset) -> ReadError {
        let place = usize::try_from(partition).unwrap_or(usize::MAX);
        let ask = |end| {
            let offsets = self.control.offsets(end).ok()?;
            offsets.get(place).copied()
        };
        ReadError::OutOfRange {
            partition,
            wanted,
            first: ask(End::First).unwrap_or_default(),
            head: ask(End::Head).unwrap_or_default(),
        }
    }

    fn gathered(&self) -> Gathered {
        let mut batch = self.handover.state.lock().spare.pop().unwrap_or_default();
        batch.clear();
        Gathered {
            batch,
            moved: BTreeMap::new(),
        }
    }

    fn give_back(&self, batch: Batch) {
        let mut state = self.handover.state.lock();
        if state.spare.len() < MAX_READY {
            state.spare.push(batch);
        }
    }

    /// Hands over what was gathered, where there is anything.
    fn flush(&self, gathered: &mut Gathered, pulse: &Pulse) {
        if gathered.moved.is_empty() {
            return;
        }
        let Gathered { batch, moved } = std::mem::take(gathered);
        let position = |(partition, offset)| Position { partition, offset };
        let ends = moved.into_iter().map(position).collect();
        self.hand_over(Fetched::Batch(batch, ends), pulse);
    }

    /// Waits until there is room: what is not taken holds the library up, and that the brokers.
    fn hand_over(&self, fetched: Fetched, pulse: &Pulse) {
        let Handover {
            state,
            filled,
            taken,
        } = &*self.handover;
        let mut state = state.lock();
        while state.ready.len() >= MAX_READY && !state.ended {
            taken.wait_for(&mut state, TAKE_WAIT);
            pulse.beat();
        }
        state.ready.push_back(fetched);
        drop(state);
        filled.notify_one();
    }
}

/// Whether a partition can't be read any further after an error.
fn ends_reading(code: RDKafkaErrorCode) -> bool {
    [
        RDKafkaErrorCode::AutoOffsetReset,
        RDKafkaErrorCode::OffsetOutOfRange,
        RDKafkaErrorCode::LogTruncation,
        RDKafkaErrorCode::BadMessage,
    ]
    .contains(&code)
}

/// Whether an error stays until somebody does something.
fn asks_for_help(code: RDKafkaErrorCode) -> bool {
    [
        RDKafkaErrorCode::TopicAuthorizationFailed,
        RDKafkaErrorCode::GroupAuthorizationFailed,
        RDKafkaErrorCode::UnknownTopicOrPartition,
        RDKafkaErrorCode::UnknownTopic,
        RDKafkaErrorCode::UnknownPartition,
        RDKafkaErrorCode::UnknownTopicId,
    ]
    .contains(&code)
}
