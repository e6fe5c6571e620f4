//! Fuzzing on the stable compiler: a target is a function over bytes that panics where a promise is
//! broken, and lives as a test named `fuzz` beside the code whose bytes it reads. This crate gives it
//! inputs: the committed corpus as it stands, then mutations of it, the same for the same seed.
//!
//! A target returns which *way* its input went (which answer, which error). There is no coverage on
//! stable; instead the loop keeps inputs that went a new way and mutates those too.
//!
//! | variable | what |
//! |---|---|
//! | `FUZZ_SECONDS` | how long each target runs, instead of a number of executions |
//! | `FUZZ_RUNS` | how many executions each target has, instead of 2,000 |
//! | `FUZZ_SEED` | another seed, instead of 1 |
//!
//! A finding is made smaller, written below `target/fuzz/`, and fails the test. It becomes a file of
//! the corpus, which every later run executes first.

mod mutate;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt::Display;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Once;
use std::time::{Duration, Instant};

use mutate::{Chance, mutated};

/// Executions of a target where nothing else is said: enough for `cargo test`.
const RUNS: u64 = 2_000;
/// The most inputs that are kept besides the corpus.
const KEPT: usize = 4_096;
/// The most findings before a run ends.
const FINDINGS: usize = 5;
/// How often a finding is tried smaller.
const SMALLER: usize = 2_000;
/// One execution that takes longer is a finding, even on a machine that is busy with others.
const SLOW: Duration = Duration::from_secs(10);
/// How often the clock is looked at, in executions.
const LOOK_EVERY: u64 = 16;

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Which way an input went, from what was said about it: numbers and what stands in quotes differ
/// from input to input, the words do not.
#[must_use]
pub fn way(said: impl Display) -> u64 {
    let said = said.to_string();
    let mut hasher = DefaultHasher::new();
    for part in said.split(['"', '`']).step_by(2) {
        for char in part.chars().filter(|char| !char.is_ascii_digit()) {
            char.hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// Runs a target over its corpus `corpus/<name>/` and over mutations of it, within bounds, and
/// prints the closing line. `words` are worth putting into an input.
///
/// # Panics
/// Where there is a finding, or no corpus.
pub fn fuzz(name: &str, words: &[&str], target: impl Fn(&[u8]) -> u64) {
    quiet_inside();
    let corpus = corpus(name);
    let longest = corpus.iter().map(Vec::len).max().unwrap_or_default();
    let bounds = Bounds::from_environment();
    let mut run = Run {
        name,
        target: &target,
        started: Instant::now(),
        executions: 0,
        ways: HashSet::new(),
        findings: Vec::new(),
    };
    for input in &corpus {
        run.execute(input);
    }
    let (mut chance, mut kept) = (Chance::new(bounds.seed, name), Vec::new());
    while run.findings.len() < FINDINGS && !bounds.reached(&run) {
        let input = mutated(&mut chance, &corpus, &kept, words, 2 * longest + 1_024);
        if run.execute(&input) && kept.len() < KEPT {
            kept.push(input);
        }
    }
    run.close(bounds.seed);
}

/// The committed inputs of a target.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    let entries = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("no corpus {}: {error}", folder.display()));
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("an entry of the corpus").path())
        .collect();
    // In the same order everywhere, for the same seed gives the same run.
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    let read = |path: &PathBuf| {
        fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    paths.iter().map(read).collect()
}

/// When a run ends.
struct Bounds {
    time: Option<Duration>,
    runs: Option<u64>,
    seed: u64,
}

impl Bounds {
    fn from_environment() -> Self {
        let time = variable::<f64>("FUZZ_SECONDS").map(Duration::from_secs_f64);
        let runs = variable("FUZZ_RUNS");
        Self {
            runs: runs.or(time.is_none().then_some(RUNS)),
            time,
            seed: variable("FUZZ_SEED").unwrap_or(1),
        }
    }

    fn reached<T>(&self, run: &Run<'_, T>) -> bool {
        self.runs.is_some_and(|runs| run.executions >= runs)
            || self.time.is_some_and(|time| {
                run.executions.is_multiple_of(LOOK_EVERY) && run.started.elapsed() >= time
            })
    }
}

fn variable<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    let value = text.parse().ok();
    Some(value.unwrap_or_else(|| panic!("{name} is {text:?}, and should be a number")))
}

/// A run so far.
struct Run<'a, T> {
    name: &'a str,
    target: &'a T,
    started: Instant,
    executions: u64,
    ways: HashSet<u64>,
    findings: Vec<String>,
}

impl<T: Fn(&[u8]) -> u64> Run<'_, T> {
    /// Whether the input went a way that none went before.
    fn execute(&mut self, input: &[u8]) -> bool {
        self.executions += 1;
        let started = Instant::now();
        let went = attempt(self.target, input);
        let took = started.elapsed();
        match went {
            Ok(_) if took > SLOW => {
                self.found(input, &format!("took {took:?}"));
                false
            }
            Ok(way) => self.ways.insert(way),
            Err(said) => {
                self.found(input, &said);
                false
            }
        }
    }

    fn found(&mut self, input: &[u8], said: &str) {
        let small = smaller(self.target, input);
        let path = keep(self.name, &small);
        let said = format!("{said}\n  input: {path}");
        println!("fuzz {}: {said}", self.name);
        self.findings.push(said);
    }

    fn close(self, seed: u64) {
        let seconds = self.started.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "it is shown in whole numbers")]
        let rate = self.executions as f64 / seconds.max(1e-9);
        println!(
            "fuzz {}: {} executions in {seconds:.1} s, {rate:.0}/s, {} ways, {} findings, seed {seed}",
            self.name,
            self.executions,
            self.ways.len(),
            self.findings.len()
        );
        assert!(
            self.findings.is_empty(),
            "{} findings of {}; each becomes a file in tests/fuzz/corpus/{}/:\n{}",
            self.findings.len(),
            self.name,
            self.name,
            self.findings.join("\n")
        );
    }
}

/// The way, or what the panic said.
fn attempt(target: &impl Fn(&[u8]) -> u64, input: &[u8]) -> Result<u64, String> {
    INSIDE.set(true);
    let went = catch_unwind(AssertUnwindSafe(|| target(input)));
    INSIDE.set(false);
    went.map_err(|panic: Box<dyn Any + Send>| {
        drop(panic);
        SAID.take()
    })
}

/// Panics of targets are told by their findings, once; of everything else as always.
fn quiet_inside() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if INSIDE.get() {
                SAID.set(panic.to_string());
            } else {
                before(panic);
            }
        }));
    });
}

/// An input that still panics, with less in it.
fn smaller(target: &impl Fn(&[u8]) -> u64, input: &[u8]) -> Vec<u8> {
    let (mut best, mut tries) = (input.to_vec(), 0);
    let mut size = best.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < best.len() {
            if tries == SMALLER {
                return best;
            }
            tries += 1;
            let mut less = best.clone();
            less.drain(at..(at + size).min(best.len()));
            if attempt(target, &less).is_err() {
                best = less;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    best
}

/// Writes a finding where builds go, and says where.
fn keep(name: &str, input: &[u8]) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../target/fuzz")
        .join(name);
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let path = folder.join(format!("{:016x}", hasher.finish()));
    let written = fs::create_dir_all(&folder).and_then(|()| fs::write(&path, input));
    match written {
        Ok(()) => path.display().to_string(),
        Err(error) => format!("can't be written ({error}): {input:?}"),
    }
}

#[cfg(test)]
mod tests;
