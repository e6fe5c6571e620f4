//! The layers, and what is refused with which words.

use std::ffi::OsString;

use super::layers::LOCAL_DEFAULT;
use super::*;

const PRODUCTION: &str = include_str!("../../../../config/production.toml");
const PRODUCTION_KAFKA: &str = include_str!("../../../../config/production-kafka.toml");
const SECRETS: &str = "/run/secrets";

/// A folder that is there, in place of the one that the examples name.
fn with_secrets(text: &str, folder: &tempfile::TempDir) -> String {
    for file in ["kafka-password", "collector"] {
        std::fs::write(folder.path().join(file), "hunter2\n").unwrap();
    }
    assert!(text.contains(SECRETS));
    text.replace(SECRETS, &folder.path().display().to_string())
}

fn load(file: Option<&str>, env: &[(&str, &str)]) -> Result<(Config, Sources), ConfigError> {
    let env = env
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Config::from_layers(file.map(|text| ("tally.toml", text)), env, None)
}

fn refused(file: Option<&str>, env: &[(&str, &str)]) -> String {
    load(file, env)
        .expect_err("this must be refused")
        .to_string()
}

/// Protects what a first `tally serve` does.
#[test]
fn the_local_default_is_the_documented_one() {
    let (config, _) = load(None, &[]).unwrap();
    assert_eq!(config.api.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.management.listen.to_string(), "127.0.0.1:8081");
    assert_eq!(config.data_dir, PathBuf::from("./data"));
    assert_eq!(config.log.kind, LogKind::Embedded);
    assert_eq!(config.log.partitions.as_u32(), 16);
    assert_eq!(config.kafka.topic_prefix, "tally");
    assert_eq!(config.catalogue.mode, CatalogueMode::Registered);
    assert_eq!(config.projector.wait_limit.get().as_millis(), 2_000);
    assert_eq!(config.shutdown_limit.get().as_secs(), 30);
    assert!(config.auth.local_dev_key && config.catalogue.seed);
    assert_eq!(config.keys_file(), PathBuf::from("./data/keys.json"));
}

/// Protects the promise that the default file names every setting: those with a value, and those
/// that are commented out.
#[test]
fn the_local_default_names_every_setting() {
    let uncommented: String = LOCAL_DEFAULT
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(setting)
                if setting
                    .split_once(" = ")
                    .is_some_and(|(name, _)| !name.contains(' ')) =>
            {
                setting
            }
            Some(_) | None => line,
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let uncommented = with_secrets(&uncommented, &folder);
    let (config, _) = load(Some(&uncommented), &[]).unwrap();
    assert_eq!(config.keys_file(), PathBuf::from("./data/keys.json"));
    assert_eq!(
        config.kafka.bootstrap_servers.as_deref(),
        Some("localhost:9092")
    );
    let shown = serde_json::to_value(&config).unwrap();
    for (section, value) in shown.as_object().unwrap() {
        let Some(settings) = value.as_object() else {
            continue;
        };
        for setting in settings.keys() {
            assert!(
                uncommented.contains(&format!("\n{setting} = "))
                    || uncommented.contains(&format!("\n[{section}.{setting}]\n")),
                "{section}.{setting}"
            );
        }
        let tokens = settings.get("jwt").and_then(|jwt| jwt.as_object());
        for setting in tokens.into_iter().flat_map(|jwt| jwt.keys()) {
            let named = uncommented.contains(&format!("\n{setting} = "));
            assert!(named, "auth.jwt.{setting}");
        }
    }
}

/// Protects operators who start from the example.
#[test]
fn the_production_example_loads_and_has_no_development_key() {
    let (config, _) = load(Some(PRODUCTION), &[]).unwrap();
    assert_eq!(config.api.listen.to_string(), "0.0.0.0:8080");
    assert_eq!(config.log.partitions.as_u32(), 32);
    assert!(!config.auth.local_dev_key);
    assert!(!config.catalogue.seed);
    assert_eq!(config.logging.format, LogFormat::Json);
    // What it does not name stays as in the default.
    assert_eq!(config.api.max_body.get(), 65_536);
}

/// Protects operators who start from the example for Kafka.
#[test]
fn the_production_example_for_kafka_loads() {
    let folder = tempfile::tempdir().unwrap();
    let (config, _) = load(Some(&with_secrets(PRODUCTION_KAFKA, &folder)), &[]).unwrap();
    assert_eq!(config.log.kind, LogKind::Kafka);
    assert!(!config.auth.local_dev_key && !config.catalogue.seed);
    let options = config.kafka_options().unwrap();
    assert!(options.bootstrap_servers.contains("kafka-3:9094"));
    let shown = format!("{config:?}{}", serde_json::to_string(&config).unwrap());
    assert!(shown.contains("sasl.password") && !shown.contains("hunter2"));
}

/// Protects whoever deploys by the files of deploy/: the server takes their settings, listens where it can be
/// reached, and has no key that everybody knows.
#[test]
fn the_settings_of_deployments_load() {
    let image = include_str!("../../../../deploy/container.toml");
    let pod = include_str!("../../../../deploy/kubernetes/base/tally.toml");
    let on_kafka = include_str!("../../../../deploy/kubernetes/overlays/kafka/tally.toml");
    let folder = tempfile::tempdir().unwrap();
    let on_kafka = on_kafka.replace("/run/secrets/kafka/password", "/run/secrets/kafka-password");
    let on_kafka = with_secrets(&on_kafka, &folder);
    for (text, kind) in [
        (image, LogKind::Embedded),
        (pod, LogKind::Embedded),
        (on_kafka.as_str(), LogKind::Kafka),
    ] {
        let (config, _) = load(Some(text), &[]).unwrap();
        assert_eq!(config.log.kind, kind);
        assert_eq!(config.api.listen.to_string(), "0.0.0.0:8080");
        assert_eq!(config.management.listen.to_string(), "0.0.0.0:8081");
        assert_eq!(config.data_dir, PathBuf::from("/var/lib/tally"));
        assert_eq!(
            config.keys_file(),
            PathBuf::from("/var/lib/tally/keys.json")
        );
        assert!(!config.auth.local_dev_key && !config.catalogue.seed);
    }
}

/// Protects against a development key that slips into production with a file that does not
/// mention it.
#[test]
fn a_file_switches_off_what_is_only_convenient_unless_it_says_otherwise() {
    let (config, _) = load(Some(""), &[]).unwrap();
    assert!(!config.auth.local_dev_key && !config.catalogue.seed);
    let (config, _) = load(Some("[auth]\nlocal_dev_key = true"), &[]).unwrap();
    assert!(config.auth.local_dev_key && !config.catalogue.seed);
}

/// Protects the order of the layers, and that a variable is found by its documented name.
#[test]
fn the_environment_wins_over_the_file_and_the_file_over_the_default() {
    let file = "shutdown_limit = 5\n[log]\npartitions = 8\n[projector]\nwait_limit = \"3 s\"";
    let env = [
        ("TALLY__LOG__PARTITIONS", "4"),
        ("TALLY__DATA_DIR", "2026"),
        (
            "TALLY__API__CORS_ORIGINS",
            "https://a.example, https://b.example",
        ),
        ("TALLY__API__MAX_BODY", "1 MiB"),
        ("TALLY_CONFIG", "not ours"),
        ("PATH", "/bin"),
    ];
    let (config, sources) = load(Some(file), &env).unwrap();
    assert_eq!(config.log.partitions.as_u32(), 4);
    assert_eq!(config.projector.wait_limit.get().as_secs(), 3);
    assert_eq!(config.shutdown_limit.get().as_secs(), 5);
    assert_eq!(config.data_dir, PathBuf::from("2026"));
    assert_eq!(
        config.api.cors_origins.as_slice(),
        ["https://a.example", "https://b.example"]
    );
    assert_eq!(config.api.max_body.get(), 1 << 20);
    assert_eq!(
        sources.of("log.partitions"),
        "the environment variable TALLY__LOG__PARTITIONS"
    );
    assert_eq!(sources.of("projector.wait_limit"), "the file tally.toml");
    assert_eq!(
        sources.of("log.kind"),
        "the compiled-in default (config/local.toml)"
    );
}

/// Protects against a typo that silently leaves a default in force.
#[test]
fn an_unknown_setting_is_refused_with_its_full_name_its_source_and_what_is_valid() {
    for (file, env, wanted) in UNKNOWN {
        let error = refused(*file, env);
        assert!(error.starts_with("unknown setting "), "{error}");
        for part in wanted {
            assert!(error.contains(part), "{part:?} in {error}");
        }
    }
}

/// A file, variables, and what the refusal names.
type Refusal = (
    Option<&'static str>,
    &'static [(&'static str, &'static str)],
    [&'static str; 3],
);

const UNKNOWN: &[Refusal] = &[
    (
        Some("[log]\npartition = 4"),
        &[],
        ["log.partition ", "the file tally.toml", "log.partitions"],
    ),
    (
        Some("[logs]\nkind = 'x'"),
        &[],
        ["logs ", "the file tally.toml", "logging"],
    ),
    (
        Some("listen = 'x'"),
        &[],
        ["listen ", "the file tally.toml", "data_dir"],
    ),
    (
        None,
        &[("TALLY__LOG__PARTITION", "4")],
        ["log.partition ", "TALLY__LOG__PARTITION", "log.partitions"],
    ),
    (
        None,
        &[("TALLY__DATADIR", "x")],
        ["datadir ", "TALLY__DATADIR", "data_dir"],
    ),
    (
        None,
        &[("TALLY____LOG", "x")],
        ["setting", "TALLY____LOG", "TALLY__SECTION__KEY"],
    ),
];

/// Protects against values that would only fail later, or not at all.
#[test]
fn an_impossible_value_is_refused_by_name_with_what_is_valid() {
    for (name, value, wanted) in IMPOSSIBLE {
        let error = refused(None, &[(name, value)]);
        for part in wanted {
            assert!(error.contains(part), "{name}={value}: {part:?} in {error}");
        }
    }
}

/// A variable, its value, and what the refusal names.
const IMPOSSIBLE: &[(&str, &str, [&str; 2])] = &[
    (
        "TALLY__LOG__PARTITIONS",
        "0",
        ["log.partitions", "from 1 to 1024"],
    ),
    (
        "TALLY__LOG__PARTITIONS",
        "1025",
        ["log.partitions", "from 1 to 1024"],
    ),
    (
        "TALLY__LOG__PARTITIONS",
        "-1",
        ["log.partitions", "from 1 to 1024"],
    ),
    (
        "TALLY__LOG__PARTITIONS",
        "many",
        ["log.partitions", "from 1 to 1024"],
    ),
    (
        "TALLY__LOG__PARTITIONS",
        "[4]",
        ["log.partitions", "from 1 to 1024"],
    ),
    ("TALLY__LOG__KIND", "redis", ["log.kind", "\"embedded\""]),
    (
        "TALLY__LOG__KIND",
        "kafka",
        ["kafka.bootstrap_servers", "log.kind"],
    ),
    (
        "TALLY__AUTH__JWT__ISSUER",
        "x",
        ["auth.jwt.issuer", "auth.jwt.secret_files"],
    ),
    (
        "TALLY__AUTH__JWT",
        "x",
        ["auth.jwt", "a section [auth.jwt]"],
    ),
    (
        "TALLY__API__LISTEN",
        "8080",
        ["api.listen", "127.0.0.1:8080"],
    ),
    (
        "TALLY__API__LISTEN",
        "localhost",
        ["api.listen", "127.0.0.1:8080"],
    ),
    (
        "TALLY__API__LISTEN",
        "127.0.0.1:8081",
        ["management.listen", "another port"],
    ),
    (
        "TALLY__API__LISTEN",
        "0.0.0.0:8080",
        ["auth.local_dev_key", "loopback"],
    ),
    (
        "TALLY__MANAGEMENT__LISTEN",
        "[::]:8081",
        ["auth.local_dev_key", "loopback"],
    ),
    (
        "TALLY__API__MAX_BODY",
        "1 GiB",
        ["api.max_body", "to 64 MiB"],
    ),
    (
        "TALLY__API__CORS_ORIGINS",
        "example.com",
        ["api.cors_origins", "https://app.example.com"],
    ),
    (
        "TALLY__MANAGEMENT__HOSTS",
        "http://tally.example.com",
        ["management.hosts", "without scheme and port"],
    ),
    (
        "TALLY__MANAGEMENT__HOSTS",
        "tally.example.com, *",
        ["management.hosts", "without scheme and port"],
    ),
    (
        "TALLY__PROJECTOR__WAIT_LIMIT",
        "0",
        ["projector.wait_limit", "from 1ms"],
    ),
    (
        "TALLY__PROJECTOR__WAIT_LIMIT",
        "soon",
        ["projector.wait_limit", "from 1ms"],
    ),
    (
        "TALLY__CATALOGUE__MODE",
        "closed",
        ["catalogue.mode", "\"registered\""],
    ),
    (
        "TALLY__CATALOGUE__SEED",
        "maybe",
        ["catalogue.seed", "boolean"],
    ),
    ("TALLY__CATALOGUE", "open", ["catalogue", "a section"]),
    (
        "TALLY__LOGGING__LEVEL",
        "=loud=",
        ["logging.level", "error, warn"],
    ),
    ("TALLY__DATA_DIR", "", ["data_dir", "a folder"]),
];

/// Protects the sentence that names the file and the line.
#[test]
fn a_file_that_is_no_toml_or_not_there_is_refused_by_name() {
    let error = refused(Some("[log\npartitions = 4"), &[]);
    assert!(
        error.contains("tally.toml is not valid TOML") && error.contains("line 1"),
        "{error}"
    );
    let error = refused(Some("[kafka.properties]\n\"sasl.password\" = hunter2"), &[]);
    assert!(
        error.contains("line 2") && !error.contains("hunter2"),
        "{error}"
    );
    let missing = Config::load(Some("/no/such/file.toml".as_ref()), None);
    let error = missing.expect_err("there is none").to_string();
    assert!(
        error.contains("--config") && error.contains("/no/such/file.toml"),
        "{error}"
    );
}

/// Protects passwords from the log and from `config show`.
#[test]
fn the_properties_of_kafka_are_flat_and_never_shown() {
    let file = "[kafka.properties]\nsecurity.protocol = 'SASL_SSL'\n\"sasl.username\" = 'tally'\n";
    let env = [("TALLY__KAFKA__PROPERTIES__SASL__PASSWORD", "hunter2")];
    let (config, _) = load(Some(file), &env).unwrap();
    let shown = format!("{config:?}{}", serde_json::to_string(&config).unwrap());
    for name in ["security.protocol", "sasl.username", "sasl.password"] {
        assert!(shown.contains(name), "{name} in {shown}");
    }
    for secret in ["hunter2", "SASL_SSL"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

/// Protects the command line's folder, which all commands share.
#[test]
fn the_command_lines_folder_wins_over_the_environment() {
    let env = [(
        OsString::from("TALLY__DATA_DIR"),
        OsString::from("/from/env"),
    )];
    let (config, _) =
        Config::from_layers(None, env.into_iter(), Some("/from/cli".as_ref())).unwrap();
    assert_eq!(config.data_dir, PathBuf::from("/from/cli"));
}
