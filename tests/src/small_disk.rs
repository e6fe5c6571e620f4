//! A small disk of a test's own, that can be full.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Folder;

/// A file system of its own in memory, that can be full. Unmounted when dropped.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of this size (`64m`) beside a folder's data.
    ///
    /// # Panics
    /// When it can't be mounted: that needs root.
    #[must_use]
    pub fn mount(folder: &Folder, size: &str) -> Self {
        let path = folder.root().join("disk");
        fs::create_dir(&path).expect("a folder to mount on");
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(&path));
        Self(path)
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Mounts it once more: `ro`, `rw`.
    ///
    /// # Panics
    /// When it can't be.
    pub fn remount(&self, how: &str) {
        run(Command::new("mount")
            .args(["-o", &format!("remount,{how}")])
            .arg(&self.0));
    }

    /// The share of it that is left.
    ///
    /// # Panics
    /// When it is gone.
    #[must_use]
    pub fn left(&self) -> f64 {
        let stat = rustix::fs::statvfs(&self.0).expect("a file system");
        stat.f_bavail as f64 / stat.f_blocks as f64
    }

    /// Takes space until no more than this share is left; the file that has it.
    ///
    /// # Panics
    /// When nothing can be written there.
    #[must_use]
    pub fn fill_to(&self, share: f64) -> PathBuf {
        let path = self.0.join("ballast");
        let mut file = File::create(&path).expect("a file on the small disk");
        while self.left() > share {
            file.write_all(&[1; 64 << 10]).expect("room");
        }
        path
    }

    /// Takes all the space there is; the file that has it.
    ///
    /// # Panics
    /// When nothing can be made there.
    #[must_use]
    pub fn fill(&self) -> PathBuf {
        let path = self.0.join("ballast");
        let mut file = File::create(&path).expect("a file on the small disk");
        for block in [vec![1; 64 << 10], vec![1; 1]] {
            while file.write_all(&block).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server that was killed may not be gone yet.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn run(command: &mut Command) {
    let status = command.status().expect("a command of the system");
    assert!(status.success(), "{command:?}: {status} (needs root)");
}
