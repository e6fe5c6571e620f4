//! The CPU time of this process's threads, as the system counts it.

use std::collections::BTreeMap;
use std::fs;

/// The clock ticks of a second: on every Linux there is, for programs at least.
const TICKS: f64 = 100.;
/// Threads with less of the whole are not worth a word.
const WORTH: f64 = 0.005;

/// Ticks of each thread that lives, with its name.
pub(crate) struct Threads(BTreeMap<String, (String, u32)>);

impl Threads {
    pub(crate) fn now() -> Self {
        let tasks = fs::read_dir("/proc/self/task").into_iter().flatten();
        let one = |task: fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat")).ok()?;
            // The name stands in parentheses and may have anything in it.
            let (start, rest) = stat.rsplit_once(") ")?;
            let name = start.split_once('(')?.1.to_owned();
            let field = |at| rest.split(' ').nth(at)?.parse::<u32>().ok();
            let ticks = field(11)? + field(12)?;
            Some((task.file_name().into_string().ok()?, (name, ticks)))
        };
        Self(tasks.flatten().filter_map(one).collect())
    }

    /// What each thread used since `before`, in microseconds for each of `records`, those of a name
    /// together, the greatest first; as one line.
    pub(crate) fn since(&self, before: &Self, records: f64) -> String {
        let mut by_name: BTreeMap<&str, u32> = BTreeMap::new();
        for (thread, (name, ticks)) in &self.0 {
            let had = before.0.get(thread).map_or(0, |(_, ticks)| *ticks);
            *by_name.entry(name).or_default() += ticks.saturating_sub(had);
        }
        let all: u32 = by_name.values().sum();
        let micros = |ticks: u32| f64::from(ticks) / TICKS * 1e6 / records;
        let mut sorted: Vec<_> = by_name.into_iter().collect();
        sorted.sort_unstable_by_key(|(_, ticks)| std::cmp::Reverse(*ticks));
        sorted.retain(|(_, ticks)| f64::from(*ticks) >= f64::from(all) * WORTH && *ticks > 0);
        let words: Vec<String> = sorted
            .into_iter()
            .map(|(name, ticks)| {
                let share = 100. * f64::from(ticks) / f64::from(all);
                format!("{name} {:.2} ({share:.0} %)", micros(ticks))
            })
            .collect();
        format!("CPU µs a record {:.2}: {}", micros(all), words.join(", "))
    }
}
