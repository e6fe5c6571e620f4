//! How many files the system lets this process have open, and so how many connections.
//!
//! A process that runs out of them can't accept, but neither can it make the log's next segment, so
//! connections never get the last of them.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that are no connections: segments, readers, the state's store, the management API.
const RESERVE: u64 = 512;

/// Raises the limit as far as it goes without privileges, and returns how many connections to the
/// public API fit below it, at most as many as wanted.
pub(super) fn connections(wanted: usize) -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files can't be raised");
    }
    let fit = fitting(wanted, getrlimit(Resource::Nofile).current);
    if fit < wanted {
        tracing::warn!(
            max_connections = fit,
            "the system allows fewer open files than api.max_connections needs; raise its limit (ulimit -n, systemd: LimitNOFILE) or lower the setting"
        );
    }
    fit
}

/// `None` is no limit.
fn fitting(wanted: usize, open_files: Option<u64>) -> usize {
    let room = open_files.map_or(u64::MAX, |files| {
        // Where there is hardly anything, half of it.
        files.saturating_sub(RESERVE).max(files / 2).max(1)
    });
    usize::try_from(room).map_or(wanted, |room| room.min(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects the log's own files from a flood of connections.
    #[test]
    fn connections_leave_files_for_everything_else() {
        assert_eq!(fitting(25_000, None), 25_000);
        assert_eq!(fitting(25_000, Some(1_048_576)), 25_000);
        assert_eq!(fitting(25_000, Some(20_000)), 19_488);
        assert_eq!(fitting(25_000, Some(256)), 128);
        assert_eq!(fitting(100, Some(20_000)), 100);
    }
}
