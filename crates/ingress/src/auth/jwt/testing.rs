//! Issuers of tokens for tests: keys made on the spot, and any header and claims signed with them.
//! The black-box tests use this file as well, so it names nothing of the crate.

use std::sync::LazyLock;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair,
    RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

/// Signs tokens.
pub(super) struct Issuer {
    algorithm: Algorithm,
    /// Its algorithm's name.
    pub(super) name: &'static str,
    key: EncodingKey,
    /// The public key, where there is one: as DER, and as a JWK without a name.
    public: Vec<u8>,
    jwk: Value,
}

/// A private key, its public key as DER, and as a JWK. Slow to make.
type Rsa = (Vec<u8>, Vec<u8>, Value);
static RSA: LazyLock<Rsa> = LazyLock::new(rsa);

pub(super) fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Now, in seconds since 1970.
pub(super) fn now() -> u64 {
    jsonwebtoken::get_current_timestamp()
}

/// Claims that are valid for an hour.
pub(super) fn claims(user: &str) -> Value {
    json!({"sub": user, "exp": now() + 3_600})
}

fn rsa() -> Rsa {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let pkcs8 = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
    // What the library signs with is what is wrapped in it.
    let private = pkcs8.as_ref()[26..].to_vec();
    let public = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap();
    let RsaPublicKeyComponents { n, e } =
        RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
    let jwk = json!({"kty": "RSA", "n": base64(n), "e": base64(e)});
    (private, public.as_ref().to_vec(), jwk)
}

impl Issuer {
    /// One with a secret, whose algorithm is HS256, HS384 or HS512.
    pub(super) fn secret(name: &'static str, secret: &[u8]) -> Self {
        Self {
            algorithm: name.parse().unwrap(),
            name,
            key: EncodingKey::from_secret(secret),
            public: Vec::new(),
            jwk: Value::Null,
        }
    }

    /// Always the same key: it takes long to make one.
    pub(super) fn rs256() -> Self {
        Self::rsa(RSA.clone())
    }

    /// Another one, always the same as well.
    pub(super) fn other_rs256() -> Self {
        static OTHER: LazyLock<Rsa> = LazyLock::new(rsa);
        Self::rsa(OTHER.clone())
    }

    fn rsa((private, public, jwk): Rsa) -> Self {
        Self {
            algorithm: Algorithm::RS256,
            name: "RS256",
            key: EncodingKey::from_rsa_der(&private),
            public,
            jwk,
        }
    }

    pub(super) fn es256() -> Self {
        let random = SystemRandom::new();
        let signing = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(signing, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(signing, pkcs8.as_ref()).unwrap();
        let public = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap();
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        Self {
            algorithm: Algorithm::ES256,
            name: "ES256",
            key: EncodingKey::from_ec_der(pkcs8.as_ref()),
            public: public.as_ref().to_vec(),
            jwk: json!({"kty": "EC", "crv": "P-256", "x": base64(x), "y": base64(y)}),
        }
    }

    pub(super) fn eddsa() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        let public = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap();
        let x = base64(pair.public_key().as_ref());
        Self {
            algorithm: Algorithm::EdDSA,
            name: "EdDSA",
            key: EncodingKey::from_ed_der(pkcs8.as_ref()),
            public: public.as_ref().to_vec(),
            jwk: json!({"kty": "OKP", "crv": "Ed25519", "x": x}),
        }
    }

    /// Header and claims as they stand, signed.
    pub(super) fn raw(&self, header: &str, claims: &str) -> String {
        self.raw_bytes(header.as_bytes(), claims.as_bytes())
    }

    /// The same of any bytes.
    pub(super) fn raw_bytes(&self, header: &[u8], claims: &[u8]) -> String {
        let message = format!("{}.{}", base64(header), base64(claims));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, self.algorithm);
        format!("{message}.{}", signature.unwrap())
    }

    pub(super) fn token(&self, claims: &Value) -> String {
        let header = json!({"typ": "JWT", "alg": self.name});
        self.raw(&header.to_string(), &claims.to_string())
    }

    pub(super) fn token_of(&self, kid: &str, claims: &Value) -> String {
        let header = json!({"alg": self.name, "kid": kid});
        self.raw(&header.to_string(), &claims.to_string())
    }

    pub(super) fn public_der(&self) -> &[u8] {
        &self.public
    }

    pub(super) fn pem(&self) -> String {
        pem("PUBLIC KEY", &self.public)
    }

    pub(super) fn jwk(&self, kid: &str) -> Value {
        let mut jwk = self.jwk.clone();
        jwk["kid"] = kid.into();
        jwk
    }
}

/// A PEM file, with lines as they should be.
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines = body.as_bytes().chunks(64);
    let lines: Vec<&str> = lines
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}
