//! A data folder of one test, and commands on it.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use crate::binary;
use crate::kafka;
use crate::server::Server;
use crate::wait;

/// A temporary folder with `data/` in it, and the settings of everything that runs on it. It
/// outlives its servers: kill one, start another. Clones share the folder.
#[derive(Clone)]
pub struct Folder {
    root: Arc<TempDir>,
    settings: Vec<(String, String)>,
    through: Vec<String>,
    runs: Arc<AtomicU32>,
}

/// What a command said.
#[derive(Debug)]
pub struct Ran {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Ran {
    /// Standard output, where the command succeeded.
    ///
    /// # Panics
    /// When it did not.
    #[must_use]
    pub fn ok(self) -> String {
        assert!(self.status.success(), "the command failed: {self:#?}");
        self.stdout
    }

    /// Both outputs, where the command failed.
    ///
    /// # Panics
    /// When it succeeded.
    #[must_use]
    pub fn failed(self) -> String {
        assert!(!self.status.success(), "the command should fail: {self:#?}");
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Standard output as one JSON value per line.
    ///
    /// # Panics
    /// When the command failed or a line is no JSON.
    #[must_use]
    pub fn json_lines(self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).expect("a line of JSON");
        self.ok().lines().map(parse).collect()
    }
}

/// A program that was started on the folder, with its output going to files.
pub(crate) struct Started {
    pub(crate) child: Child,
    pub(crate) stdout: PathBuf,
    pub(crate) stderr: PathBuf,
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

impl Folder {
    /// An empty folder: port 0 for both listeners, everything else as the local default has it.
    ///
    /// Where [`ON_KAFKA`](kafka::ON_KAFKA) names brokers, its log is on Kafka, in topics of its own.
    ///
    /// # Panics
    /// When the system gives no temporary folder.
    #[must_use]
    pub fn new() -> Self {
        match std::env::var(kafka::ON_KAFKA) {
            Ok(servers) => kafka::with_own_topics(Self::local(), &servers),
            Err(_) => Self::local(),
        }
    }

    /// As [`new`](Self::new) without a look at the environment.
    ///
    /// # Panics
    /// When the system gives no temporary folder.
    #[must_use]
    pub fn local() -> Self {
        let root = TempDir::with_prefix("tally-test-").expect("a temporary folder");
        let settings = [
            (
                "TALLY__DATA_DIR",
                root.path().join("data").display().to_string(),
            ),
            ("TALLY__API__LISTEN", "127.0.0.1:0".to_owned()),
            ("TALLY__MANAGEMENT__LISTEN", "127.0.0.1:0".to_owned()),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value));
        Self {
            root: Arc::new(root),
            settings: settings.into(),
            through: Vec::new(),
            runs: Arc::default(),
        }
    }

    /// The same folder with one more setting, as the environment spells it
    /// (`TALLY__SECTION__KEY`); a setting given twice has the last value.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_string()));
        self
    }

    /// The same folder, whose commands are all run by another one: `prlimit --nofile=64 tally …`.
    #[must_use]
    pub fn through(mut self, command: &[&str]) -> Self {
        self.through = command.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// The same folder, whose commands all find the file system `data/` at this path.
    #[must_use]
    pub fn with_data_in(self, path: &Path) -> Self {
        self.with("TALLY__DATA_DIR", path.join("data").display())
    }

    /// The same folder, whose servers all listen on the same free ports, so that clients find the
    /// next one again.
    ///
    /// # Panics
    /// When the system has no free port.
    #[must_use]
    pub fn with_fixed_ports(self) -> Self {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let [api, management] = listeners.map(|one| one.local_addr().expect("an address"));
        self.with("TALLY__API__LISTEN", api)
            .with("TALLY__MANAGEMENT__LISTEN", management)
    }

    /// A setting of [`with`](Self::with), where it was given.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<&str> {
        let found = self.settings.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The temporary folder; `data/` is in it.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// The setting `data_dir`.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.setting("TALLY__DATA_DIR")
            .map_or_else(|| self.root.path().join("data"), PathBuf::from)
    }

    /// Runs `tally ARGS` on the folder to its end.
    ///
    /// # Panics
    /// When it can't be started or does not end in time.
    #[must_use]
    pub fn run(&self, args: &[&str]) -> Ran {
        let mut started = self.spawn(args);
        let what = format!("the end of tally {}", args.join(" "));
        let status = wait::until(&what, || started.child.try_wait().expect("a child of ours"));
        Ran {
            status,
            stdout: read(&started.stdout),
            stderr: read(&started.stderr),
        }
    }

    /// Starts a server and waits until it is ready.
    ///
    /// # Panics
    /// When it does not get there.
    #[must_use]
    pub fn start(&self) -> Server {
        let mut server = Server::spawn(self);
        server.wait_until_ready();
        server
    }

    /// The command `tally ARGS` with this folder's settings and nothing of the test's own
    /// environment but the path.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let program = binary::tally();
        let mut command = match self.through.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.settings.iter().cloned())
            .current_dir(self.root.path())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn spawn(&self, args: &[&str]) -> Started {
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        let stdout = self.root.path().join(format!("{run}.stdout"));
        let stderr = self.root.path().join(format!("{run}.stderr"));
        let mut command = self.command(args);
        command
            .stdout(File::create(&stdout).expect("a file for standard output"))
            .stderr(File::create(&stderr).expect("a file for standard error"));
        Started {
            child: command.spawn().expect("the binary starts"),
            stdout,
            stderr,
        }
    }

    /// Every file below the data folder, with its bytes.
    ///
    /// # Panics
    /// When a file can't be read.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = Vec::new();
        let mut folders = vec![self.data_dir()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let bytes = fs::read(&path).expect("a file");
                    files.push((path, bytes));
                }
            }
        }
        files
    }
}

/// A program's output so far.
pub(crate) fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).expect("the program's output")).into_owned()
}
