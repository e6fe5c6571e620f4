//! Where settings come from: the compiled-in default, a file, the environment, the command line.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::Config;
use super::error::ConfigError;

/// The local default, every setting of it.
pub(crate) const LOCAL_DEFAULT: &str = include_str!("../../../../config/local.toml");

/// What is convenient on one's own machine and unsafe elsewhere: off as soon as a file is given.
const WITH_A_FILE: &str = "[auth]\nlocal_dev_key = false\n[catalogue]\nseed = false\n";

const ENV_PREFIX: &str = "TALLY__";

/// Where values are texts under names of somebody else's, which have dots in them.
const PROPERTIES: [&str; 2] = ["properties", "property_files"];

/// Where values are texts under the names of HTTP's headers, whose case means nothing.
const HEADERS: [&str; 2] = ["headers", "header_files"];

/// Which layer gave each setting its value.
#[derive(Clone)]
pub(crate) struct Sources(Figment);

impl fmt::Debug for Sources {
    /// Nothing of what it holds: some are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

/// One layer: text with a name that errors can show.
struct Layer {
    name: String,
    dict: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        let mut dict = self.dict.clone();
        if let Some(Value::Dict(_, kafka)) = dict.get_mut("kafka") {
            for section in PROPERTIES {
                if let Some(Value::Dict(_, named)) = kafka.get_mut(section) {
                    nest(std::mem::take(named), named);
                }
            }
        }
        if let Some(Value::Dict(_, tracing)) = dict.get_mut("tracing") {
            for section in HEADERS {
                if let Some(Value::Dict(_, named)) = tracing.get_mut(section) {
                    let headers = std::mem::take(named).into_iter();
                    named.extend(headers.map(|(name, value)| (name.to_lowercase(), value)));
                }
            }
        }
        Ok(Profile::Default.collect(dict))
    }
}

/// Brings `"sasl.password"`, `sasl.password` and what the environment makes of
/// `…__SASL__PASSWORD` into one form, so that they are the same property, and the last layer wins.
fn nest(from: Dict, into: &mut Dict) {
    for (name, value) in from {
        let (name, value) = match name.split_once('.') {
            Some((name, rest)) => {
                let rest = Dict::from([(rest.to_owned(), value)]);
                (name.to_owned(), Value::from(rest))
            }
            None => (name, value),
        };
        let Value::Dict(tag, inner) = value else {
            into.insert(name, value);
            continue;
        };
        let entry = into.entry(name).or_insert_with(|| Dict::new().into());
        if !matches!(entry, Value::Dict(..)) {
            *entry = Value::Dict(tag, Dict::new());
        }
        if let Value::Dict(_, dict) = entry {
            nest(inner, dict);
        }
    }
}

impl Layer {
    fn toml(name: String, text: &str) -> Result<Self, ConfigError> {
        match Toml::from_str::<Dict>(text) {
            Ok(dict) => Ok(Self { name, dict }),
            Err(error) => Err(ConfigError::Toml {
                source_name: name,
                why: without_excerpt(&error.to_string()),
            }),
        }
    }
}

/// The parser's message without the lines of the file that it quotes: they may hold a secret.
fn without_excerpt(message: &str) -> String {
    let said = message
        .lines()
        .filter(|line| !line.contains('|') && !line.trim().is_empty());
    said.collect::<Vec<_>>().join(": ")
}

impl Config {
    /// The settings of a command: the local default, a file where one is given, the process's
    /// environment, and the folder where the command line names one.
    ///
    /// # Errors
    /// [`ConfigError`], by the setting's full name.
    pub(crate) fn load(
        file: Option<&Path>,
        data_dir: Option<&Path>,
    ) -> Result<(Self, Sources), ConfigError> {
        let text = file
            .map(|path| {
                std::fs::read_to_string(path).map_err(|cause| ConfigError::Read {
                    path: path.to_owned(),
                    cause,
                })
            })
            .transpose()?;
        let name = file.map(|path| path.display().to_string());
        let file = name.as_deref().zip(text.as_deref());
        Self::from_layers(file, std::env::vars_os(), data_dir)
    }

    /// As [`load`](Self::load), from a named text and variables that are given.
    pub(crate) fn from_layers(
        file: Option<(&str, &str)>,
        variables: impl Iterator<Item = (OsString, OsString)>,
        data_dir: Option<&Path>,
    ) -> Result<(Self, Sources), ConfigError> {
        let default = "the compiled-in default (config/local.toml)";
        let mut figment = Figment::from(Layer::toml(default.to_owned(), LOCAL_DEFAULT)?);
        if let Some((name, text)) = file {
            let off = format!("the default with a file ({name})");
            figment = figment
                .merge(Layer::toml(off, WITH_A_FILE)?)
                .merge(Layer::toml(format!("the file {name}"), text)?);
        }
        for (name, value) in variables {
            if let Some(layer) = variable(&name, &value)? {
                figment = figment.merge(layer);
            }
        }
        if let Some(path) = data_dir {
            let text = path
                .to_str()
                .ok_or_else(|| ConfigError::NotUnicode("--data-dir".to_owned()))?;
            let dict = Dict::from([("data_dir".to_owned(), Value::from(text))]);
            figment = figment.merge(Layer {
                name: "--data-dir".to_owned(),
                dict,
            });
        }
        let sources = Sources(figment);
        let mut config: Self = sources
            .0
            .extract()
            .map_err(|error| sources.explain(&error))?;
        config.check(&sources)?;
        config.kafka.finish(config.log.kind, &sources)?;
        config.auth.tokens = config.auth.jwt.settings(&sources)?;
        config.tracing.finish(&sources)?;
        Ok((config, sources))
    }
}

/// Deeper than any setting; what goes deeper would be followed by recursion.
const MAX_NESTING: usize = 32;

/// The layer of one variable of the environment; `None` for those that are none of ours.
fn variable(name: &OsString, value: &OsString) -> Result<Option<Layer>, ConfigError> {
    let Some(key) = name.to_str().and_then(|name| name.strip_prefix(ENV_PREFIX)) else {
        return Ok(None);
    };
    let layer = format!("the environment variable {ENV_PREFIX}{key}");
    let text = value
        .to_str()
        .ok_or_else(|| ConfigError::NotUnicode(layer.clone()))?;
    let path = key.to_lowercase().replace("__", ".");
    let named = |of: &str, sections: &[&str]| {
        let rest = path.strip_prefix(of).unwrap_or_default();
        sections.iter().any(|section| {
            let name = rest.strip_prefix(section);
            name.is_some_and(|name| name.starts_with('.'))
        })
    };
    let properties = named("kafka.", &PROPERTIES) || named("tracing.", &HEADERS);
    let value = if properties || text.matches(['[', '{']).count() > MAX_NESTING {
        // As it stands: a password of digits, or one in quotes, is that text. And no setting has a
        // value so deep, which the parser follows by recursion.
        Value::from(text)
    } else {
        // Parsing is lenient: what is no number, boolean or array is a text.
        let Ok(value) = text.parse::<Value>();
        value
    };
    if path.split('.').count() <= MAX_NESTING
        && path.split('.').all(|part| !part.is_empty())
        && let Value::Dict(_, dict) = figment::util::nest(&path, value)
    {
        return Ok(Some(Layer { name: layer, dict }));
    }
    Err(ConfigError::Unknown {
        setting: path,
        source_name: layer,
        valid: "a setting section.key is TALLY__SECTION__KEY".to_owned(),
    })
}

impl Sources {
    /// Which layer gave a setting its value, for people.
    pub(crate) fn of(&self, setting: &str) -> String {
        let known = self.0.find_metadata(setting);
        known.map_or_else(
            || "the settings".to_owned(),
            |metadata| metadata.name.to_string(),
        )
    }
}
