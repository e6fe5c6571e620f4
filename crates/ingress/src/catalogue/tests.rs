//! The catalogue against a log in memory: what is written, what is read, and what goes wrong.

use proptest::prelude::*;
use tally_domain::{EventTime, ResourceId, ResourceType};

use super::*;
use crate::memory_log::{Fate, MemoryLog};

const LIMITS: Limits = Limits {
    change: Duration::from_secs(1),
    open: Duration::from_millis(50),
};

fn quest(id: u64) -> Resource {
    Resource::new(ResourceType::Quest, id).unwrap()
}

fn log() -> MemoryLog {
    MemoryLog::new(1)
}

fn open(log: &MemoryLog) -> Catalogue {
    Catalogue::open(log.arc()).unwrap()
}

/// Appends as another process would, and waits until the catalogue has seen it.
fn others_append(log: &MemoryLog, catalogue: &Catalogue, value: &[u8]) {
    let offset = log.add(PARTITION, b"", value);
    let until = Instant::now() + Duration::from_secs(30);
    catalogue.shared.wait_for(offset, until).unwrap();
}

/// Protects catalogues that exist: these very bytes are written, and read for ever.
#[test]
fn the_records_form_stays() {
    let at = EventTime::from_millis(1_795_492_212_345);
    let cases = [
        (
            Action::Add,
            quest(42),
            "quest:42",
            r#"{"v":1,"at":"2026-11-24T03:50:12.345Z","action":"add","resource_type":"quest","resource_id":42}"#,
        ),
        (
            Action::Retire,
            Resource::new(ResourceType::AiNote, ResourceId::MAX).unwrap(),
            "ai_note:9223372036854775807",
            r#"{"v":1,"at":"2026-11-24T03:50:12.345Z","action":"retire","resource_type":"ai_note","resource_id":9223372036854775807}"#,
        ),
    ];
    for (action, resource, key, value) in cases {
        let record = record(action, resource, at);
        assert_eq!(String::from_utf8(record.key).unwrap(), key);
        assert_eq!(String::from_utf8(record.value).unwrap(), value);
        assert_eq!(record.partition, 0);
        assert_eq!(decode(value.as_bytes()), Ok((action, resource)));
        let later = value.replace(",\"action\"", ",\"by\":\"x\",\"action\"");
        assert_eq!(decode(later.as_bytes()), Ok((action, resource)));
    }
}

/// Protects what a command tells: how many it changed, exactly; and that nothing is written for
/// what is so already.
#[test]
fn a_change_counts_what_it_changed() {
    let log = log();
    let catalogue = open(&log);
    assert!(catalogue.is_empty());
    assert_eq!(catalogue.add(&[quest(2), quest(1), quest(2)]).unwrap(), 2);
    assert_eq!(log.appends(), 1, "one append for one call");
    assert_eq!(catalogue.add(&[quest(1), quest(3)]).unwrap(), 1);
    assert_eq!(catalogue.add(&[quest(1), quest(3)]).unwrap(), 0);
    assert_eq!(catalogue.add(&[]).unwrap(), 0);
    assert_eq!(
        catalogue.retire(&[quest(3), quest(4), quest(3)]).unwrap(),
        1
    );
    assert_eq!(catalogue.retire(&[quest(3)]).unwrap(), 0);
    assert_eq!(log.appends(), 3);
    assert_eq!(log.values(PARTITION).len(), 4);
    assert!(catalogue.contains(quest(1)) && !catalogue.contains(quest(3)));
    let profile = Resource::new(ResourceType::Profile, 1).unwrap();
    let note = Resource::new(ResourceType::AiNote, 9).unwrap();
    assert_eq!(catalogue.add(&[profile, note]).unwrap(), 2);
    assert_eq!(catalogue.list(), [quest(1), quest(2), note, profile]);
    assert_eq!(catalogue.len(), 4);
    drop(catalogue);
    assert_eq!(open(&log).list(), [quest(1), quest(2), note, profile]);
}

/// Protects changes that others append: they are seen without a restart.
#[test]
fn the_log_is_followed() {
    let log = log();
    let (one, other) = (open(&log), open(&log));
    assert_eq!(one.add(&[quest(1)]).unwrap(), 1);
    log.skip(PARTITION, 3);
    let retire = record(Action::Retire, quest(1), now()).value;
    others_append(&log, &one, &retire);
    others_append(&log, &other, &retire);
    assert!(!one.contains(quest(1)) && !other.contains(quest(1)));
    assert_eq!(other.add(&[quest(1)]).unwrap(), 1);
}

/// Protects the catalogue from a record that nobody can read: it stops nothing, and is counted.
#[test]
fn what_can_not_be_read_is_skipped_and_counted() {
    let log = log();
    let good = String::from_utf8(record(Action::Add, quest(1), now()).value).unwrap();
    let bad = [
        String::new(),
        "{".to_owned(),
        "[1,\"2026-11-24T03:50:12.345Z\",\"add\",\"quest\",42]".to_owned(),
        good.replace("\"v\":1", "\"v\":2"),
        good.replace("\"v\":1", "\"v\":0"),
        "{\"v\":2,\"other\":1}".to_owned(),
        good.replace("\"add\"", "\"drop\""),
        good.replace("\"quest\"", "\"nonsense\""),
        good.replace(":1}", ":9223372036854775808}"),
        good.replace(":1}", ":-1}"),
        format!("{good}{good}"),
    ];
    for value in &bad {
        log.add(PARTITION, b"", value.as_bytes());
    }
    let catalogue = open(&log);
    assert_eq!(catalogue.skipped(), bad.len() as u64);
    assert!(catalogue.is_empty());
    others_append(&log, &catalogue, b"\xff");
    others_append(&log, &catalogue, good.as_bytes());
    assert_eq!(catalogue.skipped(), bad.len() as u64 + 1);
    assert_eq!(catalogue.list(), [quest(1)]);
    assert!(decode(bad[3].as_bytes()).unwrap_err().contains("version 2"));
    assert!(decode(bad[5].as_bytes()).unwrap_err().contains("version 2"));
}

/// Protects an opening from waiting for offsets that no record has.
#[test]
fn gaps_in_the_log_are_no_reason_to_wait() {
    let log = log();
    log.skip(PARTITION, 2);
    log.add(PARTITION, b"", &record(Action::Add, quest(1), now()).value);
    log.skip(PARTITION, 2);
    let catalogue = Catalogue::open_within(LIMITS, log.arc()).unwrap();
    assert_eq!(catalogue.list(), [quest(1)]);
}

/// Protects resources from being unknown because another log, or half of one, was opened.
#[test]
fn a_log_that_is_another_or_not_whole_is_refused() {
    let two = MemoryLog::new(2);
    assert!(matches!(
        Catalogue::open(two.arc()),
        Err(CatalogueError::Partitions(2))
    ));
    let log = log();
    log.add(PARTITION, b"", &record(Action::Add, quest(1), now()).value);
    log.truncate_to_head();
    let refused = Catalogue::open(log.arc()).unwrap_err();
    assert!(matches!(refused, CatalogueError::Truncated { first: 1 }));
    assert!(refused.to_string().contains("import"), "{refused}");
}

fn unavailable() -> ReadError {
    ReadError::Unavailable("the broker is away".to_owned())
}

/// Protects whoever waits for a change: each way it can fail says what is known, in bounded time.
#[test]
fn a_change_that_fails_says_what_is_known() {
    let log = log();
    let catalogue = Catalogue::open_within(LIMITS, log.arc()).unwrap();
    log.set_fate(Fate::Refused(AppendRefused::QueueFull { queued_bytes: 7 }));
    let refused = catalogue.add(&[quest(1)]).unwrap_err();
    assert!(matches!(refused, CatalogueError::Refused(_)));
    assert!(
        refused.to_string().starts_with("nothing was changed"),
        "{refused}"
    );

    log.set_fate(Fate::Failed(AppendError::FateUnknown(
        "sync failed".to_owned(),
    )));
    let failed = catalogue.add(&[quest(1)]).unwrap_err();
    assert!(matches!(failed, CatalogueError::Append(_)));
    assert!(failed.to_string().contains("sync failed"), "{failed}");

    for (fate, why) in [
        (
            Fate::Refused(AppendRefused::Unreachable("all down".to_owned())),
            "brokers can't be reached: all down",
        ),
        (
            Fate::Failed(AppendError::TimedOut("8 s".to_owned())),
            "not written in time: 8 s",
        ),
        (
            Fate::Failed(AppendError::Unauthorized("no ACL".to_owned())),
            "refuses us: no ACL",
        ),
    ] {
        log.set_fate(fate);
        let said = catalogue.add(&[quest(1), quest(2)]).unwrap_err();
        let said = said.to_string();
        assert!(said.starts_with("nothing was changed"), "{said}");
        assert!(said.contains(why), "{said}");
    }

    log.set_fate(Fate::Silent);
    let silent = catalogue.add(&[quest(1)]).unwrap_err();
    assert!(matches!(silent, CatalogueError::Unanswered));
    assert!(silent.to_string().contains("retry is safe"), "{silent}");
    log.set_fate(Fate::Taken);
    others_append(&log, &catalogue, b"");
    assert!(catalogue.contains(quest(1)), "it came after all");
    assert_eq!(catalogue.add(&[quest(1)]).unwrap(), 0);
}

/// Protects requests while the log can't be read: what was known stays known, changes say why
/// they are not visible, and they become so by themselves.
#[test]
fn a_log_that_can_not_be_read_is_tried_again() {
    let log = log();
    log.add(PARTITION, b"", &record(Action::Add, quest(1), now()).value);
    let catalogue = Catalogue::open_within(LIMITS, log.arc()).unwrap();
    log.set_unreadable(Some(unavailable()));
    let hidden = catalogue.add(&[quest(2)]).unwrap_err();
    assert!(matches!(hidden, CatalogueError::NotVisible { .. }));
    assert!(
        hidden.to_string().contains("the broker is away"),
        "{hidden}"
    );
    assert!(catalogue.contains(quest(1)) && !catalogue.contains(quest(2)));
    log.set_unreadable(None);
    others_append(&log, &catalogue, b"");
    assert!(catalogue.contains(quest(2)));

    log.set_unreadable(Some(unavailable()));
    let refused = Catalogue::open_within(LIMITS, log.arc()).unwrap_err();
    assert!(matches!(refused, CatalogueError::Read(_)), "{refused}");
}

/// A log whose reader gives nothing although there is something.
struct Mute(MemoryLog);

impl EventLog for Mute {
    fn identity(&self) -> tally_log::LogIdentity {
        self.0.identity()
    }
    fn append(
        &self,
        records: Vec<NewRecord>,
        done: tally_log::AppendDone,
    ) -> Result<(), AppendRefused> {
        self.0.append(records, done)
    }
    fn reader(&self, _: &[Position]) -> Result<Box<dyn LogReader>, ReadError> {
        MemoryLog::new(1).reader(&[Position {
            partition: PARTITION,
            offset: 0,
        }])
    }
    fn first(&self) -> Result<Vec<Offset>, ReadError> {
        self.0.first()
    }
    fn head(&self) -> Result<Vec<Offset>, ReadError> {
        self.0.head()
    }
    fn stalled_for(&self) -> Option<Duration> {
        None
    }

    fn health(&self) -> tally_log::LogHealth {
        self.0.health()
    }
    fn close(&self, deadline: Duration) -> Result<(), AppendError> {
        self.0.close(deadline)
    }
}

/// Protects a start from waiting for ever, and from a catalogue with a part missing.
#[test]
fn an_opening_that_gets_nowhere_ends() {
    let log = log();
    log.add(PARTITION, b"", &record(Action::Add, quest(1), now()).value);
    let stalled = Catalogue::open_within(LIMITS, Arc::new(Mute(log))).unwrap_err();
    assert!(
        matches!(stalled, CatalogueError::Stalled { at: 0, head: 1 }),
        "{stalled}"
    );
}

/// Protects a stop from a thread that stays, whether it waits for records or for the log.
#[test]
fn the_thread_ends_with_its_catalogue() {
    for unreadable in [None, Some(unavailable())] {
        let log = log();
        let catalogue = open(&log);
        log.set_unreadable(unreadable);
        drop(catalogue);
        assert_eq!(log.handles(), 1);
    }
}

/// Protects the number that each of several callers at once is told: together they changed what
/// was changed.
#[test]
fn changes_at_once_are_counted_once() {
    let log = log();
    let catalogue = open(&log);
    let all: Vec<Resource> = (0..100).map(quest).collect();
    let changed: usize = std::thread::scope(|scope| {
        let adders = [(); 4].map(|()| scope.spawn(|| catalogue.add(&all).unwrap()));
        adders.map(|adder| adder.join().unwrap()).iter().sum()
    });
    assert_eq!(changed, all.len());
    assert_eq!(catalogue.list(), all);
}

#[derive(Debug, Clone)]
enum Step {
    Add(Vec<u64>),
    Retire(Vec<u64>),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let ids = || proptest::collection::vec(0..12u64, 0..6);
    prop_oneof![
        3 => ids().prop_map(Step::Add),
        3 => ids().prop_map(Step::Retire),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Protects the catalogue as a function of its log: whatever is done, in whatever order, and
    /// wherever it is opened again, it is the set that a plain one would be.
    #[test]
    fn it_is_a_set(steps in proptest::collection::vec(step(), 0..24)) {
        let log = log();
        let mut catalogue = open(&log);
        let mut model = std::collections::BTreeSet::new();
        for step in steps {
            let (changed, wanted) = match step {
                Step::Add(ids) => {
                    let resources: Vec<_> = ids.iter().copied().map(quest).collect();
                    let wanted = resources.iter().filter(|r| model.insert(**r)).count();
                    (catalogue.add(&resources).unwrap(), wanted)
                }
                Step::Retire(ids) => {
                    let resources: Vec<_> = ids.iter().copied().map(quest).collect();
                    let wanted = resources.iter().filter(|r| model.remove(*r)).count();
                    (catalogue.retire(&resources).unwrap(), wanted)
                }
                Step::Reopen => {
                    catalogue = open(&log);
                    (0, 0)
                }
            };
            prop_assert_eq!(changed, wanted);
            prop_assert_eq!(catalogue.list(), model.iter().copied().collect::<Vec<_>>());
            for id in 0..12 {
                prop_assert_eq!(catalogue.contains(quest(id)), model.contains(&quest(id)));
            }
        }
        prop_assert_eq!(catalogue.skipped(), 0);
    }
}

/// Protects requests from a catalogue that stands still unseen: where its log was cut or made anew
/// that is said for good, what was known stays known, and a change says why it is not visible.
#[test]
fn a_log_that_is_given_up_is_said_for_good() {
    let log = log();
    let catalogue = Catalogue::open_within(LIMITS, log.arc()).unwrap();
    assert_eq!(catalogue.add(&[quest(1)]).unwrap(), 1);
    assert_eq!(catalogue.failure(), None);
    log.cut(ReadError::OutOfRange {
        partition: PARTITION,
        wanted: 1,
        first: 0,
        head: 0,
    });
    let hidden = catalogue.add(&[quest(2)]).unwrap_err();
    assert!(matches!(
        hidden,
        CatalogueError::NotVisible { why: Some(_) }
    ));
    let failure = catalogue.failure().unwrap();
    assert!(failure.contains("offset 1"), "{failure}");
    assert!(catalogue.contains(quest(1)));
}
