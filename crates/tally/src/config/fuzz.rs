//! Settings of any text and any environment: used or refused, in words that name the setting, and
//! never with a panic.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use tally_fuzz::{fuzz, way};

use super::*;

const WORDS: &[&str] = &[
    "[api]\n",
    "[kafka]\n",
    "[kafka.properties]\n",
    "[auth]\n",
    "listen = ",
    "data_dir = ",
    "log.kind = \"kafka\"\n",
    "kafka.bootstrap_servers = \"a:1\"\n",
    "\nTALLY__",
    "TALLY__KAFKA__PROPERTIES__SASL__PASSWORD=",
    "TALLY__API__LISTEN=",
    "__",
    "\"10s\"",
    "\"1MiB\"",
    "[\"*\"]",
    "{ a = 1 }",
    "'''",
    "1979-05-27T07:32:00Z",
    "+inf",
    "é",
];

/// What stands between the file's text and the environment's lines.
const MARK: &[u8] = b"\n---\n";

/// A secret that no input has, and the variable that every input is tried with.
const SECRET: &str = "hunter2-of-this-target";
const SECRET_VARIABLE: &str = "TALLY__KAFKA__PROPERTIES__SASL__PASSWORD";

/// Protects whoever starts a server: settings are all valid, or the first that is not is named; and no
/// word about them has the secret in it that was set beside them.
#[test]
fn fuzz_settings() {
    fuzz("settings", WORDS, |input| {
        let mark = input.windows(MARK.len()).position(|part| part == MARK);
        let (file, environment) = match mark {
            Some(at) => (&input[..at], &input[at + MARK.len()..]),
            None => (input, &[][..]),
        };
        let Ok(text) = std::str::from_utf8(file) else {
            return way("no text");
        };
        let secret = [SECRET_VARIABLE, SECRET].map(OsString::from);
        let with_secret = said(text, environment, Some(secret.into()));
        assert!(!with_secret.contains(SECRET), "{with_secret}");
        way(said(text, environment, None))
    });
}

/// What is shown of the settings, or said against them.
fn said(text: &str, environment: &[u8], more: Option<(OsString, OsString)>) -> String {
    let lines = environment.split(|byte| *byte == b'\n');
    let variables = lines.filter_map(|line| {
        let at = line.iter().position(|byte| *byte == b'=')?;
        let part = |part: &[u8]| OsString::from_vec(part.to_vec());
        Some((part(&line[..at]), part(&line[at + 1..])))
    });
    let said = match Config::from_layers(Some(("fuzz.toml", text)), variables.chain(more), None) {
        Ok((config, sources)) => {
            let shown = serde_json::to_string(&config).expect("settings can be shown");
            format!("{shown} {config:?} {sources:?}")
        }
        Err(error) => format!("{error} {error:?}"),
    };
    assert!(!said.trim().is_empty());
    said
}
