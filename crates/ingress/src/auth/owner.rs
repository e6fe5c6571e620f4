//! Whose a file is. Keys are often made by root for a server that runs as somebody else, and a file
//! that is replaced must stay readable for whoever could read it.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

/// Gives `new` the owner, group and mode of `old`, where that is there.
///
/// # Errors
/// As the system says: only root may give a file to another user.
pub(super) fn keep(old: &Path, new: &Path) -> io::Result<()> {
    let before = match fs::metadata(old) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let made = fs::metadata(new)?;
    if (made.uid(), made.gid()) != (before.uid(), before.gid()) {
        chown(new, Some(before.uid()), Some(before.gid()))?;
    }
    fs::set_permissions(new, Permissions::from_mode(before.mode() & 0o777))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects a server that reads the file as another user or group.
    #[test]
    fn a_replacement_keeps_mode_and_owner() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        fs::write(&new, "n").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        fs::set_permissions(&new, Permissions::from_mode(0o600)).unwrap();
        keep(&old, &new).unwrap();
        assert_eq!(mode(&new), 0o600, "nothing to keep");
        fs::write(&old, "o").unwrap();
        fs::set_permissions(&old, Permissions::from_mode(0o640)).unwrap();
        // Only root can make the owners differ to begin with.
        let given = chown(&old, Some(65_534), Some(65_534)).is_ok();
        keep(&old, &new).unwrap();
        assert_eq!(mode(&new), 0o640);
        let owner = fs::metadata(&new).unwrap().uid();
        assert_eq!(owner == 65_534, given);
    }
}
