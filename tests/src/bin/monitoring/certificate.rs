//! A certificate that the settings of a server on Kafka name.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The setting that names it. Without TLS nobody reads it but who says when it expires.
pub(crate) const SETTING: &str = "TALLY__KAFKA__PROPERTIES__SSL__CA__LOCATION";

/// Makes one that is valid for so many days, with `openssl`.
pub(crate) fn make(dir: &Path, name: &str, days: u32) -> PathBuf {
    let path = dir.join(name);
    let status = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args(["-subj", "/CN=tally", "-days", &days.to_string(), "-keyout"])
        .arg(dir.join("key.pem"))
        .arg("-out")
        .arg(&path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let status = status.expect("openssl is there: apt-get install openssl");
    assert!(status.success(), "openssl: {status}");
    path
}
