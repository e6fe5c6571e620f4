//! Which credentials are let in, and how changes of the file are taken up.

use std::fs;

use actix_web::http::header::{AUTHORIZATION, HeaderValue};

use super::super::file::Grant;
use super::*;
use crate::wait::until;

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn headers(credential: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let value = [b"Bearer ", credential].concat();
    headers.insert(AUTHORIZATION, HeaderValue::from_bytes(&value).unwrap());
    headers
}

fn ask(authenticator: &Authenticator, credential: &str) -> Result<UserId, AuthError> {
    authenticator.authenticate(&headers(credential.as_bytes()))
}

fn in_folder() -> (tempfile::TempDir, KeysFile) {
    let folder = tempfile::tempdir().unwrap();
    let file = KeysFile::new(folder.path().join("keys.json"));
    (folder, file)
}

/// An authenticator whose thread looks only when the test does.
fn still(file: &KeysFile) -> Authenticator {
    Authenticator::looking_every(Duration::from_secs(3_600), file.path(), true).unwrap()
}

fn watch(authenticator: &Authenticator) -> Watch {
    let stamp = authenticator.shared.file.stamp();
    Watch {
        stamp: stamp.map_err(|error| error.kind()),
        said: None,
    }
}

/// Protects the door: a key lets in as its user, and nothing that differs from it does.
#[test]
fn a_key_that_holds_is_its_user() {
    let (_folder, file) = in_folder();
    let created = file
        .create_all(&[user("42"), user("a user of words")])
        .unwrap();
    let revoked = file.create(&user("gone")).unwrap();
    file.revoke(revoked.info.id).unwrap();
    let authenticator = still(&file);
    for created in &created {
        assert_eq!(
            ask(&authenticator, created.key.expose()).as_ref(),
            Ok(&created.info.user)
        );
    }
    let key = created[0].key.expose();
    let (id, secret) = key.rsplit_once('_').unwrap();
    let other = created[1].key.expose();
    let mut wrong = vec![
        revoked.key.expose().to_owned(),
        String::from("nobody-has-this-key"),
        id.to_owned(),
        secret.to_owned(),
        created[0].info.id.to_string(),
        // The other key's secret.
        format!("{id}_{}", &other[other.len() - secret.len()..]),
        format!("tally_000000000000_{secret}"),
        key.to_uppercase(),
        format!("{key}="),
    ];
    // Any one character changed.
    wrong.extend((0..key.len()).map(|place| {
        let mut bytes = key.as_bytes().to_vec();
        bytes[place] = if bytes[place] == b'0' { b'1' } else { b'0' };
        String::from_utf8(bytes).unwrap()
    }));
    for wrong in wrong {
        assert_eq!(
            ask(&authenticator, &wrong),
            Err(AuthError::UnknownKey),
            "{wrong}"
        );
    }
    let bytes = authenticator.authenticate(&headers(b"\xff\xfe"));
    assert_eq!(bytes, Err(AuthError::UnknownKey));
    let none = authenticator.authenticate(&HeaderMap::new());
    assert_eq!(none, Err(AuthError::NotProvided));
}

fn admin(authenticator: &Authenticator, credential: &str) -> Result<(), AdminError> {
    authenticator.admin(&headers(credential.as_bytes()))
}

/// Protects administration: an admin key is its user's key too, and nothing else administers.
#[test]
fn only_an_admin_key_administers() {
    let (_folder, file) = in_folder();
    let grant = Grant {
        admin: true,
        expires_at: None,
    };
    let ops = file.create_with(&user("ops"), grant).unwrap();
    let plain = file.create(&user("ops")).unwrap();
    let gone = file.create_with(&user("ops"), grant).unwrap();
    file.revoke(gone.info.id).unwrap();
    let authenticator = still(&file);
    let [ops, plain, gone] = [&ops, &plain, &gone].map(|created| created.key.expose());
    assert_eq!(admin(&authenticator, ops), Ok(()));
    assert_eq!(ask(&authenticator, ops), Ok(user("ops")));
    assert_eq!(admin(&authenticator, plain), Err(AdminError::NotAdmin));
    let unknown = Err(AuthError::UnknownKey.into());
    let changed = format!("{}0", &ops[..ops.len() - 1]);
    let changed_too = format!("{}1", &ops[..ops.len() - 1]);
    let both = [&changed, &changed_too].map(|key| admin(&authenticator, key));
    assert!(both.contains(&unknown), "{both:?}");
    for wrong in [gone, LOCAL_DEV_KEY, "a.b.c"] {
        assert_eq!(admin(&authenticator, wrong), unknown, "{wrong}");
    }
    let none = authenticator.admin(&HeaderMap::new());
    assert_eq!(none, Err(AuthError::NotProvided.into()));
}

/// Protects what an end is for: a key holds up to it and no longer, only who has the key is told so,
/// and the metric has the next end that is to come.
#[test]
fn a_key_holds_until_it_expires() {
    let (_folder, file) = in_folder();
    let until = |millis: u64| Grant {
        admin: true,
        expires_at: Some(EventTime::from_millis(millis)),
    };
    let hour = clock::now().as_millis() + 3_600_000;
    let over = file.create_with(&user("a"), until(1_000)).unwrap();
    let holds = file.create_with(&user("a"), until(hour)).unwrap();
    let later = file.create_with(&user("a"), until(hour * 2)).unwrap();
    let authenticator = still(&file);
    let registry = Registry::new();
    authenticator.register(&registry).unwrap();
    let shown = || registry.gather()[0].get_metric()[0].get_gauge().get_value();
    let (over, holds) = (over.key.expose(), holds.key.expose());
    assert_eq!(ask(&authenticator, over), Err(AuthError::KeyExpired));
    let expired = Err(AuthError::KeyExpired.into());
    assert_eq!(admin(&authenticator, over), expired);
    let wrong = format!("{}{}", &over[..20], &holds[20..]);
    assert_eq!(ask(&authenticator, &wrong), Err(AuthError::UnknownKey));
    assert_eq!(ask(&authenticator, holds), Ok(user("a")));
    assert_eq!(admin(&authenticator, holds), Ok(()));
    assert_eq!(shown(), (hour / 1_000) as f64);
    file.revoke_all(&[later.info.id, id_of(holds)]).unwrap();
    let mut watch = watch(&authenticator);
    watch.stamp = Ok(None);
    authenticator.shared.look(&mut watch);
    authenticator
        .shared
        .show_expiry(authenticator.shared.next_expiry.get().unwrap());
    assert_eq!(shown(), 0.0, "none that holds has an end to come");
}

fn id_of(key: &str) -> KeyId {
    key::id_of(key).unwrap()
}

/// Protects against an entry that stands for every key that is not there.
#[test]
fn the_hash_that_stands_for_no_key_lets_nobody_in() {
    assert!(!bool::from(KeyHash::of(b"").ct_eq(&KeyHash::NONE)));
    let (_folder, file) = in_folder();
    let authenticator = still(&file);
    let unknown = format!("tally_000000000000_{}", "a".repeat(52));
    assert_eq!(ask(&authenticator, &unknown), Err(AuthError::UnknownKey));
}

/// Protects a server that others reach: the well-known key is off, or at least not for what came
/// through a proxy.
#[test]
fn the_local_key_is_for_this_machine_and_where_it_is_on() {
    let (_folder, file) = in_folder();
    let created = file.create(&user("someone")).unwrap();
    let on = still(&file);
    assert_eq!(ask(&on, LOCAL_DEV_KEY), Ok(user(LOCAL_DEV_USER)));
    for wrong in ["local-dev-ke", "local-dev-keyy", "Local-Dev-Key"] {
        assert_eq!(ask(&on, wrong), Err(AuthError::UnknownKey), "{wrong}");
    }
    for name in [FORWARDED, X_FORWARDED_FOR] {
        for value in ["for=192.0.2.1", ""] {
            let mut through = headers(LOCAL_DEV_KEY.as_bytes());
            through.insert(name.clone(), HeaderValue::from_static(value));
            assert_eq!(
                on.authenticate(&through),
                Err(AuthError::UnknownKey),
                "{name}"
            );
            let mut through = headers(created.key.expose().as_bytes());
            through.insert(name.clone(), HeaderValue::from_static(value));
            assert_eq!(on.authenticate(&through), Ok(user("someone")), "{name}");
        }
    }
    let off = Authenticator::start(file.path(), false).unwrap();
    assert_eq!(ask(&off, LOCAL_DEV_KEY), Err(AuthError::UnknownKey));
}

/// Protects a running server's users: keys come and go without a restart, by way of the thread.
#[test]
fn changes_of_the_file_are_taken_up() {
    let (_folder, file) = in_folder();
    let pause = Duration::from_millis(1);
    let authenticator = Authenticator::looking_every(pause, file.path(), false).unwrap();
    let holds = |key: &str| ask(&authenticator, key).is_ok();
    let first = file.create(&user("a")).unwrap();
    until("the first key", || holds(first.key.expose()));
    let second = file.create(&user("b")).unwrap();
    until("the second key", || holds(second.key.expose()));
    file.revoke(first.info.id).unwrap();
    until("the first key's end", || !holds(first.key.expose()));
    assert!(holds(second.key.expose()));
    fs::remove_file(file.path()).unwrap();
    until("the end of all keys", || !holds(second.key.expose()));
}

/// Protects users of a running server from a damaged file: the last good keys hold, it is said
/// once and again after a while, and the repair is taken up.
#[test]
fn a_damaged_file_changes_nothing_until_it_is_repaired() {
    let (_folder, file) = in_folder();
    let created = file.create(&user("a")).unwrap();
    let good = fs::read(file.path()).unwrap();
    let authenticator = still(&file);
    let mut watch = watch(&authenticator);
    let shared = &authenticator.shared;
    shared.look(&mut watch);
    assert_eq!(watch.said, None);
    for damaged in [&good[..good.len() / 2], b"", b"{\"v\":9}"] {
        fs::write(file.path(), damaged).unwrap();
        shared.look(&mut watch);
        assert_eq!(watch.said, Some(0), "said");
        shared.look(&mut watch);
        assert_eq!(watch.said, Some(1), "not said again at once");
        assert!(ask(&authenticator, created.key.expose()).is_ok());
    }
    for _ in 2..REMIND_AFTER {
        shared.look(&mut watch);
    }
    assert_eq!(watch.said, Some(REMIND_AFTER - 1));
    shared.look(&mut watch);
    assert_eq!(watch.said, Some(0), "said again");
    // A folder in the file's place can't be read at all.
    fs::remove_file(file.path()).unwrap();
    fs::create_dir(file.path()).unwrap();
    shared.look(&mut watch);
    assert!(ask(&authenticator, created.key.expose()).is_ok());
    fs::remove_dir(file.path()).unwrap();
    fs::write(file.path(), &good).unwrap();
    file.revoke(created.info.id).unwrap();
    shared.look(&mut watch);
    assert_eq!(watch.said, None);
    assert_eq!(
        ask(&authenticator, created.key.expose()),
        Err(AuthError::UnknownKey)
    );
}

/// Protects a change that comes while the file is first read: it is seen at the next look.
#[test]
fn a_change_right_after_the_start_is_not_missed() {
    let (_folder, file) = in_folder();
    let (shared, mut watch) = Shared::open(KeysFile::new(file.path()), false).unwrap();
    file.create(&user("a")).unwrap();
    shared.look(&mut watch);
    assert_eq!(shared.keys.load().len(), 1);
}

/// Protects a start with no keys at all from being taken for one with keys: it is refused.
#[test]
fn a_start_on_a_damaged_file_is_refused() {
    let (_folder, file) = in_folder();
    fs::write(file.path(), "{").unwrap();
    let refused = Authenticator::start(file.path(), true)
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("keys.json") && refused.contains("backup"),
        "{refused}"
    );
}

/// Protects a stop from a thread that stays.
#[test]
fn the_thread_ends_with_its_authenticator() {
    let (_folder, file) = in_folder();
    let authenticator = still(&file);
    let shared = Arc::downgrade(&authenticator.shared);
    drop(authenticator);
    assert_eq!(shared.strong_count(), 0);
}

/// Protects log lines: an authenticator shows where its keys are and no more.
#[test]
fn no_key_is_in_debug() {
    let (_folder, file) = in_folder();
    let created = file.create(&user("somebody")).unwrap();
    let debug = format!("{:?}", still(&file));
    assert!(debug.contains("keys.json"), "{debug}");
    for word in [created.key.expose(), "somebody", "sha256"] {
        assert!(!debug.contains(word), "{debug}");
    }
}
