//! Builds the command once and says where it is.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The workspace's folder.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The folder cargo builds into, as this test's own program shows it.
///
/// # Panics
/// When the test does not run from a target folder.
#[must_use]
pub fn target_dir() -> PathBuf {
    let profile_dir = profile_dir();
    let target = profile_dir.parent().expect("a target folder");
    target.to_owned()
}

/// The argument of cargo that builds as this test's own program was built.
///
/// # Panics
/// When the test does not run from a target folder.
#[must_use]
pub fn profile() -> String {
    let profile_dir = profile_dir();
    let name = profile_dir.file_name().and_then(|name| name.to_str());
    match name.expect("a target folder") {
        "debug" => "--profile=dev".to_owned(),
        name => format!("--profile={name}"),
    }
}

fn profile_dir() -> PathBuf {
    let program = std::env::current_exe().expect("the test's program has a path");
    // target/<profile>/deps/<test> or target/<profile>/<program>
    let profile_dir = program
        .ancestors()
        .skip(1)
        .find(|dir| dir.file_name().is_some_and(|name| name != "deps"))
        .expect("a target folder");
    profile_dir.to_owned()
}

/// The path of the `tally` binary: `TALLY_BIN`, or built now in the profile of the test itself.
///
/// # Panics
/// When it can't be built.
#[must_use]
pub fn tally() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("TALLY_BIN") {
            let path = PathBuf::from(path);
            assert!(path.is_file(), "TALLY_BIN is no file: {}", path.display());
            return path;
        }
        build()
    })
}

fn build() -> PathBuf {
    // With an example, and of the whole workspace: what dependencies are built with is then what they
    // were built with for the tests, and nothing is built twice.
    let build = escargot::CargoBuild::new()
        .manifest_path(workspace().join("Cargo.toml"))
        .arg("--workspace")
        .bin("tally")
        .arg("--example=fold_rate")
        .target_dir(target_dir())
        .arg(profile());
    let run = build.run().expect("`cargo build -p tally --bin tally`");
    run.path().to_owned()
}
