//! Attacks that are known: parts that were swapped, and algorithms that were confused.

use super::super::testing::base64;
use super::*;

/// Protects the door itself: nothing but the whole signature of the very message opens it.
#[test]
fn a_signature_is_of_this_token_and_of_a_key_of_ours() {
    let folder = tempfile::tempdir().unwrap();
    for issuer in [
        Issuer::secret("HS256", SECRET),
        Issuer::rs256(),
        Issuer::es256(),
        Issuer::eddsa(),
    ] {
        let keys = if issuer.public_der().is_empty() {
            KeySource::Secrets(vec![file(&folder, "secret", SECRET)])
        } else {
            KeySource::PublicKeys(vec![file(&folder, "key.pem", issuer.pem())])
        };
        let jwt = start(options(&[issuer.name.parse().unwrap()], keys));
        let (token, admin) = (issuer.token(&claims("1")), issuer.token(&claims("admin")));
        assert_eq!(ask(&jwt, &token), user("1"));
        let parts: Vec<&str> = token.split('.').collect();
        let claims: Vec<&str> = admin.split('.').collect();
        let swapped = format!("{}.{}.{}", parts[0], claims[1], parts[2]);
        let none = format!("{}.{}.", parts[0], parts[1]);
        let half = format!("{}.{}.{}", parts[0], parts[1], &parts[2][..20]);
        let zeros = format!("{}.{}.{}", parts[0], parts[1], base64([0; 64]));
        for token in [swapped, none, half, zeros] {
            let refused = ask(&jwt, &token);
            assert_eq!(refused, Err(JwtError::Signature), "{token}");
        }
        // Any one bit of the message or the signature.
        let bytes = token.as_bytes();
        for place in (0..bytes.len()).step_by(7) {
            let mut bytes = bytes.to_vec();
            bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
            assert!(
                jwt.user(&bytes).is_err() || bytes == token.as_bytes(),
                "{place}"
            );
        }
        let stranger = match issuer.name {
            "ES256" => Issuer::es256(),
            "EdDSA" => Issuer::eddsa(),
            "RS256" => Issuer::other_rs256(),
            name => Issuer::secret(name, &[b'x'; 64]),
        };
        let token = stranger.token(&self::claims("1"));
        assert_eq!(ask(&jwt, &token), Err(JwtError::Signature));
    }
}

/// Protects against confusion of algorithms: a token's header never chooses how it is checked.
#[test]
fn the_algorithm_is_the_keys_and_never_the_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let issuer = Issuer::rs256();
    let path = file(&folder, "key.pem", issuer.pem());
    let jwt = start(options(
        &[Algorithm::Rs256],
        KeySource::PublicKeys(vec![path]),
    ));
    let set = file(
        &folder,
        "jwks.json",
        json!({"keys": [issuer.jwk("k")]}).to_string(),
    );
    let set = start(options(&[Algorithm::Rs256], KeySource::JwksFile(set)));
    let claims = claims("admin");
    // HMAC with what everybody knows of the public key.
    let pem = issuer.pem();
    let known = [
        pem.as_bytes(),
        pem.trim_end().as_bytes(),
        issuer.public_der(),
    ];
    let mut tokens: Vec<String> = known
        .iter()
        .map(|known| Issuer::secret("HS256", known).token_of("k", &claims))
        .collect();
    // The same signature under the name that is configured.
    let forged = Issuer::secret("HS256", pem.as_bytes());
    let under_rs256 = forged.raw(r#"{"alg":"RS256","kid":"k"}"#, &claims.to_string());
    assert_eq!(ask(&jwt, &under_rs256), Err(JwtError::Signature));
    // None at all, in all its spellings.
    for none in ["none", "None", "NONE", "nOnE", ""] {
        let header = json!({"alg": none, "kid": "k"}).to_string();
        let message = format!("{}.{}", base64(header), base64(claims.to_string()));
        tokens.push(format!("{message}."));
        tokens.push(format!("{message}.{}", base64("signature")));
    }
    // A right signature under another name.
    for other in [
        "RS384", "RS512", "PS256", "ES256", "EdDSA", "Ed25519", "HS256", "rs256",
    ] {
        let header = json!({"alg": other, "kid": "k"}).to_string();
        tokens.push(issuer.raw(&header, &claims.to_string()));
    }
    for token in tokens {
        assert_eq!(ask(&jwt, &token), Err(JwtError::Algorithm), "{token}");
        assert_eq!(ask(&set, &token), Err(JwtError::Algorithm), "{token}");
    }
    // A key that comes along with the token, or an address of one.
    let own = Issuer::es256();
    let jwt = start(options(
        &[Algorithm::Rs256, Algorithm::Es256],
        KeySource::JwksFile(folder.path().join("jwks.json")),
    ));
    for header in [
        json!({"alg": "ES256", "kid": "k", "jwk": own.jwk("k")}),
        json!({"alg": "ES256", "kid": "k", "jku": "http://127.0.0.1:1/jwks.json"}),
        json!({"alg": "ES256", "kid": "k", "x5u": "http://127.0.0.1:1/x"}),
        json!({"alg": "ES256", "kid": "../../../../dev/null"}),
        json!({"alg": "ES256", "kid": "' OR 1=1 --"}),
        json!({"alg": "ES256"}),
    ] {
        let token = own.raw(&header.to_string(), &claims.to_string());
        assert_eq!(ask(&jwt, &token), Err(JwtError::UnknownKey), "{header}");
    }
}
