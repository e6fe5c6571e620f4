//! Manifests of any bytes: as they were written, or refused.

use std::path::Component;

use tally_fuzz::{fuzz, way};

use super::manifest::Manifest;
use super::*;

const WORDS: &[&str] = &[
    "\"version\": 1",
    "\"sha256\": \"\"",
    "\"files\": []",
    "\"path\": \"",
    "\"bytes\": ",
    "\"next_offsets\": [",
    "18446744073709551615",
    "log/identity",
    "catalogue/00000000000000000001.log",
    "../",
    "/",
    "\\u002e",
    "keys.json",
    "{},",
    "null",
];

/// Protects the data folder, and all that lies around it, from a manifest that somebody else wrote: with a
/// right checksum too it names files of a backup alone, and one text only says it.
#[test]
fn fuzz_backup_manifests() {
    fuzz("backup-manifests", WORDS, |input| {
        let as_it_is = said(input);
        let sealed = serde_json::from_slice::<Manifest>(input)
            .ok()
            .and_then(|manifest| manifest.encode().ok());
        way(match sealed {
            Some(sealed) => format!("{as_it_is} {}", said(&sealed)),
            None => as_it_is,
        })
    });
}

fn said(bytes: &[u8]) -> String {
    let manifest = match Manifest::decode(Path::new(manifest::FILE), bytes) {
        Ok(manifest) => manifest,
        Err(error) => return error.to_string(),
    };
    assert_eq!(manifest.encode().unwrap(), bytes);
    let (events, size) = (manifest.logs.events(), manifest.bytes());
    for file in &manifest.files {
        assert!(size >= file.bytes && !file.path.is_empty());
        let mut parts = Path::new(&file.path).components();
        assert!(parts.all(|part| matches!(part, Component::Normal(_))));
    }
    format!("whole: {} {}", events > 0, manifest.has_keys())
}
