//! Who waits for which event or position, and how they are told.
//!
//! A waiter is registered by event id before the event is appended, and completed by the fold.
//! Completions travel in batches: one wake-up per batch and HTTP worker, however many waiters it
//! completes. Waking each by itself costs more than all the rest of an interaction.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tally_domain::{DeadLetterReason, EventId, LetterFate, Offset, Partition, Verdict};
use tally_log::{AppendError, AppendRefused};
use tokio::sync::{Notify, oneshot};

/// What became of an event somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventFate {
    /// It was folded.
    Folded(Verdict),
    /// It is in the log, but the fold kept it as a dead letter.
    DeadLetter(DeadLetterReason),
    /// It was a replay or a drop of a dead letter.
    Settled(LetterFate),
    /// The log did not take it.
    Refused(AppendRefused),
    /// The log took it and did not acknowledge it.
    Failed(AppendError),
}

impl From<AppendRefused> for EventFate {
    fn from(refused: AppendRefused) -> Self {
        Self::Refused(refused)
    }
}

impl From<AppendError> for EventFate {
    fn from(error: AppendError) -> Self {
        Self::Failed(error)
    }
}

/// Too many wait already; try again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{limit} requests wait for the projector already")]
pub struct TooManyWaiters {
    /// The bound.
    pub limit: usize,
}

enum Delivery {
    Event(oneshot::Sender<EventFate>, EventFate),
    Position(oneshot::Sender<()>),
}

impl Delivery {
    fn deliver(self) {
        // A receiver that has gone needs no answer.
        match self {
            Self::Event(to, fate) => drop(to.send(fate)),
            Self::Position(to) => drop(to.send(())),
        }
    }
}

#[derive(Default)]
struct Post {
    waiting: Mutex<Vec<Delivery>>,
    notify: Notify,
}

/// Where the waiters of one thread get their answers. Clones are the same mailbox.
#[derive(Clone)]
pub struct Mailbox(Option<Arc<Post>>);

/// Hands a mailbox's deliveries to the waiters; it runs on their thread.
pub struct MailboxTask(Arc<Post>);

impl Mailbox {
    /// A mailbox, and the task that must run on the thread (spawn it locally) whose waiters use
    /// the mailbox.
    #[must_use]
    pub fn new() -> (Self, MailboxTask) {
        let post = Arc::new(Post::default());
        (Self(Some(Arc::clone(&post))), MailboxTask(post))
    }

    /// A mailbox that needs no task: waiters are woken one by one on the fold's thread.
    #[must_use]
    pub fn direct() -> Self {
        Self(None)
    }

    fn is(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    fn deliver(&self, deliveries: Vec<Delivery>) {
        match &self.0 {
            None => deliveries.into_iter().for_each(Delivery::deliver),
            Some(post) => {
                post.waiting.lock().extend(deliveries);
                post.notify.notify_one();
            }
        }
    }
}

impl MailboxTask {
    /// Delivers until the runtime ends.
    pub async fn run(self) {
        loop {
            self.0.notify.notified().await;
            let waiting = std::mem::take(&mut *self.0.waiting.lock());
            waiting.into_iter().for_each(Delivery::deliver);
        }
    }
}

/// Completions of one batch, by mailbox.
#[derive(Default)]
pub(crate) struct Deliveries(Vec<(Mailbox, Vec<Delivery>)>);

impl Deliveries {
    fn add(&mut self, mailbox: &Mailbox, delivery: Delivery) {
        match self.0.iter_mut().find(|(other, _)| other.is(mailbox)) {
            Some((_, deliveries)) => deliveries.push(delivery),
            None => self.0.push((mailbox.clone(), vec![delivery])),
        }
    }

    /// Wakes each mailbox once.
    pub(crate) fn send(self) {
        for (mailbox, deliveries) in self.0 {
            mailbox.deliver(deliveries);
        }
    }
}

#[derive(Default)]
struct PartitionWaiters {
    events: HashMap<EventId, (Mailbox, oneshot::Sender<EventFate>), foldhash::fast::FixedState>,
    positions: BTreeMap<Offset, Vec<(Mailbox, oneshot::Sender<()>)>>,
    /// Nobody folds the partition any more: whoever comes is let go at once.
    abandoned: bool,
}

/// All waiters, by partition, up to a bound.
pub(crate) struct Waiters {
    partitions: Vec<(AtomicUsize, Mutex<PartitionWaiters>)>,
    count: AtomicUsize,
    limit: usize,
}

impl Waiters {
    pub(crate) fn new(partitions: u32, limit: usize) -> Self {
        let one = |_| (AtomicUsize::new(0), Mutex::default());
        Self {
            partitions: (0..partitions).map(one).collect(),
            count: AtomicUsize::new(0),
            limit,
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn partition(&self, partition: Partition) -> Option<&(AtomicUsize, Mutex<PartitionWaiters>)> {
        self.partitions.get(usize::try_from(partition).ok()?)
    }

    fn admit(&self) -> Result<(), TooManyWaiters> {
        if self.count.fetch_add(1, Ordering::Relaxed) >= self.limit {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return Err(TooManyWaiters { limit: self.limit });
        }
        Ok(())
    }

    /// Keeps a waiter that `insert` adds to its partition and that takes the place of as many
    /// as it returns. Where the partition is not folded, it is dropped.
    fn keep(
        &self,
        partition: Partition,
        insert: impl FnOnce(&mut PartitionWaiters) -> usize,
    ) -> Result<(), TooManyWaiters> {
        let Some((here, waiters)) = self.partition(partition) else {
            return Ok(());
        };
        self.admit()?;
        // Sequentially consistent, as `any` is: see `Projector::wait_for_position`.
        here.fetch_add(1, Ordering::SeqCst);
        let mut waiters = waiters.lock();
        let replaced = if waiters.abandoned {
            1
        } else {
            insert(&mut waiters)
        };
        drop(waiters);
        self.gone(here, replaced);
        Ok(())
    }

    fn gone(&self, here: &AtomicUsize, how_many: usize) {
        here.fetch_sub(how_many, Ordering::Release);
        self.count.fetch_sub(how_many, Ordering::Relaxed);
    }

    /// Whether anybody waits in a partition. Whoever registered before appending is seen by the
    /// fold of what was appended: the log's own locks order the two.
    pub(crate) fn any(&self, partition: Partition) -> bool {
        self.partition(partition)
            .is_some_and(|(here, _)| here.load(Ordering::SeqCst) > 0)
    }

    pub(crate) fn add_event(
        &self,
        partition: Partition,
        id: EventId,
        mailbox: &Mailbox,
    ) -> Result<oneshot::Receiver<EventFate>, TooManyWaiters> {
        let (to, receiver) = oneshot::channel();
        let waiter = (mailbox.clone(), to);
        self.keep(partition, |waiters| {
            usize::from(waiters.events.insert(id, waiter).is_some())
        })?;
        Ok(receiver)
    }

    pub(crate) fn add_position(
        &self,
        partition: Partition,
        offset: Offset,
        mailbox: &Mailbox,
    ) -> Result<oneshot::Receiver<()>, TooManyWaiters> {
        let (to, receiver) = oneshot::channel();
        let waiter = (mailbox.clone(), to);
        self.keep(partition, |waiters| {
            waiters.positions.entry(offset).or_default().push(waiter);
            0
        })?;
        Ok(receiver)
    }

    pub(crate) fn forget_event(&self, partition: Partition, id: EventId) {
        if let Some((here, waiters)) = self.partition(partition)
            && waiters.lock().events.remove(&id).is_some()
        {
            self.gone(here, 1);
        }
    }

    pub(crate) fn fail_event(&self, partition: Partition, id: EventId, fate: EventFate) {
        let mut deliveries = Deliveries::default();
        self.complete(partition, 0, [(id, fate)], &mut deliveries);
        deliveries.send();
    }

    /// Collects the deliveries for events that have a fate now, and for positions below
    /// `next_offset`.
    pub(crate) fn complete(
        &self,
        partition: Partition,
        next_offset: Offset,
        fates: impl IntoIterator<Item = (EventId, EventFate)>,
        deliveries: &mut Deliveries,
    ) {
        let Some((here, waiters)) = self.partition(partition) else {
            return;
        };
        let mut completed = 0;
        let mut waiters = waiters.lock();
        for (id, fate) in fates {
            if let Some((mailbox, to)) = waiters.events.remove(&id) {
                deliveries.add(&mailbox, Delivery::Event(to, fate));
                completed += 1;
            }
        }
        while let Some(first) = waiters.positions.first_entry() {
            if *first.key() >= next_offset {
                break;
            }
            for (mailbox, to) in first.remove() {
                deliveries.add(&mailbox, Delivery::Position(to));
                completed += 1;
            }
        }
        drop(waiters);
        self.gone(here, completed);
    }

    /// Lets go of everybody in a partition that will not be folded any more, and of whoever comes
    /// later: their receivers see the sender dropped.
    pub(crate) fn abandon(&self, partition: Partition) {
        let Some((here, waiters)) = self.partition(partition) else {
            return;
        };
        let none = PartitionWaiters {
            abandoned: true,
            ..PartitionWaiters::default()
        };
        let waiters = std::mem::replace(&mut *waiters.lock(), none);
        let positions: usize = waiters.positions.values().map(Vec::len).sum();
        self.gone(here, waiters.events.len() + positions);
    }

    /// All partitions are folded, also those that were given up before.
    pub(crate) fn again(&self) {
        for (_, waiters) in &self.partitions {
            waiters.lock().abandoned = false;
        }
    }

    /// Lets go of position waiters that nobody listens to any more.
    pub(crate) fn sweep(&self) {
        for (here, waiters) in &self.partitions {
            if here.load(Ordering::Acquire) == 0 {
                continue;
            }
            let mut swept = 0;
            let mut waiters = waiters.lock();
            waiters.positions.retain(|_, list| {
                let before = list.len();
                list.retain(|(_, to)| !to.is_closed());
                swept += before - list.len();
                !list.is_empty()
            });
            drop(waiters);
            self.gone(here, swept);
        }
    }
}
