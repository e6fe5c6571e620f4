//! One damage after the other to files at rest: of the log, the redo file, sled, the keys file.
//!
//! Each case takes one of a few small folders, damages one file of it, opens it, and looks at all
//! that it then says. What it says must be as it was, or it must be an error; the verdicts are
//! counted. One loss can't be found in any file: the end of a log that was killed, where neither a
//! later group nor the state says that it was ever synced. What is left of it is cut off and told;
//! where nothing is left, it is as if it had never been written.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prometheus::Registry;
use tally_domain::UserId;
use tally_ingress::auth::KeyInfo;
use tally_log::embedded::{EmbeddedLog, OpenError};
use tally_log::simulation::{Chance, SimDisk};
use tally_log::storage::RealStorage;
use tally_log::{EventLog, LogMetrics};
use tally_projector::{Projector, StateDump, StateError};

use super::events::Events;
use super::model::{Wrong, compare};
use super::stack::{
    Contents, Stack, counted, keys, keys_path, log_dir, log_options, projector_options, read_all,
    state_dir, with_causes,
};
pub use super::verdicts::{Counts, Of, Verdict};

/// Folders at rest, and what they hold.
struct Bases {
    /// Closed; killed; killed in the midst of a checkpoint.
    closed: Base,
    killed: Base,
    redo: Base,
    keys: Vec<KeyInfo>,
    /// The log of the state in sled, open, and sled's folder.
    log: Arc<dyn EventLog>,
    contents: Contents,
    sled: Vec<(PathBuf, Vec<u8>)>,
}

struct Base {
    disk: SimDisk,
    contents: Contents,
    killed: bool,
}

/// So many records, in appends of a few, with checkpoints between.
fn filled(seed: u64, appends: usize) -> (SimDisk, Stack) {
    let disk = SimDisk::default();
    disk.be_quiet();
    let (mut chance, mut events) = (Chance::new(seed), Events::new());
    let stack = Stack::open(&disk).expect("a new folder");
    for number in 0..appends {
        let count = 1 + chance.below(3);
        let records = (0..count).map(|_| events.next(&mut chance)).collect();
        let results = stack.append(records).expect("it is open");
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        if number == appends / 2 {
            stack.catch_up().expect("it folds");
            stack.checkpoint().expect("a checkpoint");
        }
    }
    stack.catch_up().expect("it folds");
    (disk, stack)
}

fn base(seed: u64, end: impl FnOnce(&SimDisk, &Stack), killed: bool) -> Base {
    let (disk, stack) = filled(seed, 60);
    let contents = stack.contents().expect("a sound log");
    end(&disk, &stack);
    drop(stack);
    Base {
        disk: disk.copy(),
        contents,
        killed,
    }
}

/// Killed when the redo file stood under its name and some of it was in the store.
fn with_redo(seed: u64) -> Base {
    (1..)
        .map(|changes| {
            let cut = |disk: &SimDisk, stack: &Stack| {
                disk.crash_after(changes);
                let _ = stack.checkpoint();
            };
            base(seed, cut, true)
        })
        .find(|base| base.disk.files().contains(&state_dir().join("redo")))
        .expect("a checkpoint has a redo file")
}

fn files_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files_below(&path, found);
        } else {
            found.push(path);
        }
    }
}

impl Bases {
    fn new(seed: u64) -> Self {
        let closed = base(seed, |disk, stack| stack.close(disk), false);
        let killed = base(seed + 1, |_, _| {}, true);
        let made = keys(&closed.disk);
        let user = |number: u64| UserId::new(format!("user-{number}")).expect("a user");
        let all: Vec<UserId> = (0..4).map(user).collect();
        let created = made.create_all(&all).expect("keys");
        made.revoke(created[1].info.id).expect("a key");
        let (disk, stack) = filled(seed + 2, 60);
        stack.close(&disk);
        drop(stack);
        let log = open_log(&disk).expect("a sound log");
        let contents = read_all(log.as_ref()).expect("a sound log");
        let folder = tempfile::tempdir().expect("a folder");
        let projector = on_sled(&log, folder.path(), &Registry::new()).expect("a new state");
        // A clean stop waits until all is folded, and writes it down.
        projector
            .stop(std::time::Duration::from_secs(60))
            .expect("a clean stop");
        drop(projector);
        let mut paths = Vec::new();
        files_below(folder.path(), &mut paths);
        let read = |path: &PathBuf| {
            let below = path.strip_prefix(folder.path()).expect("below it");
            (below.to_owned(), fs::read(path).expect("a file"))
        };
        Self {
            keys: made.list().expect("keys"),
            redo: with_redo(seed + 3),
            closed,
            killed,
            log,
            contents,
            sled: paths.iter().map(read).collect(),
        }
    }
}

fn open_log(disk: &SimDisk) -> Result<Arc<dyn EventLog>, OpenError> {
    let metrics = LogMetrics::unregistered().expect("valid names");
    let storage = Arc::new(disk.clone());
    let opened = EmbeddedLog::open(storage, log_dir(), "log", log_options(), &metrics)?;
    Ok(Arc::new(opened.0))
}

fn on_sled(
    log: &Arc<dyn EventLog>,
    dir: &Path,
    registry: &Registry,
) -> Result<Projector, tally_projector::OpenError> {
    let options = projector_options();
    Projector::open(
        Arc::clone(log),
        Arc::new(RealStorage),
        dir,
        options,
        registry,
    )
}

/// Damages bytes; `others` are contents of other files, to swap with.
fn damage(bytes: &mut Vec<u8>, others: &[Vec<u8>], chance: &mut Chance) -> String {
    let len = bytes.len();
    let at = chance.below(len.max(1));
    let short = 1 + chance.below(64);
    let to = (at + short).min(len);
    match chance.below(8) {
        0 | 1 if len > 0 => {
            bytes[at] ^= 1 << chance.below(8);
            format!("a bit flipped at {at}")
        }
        2 if len > 0 => {
            bytes[at..to].fill(0);
            format!("{at}..{to} zeroed")
        }
        3 => {
            bytes.truncate(at);
            format!("cut off at {at}")
        }
        4 if len > 0 => {
            let again = bytes[at..to].to_vec();
            bytes.splice(at..at, again);
            format!("{at}..{to} twice")
        }
        5 if len > 0 => {
            let from = chance.below(len);
            let part = bytes[from..(from + short).min(len)].to_vec();
            let end = (at + part.len()).min(len);
            bytes[at..end].copy_from_slice(&part[..end - at]);
            format!("{at}..{end} overwritten with what stands at {from}")
        }
        6 if !others.is_empty() => {
            let other = &others[chance.below(others.len())];
            if chance.one_in(2) || len == 0 {
                bytes.clone_from(other);
                return "replaced by another file".to_owned();
            }
            let end = to.min(other.len()).max(at);
            if at < other.len() {
                bytes[at..end].copy_from_slice(&other[at..end]);
            }
            format!("{at}..{end} of another file")
        }
        _ => {
            for byte in &mut bytes[at.min(len)..to] {
                *byte = u8::try_from(chance.below(256)).expect("a byte");
            }
            format!("{at}..{to} garbage")
        }
    }
}

/// One case of a run.
struct Case<'a> {
    bases: &'a Bases,
    chance: Chance,
}

impl Case<'_> {
    /// Damages one of the files of a disk; which, and how.
    fn hit(&mut self, disk: &SimDisk, files: &[PathBuf]) -> (PathBuf, String) {
        let file = files[self.chance.below(files.len())].clone();
        let others: Vec<_> = files
            .iter()
            .filter(|other| **other != file)
            .map(|other| disk.bytes(other))
            .collect();
        if files.len() > 1 && self.chance.one_in(40) {
            disk.delete(&file);
            return (file, "removed".to_owned());
        }
        let mut how = String::new();
        let chance = &mut self.chance;
        disk.edit(&file, |bytes| how = damage(bytes, &others, chance));
        (file, how)
    }

    fn log(&mut self) -> (Verdict, String) {
        let base = match self.chance.below(2) {
            0 => &self.bases.closed,
            _ => &self.bases.killed,
        };
        let disk = base.disk.copy();
        let mut files = disk.files();
        files.retain(|file| file.starts_with(log_dir()));
        let (file, how) = self.hit(&disk, &files);
        let what = format!("{}: {how}", file.display());
        let (verdict, why) = log_verdict(base, &disk);
        (verdict, format!("{what}: {why}"))
    }

    fn redo(&mut self) -> (Verdict, String) {
        let base = &self.bases.redo;
        let disk = base.disk.copy();
        let (_, how) = self.hit(&disk, &[state_dir().join("redo")]);
        let start = || {
            let stack = Stack::open(&disk)?;
            Ok((stack.state(), stack.rebuilds()))
        };
        let (verdict, why) = state_verdicts(&base.contents, start);
        (verdict, format!("redo: {how}{why}"))
    }

    fn keys(&mut self) -> (Verdict, String) {
        let disk = self.bases.closed.disk.copy();
        let (_, how) = self.hit(&disk, &[keys_path()]);
        match keys(&disk).list() {
            Ok(list) if list == self.bases.keys => (Verdict::NoDifference, how),
            Ok(list) => (Verdict::SilentWrongAnswer, format!("keys: {how}: {list:?}")),
            Err(error) => {
                let why = error.to_string();
                let named = why.contains(&keys_path().display().to_string());
                let verdict = if named {
                    Verdict::RefusedAtOpen
                } else {
                    Verdict::Unnamed
                };
                (verdict, format!("keys: {how}: {why}"))
            }
        }
    }

    fn sled(&mut self) -> (Verdict, String) {
        let folder = tempfile::tempdir().expect("a folder");
        let hit = self.chance.below(self.bases.sled.len());
        let mut what = String::new();
        for (number, (path, bytes)) in self.bases.sled.iter().enumerate() {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            let mut bytes = bytes.clone();
            if number == hit {
                let how = damage(&mut bytes, &[], &mut self.chance);
                what = format!("{}: {how}", path.display());
            }
            fs::write(&path, bytes).expect("a file");
        }
        let start = || {
            let registry = Registry::new();
            let projector = on_sled(&self.bases.log, folder.path(), &registry);
            let said = caught_up(&projector.map_err(|error| with_causes(&error))?);
            Ok((said, counted(&registry, "tally_projector_rebuilds_total")))
        };
        let (verdict, why) = state_verdicts(&self.bases.contents, start);
        (verdict, format!("{what}{why}"))
    }
}

/// What the state is once all is folded.
fn caught_up(projector: &Projector) -> Result<StateDump, StateError> {
    for (partition, head) in (0..).zip(projector.log().head().expect("a head")) {
        if let Some(offset) = head.checked_sub(1) {
            let position = tally_domain::Position { partition, offset };
            let mailbox = tally_projector::Mailbox::direct();
            let applied = projector.wait_for_position(position, &mailbox);
            if applied.expect("few wait").blocking_recv().is_err() {
                let failure = projector.status().failure;
                return Err(StateError::Failed(failure.unwrap_or_default()));
            }
        }
    }
    projector.dump()
}

fn log_verdict(base: &Base, disk: &SimDisk) -> (Verdict, String) {
    let stack = match Stack::open(disk) {
        Ok(stack) => stack,
        Err(why) => {
            // A file, or what the state misses in the log; and what to do.
            let named = why.contains(&log_dir().display().to_string()) || why.contains("partition");
            let useful = ["estore", "use ", "Set "]
                .iter()
                .any(|word| why.contains(word));
            let verdict = if named && useful {
                Verdict::RefusedAtOpen
            } else {
                Verdict::Unnamed
            };
            return (verdict, why);
        }
    };
    let told = stack.cut_bytes() > 0;
    match stack.contents() {
        Ok(found) if found == base.contents => {
            match (
                state_verdict(&found, &stack.state(), stack.rebuilds()),
                told,
            ) {
                (Verdict::NoDifference, true) => (Verdict::CutAsTorn, String::new()),
                // The log reads well, so that the state is of no damage.
                (Verdict::FoundOnRead, _) => (Verdict::NotRebuilt, String::new()),
                (other, _) => (other, String::new()),
            }
        }
        Ok(found) => {
            let why = format!("{} of {} records", found.len(), base.contents.len());
            let all_were = found.iter().all(|record| base.contents.contains(record));
            let verdict = match (base.killed && all_were && at_the_end(base, &found), told) {
                (true, true) => Verdict::EndOfKilledLogCut,
                (true, false) => Verdict::EndOfKilledLogGone,
                (false, _) => Verdict::SilentWrongAnswer,
            };
            (verdict, format!("{why}, cut told: {told}"))
        }
        Err(error) => {
            let why = error.to_string();
            let verdict = if why.contains(".log, byte") || why.contains("partition") {
                Verdict::FoundOnRead
            } else {
                Verdict::Unnamed
            };
            (verdict, why)
        }
    }
}

/// Whether of each partition only the newest records are missing.
fn at_the_end(base: &Base, found: &Contents) -> bool {
    base.contents.iter().all(|(position, _)| {
        let there = found.iter().any(|(p, _)| p == position);
        let later = |p: &tally_domain::Position| {
            p.partition == position.partition && p.offset > position.offset
        };
        there || !found.iter().any(|(p, _)| later(p))
    })
}

fn state_verdict(
    contents: &Contents,
    said: &Result<StateDump, StateError>,
    rebuilds: u64,
) -> Verdict {
    let Ok(state) = said else {
        return Verdict::FoundOnRead;
    };
    let mut wrong: Vec<Wrong> = Vec::new();
    compare(contents, state, &mut wrong);
    match (wrong.is_empty(), rebuilds) {
        (false, _) => Verdict::SilentWrongAnswer,
        (true, 0) => Verdict::NoDifference,
        (true, _) => Verdict::Rebuilt,
    }
}

/// What a state says at one start and how often it was rebuilt by it, or why there is no start.
type Said = Result<(Result<StateDump, StateError>, u64), String>;

/// What came of a state: where it was found damaged while it was read, the next start has rebuilt
/// it. Each call of `start` is one.
fn state_verdicts(contents: &Contents, mut start: impl FnMut() -> Said) -> (Verdict, String) {
    let mut next = || match start() {
        Ok((said, rebuilds)) => {
            let why = said.as_ref().err().map(|error| with_causes(error));
            let verdict = state_verdict(contents, &said, rebuilds);
            (
                verdict,
                why.map_or_else(String::new, |why| format!(": {why}")),
            )
        }
        Err(why) => (Verdict::Unnamed, format!(": {why}")),
    };
    let (verdict, found) = next();
    if verdict != Verdict::FoundOnRead {
        return (verdict, found);
    }
    let (verdict, again) = next();
    let verdict = match verdict {
        Verdict::Rebuilt => Verdict::FoundOnRead,
        bad if bad.is_bad() => bad,
        _ => Verdict::NotRebuilt,
    };
    (verdict, format!("{found}, then{again}"))
}

/// So many damages, with seeds from `seed` on.
#[must_use]
pub fn run(seed: u64, cases: u64) -> Counts {
    let bases = Bases::new(seed);
    let mut counts = Counts::default();
    for number in 0..cases {
        let seed = seed.wrapping_add(number);
        let mut case = Case {
            bases: &bases,
            chance: Chance::new(seed),
        };
        let (of, (verdict, what)) = match number % 8 {
            0..4 => (Of::Log, case.log()),
            4 => (Of::Redo, case.redo()),
            5 | 6 => (Of::Sled, case.sled()),
            _ => (Of::Keys, case.keys()),
        };
        *counts.by.entry((of, verdict)).or_default() += 1;
        if verdict.is_bad() && counts.bad.len() < 10 {
            counts.bad.push(format!("seed {seed}: {verdict:?}: {what}"));
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects the verdicts themselves: damage that is found at every start and never rebuilt, or
    /// gone without a rebuild, is not good.
    #[test]
    fn what_is_found_is_rebuilt_by_the_next_start() {
        let disk = SimDisk::default();
        let stack = Stack::open(&disk).expect("a new folder");
        let contents = stack.contents().expect("an empty log");
        let state = || stack.state().expect("an empty state");
        let of = |starts: Vec<Said>| {
            let mut starts = starts.into_iter();
            let verdict = state_verdicts(&contents, || starts.next().expect("a start")).0;
            (verdict, starts.count())
        };
        let found = || Ok((Err(StateError::Damaged("a value".to_owned())), 0));
        let refused = || Err("no start".to_owned());
        let cases: [(Vec<Said>, Verdict); 7] = [
            (vec![Ok((Ok(state()), 0))], Verdict::NoDifference),
            (vec![Ok((Ok(state()), 1))], Verdict::Rebuilt),
            (vec![refused()], Verdict::Unnamed),
            (vec![found(), Ok((Ok(state()), 1))], Verdict::FoundOnRead),
            (vec![found(), Ok((Ok(state()), 0))], Verdict::NotRebuilt),
            (vec![found(), found()], Verdict::NotRebuilt),
            (vec![found(), refused()], Verdict::Unnamed),
        ];
        for (starts, wanted) in cases {
            let said = format!("{starts:?}");
            assert_eq!(of(starts), (wanted, 0), "{said}");
        }
    }
}
