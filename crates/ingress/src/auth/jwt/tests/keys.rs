//! Keys that do not fit, and keys that change.

use super::super::testing::pem;
use super::*;
use crate::wait::until;

fn refused(algorithms: &[Algorithm], keys: KeySource) -> String {
    let started = Jwt::start(options(algorithms, keys), &Registry::new());
    started.expect_err("this must be refused").to_string()
}

/// Protects an operator from keys that are not what they are taken for: a start is refused, with
/// the setting, the file and what is wrong, and nothing that is in it.
#[test]
fn a_start_with_unfit_secrets_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let rsa = Issuer::rs256();
    let secrets = [
        (Algorithm::Hs256, &SECRET[..31], "32 or more"),
        (Algorithm::Hs256, b"", "0 bytes"),
        (Algorithm::Hs256, b"\n", "0 bytes"),
        (Algorithm::Hs384, &SECRET[..47], "48 or more"),
        (Algorithm::Hs512, &SECRET[..63], "64 or more"),
        (Algorithm::Hs256, rsa.pem().as_bytes(), "PEM"),
        (Algorithm::Rs256, SECRET, "needs a public key"),
    ]
    .map(|(algorithm, content, what)| (algorithm, content.to_vec(), what));
    for (algorithm, content, what) in secrets {
        let path = file(&folder, "a-secret", &content);
        let error = refused(&[algorithm], KeySource::Secrets(vec![path]));
        let named = ["auth.jwt.secret_files", "a-secret", what];
        assert!(
            named.iter().all(|word| error.contains(word)),
            "{what}: {error}"
        );
        assert!(!error.contains("sixty-four"), "{error}");
    }
}

/// Protects against tokens that are signed with what everybody knows: no form of a public key is
/// taken for a secret.
#[test]
fn public_material_is_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let mut public: Vec<(Vec<u8>, &str)> = Vec::new();
    for issuer in [Issuer::rs256(), Issuer::es256(), Issuer::eddsa()] {
        let der = issuer.public_der();
        public.push((issuer.pem().into_bytes(), "PEM"));
        public.push((format!("Key of login:\n\n{}", issuer.pem()).into(), "PEM"));
        public.push((format!("\u{feff}{}", issuer.pem()).into(), "PEM"));
        public.push((pem("CERTIFICATE", der).into_bytes(), "PEM"));
        public.push((der.to_vec(), "public key"));
        public.push(([der, b"\n"].concat(), "public key"));
        let jwk = issuer.jwk("k");
        public.push((jwk.to_string().into_bytes(), "JSON Web Key"));
        let set = json!({"keys": [jwk]});
        let set = serde_json::to_vec_pretty(&set).unwrap();
        public.push(([b"\n ", &set[..], b"\r\n"].concat(), "JSON Web Key"));
    }
    let oct = json!({"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"});
    public.push((oct.to_string().into_bytes(), "JSON Web Key"));
    for (content, what) in public {
        let path = file(&folder, "a-secret", &content);
        let error = refused(&[Algorithm::Hs256], KeySource::Secrets(vec![path]));
        let shown = String::from_utf8_lossy(&content);
        assert!(
            ["auth.jwt.secret_files", "a-secret", what]
                .iter()
                .all(|word| error.contains(word)),
            "{shown}: {error}"
        );
    }
    // What only looks a little like it is one: 32 bytes may be a point, or begin as DER does.
    let eddsa = Issuer::eddsa();
    let point = eddsa.public_der().iter().rev().take(32).rev();
    let secrets = [
        point.copied().collect(),
        [&[0x30, 0x2a][..], &[7; 42]].concat(),
        br#"{"password": "0123456789abcdef0123456789abcdef"}"#.to_vec(),
        b"a secret of ----- BEGIN and END, which nobody knows".to_vec(),
    ];
    for secret in secrets {
        let path = file(&folder, "a-secret", &secret);
        let jwt = start(options(&[Algorithm::Hs256], KeySource::Secrets(vec![path])));
        let token = Issuer::secret("HS256", &secret).token(&claims("1"));
        assert_eq!(ask(&jwt, &token), user("1"));
    }
}

/// Protects an operator from public keys that are none, in the same way.
#[test]
fn a_start_with_unfit_public_keys_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (rsa, ec) = (Issuer::rs256(), Issuer::es256());
    let two = format!("{}{}", rsa.pem(), ec.pem());
    let cut = &rsa.pem()[..200];
    let pems = [
        (Algorithm::Es256, rsa.pem(), "RS256"),
        (Algorithm::Rs256, "no key".to_owned(), "no PEM"),
        (Algorithm::Rs256, two, "more than one"),
        (Algorithm::Rs256, cut.to_owned(), "cut off"),
        (
            Algorithm::Rs256,
            pem("PRIVATE KEY", rsa.public_der()),
            "private key",
        ),
        (
            Algorithm::Rs256,
            pem("RSA PRIVATE KEY", rsa.public_der()),
            "private key",
        ),
        (
            Algorithm::Rs256,
            pem("CERTIFICATE", rsa.public_der()),
            "no public key",
        ),
        (
            Algorithm::Rs256,
            pem("PUBLIC KEY", b"no DER"),
            "none of RSA",
        ),
    ];
    for (algorithm, content, what) in pems {
        let path = file(&folder, "a-key", content);
        let error = refused(&[algorithm], KeySource::PublicKeys(vec![path]));
        let named = ["auth.jwt.public_key_files", "a-key", what];
        assert!(
            named.iter().all(|word| error.contains(word)),
            "{what}: {error}"
        );
    }
    let missing = folder.path().join("missing");
    for keys in [
        KeySource::Secrets(vec![missing.clone()]),
        KeySource::PublicKeys(vec![missing.clone()]),
        KeySource::JwksFile(missing.clone()),
        KeySource::JwksFile(folder.path().to_owned()),
    ] {
        let setting = keys.setting();
        let error = refused(&[Algorithm::Hs256], keys);
        assert!(
            error.contains(setting) && error.contains("can't be read"),
            "{error}"
        );
    }
}

/// Protects users while secrets are changed one after the other, by way of the thread: both hold
/// at once, and a file that is bad for a while changes nothing.
#[test]
fn secrets_rotate_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let secret = |byte: u8| [byte; 40];
    let paths = vec![
        file(&folder, "current", secret(b'a')),
        file(&folder, "previous", secret(b'a')),
    ];
    let [old, new] = [b'a', b'b'].map(|byte| Issuer::secret("HS256", &secret(byte)));
    let options = options(&[Algorithm::Hs256], KeySource::Secrets(paths));
    let rules = rules(&options);
    let pause = Duration::from_millis(1);
    let follower =
        Follower::looking_every(pause, options.keys, options.algorithms, &Registry::new());
    let jwt = Jwt {
        follower: follower.unwrap(),
        rules,
        for_us: false,
    };
    let holds = |issuer: &Issuer| ask(&jwt, &issuer.token(&claims("1"))).is_ok();
    assert!(holds(&old) && !holds(&new));
    file(&folder, "current", [&secret(b'b')[..], b"\n"].concat());
    until("the new secret", || holds(&new));
    assert!(holds(&old), "both hold at once");
    // Too short, and gone: what was read before holds.
    file(&folder, "previous", b"short");
    fs::remove_file(folder.path().join("current")).unwrap();
    assert!(holds(&old) && holds(&new));
    file(&folder, "current", secret(b'b'));
    file(&folder, "previous", secret(b'b'));
    until("the old secret's end", || !holds(&old));
    assert!(holds(&new));
}
