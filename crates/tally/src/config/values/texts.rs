//! Texts as they come from a file or the environment, and those that must not be shown.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use figment::value::Value;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

/// A text that no log line, error or debug output shows.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

/// A list of texts: an array, or one text with commas, as it comes from the environment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Texts(Vec<String>);

/// Settings handed on to a library, by its own names with dots. All values are secrets, since
/// some are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Properties(BTreeMap<String, Secret>);

/// Files whose contents are such settings, by the settings' names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(crate) struct PropertyFiles(BTreeMap<String, PathBuf>);

impl Secret {
    /// The text itself. Never log it.
    #[must_use]
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// A text that must not be shown.
    #[must_use]
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"***\"")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

impl Properties {
    /// Names and values.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

impl PropertyFiles {
    /// Names and paths.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Path)> {
        let pairs = self.0.iter();
        pairs.map(|(name, path)| (name.as_str(), path.as_path()))
    }
}

impl Texts {
    /// The texts.
    #[must_use]
    pub(crate) fn as_slice(&self) -> &[String] {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextsVisitor;

        impl<'de> Visitor<'de> for TextsVisitor {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of texts, or texts with commas between them")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Texts, E> {
                let parts = text.split(',').map(str::trim);
                Ok(Texts(
                    parts
                        .filter(|part| !part.is_empty())
                        .map(str::to_owned)
                        .collect(),
                ))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Texts, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = seq.next_element()? {
                    texts.push(text);
                }
                Ok(Texts(texts))
            }
        }

        deserializer.deserialize_any(TextsVisitor)
    }
}

impl<'de> Deserialize<'de> for Properties {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let named = flat(deserializer)?.into_iter();
        Ok(Self(
            named
                .map(|(name, text)| (name, Secret::new(text)))
                .collect(),
        ))
    }
}

impl<'de> Deserialize<'de> for PropertyFiles {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let named = flat(deserializer)?.into_iter();
        Ok(Self(
            named
                .map(|(name, text)| (name, PathBuf::from(text)))
                .collect(),
        ))
    }
}

/// Texts by names with dots, which nest in TOML and in the environment. No error shows a value: it
/// may be a secret, or one that stands in the wrong place.
fn flat<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    fn flatten(name: &str, value: &Value, into: &mut BTreeMap<String, String>) -> bool {
        let text = match value {
            Value::Dict(_, dict) => {
                return dict
                    .iter()
                    .all(|(key, value)| flatten(&join(name, key), value, into));
            }
            Value::String(_, text) => text.clone(),
            Value::Char(_, char) => char.to_string(),
            Value::Bool(_, bool) => bool.to_string(),
            Value::Num(_, number) => match (number.to_u128(), number.to_i128()) {
                (Some(number), _) => number.to_string(),
                (None, Some(number)) => number.to_string(),
                (None, None) => return false,
            },
            Value::Empty(..) | Value::Array(..) => return false,
        };
        into.insert(name.to_owned(), text);
        true
    }

    let named = BTreeMap::<String, Value>::deserialize(deserializer).map_err(|_| {
        de::Error::custom(
            "found something else, which is not shown; valid is a table of names and texts",
        )
    })?;
    let mut texts = BTreeMap::new();
    for (name, value) in named {
        if !flatten(&name, &value, &mut texts) {
            let why = format_args!("property {name} is not a text, a whole number, true or false");
            return Err(de::Error::custom(why));
        }
    }
    Ok(texts)
}

fn join(name: &str, key: &str) -> String {
    format!("{name}.{key}")
}

/// Reads an address to listen on.
pub(crate) fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text: String = text(deserializer)?;
    text.parse().map_err(|_| {
        de::Error::custom(format_args!(
            "{text:?} is not an address; valid are an IP address and a port, as in \"127.0.0.1:8080\" or \"[::1]:8080\""
        ))
    })
}

/// Reads a text that looks like something else in the environment: a folder called `2026` is a
/// number there.
pub(crate) fn text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: fmt::Display,
{
    struct TextVisitor;

    impl Visitor<'_> for TextVisitor {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }
        fn visit_bool<E: de::Error>(self, value: bool) -> Result<String, E> {
            Ok(value.to_string())
        }
        fn visit_u64<E: de::Error>(self, value: u64) -> Result<String, E> {
            Ok(value.to_string())
        }
        fn visit_i64<E: de::Error>(self, value: i64) -> Result<String, E> {
            Ok(value.to_string())
        }
    }

    let text = deserializer.deserialize_any(TextVisitor)?;
    text.parse()
        .map_err(|error| de::Error::custom(format_args!("{text:?} is not valid: {error}")))
}

/// As [`text()`], where the setting may be absent.
pub(crate) fn optional_text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: fmt::Display,
{
    text(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards that a secret is not shown by accident.
    #[test]
    fn a_secret_shows_nothing_of_itself() {
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(format!("{secret:?}"), "\"***\"");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"***\"");
        assert_eq!(secret.reveal(), "hunter2");
    }
}
