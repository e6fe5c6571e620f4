//! Where traces go, and what is refused of that.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};
use ureq::http::{HeaderName, HeaderValue};

use super::jwt::is_http;
use super::kafka::read_property;
use super::values::{self, Properties, PropertyFiles};
use super::{ConfigError, Sources};

/// The longest name of a service, in bytes.
const MAX_NAME: usize = 255;
/// Headers that say what is sent, which only the sender knows.
const OURS: [&str; 7] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "transfer-encoding",
];

/// Traces; without an endpoint there are none.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tracing {
    #[serde(deserialize_with = "values::text")]
    otlp_endpoint: String,
    sample_ratio: Ratio,
    #[serde(deserialize_with = "values::text")]
    service_name: String,
    headers: Properties,
    header_files: PropertyFiles,
    /// What these say, checked; `None` where nothing is traced.
    #[serde(skip)]
    pub(crate) export: Option<TraceSettings>,
}

/// Where traces go, as it is set.
#[derive(Clone)]
pub(crate) struct TraceSettings {
    /// The address that spans are posted to.
    pub(crate) url: String,
    /// The part of requests that begin a trace.
    pub(crate) ratio: f64,
    /// What the service is called.
    pub(crate) service_name: String,
    /// Sent along. Values are secrets.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

impl fmt::Debug for TraceSettings {
    /// Without the headers' values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("TraceSettings")
            .field("url", &self.url)
            .field("ratio", &self.ratio)
            .field("service_name", &self.service_name)
            .field("headers", &names)
            .finish()
    }
}

impl Tracing {
    /// Refuses what each setting alone can't see, and reads the files of secrets.
    ///
    /// # Errors
    /// [`ConfigError`], by the setting's full name, with no value of a header.
    pub(super) fn finish(&mut self, sources: &Sources) -> Result<(), ConfigError> {
        let headers = self.all_headers(sources)?;
        let refuse = |name: &str, why: String| sources.invalid(&format!("tracing.{name}"), why);
        let name = &self.service_name;
        if name.is_empty() || name.len() > MAX_NAME || name.contains(char::is_control) {
            let why = format!(
                "{name:?} is not the name of a service; valid are 1 to {MAX_NAME} bytes with no control characters"
            );
            return Err(refuse("service_name", why));
        }
        let endpoint = self.otlp_endpoint.trim_end_matches('/');
        if endpoint.is_empty() {
            return Ok(());
        }
        if !is_http(endpoint) || endpoint.contains(['?', '#']) {
            // Not shown: it may have a password in it.
            let why = "it is no address of a collector; valid is one with http or https, a host, and no user, password or query, as in \"http://collector:4318\"";
            return Err(refuse("otlp_endpoint", why.to_owned()));
        }
        self.export = Some(TraceSettings {
            url: format!("{endpoint}/v1/traces"),
            ratio: self.sample_ratio.0,
            service_name: name.clone(),
            headers,
        });
        Ok(())
    }

    fn all_headers(
        &self,
        sources: &Sources,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, ConfigError> {
        let mut all = BTreeMap::new();
        for (name, value) in self.headers.iter() {
            all.insert(name.to_owned(), ("headers", value.reveal().to_owned()));
        }
        for (name, path) in self.header_files.iter() {
            let section = "tracing.header_files";
            let refuse = |why: String| sources.invalid_property(section, name, why);
            let content = read_property(path).map_err(|error| {
                let path = path.display();
                refuse(format!("the file {path} can't be read: {error}"))
            })?;
            if all.contains_key(name) {
                let why = "it is set in tracing.headers as well; remove one of the two";
                return Err(refuse(why.to_owned()));
            }
            all.insert(name.to_owned(), ("header_files", content));
        }
        let header = |(name, (section, value)): (String, (&str, String))| {
            let refuse = |why: &str| {
                let section = format!("tracing.{section}");
                sources.invalid_property(&section, &name, why.to_owned())
            };
            let header = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| refuse("it is not the name of a header"))?;
            if OURS.contains(&header.as_str()) {
                return Err(refuse(
                    "this header says what is sent, and is set by Tally; remove it",
                ));
            }
            let mut value = HeaderValue::from_str(&value).map_err(|_| {
                refuse("its value, which is not shown, is none that a header can have: it has a line break or another control character")
            })?;
            value.set_sensitive(true);
            Ok((header, value))
        };
        all.into_iter().map(header).collect()
    }
}

/// A part of a whole: 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Ratio(f64);

impl<'de> Deserialize<'de> for Ratio {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RatioVisitor;

        impl Visitor<'_> for RatioVisitor {
            type Value = Ratio;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 0 to 1")
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Ratio, E> {
                if (0. ..=1.).contains(&number) {
                    return Ok(Ratio(number));
                }
                Err(E::custom(format_args!(
                    "{number} is not a number from 0 to 1"
                )))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Ratio, E> {
                let number = u32::try_from(number).map_or(f64::INFINITY, f64::from);
                self.visit_f64(number)
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Ratio, E> {
                let number = i32::try_from(number).map_or(f64::INFINITY, f64::from);
                self.visit_f64(number)
            }
        }

        deserializer.deserialize_any(RatioVisitor)
    }
}

#[cfg(test)]
mod tests;
