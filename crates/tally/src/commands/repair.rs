//! `tally log repair`: what is left of a damaged log, and what is given up for it.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tally_domain::EventTime;
use tally_ingress::management::admin::{CATALOGUE, INTERACTIONS};
use tally_log::embedded::{self, Cut};
use tally_log::storage::{RealStorage, Storage as _};

use super::folder;
use crate::config::{Config, LogKind};
use crate::data_dir::Access;
use crate::failure::Failure;
use crate::output;

/// Where to cut.
#[derive(Debug, clap::Args)]
pub(crate) struct RepairArgs {
    /// The place from which on everything is given up, as `tally log check` prints it
    #[arg(long, value_name = "FILE:BYTE")]
    cut_at: Place,
    /// Do it; without this it only says what would be given up
    #[arg(long)]
    yes: bool,
}

/// A byte of a segment's file.
#[derive(Debug, Clone)]
struct Place {
    file: PathBuf,
    byte: u64,
}

impl FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.rsplit_once(':');
        let place = parts.and_then(|(file, byte)| {
            Some(Self {
                file: PathBuf::from(file),
                byte: byte.parse().ok()?,
            })
        });
        place.ok_or("not FILE:BYTE, as in log/00000000000000000003.log:18432")
    }
}

impl Place {
    /// The log's folder in the data folder, and its name; a file alone is one of the interactions.
    fn log(&self) -> Result<(&'static str, &'static str), Failure> {
        let folder = self.file.parent().and_then(Path::file_name);
        match folder.map(|name| name.to_string_lossy()).as_deref() {
            None | Some("log") => Ok(("log", INTERACTIONS)),
            Some("catalogue") => Ok(("catalogue", CATALOGUE)),
            Some(_) => Err(Failure::Usage(format!(
                "{} is in neither of the folders log and catalogue; `tally log check` prints places",
                self.file.display()
            ))),
        }
    }

    /// Refuses a file that is named with its folder, where that is another one than `dir`. A name like
    /// `log/00000000000000000003.log` is one in the data folder.
    fn must_be_in(&self, dir: &Path) -> Result<(), Failure> {
        let Some(folder) = self
            .file
            .parent()
            .filter(|f| f.components().nth(1).is_some())
        else {
            return Ok(());
        };
        let same = RealStorage
            .resolve(folder)
            .ok()
            .zip(RealStorage.resolve(dir).ok());
        if same.is_some_and(|(folder, dir)| folder == dir) {
            return Ok(());
        }
        Err(Failure::Usage(format!(
            "{} is not in {}, the folder of the log that would be cut (setting data_dir)",
            self.file.display(),
            dir.display()
        )))
    }
}

/// What was done, or would be.
#[derive(Serialize)]
struct RepairLine {
    log: &'static str,
    done: bool,
    file: PathBuf,
    byte: u64,
    later_files: u64,
    /// Records given up that can be read.
    records: u64,
    /// Partitions that lose records, and the next offsets of all: after the cut, and before it.
    partitions: usize,
    next_offsets: Vec<(u64, u64)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    appended_from: Option<EventTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    appended_to: Option<EventTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept_in: Option<PathBuf>,
}

impl RepairLine {
    fn of(log: &'static str, cut: Cut) -> Self {
        let time = EventTime::from_millis;
        Self {
            log,
            done: cut.aside.is_some(),
            partitions: cut.partitions(),
            file: cut.file,
            byte: cut.byte,
            later_files: cut.later_files,
            records: cut.records,
            next_offsets: cut.next_offsets,
            appended_from: cut.times.map(|(first, _)| time(first)),
            appended_to: cut.times.map(|(_, last)| time(last)),
            kept_in: cut.aside,
        }
    }
}

/// Says what a cut gives up, and makes it where it is told to.
pub(crate) fn run(args: &RepairArgs, config: &Config) -> Result<(), Failure> {
    if config.log.kind == LogKind::Kafka {
        let what = "only a log in files can be cut; this one is on Kafka (setting log.kind)";
        return Err(Failure::Usage(what.to_owned()));
    }
    let (folder, log) = args.cut_at.log()?;
    let held = match folder::existing(config)? {
        Access::Held(held) => held,
        Access::Server(server) => {
            return Err(Failure::run(format!(
                "a server holds the data folder (pid {}); stop it first",
                server.pid
            )));
        }
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_secs());
    let aside = held.path().join(format!("cut-{now}"));
    let place = (args.cut_at.file.as_path(), args.cut_at.byte);
    let aside = args.yes.then_some(aside);
    let dir = held.path().join(folder);
    args.cut_at.must_be_in(&dir)?;
    let cut = embedded::repair(&RealStorage, &dir, place, aside.as_deref());
    let cut = cut.map_err(Failure::of)?;
    let refolds = cut.whole_from_the_beginning && log == INTERACTIONS;
    output::json(&RepairLine::of(log, cut))?;
    let Some(aside) = aside else {
        return Err(Failure::Usage(
            "nothing was changed: with --yes everything behind that place is given up; without it, restore the file from a backup"
                .to_owned(),
        ));
    };
    // It may be ahead of the log now, which every start would refuse.
    let state = held.path().join("state");
    if refolds && state.is_dir() {
        let moved = RealStorage.rename(&state, &aside.join("state"));
        let moved = moved.and_then(|()| RealStorage.sync_dir(held.path()));
        moved.map_err(|error| {
            Failure::run(format!(
                "the log is cut, but the state can't be moved away ({error}): move {} away, so that it is folded again",
                state.display()
            ))
        })?;
    }
    Ok(())
}
