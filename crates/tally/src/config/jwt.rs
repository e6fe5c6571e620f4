//! Which tokens are taken, and what is refused of that.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tally_ingress::auth::jwt::{Algorithm, NoAlgorithm};
use ureq::http::Uri;

use super::values::{self, Span, Texts};
use super::{ConfigError, Sources};

/// The most secrets, and the most public keys: each is tried for each token.
const MAX_FILES: usize = 8;
/// The settings of which exactly one says where the keys are.
const KEYS: [&str; 4] = ["secret_files", "public_key_files", "jwks_file", "jwks_url"];

/// Tokens; what is empty is not set.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Jwt {
    algorithms: Texts,
    secret_files: Texts,
    public_key_files: Texts,
    #[serde(deserialize_with = "values::text")]
    jwks_file: String,
    #[serde(deserialize_with = "values::text")]
    jwks_url: String,
    jwks_refresh: Span<1_000, 86_400_000>,
    jwks_min_refresh: Span<1_000, 3_600_000>,
    jwks_keep: Span<1_000, 2_592_000_000>,
    #[serde(deserialize_with = "values::text")]
    issuer: String,
    audiences: Texts,
    leeway: Span<0, 300_000>,
}

/// Where the keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum JwtKeys {
    /// Files of secrets.
    Secrets(Vec<PathBuf>),
    /// PEM files.
    PublicKeys(Vec<PathBuf>),
    /// A file of a key set.
    JwksFile(PathBuf),
    /// The address of a key set.
    JwksUrl {
        /// Where.
        url: String,
        /// How often it is looked at.
        refresh: Duration,
        /// The least time between two looks.
        min_refresh: Duration,
        /// How long its keys hold while it is away.
        keep: Duration,
    },
}

/// Tokens, as they are set.
#[derive(Debug, Clone)]
pub(crate) struct JwtSettings {
    /// How they may be signed.
    pub(crate) algorithms: Vec<Algorithm>,
    /// Where the keys are.
    pub(crate) keys: JwtKeys,
    /// The only issuer.
    pub(crate) issuer: Option<String>,
    /// Whom they may be meant for.
    pub(crate) audiences: Vec<String>,
    /// By how much clocks may differ.
    pub(crate) leeway: Duration,
}

impl Jwt {
    /// What is set, or `None` where no tokens are taken.
    ///
    /// # Errors
    /// [`ConfigError`] where it is not clear which tokens are meant, by the setting's full name.
    pub(crate) fn settings(&self, sources: &Sources) -> Result<Option<JwtSettings>, ConfigError> {
        let refuse = |name: &str, why: String| sources.invalid(&format!("auth.jwt.{name}"), why);
        let Some(keys) = self.keys(&refuse)? else {
            return Ok(None);
        };
        let algorithms = self.algorithms(&keys, &refuse)?;
        if !self.leeway.get().as_millis().is_multiple_of(1_000) {
            let why = format!("{} is not valid; valid are whole seconds", self.leeway);
            return Err(refuse("leeway", why));
        }
        let texts = self.audiences.as_slice();
        Ok(Some(JwtSettings {
            algorithms,
            keys,
            issuer: Some(self.issuer.clone()).filter(|issuer| !issuer.is_empty()),
            audiences: texts.to_vec(),
            leeway: self.leeway.get(),
        }))
    }

    fn keys(
        &self,
        refuse: &dyn Fn(&str, String) -> ConfigError,
    ) -> Result<Option<JwtKeys>, ConfigError> {
        let set = [
            !self.secret_files.as_slice().is_empty(),
            !self.public_key_files.as_slice().is_empty(),
            !self.jwks_file.is_empty(),
            !self.jwks_url.is_empty(),
        ];
        let mut named = KEYS.iter().zip(set).filter(|(_, set)| *set);
        let named = (named.next().map(|(name, _)| *name), named.next());
        match named {
            (None, _) => {
                let others = [
                    ("algorithms", self.algorithms.as_slice().is_empty()),
                    ("issuer", self.issuer.is_empty()),
                    ("audiences", self.audiences.as_slice().is_empty()),
                ];
                match others.iter().find(|(_, empty)| !empty) {
                    None => Ok(None),
                    Some((name, _)) => {
                        let all: Vec<String> =
                            KEYS.iter().map(|name| format!("auth.jwt.{name}")).collect();
                        let why = format!(
                            "it is set, but there are no keys; set one of {} as well",
                            all.join(", ")
                        );
                        Err(refuse(name, why))
                    }
                }
            }
            (Some(first), Some((second, _))) => {
                let why = format!(
                    "auth.jwt.{first} is set as well; valid is one kind of keys, since whoever may choose chooses the weaker one"
                );
                Err(refuse(second, why))
            }
            (Some(name), None) => self.of_kind(name, refuse).map(Some),
        }
    }

    fn of_kind(
        &self,
        name: &str,
        refuse: &dyn Fn(&str, String) -> ConfigError,
    ) -> Result<JwtKeys, ConfigError> {
        let files = |texts: &Texts| {
            let texts = texts.as_slice();
            if texts.len() > MAX_FILES {
                let why = format!(
                    "it names {} files; valid are at most {MAX_FILES}",
                    texts.len()
                );
                return Err(refuse(name, why));
            }
            Ok(texts.iter().map(PathBuf::from).collect())
        };
        match name {
            "secret_files" => Ok(JwtKeys::Secrets(files(&self.secret_files)?)),
            "public_key_files" => Ok(JwtKeys::PublicKeys(files(&self.public_key_files)?)),
            "jwks_file" => Ok(JwtKeys::JwksFile(PathBuf::from(&self.jwks_file))),
            _ => {
                let least = self.jwks_min_refresh.get();
                let (refresh, keep) = (self.jwks_refresh.get(), self.jwks_keep.get());
                if refresh < least {
                    let why = "it is shorter than auth.jwt.jwks_min_refresh";
                    return Err(refuse("jwks_refresh", why.to_owned()));
                }
                if keep < refresh {
                    let why = "it is shorter than auth.jwt.jwks_refresh: one look that fails would end all tokens";
                    return Err(refuse("jwks_keep", why.to_owned()));
                }
                if !is_http(&self.jwks_url) {
                    // Not shown: it may have a password in it.
                    let why = "it is no address of a key set; valid is one with http or https, a host, and no user or password, as in \"https://login.example.com/.well-known/jwks.json\"";
                    return Err(refuse(name, why.to_owned()));
                }
                Ok(JwtKeys::JwksUrl {
                    url: self.jwks_url.clone(),
                    refresh,
                    min_refresh: least,
                    keep,
                })
            }
        }
    }

    fn algorithms(
        &self,
        keys: &JwtKeys,
        refuse: &dyn Fn(&str, String) -> ConfigError,
    ) -> Result<Vec<Algorithm>, ConfigError> {
        let refuse = |why: String| Err(refuse("algorithms", why));
        let mut algorithms = Vec::new();
        for name in self.algorithms.as_slice() {
            let Ok(algorithm) = name.parse::<Algorithm>() else {
                return refuse(format!("{name:?} is not an algorithm; {NoAlgorithm}"));
            };
            if algorithms.contains(&algorithm) {
                return refuse(format!("it names {algorithm} twice"));
            }
            algorithms.push(algorithm);
        }
        let secret = matches!(keys, JwtKeys::Secrets(_));
        let wrong = algorithms
            .iter()
            .find(|one| one.min_secret().is_some() != secret);
        let secrets = "auth.jwt.secret_files";
        match (wrong, algorithms.as_slice()) {
            (None, []) => refuse(format!("it is empty; {NoAlgorithm}")),
            (Some(wrong), _) if secret => refuse(format!(
                "{wrong} needs public keys, and {secrets} names secrets; valid is one of HS256, HS384 and HS512"
            )),
            (Some(wrong), _) => refuse(format!(
                "{wrong} needs a secret, and the keys are public; valid are RS256, ES256 and EdDSA, or {secrets}"
            )),
            (None, [_, _, ..]) if secret => refuse(format!(
                "it names several, and a secret of {secrets} is for one; valid is one of HS256, HS384 and HS512"
            )),
            (None, [..]) => Ok(algorithms),
        }
    }
}

/// Whether text is an address of http or https, with a host and without user and password.
pub(super) fn is_http(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else {
        return false;
    };
    let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
    let authority = uri.authority().map_or("@", |authority| authority.as_str());
    let host = uri.host().is_some_and(|host| !host.is_empty());
    scheme && host && !authority.contains('@')
}

#[cfg(test)]
mod tests;
