//! Who holds the data folder, and how a command reaches what is in it.
//!
//! `<data_dir>/lock` is locked by whoever works on the folder, and has that process's id as text.
//! While it is a server, `<data_dir>/server.json` says where to ask it. A killed server leaves
//! both files behind; the lock itself goes with the process, so they mean nothing then.
//!
//! While `<data_dir>/restoring` is there, what else is there may be half of a backup: nobody but a restore
//! opens the folder.

use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tally_log::storage::{Lock, Storage};

/// How long a command waits for a folder that another process is about to release, or for a
/// server that has just started.
const PATIENCE: Duration = Duration::from_secs(10);

/// The file that says that a restore is not done.
pub(crate) const RESTORING: &str = "restoring";

/// `server.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServerFile {
    /// The server's process.
    pub(crate) pid: u32,
    /// Where its public API listens.
    pub(crate) api: SocketAddr,
    /// Where its management API listens.
    pub(crate) management: SocketAddr,
}

/// Why the data folder can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataDirError {
    /// Something about the folder itself.
    #[error("the data folder {path} (setting data_dir) can't be {doing}: {cause}", path = path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// made, locked, …
        doing: &'static str,
        /// Why.
        cause: io::Error,
    },
    /// Somebody else works on it.
    #[error(
        "the data folder {path} (setting data_dir) is held by another process{holder}; stop it, or name another folder with --data-dir",
        path = path.display()
    )]
    Held {
        /// The folder.
        path: PathBuf,
        /// Which, as ` (pid 42)`, where it is known.
        holder: String,
    },
    /// A restore was cut short there.
    #[error(
        "the restore of the data folder {path} (setting data_dir) did not end well, as its file {RESTORING} says: run `tally restore` again, or remove the folder",
        path = path.display()
    )]
    Restoring {
        /// The folder.
        path: PathBuf,
    },
    /// Nothing was ever written there.
    #[error(
        "there is no data in {path} (setting data_dir): start `tally serve` first, or name another folder with --data-dir",
        path = path.display()
    )]
    Empty {
        /// The folder.
        path: PathBuf,
    },
}

/// The data folder, held by this process until dropped.
pub(crate) struct HeldDir {
    path: PathBuf,
    _lock: Box<dyn Lock>,
}

/// How a command reaches what is in the folder.
pub(crate) enum Access {
    /// A server has it: ask there.
    Server(ServerFile),
    /// Nobody has it: now this process does.
    Held(HeldDir),
}

impl HeldDir {
    /// Makes the folder where it is not there, and locks it; `None` where another process has it.
    pub(crate) fn try_lock(
        storage: &dyn Storage,
        path: &Path,
    ) -> Result<Option<Self>, DataDirError> {
        let held = Self::try_lock_any(storage, path)?;
        if held.is_some() {
            refuse_unfinished(storage, path)?;
        }
        Ok(held)
    }

    /// As [`lock`](Self::lock), also where a restore was cut short: for the next one.
    pub(crate) fn lock_to_restore(
        storage: &dyn Storage,
        path: &Path,
    ) -> Result<Self, DataDirError> {
        Self::try_lock_any(storage, path)?.ok_or_else(|| held(path))
    }

    fn try_lock_any(storage: &dyn Storage, path: &Path) -> Result<Option<Self>, DataDirError> {
        let refused = |doing| {
            move |cause| DataDirError::Folder {
                path: path.to_owned(),
                doing,
                cause,
            }
        };
        storage.create_dir_all(path).map_err(refused("made"))?;
        let file = path.join("lock");
        let Some(lock) = storage.lock(&file).map_err(refused("locked"))? else {
            return Ok(None);
        };
        fs::write(&file, std::process::id().to_string()).map_err(refused("written to"))?;
        Ok(Some(Self {
            path: path.to_owned(),
            _lock: lock,
        }))
    }

    /// As [`try_lock`](Self::try_lock), for what can't go on without it.
    pub(crate) fn lock(storage: &dyn Storage, path: &Path) -> Result<Self, DataDirError> {
        Self::try_lock(storage, path)?.ok_or_else(|| held(path))
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Says where this process serves. Readers see the whole file or none.
    pub(crate) fn announce(&self, server: &ServerFile) -> Result<(), DataDirError> {
        let write = || {
            let new = self.path.join("server.json.new");
            let mut file = fs::File::create(&new)?;
            serde_json::to_writer(&mut file, server)?;
            file.write_all(b"\n")?;
            fs::rename(&new, self.path.join("server.json"))
        };
        write().map_err(|cause| DataDirError::Folder {
            path: self.path.clone(),
            doing: "written to",
            cause,
        })
    }

    /// Takes the announcement back, or removes what a killed server left.
    pub(crate) fn withdraw(&self) -> Result<(), DataDirError> {
        match fs::remove_file(self.path.join("server.json")) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(DataDirError::Folder {
                path: self.path.clone(),
                doing: "written to",
                cause,
            }),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// Refuses a folder in which a restore was cut short.
pub(crate) fn refuse_unfinished(storage: &dyn Storage, path: &Path) -> Result<(), DataDirError> {
    let unfinished = storage.exists(&path.join(RESTORING));
    let unfinished = unfinished.map_err(|cause| DataDirError::Folder {
        path: path.to_owned(),
        doing: "looked into",
        cause,
    })?;
    if unfinished {
        return Err(DataDirError::Restoring {
            path: path.to_owned(),
        });
    }
    Ok(())
}

/// The process that holds the folder, as far as its files say.
pub(crate) fn holder(path: &Path) -> Option<u32> {
    fs::read_to_string(path.join("lock"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

fn held(path: &Path) -> DataDirError {
    let holder = holder(path).map_or_else(String::new, |pid| format!(" (pid {pid})"));
    DataDirError::Held {
        path: path.to_owned(),
        holder,
    }
}

/// The server that holds the folder, as far as its files say; the lock decides.
pub(crate) fn announced(path: &Path) -> Option<ServerFile> {
    let text = fs::read(path.join("server.json")).ok()?;
    let server: ServerFile = serde_json::from_slice(&text).ok()?;
    (Some(server.pid) == holder(path)).then_some(server)
}

/// Finds the server that holds the folder, or takes the folder. Waits a while for one that is
/// just starting, and for a command that is about to end.
pub(crate) fn access(storage: &dyn Storage, path: &Path) -> Result<Access, DataDirError> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(held) = HeldDir::try_lock(storage, path)? {
            return Ok(Access::Held(held));
        }
        if let Some(server) = announced(path) {
            return Ok(Access::Server(server));
        }
        if Instant::now() >= until {
            return Err(held(path));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// As [`access`], for what has nothing to do where there is no data; makes no folder.
pub(crate) fn access_existing(storage: &dyn Storage, path: &Path) -> Result<Access, DataDirError> {
    if path.join("log").is_dir() {
        return access(storage, path);
    }
    // A server that is making the folder right now has the lock before the log.
    if path.join("lock").exists()
        && let Access::Server(server) = access(storage, path)?
    {
        return Ok(Access::Server(server));
    }
    Err(DataDirError::Empty {
        path: path.to_owned(),
    })
}
