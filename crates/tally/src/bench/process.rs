//! CPU time and memory of a process, from `/proc`.

use std::time::Duration;

/// CPU time of a process so far, all its threads, user and system; `None` where it is gone or
/// there is no `/proc`.
pub(super) fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    cpu_time_in(&stat, rustix::param::clock_ticks_per_second())
}

/// Memory of a process that is in RAM now, in bytes.
pub(super) fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

/// The fields `utime` and `stime`, in ticks. The name before them may hold spaces and brackets.
fn cpu_time_in(stat: &str, ticks_per_second: u64) -> Option<Duration> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let millis = user
        .checked_add(system)?
        .checked_mul(1_000)?
        .checked_div(ticks_per_second)?;
    Some(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects the CPU figure: the right two fields, whatever the process is called.
    #[test]
    fn cpu_time_is_user_and_system() {
        let stat = "17 (a) b (c) R 1 17 17 0 -1 4194304 90 0 0 0 150 50 7 7 20 0 4 0 100 1 1";
        assert_eq!(cpu_time_in(stat, 100), Some(Duration::from_secs(2)));
        assert_eq!(cpu_time_in("17 (a) R 1", 100), None);
    }

    /// Protects against reading another field for the memory: this process has some, and not
    /// more than a machine can have.
    #[test]
    fn this_process_has_memory_and_time() {
        let bytes = resident_bytes(std::process::id()).unwrap();
        assert!((1 << 16..1 << 44).contains(&bytes), "{bytes}");
        assert!(cpu_time(std::process::id()).is_some());
        assert_eq!(cpu_time(u32::MAX), None);
    }
}
