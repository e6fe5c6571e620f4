//! Until when the certificates are valid that the settings name.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

use crate::config::Config;
use crate::metrics::{KAFKA_CA, KAFKA_CLIENT};

/// A file of certificates that is longer is none: bundles of systems have some 200 KiB.
const MAX_BYTES: u64 = 4 << 20;

/// Certificates that the settings name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// As the label has it.
    pub(super) name: &'static str,
    pem: Pem,
}

#[derive(Debug, PartialEq, Eq)]
enum Pem {
    File(PathBuf),
    Text(String),
}

/// Why it is not known until when they are valid.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unknown {
    #[error("the file {} can't be read", .0.display())]
    File(PathBuf, #[source] std::io::Error),
    #[error("it is not PEM")]
    Pem(#[from] rustls::pki_types::pem::Error),
    #[error("a certificate in it can't be read")]
    Certificate(#[from] x509_cert::der::Error),
    #[error("there is no certificate in it")]
    None,
}

/// Those of Kafka's clients.
pub(super) fn named(config: &Config) -> Vec<Named> {
    let kinds = [
        (
            KAFKA_CLIENT,
            "ssl.certificate.location",
            "ssl.certificate.pem",
        ),
        (KAFKA_CA, "ssl.ca.location", "ssl.ca.pem"),
    ];
    let Some(options) = config.kafka_options() else {
        return Vec::new();
    };
    let named = kinds.into_iter().filter_map(|(name, file, text)| {
        let text = options
            .properties
            .get(text)
            .map(|text| Pem::Text(text.to_owned()));
        let file = || {
            let path = options.properties.get(file)?;
            // The one is the system's own; librdkafka takes a folder as well.
            let is_file = path != "probe" && !Path::new(path).is_dir();
            is_file.then(|| Pem::File(PathBuf::from(path)))
        };
        let pem = text.or_else(file)?;
        Some(Named { name, pem })
    });
    named.collect()
}

impl Named {
    /// Until when they are valid, in seconds since 1970: what a client shows of itself is the first in
    /// the file, and of authorities any may be the one that is needed.
    pub(super) fn valid_until(&self) -> Result<u64, Unknown> {
        let text = match &self.pem {
            Pem::Text(text) => text.clone().into_bytes(),
            Pem::File(path) => read(path).map_err(|error| Unknown::File(path.clone(), error))?,
        };
        let mut all = CertificateDer::pem_slice_iter(&text).map(|one| {
            let certificate = Certificate::from_der(&one?)?;
            let until = certificate.tbs_certificate.validity.not_after;
            Ok::<_, Unknown>(until.to_unix_duration().as_secs())
        });
        if self.name == KAFKA_CLIENT {
            return all.next().unwrap_or(Err(Unknown::None));
        }
        let all = all.collect::<Result<Vec<u64>, Unknown>>()?;
        all.into_iter().min().ok_or(Unknown::None)
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `openssl req -x509 -newkey ed25519 -nodes -subj /CN=a -days 36500`, and the same with `-days 1`.
    const LONG: &str = "-----BEGIN CERTIFICATE-----\n\
MIIBLjCB4aADAgECAhQfzYn6Cx8n596gT8jLarBzO4ivWjAFBgMrZXAwDDEKMAgG\n\
A1UEAwwBYTAgFw0yNjExMzAwMjA0MDBaGA8yMTI2MTEwNjAyMDQwMFowDDEKMAgG\n\
A1UEAwwBYTAqMAUGAytlcAMhAJ2p5YqY7JZBd06m/sA1DzbHyf6ygi1WUE1TAkHG\n\
9R2uo1MwUTAdBgNVHQ4EFgQUbIHtoec6GzpSdGT921yCSw4mWzkwHwYDVR0jBBgw\n\
FoAUbIHtoec6GzpSdGT921yCSw4mWzkwDwYDVR0TAQH/BAUwAwEB/zAFBgMrZXAD\n\
QQCEEVbYfLCFqna/8ht2OekAm9XC9Ht1Xu54J9xs8zQQhH7kGhc+tKD00qi88lWB\n\
GlM/YWb+Jbnem/qBRfDoH7ML\n\
-----END CERTIFICATE-----";
    const SHORT: &str = "-----BEGIN CERTIFICATE-----\n\
MIIBLDCB36ADAgECAhR8VKG8T061WQAieLLLz6z0WdkV7DAFBgMrZXAwDDEKMAgG\n\
A1UEAwwBYTAeFw0yNjExMzAwMjA0MDBaFw0yNjEyMDEwMjA0MDBaMAwxCjAIBgNV\n\
BAMMAWEwKjAFBgMrZXADIQAGlF5mJJk4YYEsQEQBpFG3lj1yd/wXXwt8qXY3/s+B\n\
06NTMFEwHQYDVR0OBBYEFG01Y8XmxL1SUmyWf0NCgX52woFvMB8GA1UdIwQYMBaA\n\
FG01Y8XmxL1SUmyWf0NCgX52woFvMA8GA1UdEwEB/wQFMAMBAf8wBQYDK2VwA0EA\n\
HHQ9S/g3JUaFb3LDPT5ni6ZxjKNkoKrbxYTNU9BkR/hsrpKyR7NZGxhi8uW1btjB\n\
sKb7cmDiHAAOYtG63EoVBw==\n\
-----END CERTIFICATE-----";
    const LONG_UNTIL: u64 = 4_949_604_240;
    const SHORT_UNTIL: u64 = 1_796_090_640;

    fn until(name: &'static str, text: &str) -> Result<u64, Unknown> {
        let pem = Pem::Text(text.to_owned());
        Named { name, pem }.valid_until()
    }

    /// Protects the alert on certificates: the moment is the right one, of the right certificate.
    #[test]
    fn a_certificate_says_until_when_it_is_valid() {
        assert_eq!(until(KAFKA_CLIENT, LONG).unwrap(), LONG_UNTIL);
        let chain = format!("a comment\n{LONG}\n{SHORT}");
        assert_eq!(
            until(KAFKA_CLIENT, &chain).unwrap(),
            LONG_UNTIL,
            "its own comes first"
        );
        assert_eq!(
            until(KAFKA_CA, &chain).unwrap(),
            SHORT_UNTIL,
            "the one that ends first"
        );
    }

    /// Protects whoever sees no series from having to guess.
    #[test]
    fn what_is_no_certificate_says_so() {
        assert!(matches!(until(KAFKA_CA, "nothing"), Err(Unknown::None)));
        let broken = LONG.replacen("MII", "MIJ", 1).replacen("MIIB", "MIJB", 1);
        assert!(until(KAFKA_CLIENT, &broken).is_err());
        let pem = Pem::File(PathBuf::from("/nowhere/ca.pem"));
        let named = Named {
            name: KAFKA_CA,
            pem,
        };
        let error = named.valid_until().unwrap_err().to_string();
        assert!(error.contains("/nowhere/ca.pem"), "{error}");
    }
}
