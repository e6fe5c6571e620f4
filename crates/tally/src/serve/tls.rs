//! TLS to addresses that settings name.

use std::sync::Arc;

use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::failure::Failure;

/// Whether an address is one of https.
pub(crate) fn is_https(url: &str) -> bool {
    url.get(..8)
        .is_some_and(|start| start.eq_ignore_ascii_case("https://"))
}

/// TLS with the authorities that this host trusts (`SSL_CERT_FILE`, `SSL_CERT_DIR`).
///
/// # Errors
/// Where it trusts nobody; the setting is named.
pub(crate) fn of_host(setting: &str) -> Result<TlsConfig, Failure> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let why = found.errors.first().map(ToString::to_string);
        return Err(Failure::run(format!(
            "setting {setting}: https needs authorities to trust, and this host has none ({}); install ca-certificates, or name a file of them in SSL_CERT_FILE",
            why.unwrap_or_else(|| "no file of them was found".to_owned())
        )));
    }
    let certs = found.certs.iter();
    let roots: Vec<Certificate<'static>> = certs
        .map(|cert| Certificate::from_der(cert.as_ref()).to_owned())
        .collect();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .unversioned_rustls_crypto_provider(Arc::new(provider))
        .build())
}
