//! Where traces go, and what is refused with which words.

use std::ffi::OsString;

use super::super::Config;
use super::*;

const SECRET: &str = "hunter2";

fn load(file: &str, env: &[(&str, &str)]) -> Result<(Config, Sources), ConfigError> {
    let env = env
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Config::from_layers(Some(("tally.toml", file)), env, None)
}

/// Protects what is off by default, and where it goes when it is on.
#[test]
fn nothing_is_traced_unless_there_is_an_address() {
    let (config, _) = load("", &[]).unwrap();
    assert!(config.tracing.export.is_none());
    for endpoint in ["http://collector:4318", "http://collector:4318/"] {
        let env = [("TALLY__TRACING__OTLP_ENDPOINT", endpoint)];
        let export = load("", &env).unwrap().0.tracing.export.unwrap();
        assert_eq!(export.url, "http://collector:4318/v1/traces");
        assert_eq!(export.service_name, "tally");
        assert!((export.ratio - 0.01).abs() < f64::EPSILON);
    }
    for (ratio, wanted) in [("0", 0.), ("1", 1.), ("0.5", 0.5)] {
        let env = [
            ("TALLY__TRACING__OTLP_ENDPOINT", "https://collector"),
            ("TALLY__TRACING__SAMPLE_RATIO", ratio),
        ];
        let export = load("", &env).unwrap().0.tracing.export.unwrap();
        assert!((export.ratio - wanted).abs() < f64::EPSILON, "{ratio}");
    }
}

/// Protects the collector's password: it is sent, and never shown; a name is the same in any case, and the
/// last layer wins.
#[test]
fn headers_are_sent_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, format!("{SECRET}-of-a-file\n")).unwrap();
    let file = format!(
        "[tracing]\notlp_endpoint = \"http://c:1\"\n[tracing.headers]\nAuthorization = \"of the file\"\n[tracing.header_files]\nx-team = {:?}",
        path.display().to_string()
    );
    let env = [("TALLY__TRACING__HEADERS__AUTHORIZATION", "007 hunter2")];
    let (config, sources) = load(&file, &env).unwrap();
    let export = config.tracing.export.clone().unwrap();
    let sent = |name: &str| {
        let header = export.headers.iter().find(|(known, _)| known == name);
        header.unwrap().1.to_str().unwrap().to_owned()
    };
    assert_eq!(export.headers.len(), 2);
    assert_eq!(sent("authorization"), "007 hunter2");
    assert_eq!(sent("x-team"), "hunter2-of-a-file");
    let shown = serde_json::to_string(&config).unwrap();
    assert!(
        shown.contains(r#""headers":{"authorization":"***"}"#),
        "{shown}"
    );
    let all = format!("{shown}{config:?}{sources:?}{export:?}");
    assert!(
        !all.contains(SECRET) && !all.contains("of the file"),
        "{all}"
    );
}

/// Protects operators from settings that would only fail later, and secrets from the words about them.
#[test]
fn what_can_not_be_is_refused_by_name_without_secrets() {
    const ENDPOINT: &str = "otlp_endpoint = \"http://c:1\"\n";
    for (text, wanted) in [
        (
            "otlp_endpoint = \"collector:4318\"",
            "tracing.otlp_endpoint",
        ),
        (
            "otlp_endpoint = \"http://u:hunter2@c:1\"",
            "tracing.otlp_endpoint",
        ),
        (
            "otlp_endpoint = \"http://c:1/?key=hunter2\"",
            "tracing.otlp_endpoint",
        ),
        ("sample_ratio = 1.5", "a number from 0 to 1"),
        ("sample_ratio = -1", "a number from 0 to 1"),
        ("sample_ratio = 2", "a number from 0 to 1"),
        ("sample_ratio = \"often\"", "a number from 0 to 1"),
        ("service_name = \"\"", "tracing.service_name"),
        ("headers = \"hunter2\"", "tracing.headers"),
        ("headers = [\"hunter2\"]", "tracing.headers"),
        (
            "[tracing.headers]\n\"a b\" = \"hunter2\"",
            "tracing.headers.\"a b\"",
        ),
        (
            "[tracing.headers]\na = \"hunter2\\n\"",
            "tracing.headers.\"a\"",
        ),
        (
            "[tracing.headers]\nContent-Type = \"hunter2\"",
            "content-type",
        ),
        ("[tracing.header_files]\na = \"/not/there\"", "/not/there"),
        (
            "[tracing.headers]\na = \"hunter2\"\n[tracing.header_files]\na = \"/dev/null\"",
            "tracing.headers as well",
        ),
    ] {
        let endpoint = if text.starts_with("otlp") {
            ""
        } else {
            ENDPOINT
        };
        let error = load(&format!("[tracing]\n{endpoint}{text}"), &[]).unwrap_err();
        let said = format!("{error} {error:?}");
        assert!(said.contains(wanted), "{text}: {wanted:?} in {said}");
        assert!(!said.contains(SECRET), "{text}: {said}");
    }
    let error = load("", &[("TALLY__TRACING", SECRET)]).unwrap_err();
    assert!(!format!("{error} {error:?}").contains(SECRET), "{error}");
}
