//! When a key set is asked for: within bounds, whoever asks.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::super::testing::{Issuer, claims};
use super::super::{Jwt, JwtError, JwtOptions};
use super::*;
use crate::wait::until;

/// An address that a test has in its hands.
#[derive(Clone, Default)]
struct Address {
    answer: Arc<Mutex<Option<Vec<u8>>>>,
    asked: Arc<AtomicUsize>,
}

impl Address {
    fn serves(&self, issuers: &[(&str, &Issuer)]) {
        let keys: Vec<_> = issuers.iter().map(|(kid, one)| one.jwk(kid)).collect();
        *self.answer.lock() = Some(json!({"keys": keys}).to_string().into_bytes());
    }

    fn is_away(&self) {
        *self.answer.lock() = None;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

struct Times {
    refresh: Duration,
    min_refresh: Duration,
    keep: Duration,
}

const LONG: Duration = Duration::from_secs(3_600);
/// Shorter than a test takes between two steps; nothing waits for it.
const SHORT: Duration = Duration::from_millis(1);

fn start(address: &Address, times: &Times, registry: &Registry) -> Jwt {
    let at = address.clone();
    let options = JwtOptions {
        algorithms: vec![Algorithm::Es256],
        keys: KeySource::JwksUrl {
            fetch: Box::new(move || {
                at.asked.fetch_add(1, Ordering::SeqCst);
                at.answer.lock().clone().ok_or_else(|| "is away".to_owned())
            }),
            refresh: times.refresh,
            min_refresh: times.min_refresh,
            keep: times.keep,
        },
        issuer: None,
        audiences: Vec::new(),
        leeway: Duration::ZERO,
    };
    Jwt::start(options, registry).unwrap()
}

fn ask(jwt: &Jwt, token: &str) -> Result<(), JwtError> {
    jwt.user(token.as_bytes()).map(drop)
}

/// As a request does it: where newer keys may make a difference, they are waited for.
async fn ask_patiently(jwt: &Jwt, token: &str) -> Result<(), JwtError> {
    match ask(jwt, token) {
        Err(error) if error.may_pass() => {
            jwt.looked().await;
            ask(jwt, token)
        }
        other => other,
    }
}

/// Protects users at the moment in which the issuer begins to sign with another key: the first
/// token of it waits for the new set, and is valid.
#[actix_web::test]
async fn a_new_key_is_known_with_its_first_token() {
    let (address, [first, second]) = (Address::default(), [Issuer::es256(), Issuer::es256()]);
    address.serves(&[("1", &first)]);
    let times = Times {
        refresh: LONG,
        min_refresh: SHORT,
        keep: LONG,
    };
    let registry = Registry::new();
    let jwt = start(&address, &times, &registry);
    // The very first request may come before the first set.
    let token = first.token_of("1", &claims("1"));
    assert_eq!(ask_patiently(&jwt, &token).await, Ok(()));
    address.serves(&[("1", &first), ("2", &second)]);
    until("the end of the pause between looks", || {
        let demand = jwt.follower.shared.demand.lock();
        !demand.wanted && demand.last.is_some_and(|last| last.elapsed() > SHORT)
    });
    let asked = address.asked();
    let token = second.token_of("2", &claims("1"));
    assert_eq!(ask_patiently(&jwt, &token).await, Ok(()));
    assert_eq!(address.asked(), asked + 1);
    assert_eq!(jwt.follower.shared.metrics.keys.get(), 2);
    assert!(jwt.follower.shared.metrics.good.get() >= 2);
}

/// Protects the issuer, and this server's threads: however many names of keys are made up, the
/// address is asked once in a while, and nobody waits for what is not asked.
#[actix_web::test]
async fn names_that_are_made_up_ask_no_more_than_once_in_a_while() {
    let (address, issuer) = (Address::default(), Issuer::es256());
    address.serves(&[("1", &issuer)]);
    let times = Times {
        refresh: LONG,
        min_refresh: LONG,
        keep: LONG,
    };
    let jwt = start(&address, &times, &Registry::new());
    until("the first set", || {
        address.asked() == 1 && jwt.follower.keys().len() == 1
    });
    until("the end of the first look", || {
        !jwt.follower.shared.demand.lock().wanted
    });
    for number in 0..2_000 {
        let token = issuer.token_of(&format!("made up {number}"), &claims("1"));
        assert_eq!(ask_patiently(&jwt, &token).await, Err(JwtError::UnknownKey));
    }
    assert_eq!(address.asked(), 1);
    assert!(jwt.follower.shared.demand.lock().absent.is_empty());
}

/// Protects the issuer from one client with an old token: a name that was not there is not asked
/// about again for a while, others are, and only so many are remembered.
#[actix_web::test]
async fn a_name_that_was_not_there_is_not_asked_about_again() {
    let (address, issuer) = (Address::default(), Issuer::es256());
    address.serves(&[("1", &issuer)]);
    let times = Times {
        refresh: LONG,
        min_refresh: Duration::ZERO,
        keep: LONG,
    };
    let jwt = start(&address, &times, &Registry::new());
    until("the first set", || {
        !jwt.follower.shared.demand.lock().wanted
    });
    let old = issuer.token_of("old", &claims("1"));
    for _ in 0..50 {
        assert_eq!(ask_patiently(&jwt, &old).await, Err(JwtError::UnknownKey));
    }
    assert_eq!(address.asked(), 2);
    for number in 0..MAX_ABSENT + 10 {
        let other = issuer.token_of(&format!("{number}"), &claims("1"));
        if number != 1 {
            assert_eq!(ask_patiently(&jwt, &other).await, Err(JwtError::UnknownKey));
        }
        assert!(jwt.follower.shared.demand.lock().absent.len() <= MAX_ABSENT);
    }
    assert_eq!(address.asked(), 2 + MAX_ABSENT + 9);
}

/// Protects users from an issuer that is away: without any keys the answer is that it may pass,
/// keys that were had hold for as long as is said, and then no more.
#[actix_web::test]
async fn keys_hold_while_the_address_is_away_and_not_for_ever() {
    let (address, issuer) = (Address::default(), Issuer::es256());
    let times = Times {
        refresh: SHORT,
        min_refresh: SHORT,
        keep: LONG,
    };
    let jwt = start(&address, &times, &Registry::new());
    let token = issuer.token_of("1", &claims("1"));
    assert_eq!(ask_patiently(&jwt, &token).await, Err(JwtError::NoKeys));
    address.serves(&[("1", &issuer)]);
    until("the keys", || ask(&jwt, &token) == Ok(()));
    address.is_away();
    let failed = jwt.follower.shared.metrics.failed.get();
    until("looks that fail", || {
        jwt.follower.shared.metrics.failed.get() > failed + 3
    });
    assert_eq!(ask(&jwt, &token), Ok(()), "the last good keys hold");
    // What is no set says nothing of the keys that hold.
    for bad in [&b"<html>"[..], b"{}", &[b' '; 300_000]] {
        *address.answer.lock() = Some(bad.to_vec());
        let failed = jwt.follower.shared.metrics.failed.get();
        until("looks that fail", || {
            jwt.follower.shared.metrics.failed.get() > failed + 1
        });
        assert_eq!(ask(&jwt, &token), Ok(()));
    }
    drop(jwt);

    let times = Times {
        keep: SHORT,
        ..times
    };
    address.serves(&[("1", &issuer)]);
    let jwt = start(&address, &times, &Registry::new());
    until("the keys", || ask(&jwt, &token) == Ok(()));
    address.is_away();
    until("their end", || ask(&jwt, &token) == Err(JwtError::NoKeys));
    until("a metric that says so", || {
        jwt.follower.shared.metrics.keys.get() == 0
    });
    address.serves(&[("1", &issuer)]);
    until("the keys again", || ask(&jwt, &token) == Ok(()));
}

/// Protects against a key whose issuer took it out, the last of its set or of those we can use:
/// no token of it is valid from the next look on, and once it is back it is.
#[actix_web::test]
async fn a_set_without_a_usable_key_ends_the_keys_that_held() {
    let (issuer, other) = (Issuer::es256(), Issuer::eddsa());
    let token = issuer.token_of("1", &claims("1"));
    let times = Times {
        refresh: SHORT,
        min_refresh: SHORT,
        keep: LONG,
    };
    let address = Address::default();
    let at_address = start(&address, &times, &Registry::new());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    let whole = |set: &[u8]| {
        let draft = folder.path().join("draft");
        std::fs::write(&draft, set).unwrap();
        std::fs::rename(draft, &path).unwrap();
    };
    let set_of = |issuers: &[(&str, &Issuer)]| {
        address.serves(issuers);
        whole(&address.answer.lock().clone().unwrap());
    };
    set_of(&[("1", &issuer)]);
    let in_file = Jwt {
        follower: Follower::looking_every(
            SHORT,
            KeySource::JwksFile(path.clone()),
            vec![Algorithm::Es256],
            &Registry::new(),
        )
        .unwrap(),
        rules: super::super::rules(&JwtOptions {
            algorithms: vec![Algorithm::Es256],
            keys: KeySource::JwksFile(path.clone()),
            issuer: None,
            audiences: Vec::new(),
            leeway: Duration::ZERO,
        }),
        for_us: false,
    };
    for jwt in [&at_address, &in_file] {
        for without in [&[][..], &[("1", &other)]] {
            set_of(&[("1", &issuer)]);
            until("the keys", || ask(jwt, &token) == Ok(()));
            set_of(without);
            until("their end", || ask(jwt, &token) == Err(JwtError::NoKeys));
            assert_eq!(jwt.follower.shared.metrics.keys.get(), 0);
            // What is no set does not bring them back.
            *address.answer.lock() = None;
            whole(b"<html>");
            let failed = jwt.follower.shared.metrics.failed.get();
            until("looks that fail", || {
                jwt.follower.shared.metrics.failed.get() > failed + 1
            });
            assert_eq!(ask(jwt, &token), Err(JwtError::NoKeys));
        }
        // The very same set as before.
        set_of(&[("1", &issuer)]);
        until("the keys again", || ask(jwt, &token) == Ok(()));
    }
}

/// Protects a server from a fault in what gets the set: it is a look that failed.
#[actix_web::test]
async fn a_panic_ends_no_thread() {
    let (asked, issuer) = (Arc::new(AtomicUsize::new(0)), Issuer::es256());
    let (count, set) = (Arc::clone(&asked), json!({"keys": [issuer.jwk("1")]}));
    let source = KeySource::JwksUrl {
        fetch: Box::new(move || {
            let before = count.fetch_add(1, Ordering::SeqCst);
            assert!(before > 0, "as the test wants it");
            Ok(set.to_string().into_bytes())
        }),
        refresh: SHORT,
        min_refresh: SHORT,
        keep: LONG,
    };
    let follower = Follower::start(source, vec![Algorithm::Es256], &Registry::new()).unwrap();
    until("the keys", || follower.keys().len() == 1);
    assert!(follower.shared.metrics.failed.get() >= 1);
}

/// Protects a stop from a thread that stays.
#[actix_web::test]
async fn the_thread_ends_with_its_follower() {
    let address = Address::default();
    let times = Times {
        refresh: LONG,
        min_refresh: LONG,
        keep: LONG,
    };
    let jwt = start(&address, &times, &Registry::new());
    let shared = Arc::downgrade(&jwt.follower.shared);
    drop(jwt);
    until("the thread's end", || shared.strong_count() == 0);
}
