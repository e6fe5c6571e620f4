//! The machine the figures are of, and how others reach it.

use std::fmt;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const SYNCS: usize = 300;
const SYNC_BYTES: usize = 4 << 10;

/// An address of this host that others could use too.
///
/// # Panics
/// When it has no way to anywhere.
#[must_use]
pub fn outer_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    // Nothing is sent by that.
    socket.connect("192.0.2.1:9").expect("a route to somewhere");
    socket.local_addr().expect("an address").ip()
}

/// What a reader needs to judge the figures.
pub struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    file_system: String,
    sync_p50: Duration,
    sync_p99: Duration,
}

impl Machine {
    /// Asks the system, and measures what a sync costs in `dir`.
    ///
    /// # Panics
    /// When nothing can be written there.
    #[must_use]
    pub fn look(dir: &Path) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .map_or("unknown", |rest| rest.trim_start_matches(['\t', ' ', ':']));
        let (sync_p50, sync_p99) = sync_cost(dir);
        Self {
            cpu: cpu.to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(
                |_| "unknown".to_owned(),
                |release| release.trim().to_owned(),
            ),
            file_system: file_system(dir),
            sync_p50,
            sync_p99,
        }
    }

    /// The same as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "cpu": self.cpu, "cores": self.cores, "kernel": self.kernel,
            "file_system": self.file_system,
            "sync_p50_us": micros(self.sync_p50), "sync_p99_us": micros(self.sync_p99),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "machine     {} × {}, Linux {}",
            self.cores, self.cpu, self.kernel
        )?;
        write!(
            f,
            "disk        {}; writing {SYNC_BYTES} bytes and fdatasync: p50 {:.0} µs, p99 {:.0} µs",
            self.file_system,
            micros(self.sync_p50),
            micros(self.sync_p99)
        )
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// The file system's type and device, as `df` knows them.
fn file_system(dir: &Path) -> String {
    let output = Command::new("df")
        .args(["--output=fstype,source"])
        .arg(dir)
        .output();
    let text = output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    );
    let line = text.lines().nth(1).unwrap_or("unknown file system");
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let words = words.join(" on ");
    if words.starts_with("tmpfs") {
        format!("{words} (in memory: a sync costs nothing here, choose another --dir)")
    } else {
        words
    }
}

/// p50 and p99 of a write and `fdatasync` in a file that has its space already, as the log does.
fn sync_cost(dir: &Path) -> (Duration, Duration) {
    let path = dir.join("sync-cost");
    let mut file = File::create(&path).expect("a file in the folder");
    file.write_all(&vec![0; SYNCS * SYNC_BYTES])
        .expect("room on the disk");
    file.sync_all().expect("a disk that syncs");
    drop(file);
    let mut file = File::options()
        .write(true)
        .open(&path)
        .expect("the file just made");
    let block = [7; SYNC_BYTES];
    let mut costs: Vec<Duration> = (0..SYNCS)
        .map(|_| {
            let started = Instant::now();
            file.write_all(&block).expect("room on the disk");
            file.sync_data().expect("a disk that syncs");
            started.elapsed()
        })
        .collect();
    costs.sort_unstable();
    // Nothing depends on it any more.
    let _ = fs::remove_file(&path);
    (costs[SYNCS / 2], costs[SYNCS * 99 / 100])
}
