//! What is wrong with the settings, in words an operator can act on.

use std::io;
use std::path::PathBuf;

use figment::error::Kind;

use super::layers::Sources;

/// Why the settings can't be used. Every variant ends the command with exit code 2.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file given with `--config` can't be read.
    #[error("the file given with --config or TALLY_CONFIG, {path}, can't be read: {cause}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Not TOML.
    #[error("{source_name} is not valid TOML: {why}")]
    Toml {
        /// Which file.
        source_name: String,
        /// Where and why.
        why: String,
    },
    /// No such setting.
    #[error("unknown setting {setting} in {source_name}; {valid}")]
    Unknown {
        /// Its full name.
        setting: String,
        /// Which layer named it.
        source_name: String,
        /// What would be valid there.
        valid: String,
    },
    /// A value that can't be.
    #[error("setting {setting} in {source_name}: {why}")]
    Invalid {
        /// Its full name.
        setting: String,
        /// Which layer gave the value.
        source_name: String,
        /// What is wrong and what would be valid.
        why: String,
    },
    /// Not text.
    #[error("{0} is not valid UTF-8")]
    NotUnicode(String),
}

impl Sources {
    /// A refusal of one setting's value.
    pub(crate) fn invalid(&self, setting: &str, why: String) -> ConfigError {
        ConfigError::Invalid {
            setting: setting.to_owned(),
            source_name: self.of(setting),
            why,
        }
    }

    /// A refusal of one of the values in a section whose names have dots of their own.
    pub(crate) fn invalid_property(&self, section: &str, name: &str, why: String) -> ConfigError {
        ConfigError::Invalid {
            setting: format!("{section}.\"{name}\""),
            source_name: self.of(&format!("{section}.{name}")),
            why,
        }
    }

    /// What the parser says, in our words.
    pub(super) fn explain(&self, error: &figment::Error) -> ConfigError {
        let path = error.path.join(".");
        let full = |name: &str| {
            if path.is_empty() {
                name.to_owned()
            } else {
                format!("{path}.{name}")
            }
        };
        match &error.kind {
            Kind::UnknownField(_, expected) => {
                // The path ends with the unknown name itself.
                let setting = path.clone();
                let section = error
                    .path
                    .split_last()
                    .map_or(&[][..], |(_, section)| section);
                let full = |name: &str| [section, &[name.to_owned()]].concat().join(".");
                let mut valid: Vec<String> = expected.iter().map(|name| full(name)).collect();
                valid.sort_unstable();
                ConfigError::Unknown {
                    source_name: self.of(&setting),
                    valid: format!("valid are {}", valid.join(", ")),
                    setting,
                }
            }
            Kind::UnknownVariant(found, expected) => {
                let valid: Vec<String> =
                    expected.iter().map(|name| format!("\"{name}\"")).collect();
                self.invalid(
                    &path,
                    format!("{found:?} is not valid; valid are {}", valid.join(", ")),
                )
            }
            Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
                let valid = if expected.starts_with("struct ") {
                    format!("a section [{path}]")
                } else {
                    expected.clone()
                };
                // All of Kafka's properties as one text, say: some of them are secrets.
                let found = if ["kafka", "tracing"].contains(&path.as_str()) {
                    "something else, which is not shown".to_owned()
                } else {
                    found.to_string()
                };
                self.invalid(&path, format!("found {found}; valid is {valid}"))
            }
            Kind::MissingField(name) => self.invalid(&full(name), "it is missing".to_owned()),
            Kind::Message(why) => self.invalid(&path, why.clone()),
            Kind::InvalidLength(..)
            | Kind::DuplicateField(_)
            | Kind::ISizeOutOfRange(_)
            | Kind::USizeOutOfRange(_)
            | Kind::Unsupported(_)
            | Kind::UnsupportedKey(..) => self.invalid(&path, error.kind.to_string()),
        }
    }
}
