//! One run: a server on its cores, the generator on its own, and what the generator says.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tally_tests::{binary, http::Request, wait};
use tempfile::TempDir;

/// Users and resources of every run; the bare handler's users have made-up keys.
const USERS: u32 = 1_000;
const RESOURCES: u32 = 1_000;
/// Past what a run should take: starting, registering, stopping.
const GRACE: Duration = Duration::from_secs(60);

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    Bare,
    Tally,
}

impl Subject {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Tally => "tally",
        }
    }
}

/// Which cores the server and the generator run on, as `taskset` takes them.
#[derive(Debug, Clone)]
pub(crate) struct Placement {
    pub(crate) server: String,
    pub(crate) generator: String,
}

impl Placement {
    /// With 4 cores or more: apart, then together on the server's two. Else together.
    pub(crate) fn of_this_machine() -> Vec<Self> {
        let cores = allowed_cores();
        let list = |cores: &[usize]| {
            let words: Vec<String> = cores.iter().map(usize::to_string).collect();
            words.join(",")
        };
        let two = list(&cores[..cores.len().min(2)]);
        let together = Self {
            server: two.clone(),
            generator: two.clone(),
        };
        match cores.get(2..4) {
            Some(others) => vec![
                Self {
                    server: two,
                    generator: list(others),
                },
                together,
            ],
            None => vec![together],
        }
    }

    pub(crate) fn is_apart(&self) -> bool {
        self.server != self.generator
    }
}

/// The cores this process may use: `Cpus_allowed_list`, as in `0-3,8`.
fn allowed_cores() -> Vec<usize> {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has /proc");
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .expect("a line Cpus_allowed_list");
    let number = |text: &str| text.trim().parse::<usize>().expect("a core's number");
    list.split(',')
        .flat_map(|range| match range.split_once('-') {
            Some((first, last)) => number(first)..=number(last),
            None => number(range)..=number(range),
        })
        .collect()
}

/// Whether `taskset` is there; says what to do where it is not.
pub(crate) fn taskset_works() -> Result<(), String> {
    match Command::new("taskset")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
    {
        Ok(status) if status.success() => Ok(()),
        _ => Err(
            "`taskset` is missing: it pins server and generator to cores, and without it the \
             figures can't be compared. Install util-linux (Debian: apt-get install util-linux)."
                .to_owned(),
        ),
    }
}

/// How the generator is set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bench {
    pub(crate) connections: u32,
    pub(crate) seconds: u32,
    pub(crate) warmup: u32,
    /// Open loop, where given.
    pub(crate) rate: Option<u32>,
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) subject: Subject,
    pub(crate) open: bool,
    /// What `tally bench --json` printed.
    pub(crate) bench: Value,
    /// What the service's metrics say of the log's syncs, where it is the service.
    pub(crate) log: Option<Value>,
}

/// The programs, and where their folders go.
pub(crate) struct Setup {
    tally: PathBuf,
    bare: PathBuf,
    pub(crate) dir: PathBuf,
}

impl Setup {
    /// Builds both programs for release.
    pub(crate) fn build(dir: Option<PathBuf>) -> Self {
        if cfg!(debug_assertions) {
            eprintln!(
                "performance: this is a debug build; only figures of --release mean something"
            );
        }
        let bare = escargot::CargoBuild::new()
            .manifest_path(binary::workspace().join("Cargo.toml"))
            .package("tally")
            .example("bare_actix")
            .target_dir(binary::target_dir())
            .release()
            .run()
            .expect("`cargo build --release -p tally --example bare_actix`");
        let dir = dir.unwrap_or_else(binary::target_dir);
        std::fs::create_dir_all(&dir).expect("a folder for the data");
        Self {
            tally: binary::tally().to_owned(),
            bare: bare.path().to_owned(),
            dir,
        }
    }

    /// Starts the subject, loads it, and stops it.
    pub(crate) fn run(&self, subject: Subject, placement: &Placement, bench: &Bench) -> Run {
        let folder = TempDir::with_prefix_in("performance-", &self.dir).expect("a folder");
        let server = self.start(subject, placement, folder.path());
        let mut generator = self.command(&placement.generator, &self.tally, folder.path());
        generator.args(["bench", "--json"]);
        let options = [
            ("--connections", bench.connections.to_string()),
            ("--duration", format!("{}s", bench.seconds)),
            ("--warmup", format!("{}s", bench.warmup)),
            ("--users", USERS.to_string()),
            ("--resources", RESOURCES.to_string()),
        ];
        for (option, value) in options {
            generator.args([option, &value]);
        }
        if let Some(rate) = bench.rate {
            generator.args(["--rate", &rate.to_string()]);
        }
        if let Some(url) = &server.url {
            let keys = made_up_keys(folder.path());
            generator.args(["--url", url, "--server-pid", &server.child.id().to_string()]);
            generator.arg("--keys-from").arg(keys);
        }
        let limit = GRACE + Duration::from_secs((bench.seconds + bench.warmup).into());
        let bench_said = finish(generator, folder.path(), limit);
        let log = server
            .management(folder.path())
            .map(|address| sync_metrics(&address));
        server.stop();
        Run {
            subject,
            open: bench.rate.is_some(),
            bench: bench_said,
            log,
        }
    }

    fn start(&self, subject: Subject, placement: &Placement, folder: &Path) -> Server {
        let program = match subject {
            Subject::Bare => &self.bare,
            Subject::Tally => &self.tally,
        };
        let mut command = self.command(&placement.server, program, folder);
        match subject {
            Subject::Bare => command
                .args(["--listen", "127.0.0.1:0"])
                .stdout(Stdio::piped()),
            Subject::Tally => command.arg("serve").stdout(Stdio::null()),
        };
        let errors = File::create(folder.join("server.stderr")).expect("a file in the folder");
        let child = command.stderr(errors).spawn().expect("the server starts");
        let mut server = Server { child, url: None };
        match subject {
            Subject::Bare => server.read_url(),
            Subject::Tally => server.wait_until_ready(folder),
        }
        server
    }

    /// A program on these cores, with the settings of the run's folder.
    fn command(&self, cores: &str, program: &Path, folder: &Path) -> Command {
        let mut command = Command::new("taskset");
        command
            .args(["--cpu-list", cores])
            .arg(program)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TALLY__DATA_DIR", folder.join("data"))
            .env("TALLY__API__LISTEN", "127.0.0.1:0")
            .env("TALLY__MANAGEMENT__LISTEN", "127.0.0.1:0")
            .current_dir(folder)
            .stdin(Stdio::null());
        command
    }
}

struct Server {
    child: Child,
    /// Where the bare handler listens.
    url: Option<String>,
}

impl Server {
    fn read_url(&mut self) {
        let out = self.child.stdout.take().expect("its output is a pipe");
        let mut line = String::new();
        BufReader::new(out)
            .read_line(&mut line)
            .expect("its address");
        let url = line.trim().strip_prefix("listening on ");
        self.url = Some(url.expect("its address").to_owned());
    }

    fn wait_until_ready(&mut self, folder: &Path) {
        let ready = wait::within(GRACE, || {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                panic!("the server ended with {status}:\n{}", errors(folder));
            }
            let address = self.management(folder)?.parse().expect("an address");
            let answer = Request::get("/readyz").try_send(address).ok()?;
            (answer.status == 200).then_some(())
        });
        assert!(
            ready.is_some(),
            "the server is not ready:\n{}",
            errors(folder)
        );
    }

    /// The management address that the service wrote down; none for the bare handler.
    fn management(&self, folder: &Path) -> Option<String> {
        let text = std::fs::read_to_string(folder.join("data/server.json")).ok()?;
        let value: Value = serde_json::from_str(&text).ok()?;
        Some(value["management"].as_str()?.to_owned())
    }

    fn stop(mut self) {
        // Already ended is seen below.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let ended = wait::within(GRACE, || self.child.try_wait().expect("a child of ours"));
        assert!(ended.is_some(), "the server does not stop");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already ended is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn errors(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("server.stderr")).unwrap_or_default()
}

/// Keys like real ones, so that requests have the same size and variety.
fn made_up_keys(folder: &Path) -> PathBuf {
    let path = folder.join("keys.txt");
    let lines: String = (0..USERS)
        .map(|user| format!("bench-{user} tally_{user:012}_{user:052}\n"))
        .collect();
    std::fs::write(&path, lines).expect("a file in the folder");
    path
}

/// Runs the generator to its end and takes its JSON.
fn finish(mut generator: Command, folder: &Path, limit: Duration) -> Value {
    let (out, err) = (folder.join("bench.json"), folder.join("bench.stderr"));
    let mut child = generator
        .stdout(File::create(&out).expect("a file in the folder"))
        .stderr(File::create(&err).expect("a file in the folder"))
        .spawn()
        .expect("the generator starts");
    let status = wait::within(limit, || child.try_wait().expect("a child of ours"));
    if status.is_none() {
        child.kill().expect("a child of ours");
        child.wait().expect("a child of ours");
    }
    let said = || {
        let said = |path| std::fs::read_to_string(path).unwrap_or_default();
        format!("{}{}{}", said(&out), said(&err), errors(folder))
    };
    let status = status.unwrap_or_else(|| panic!("the generator does not end:\n{}", said()));
    assert!(
        status.success(),
        "the generator ended with {status}:\n{}",
        said()
    );
    serde_json::from_str(&std::fs::read_to_string(&out).expect("its output"))
        .unwrap_or_else(|error| panic!("no JSON ({error}):\n{}", said()))
}

/// The log's metrics that say how many syncs there were and what they cost.
fn sync_metrics(management: &str) -> Value {
    let address = management.parse().expect("an address");
    let text = Request::get("/metrics").send(address).text();
    text.lines()
        .filter(|line| line.starts_with("tally_log_") && !line.contains("_bucket"))
        .filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), Value::from(value.parse::<f64>().ok()?)))
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}
