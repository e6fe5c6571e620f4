//! What came of damages, counted.

use std::collections::BTreeMap;
use std::fmt;

use super::crash_points::grouped;

/// What is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Of {
    /// A file of the log.
    Log,
    /// The redo file.
    Redo,
    /// A file of sled.
    Sled,
    /// The keys file.
    Keys,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The start is refused, and says which file.
    RefusedAtOpen,
    /// It was opened, and reading gives an error that says which file; of a state, the next start
    /// rebuilt it.
    FoundOnRead,
    /// What stood behind the end was cut off, and nothing that was acknowledged.
    CutAsTorn,
    /// The end of a log that was killed, which was newer than its state, was cut off, and told.
    EndOfKilledLogCut,
    /// The same end is gone, and no file says that it was ever there.
    EndOfKilledLogGone,
    /// The state was set aside and is folded again.
    Rebuilt,
    /// What is damaged is of no use, or was not changed by it.
    NoDifference,
    /// Something else than it was is given out as true.
    SilentWrongAnswer,
    /// An error that does not say which file, or nothing of use.
    Unnamed,
    /// A state was found damaged, and the next start did not rebuild it.
    NotRebuilt,
}

impl Verdict {
    /// Whether no damage may come to that.
    #[must_use]
    pub fn is_bad(self) -> bool {
        match self {
            Self::SilentWrongAnswer | Self::Unnamed | Self::NotRebuilt => true,
            Self::RefusedAtOpen
            | Self::FoundOnRead
            | Self::CutAsTorn
            | Self::EndOfKilledLogCut
            | Self::EndOfKilledLogGone
            | Self::Rebuilt
            | Self::NoDifference => false,
        }
    }
}

/// How often what came of what.
#[derive(Debug, Default)]
pub struct Counts {
    /// By what was damaged and what came of it.
    pub by: BTreeMap<(Of, Verdict), u64>,
    /// Some of those that must not be: seed and case.
    pub bad: Vec<String>,
}

impl Counts {
    /// How many cases.
    #[must_use]
    pub fn cases(&self) -> u64 {
        self.by.values().sum()
    }

    /// How many had that verdict.
    #[must_use]
    pub fn of(&self, verdict: Verdict) -> u64 {
        let all = self.by.iter().filter(|((_, is), _)| *is == verdict);
        all.map(|(_, count)| count).sum()
    }

    /// Whether nothing was silent, every error says where, and what was found was rebuilt.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.bad.is_empty()
    }

    /// Adds what another run counted.
    pub fn merge(&mut self, other: Self) {
        for (key, count) in other.by {
            *self.by.entry(key).or_default() += count;
        }
        self.bad.extend(other.bad);
        self.bad.truncate(10);
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((of, verdict), count) in &self.by {
            let of = format!("{of:?}").to_lowercase();
            writeln!(f, "{of:6} {:22} {:>9}", words(*verdict), grouped(*count))?;
        }
        write!(
            f,
            "{} damages: {} silent wrong answers, {} unnamed, {} not rebuilt",
            grouped(self.cases()),
            self.of(Verdict::SilentWrongAnswer),
            self.of(Verdict::Unnamed),
            self.of(Verdict::NotRebuilt)
        )
    }
}

fn words(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::RefusedAtOpen => "refused at open",
        Verdict::FoundOnRead => "found on read",
        Verdict::CutAsTorn => "cut as torn",
        Verdict::EndOfKilledLogCut => "end of killed log cut",
        Verdict::EndOfKilledLogGone => "end of killed log gone",
        Verdict::Rebuilt => "rebuilt",
        Verdict::NoDifference => "no difference",
        Verdict::SilentWrongAnswer => "SILENT WRONG ANSWER",
        Verdict::Unnamed => "UNNAMED",
        Verdict::NotRebuilt => "NOT REBUILT",
    }
}
