//! Lives of the whole stack that end in crashes: in the midst of appends, checkpoints, changes of
//! keys, and of the recovery from an earlier crash.
//!
//! A history is a handful of lives on one disk. Each life opens everything, sees that all is as it
//! must be, does this and that, and ends: mostly in a power cut at some change to the disk, at times
//! in a kill or a clean stop with a power cut right behind it. Every history has its seed, and all
//! of it follows from that.

use std::fmt;
use std::io;
use std::path::Path;

use tally_domain::UserId;
use tally_log::simulation::{Chance, Op, SimDisk};

use super::events::Events;
use super::model::{KeysModel, LogModel, Wrong, compare};
use super::stack::{Stack, keys, log_dir, state_dir};

/// How many lives a history has.
const LIVES: usize = 10;

/// More is only counted.
const MAX_SHOWN: usize = 5;

/// Whose syncs are left out, to see that this is found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Without {
    /// The log's segments', once they are made.
    LogSync,
    /// The redo file's, and its folder's.
    RedoSync,
    /// The store's flushes.
    StoreFlush,
    /// The keys file's.
    KeysSync,
    /// Those of all folders.
    NameSync,
}

impl Without {
    fn forgets(self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match self {
            Self::LogSync => {
                path.starts_with(log_dir()) && path.extension().is_some_and(|end| end == "log")
            }
            Self::RedoSync => name == "redo.tmp" || path == state_dir(),
            Self::StoreFlush => name == "puts",
            Self::KeysSync => name.starts_with("keys.json"),
            Self::NameSync => !name.contains('.') && name != "puts" && name != "identity",
        }
    }
}

/// What was done, and what was found wrong.
#[derive(Debug, Default)]
pub struct Totals {
    /// Power cuts, each followed by a recovery that was looked at.
    pub points: u64,
    /// Of these, such in the midst of a recovery.
    pub in_recovery: u64,
    /// Kills and failures besides.
    pub kills: u64,
    /// Operations that were made to fail.
    pub faults: u64,
    /// Histories.
    pub histories: u64,
    /// Records acknowledged.
    pub acknowledged: u64,
    /// Records of unknown fate that were there.
    pub kept: u64,
    /// Records of unknown fate that were not.
    pub gone: u64,
    /// Checkpoints written.
    pub checkpoints: u64,
    /// How often the log and the state were compared with what they must be.
    pub looks: u64,
    /// States that were rebuilt although the log was whole and they were too.
    pub rebuilt: u64,
    /// Something acknowledged is gone.
    pub lost: u64,
    /// Something counts twice or comes from nowhere.
    pub doubled: u64,
    /// Half of an append is there.
    pub halves: u64,
    /// The state is another than the log's fold.
    pub other_states: u64,
    /// Something whole was refused.
    pub refusals: u64,
    /// The first of what was wrong, with the history's seed.
    pub shown: Vec<(u64, Wrong)>,
}

impl Totals {
    /// Whether nothing was wrong.
    #[must_use]
    pub fn is_right(&self) -> bool {
        let wrong = [
            self.lost,
            self.doubled,
            self.halves,
            self.other_states,
            self.refusals,
            self.rebuilt,
        ];
        wrong.iter().all(|count| *count == 0)
    }

    fn add(&mut self, seed: u64, wrong: Vec<Wrong>) {
        for wrong in wrong {
            *match &wrong {
                Wrong::Lost(_) => &mut self.lost,
                Wrong::Doubled(_) => &mut self.doubled,
                Wrong::Half(_) => &mut self.halves,
                Wrong::Refused(_) => &mut self.refusals,
                Wrong::OtherState(_) => &mut self.other_states,
                Wrong::Rebuilt => &mut self.rebuilt,
            } += 1;
            if self.shown.len() < MAX_SHOWN {
                self.shown.push((seed, wrong));
            }
        }
    }

    /// Adds what another run found.
    pub fn merge(&mut self, other: Self) {
        let sums = [
            (&mut self.points, other.points),
            (&mut self.in_recovery, other.in_recovery),
            (&mut self.kills, other.kills),
            (&mut self.faults, other.faults),
            (&mut self.histories, other.histories),
            (&mut self.acknowledged, other.acknowledged),
            (&mut self.kept, other.kept),
            (&mut self.gone, other.gone),
            (&mut self.checkpoints, other.checkpoints),
            (&mut self.looks, other.looks),
            (&mut self.rebuilt, other.rebuilt),
            (&mut self.lost, other.lost),
            (&mut self.doubled, other.doubled),
            (&mut self.halves, other.halves),
            (&mut self.other_states, other.other_states),
            (&mut self.refusals, other.refusals),
        ];
        for (sum, more) in sums {
            *sum += more;
        }
        self.shown.extend(other.shown);
        self.shown.truncate(MAX_SHOWN);
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} histories; {} crashes in the midst of a recovery; {} kills and clean ends, {} failed operations besides",
            grouped(self.histories),
            grouped(self.in_recovery),
            grouped(self.kills),
            grouped(self.faults)
        )?;
        writeln!(
            f,
            "{} records acknowledged; of unknown fate {} there and {} not; {} checkpoints; {} looks at everything",
            grouped(self.acknowledged),
            grouped(self.kept),
            grouped(self.gone),
            grouped(self.checkpoints),
            grouped(self.looks)
        )?;
        write!(
            f,
            "{} crash points: {} lost, {} doubled, {} halves, {} other states, {} rebuilt, {} refusals",
            grouped(self.points),
            self.lost,
            self.doubled,
            self.halves,
            self.other_states,
            self.rebuilt,
            self.refusals
        )
    }
}

/// A number with commas.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && place % 3 == first {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Histories with seeds from `seed` on, until there were so many crash points, or something was
/// wrong where `stop_at_wrong`.
#[must_use]
pub fn run(seed: u64, points: u64, without: Option<Without>, stop_at_wrong: bool) -> Totals {
    let mut totals = Totals::default();
    let mut seed = seed;
    while totals.points < points && (totals.is_right() || !stop_at_wrong) {
        History::new(seed, without).run(&mut totals);
        seed += 1;
    }
    totals
}

struct History {
    seed: u64,
    without: Option<Without>,
    chance: Chance,
    events: Events,
    log: LogModel,
    keys: KeysModel,
    disk: SimDisk,
}

/// How far a life came.
enum Came {
    /// Nothing was opened, or it was refused.
    NotOpen,
    /// It was opened and looked at.
    Lived,
}

impl History {
    fn new(seed: u64, without: Option<Without>) -> Self {
        Self {
            seed,
            without,
            chance: Chance::new(seed),
            events: Events::new(),
            log: LogModel::default(),
            keys: KeysModel::default(),
            disk: SimDisk::with_seed(seed),
        }
    }

    fn run(&mut self, totals: &mut Totals) {
        totals.histories += 1;
        let mut wrong = Vec::new();
        for _ in 0..LIVES {
            self.life(totals, &mut wrong);
            if !wrong.is_empty() {
                break;
            }
        }
        // Twice, since a recovery that changes what the next one finds is none.
        for _ in 0..2 {
            if wrong.is_empty() {
                self.prepare(None);
                match self.open(totals, &mut wrong) {
                    Some(stack) => drop(stack),
                    None => break,
                }
                self.disk = self.disk.after_kill();
            }
        }
        totals.acknowledged += self.log.acknowledged;
        totals.kept += self.log.kept;
        totals.gone += self.log.gone;
        totals.add(self.seed, wrong);
    }

    fn prepare(&self, crash_after: Option<usize>) {
        self.disk.be_quiet();
        if let Some(without) = self.without {
            self.disk.forget_syncs(move |path| without.forgets(path));
        }
        if let Some(changes) = crash_after {
            self.disk.crash_after(changes);
        }
    }

    fn life(&mut self, totals: &mut Totals, wrong: &mut Vec<Wrong>) {
        let within = [12, 40, 150][self.chance.below(3)];
        let crashes = !self.chance.one_in(6);
        self.prepare(crashes.then(|| self.chance.clone().below(within)));
        // Moves on as the clone did.
        let _ = self.chance.any();
        let came = match self.open(totals, wrong) {
            Some(stack) => {
                self.act(&stack, totals);
                if self.chance.one_in(4) {
                    stack.close(&self.disk);
                }
                Came::Lived
            }
            None => Came::NotOpen,
        };
        if !wrong.is_empty() {
            return;
        }
        if self.chance.one_in(6) && !self.disk.has_crashed() {
            totals.kills += 1;
            self.disk = self.disk.after_kill();
            return;
        }
        totals.points += 1;
        if matches!(came, Came::NotOpen) {
            totals.in_recovery += 1;
        }
        self.disk = self.disk.after_crash(self.chance.any());
    }

    /// Opens everything and sees that it is as it must be; `None` where the machine crashed before,
    /// or something is wrong.
    fn open(&mut self, totals: &mut Totals, wrong: &mut Vec<Wrong>) -> Option<Stack> {
        let before = wrong.len();
        let opened = match Stack::open(&self.disk) {
            Ok(stack) => Some(stack),
            Err(_) if self.disk.has_crashed() => None,
            Err(why) => {
                wrong.push(Wrong::Refused(why));
                None
            }
        };
        let stack = opened?;
        match (stack.contents(), stack.state()) {
            _ if self.disk.has_crashed() => return None,
            (Ok(contents), Ok(state)) => {
                self.log.look(&contents, wrong);
                compare(&contents, &state, wrong);
            }
            (contents, state) => {
                let why = format!("{:?}, {:?}", contents.err(), state.err());
                wrong.push(Wrong::Refused(why));
            }
        }
        match keys(&self.disk).list() {
            _ if self.disk.has_crashed() => return None,
            Ok(list) => self.keys.look(&list, wrong),
            Err(error) => wrong.push(Wrong::Refused(error.to_string())),
        }
        totals.looks += 1;
        if stack.rebuilds() > 0 {
            wrong.push(Wrong::Rebuilt);
        }
        (wrong.len() == before).then_some(stack)
    }

    /// This and that, until the machine crashes or it is enough.
    fn act(&mut self, stack: &Stack, totals: &mut Totals) {
        for _ in 0..self.chance.below(8) {
            if self.disk.has_crashed() {
                return;
            }
            match self.chance.below(16) {
                0..10 => {
                    if !self.append(stack) {
                        return;
                    }
                }
                10..13 => {
                    // What fails is made good by a later one, or by the next start.
                    if stack.catch_up().is_ok() && stack.checkpoint().is_ok() {
                        totals.checkpoints += 1;
                    }
                }
                13 => {
                    totals.faults += 1;
                    self.fail_once();
                }
                _ => self.change_keys(),
            }
        }
        self.disk.heal();
    }

    /// `false` where the log takes no more.
    fn append(&mut self, stack: &Stack) -> bool {
        let count = 1 + self.chance.below(4);
        let records: Vec<_> = (0..count)
            .map(|_| self.events.next(&mut self.chance))
            .collect();
        let values = records.iter().map(|r| (r.partition, r.value.clone()));
        let values = values.collect();
        match stack.append(records) {
            Some(results) => self.log.settle(values, results),
            None => return false,
        }
        true
    }

    /// One operation of some kind fails: the next one, or one a little later.
    fn fail_once(&mut self) {
        type Is = fn(&Op) -> bool;
        let kinds: [(Is, io::ErrorKind); 5] = [
            (
                |op| matches!(op, Op::Write { .. }),
                io::ErrorKind::StorageFull,
            ),
            (
                |op| matches!(op, Op::Create | Op::SetLen(_)),
                io::ErrorKind::StorageFull,
            ),
            (|op| matches!(op, Op::Sync), io::ErrorKind::Other),
            (
                |op| matches!(op, Op::Rename | Op::Remove),
                io::ErrorKind::Other,
            ),
            (
                |op| matches!(op, Op::SyncDir | Op::Write { .. }),
                io::ErrorKind::Other,
            ),
        ];
        let (is, kind) = kinds[self.chance.below(kinds.len())];
        let mut left = self.chance.below(3);
        let mut done = false;
        self.disk.set_fault(move |_, op| {
            if done || !is(&op) {
                return None;
            }
            done = left == 0;
            left = left.saturating_sub(1);
            done.then_some(kind)
        });
    }

    fn change_keys(&mut self) {
        let file = keys(&self.disk);
        let revoked = self.keys.holding().filter(|_| self.chance.one_in(3));
        if let Some(id) = revoked {
            let certainly = file.revoke(id).is_ok();
            self.keys.revoked(id, certainly);
        } else if self.keys.len() < 6 {
            let user = UserId::new("somebody").expect("a user");
            let made = file.create(&user);
            self.keys.created(made.ok().map(|created| created.info.id));
        }
    }
}
