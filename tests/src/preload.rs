//! What makes the system fail the server: a small library that is loaded into the real binary, and
//! the shared memory that says what fails.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::Folder;
use crate::binary::{target_dir, workspace};

/// The words of `tests/faults/preload.c`.
#[derive(Clone, Copy)]
pub enum Word {
    /// Seconds added to the wall clock.
    ClockSeconds = 0,
    /// How many syncs of files of the log still fail.
    SyncErrors = 1,
    /// While not 0, syncs of files of the log hang.
    SyncsHang = 2,
    /// While not 0, the errno with which writes to files of the log fail.
    WriteErrno = 3,
    /// Microseconds that each read of a file of the log takes longer.
    ReadMicros = 4,
    /// How many calls still say that they moved more than they did, in the thread that is meant.
    Lies = 5,
    /// The thread that is meant, two words long.
    Thread = 6,
    /// How many readings of a clock still give a time that can't be, in the thread that is meant.
    WrongTimes = 8,
    /// While not 0, of the wall clock alone.
    WallClockOnly = 9,
    /// Microseconds that each sync of a file of the log takes longer.
    SyncMicros = 10,
    /// While not 0, syncs of files of the state hang.
    StateSyncsHang = 11,
}

/// Says what fails. The numbers are in a file that the server has mapped.
pub struct Control {
    file: File,
}

impl Control {
    /// Loads the library into everything that runs on the folder.
    ///
    /// # Panics
    /// When it can't be built, or its file can't be made.
    #[must_use]
    pub fn over(folder: Folder) -> (Folder, Self) {
        let path = folder.root().join("faults");
        let file = File::options().create_new(true).write(true).open(&path);
        let file = file.expect("a file beside the data");
        file.set_len(96).expect("a file of 96 bytes");
        let folder = folder
            .with("LD_PRELOAD", library().display())
            .with("FAULTS_CONTROL", path.display());
        (folder, Self { file })
    }

    /// Sets a word.
    ///
    /// # Panics
    /// When the file can't be written.
    pub fn set(&self, word: Word, value: i64) {
        self.file
            .write_all_at(&value.to_le_bytes(), 8 * word as u64)
            .expect("the control file is written");
    }

    /// The next reading or writing of a file in the thread whose name begins so makes it panic.
    pub fn panic_at_file_in(&self, thread: &str) {
        self.panic_in(thread, Word::Lies);
    }

    /// The next look at a clock in the thread whose name begins so makes it panic. Not for threads
    /// that wait with a time limit for a lock of `parking_lot`: it looks at the clock while a place
    /// on the stack is in its queue, and a panic there is no panic but a broken queue.
    pub fn panic_at_clock_in(&self, thread: &str) {
        self.set(Word::WallClockOnly, 0);
        self.panic_in(thread, Word::WrongTimes);
    }

    /// The next look at the wall clock in the thread whose name begins so makes it panic.
    pub fn panic_at_wall_clock_in(&self, thread: &str) {
        self.set(Word::WallClockOnly, 1);
        self.panic_in(thread, Word::WrongTimes);
    }

    fn panic_in(&self, thread: &str, how: Word) {
        // The system keeps no more of a name.
        let name = thread.get(..15).unwrap_or(thread);
        let mut words = [0; 16];
        for (byte, of_name) in words.iter_mut().zip(name.bytes()) {
            *byte = of_name;
        }
        self.file
            .write_all_at(&words, 8 * Word::Thread as u64)
            .expect("the control file is written");
        self.set(how, 1);
    }
}

/// The library, built now.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = workspace().join("tests/faults/preload.c");
        let built = target_dir().join("faults-preload.so");
        let draft = built.with_extension(std::process::id().to_string());
        let status = Command::new("cc")
            .args([
                "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o",
            ])
            .args([&draft, &source])
            .arg("-ldl")
            .status()
            .expect("cc is there: apt-get install build-essential");
        assert!(status.success(), "cc could not build {}", source.display());
        fs::rename(&draft, &built).expect("the library takes its name");
        built
    })
}
