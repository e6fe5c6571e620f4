//! Making, listing and revoking keys; what happens to a file that is damaged or contended.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use tally_log::simulation::{Op, SimDisk};

use super::*;

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn in_folder() -> (tempfile::TempDir, KeysFile) {
    let folder = tempfile::tempdir().unwrap();
    let file = KeysFile::new(folder.path().join("not-there-yet/keys.json"));
    (folder, file)
}

fn text(file: &KeysFile) -> String {
    fs::read_to_string(file.path()).unwrap()
}

/// Protects whoever manages keys: they come and go, in order, and the list says so.
#[test]
fn keys_are_made_listed_and_revoked() {
    let (_folder, file) = in_folder();
    assert_eq!(file.list().unwrap(), []);
    assert!(!file.path().exists(), "looking makes nothing");
    let first = file.create(&user("42")).unwrap();
    let more = file.create_all(&[user("b"), user("42")]).unwrap();
    assert!(first.info.revoked_at.is_none());
    assert!(first.info.created_at <= more[1].info.created_at);
    let listed = file.list().unwrap();
    let infos = [&first, &more[0], &more[1]].map(|created| created.info.clone());
    assert_eq!(listed, infos);

    assert!(file.revoke(first.info.id).unwrap());
    assert!(
        !file.revoke(first.info.id).unwrap(),
        "it was revoked before"
    );
    let listed = file.list().unwrap();
    assert!(
        listed[0]
            .revoked_at
            .is_some_and(|at| at >= first.info.created_at)
    );
    assert_eq!(listed[1..], infos[1..]);

    let unknown: KeyId = "000000000000".parse().unwrap();
    let refused = file.revoke_all(&[more[0].info.id, unknown]).unwrap_err();
    assert!(refused.to_string().contains("000000000000"), "{refused}");
    assert_eq!(file.list().unwrap(), listed, "all of them or none");
    let ids = [
        first.info.id,
        more[0].info.id,
        more[0].info.id,
        more[1].info.id,
    ];
    assert_eq!(file.revoke_all(&ids).unwrap(), 2);
}

/// Protects the secrets: they are in the created key alone, and only its owner reads the file.
#[test]
fn the_file_has_hashes_and_is_its_owners_alone() {
    let (_folder, file) = in_folder();
    let created = file.create(&user("42")).unwrap();
    let key = created.key.expose();
    let secret = key.rsplit_once('_').unwrap().1;
    let debug = format!(
        "{created:?} {:?} {:?}",
        file.read().unwrap(),
        file.list().unwrap()
    );
    for shown in [
        text(&file),
        debug,
        serde_json::to_string(&created.info).unwrap(),
    ] {
        assert!(!shown.contains(secret), "{shown}");
        assert!(shown.contains(&created.info.id.to_string()), "{shown}");
    }
    let dir = file.path().parent().unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.path());
    }
}

/// Protects files that exist: this build reads what the first one wrote, and writes what it always
/// wrote since.
#[test]
fn the_files_form_stays() {
    let (_folder, file) = in_folder();
    let lines = concat!(
        "\n",
        r#"{"id":"k7m2x9q4w1ab","user":"42","sha256":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad","created_at":"2026-11-24T03:50:12.345Z"},"#,
        "\n",
        r#"{"id":"p0c5t8z3e6hj","user":"a \"b\"","sha256":"0000000000000000000000000000000000000000000000000000000000000000","created_at":"2026-11-24T03:50:12.345Z","revoked_at":"2026-11-25T00:00:00.000Z"}"#,
        "\n]}\n",
    );
    let first = format!("{{\"v\":1,\"keys\":[{lines}");
    let keys = file.parse(first.as_bytes()).unwrap();
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[1].user.as_str(), "a \"b\"");
    let check = "b1a3628c1c8531614acc077eb4cc89ae7aa5f8ad7a0360931bb931b823e4bb62";
    let golden = format!("{{\"v\":2,\"check\":\"{check}\",\"keys\":[{lines}");
    assert_eq!(String::from_utf8(to_bytes(&keys).unwrap()).unwrap(), golden);
    assert_eq!(file.parse(golden.as_bytes()).unwrap().len(), 2);
}

/// Protects keys that may do more, or hold for a time: the file has that, in a version that an older
/// build refuses; and a file that says so in an earlier version was not written by anybody.
#[test]
fn a_grant_is_kept_in_a_file_of_its_version() {
    let (_folder, file) = in_folder();
    let plain = file.create(&user("a")).unwrap();
    assert!(text(&file).starts_with("{\"v\":2,"));
    let grant = Grant {
        admin: true,
        expires_at: Some(EventTime::from_millis(1_800_000_000_000)),
    };
    let ops = file.create_with(&user("ops"), grant).unwrap();
    assert!(ops.info.admin && ops.info.expires_at == grant.expires_at);
    assert_eq!(file.list().unwrap(), [plain.info, ops.info.clone()]);
    let good = text(&file);
    assert!(good.starts_with("{\"v\":3,"), "{good}");
    let end = r#","admin":true,"expires_at":"2027-01-15T08:00:00.000Z"}"#;
    assert!(good.contains(end), "{good}");
    let earlier = good.replace("{\"v\":3", "{\"v\":2");
    assert!(matches!(
        file.parse(earlier.as_bytes()),
        Err(KeysError::Changed { .. })
    ));
    for (from, to) in [("\"admin\":true", "\"admin\":false"), ("2027", "2028")] {
        let changed = good.replace(from, to);
        assert!(file.parse(changed.as_bytes()).is_err(), "{to}");
    }
    file.revoke(ops.info.id).unwrap();
    assert!(text(&file).starts_with("{\"v\":3,"), "the record stays");
}

/// Protects against a file that is taken for less than it was: every cut and every wrong field is
/// an error that says where, says what to do, and quotes nothing; and no change is made to it.
#[test]
fn a_damaged_file_is_refused() {
    let (_folder, file) = in_folder();
    let keys = file.create_all(&[user("a"), user("b")]).unwrap();
    let good = text(&file);
    for cut in 0..good.len() - 1 {
        assert!(file.parse(&good.as_bytes()[..cut]).is_err(), "cut at {cut}");
    }
    let id = keys[1].info.id.to_string();
    let secret = "a-secret-where-it-does-not-belong";
    let cases = [
        (String::new(), "line 1, column 0"),
        ("\0".repeat(good.len()), "line 1"),
        (good.replace(",\n", "\n"), "line 3"),
        (good.replace("\"user\":\"b\"", "\"user\":\"\""), "line 3"),
        (good.replace("\"user\":\"b\"", "\"user\":7"), "line 3"),
        (
            good.replace("\"user\":\"b\"", "\"scopes\":[],\"user\":\"b\""),
            "line 3",
        ),
        (good.replace(&id, secret), "line 3"),
        (
            good.replace("\"sha256\":\"", &format!("\"sha256\":\"{secret}")),
            "line 2",
        ),
        (
            good.replace("\"v\":2", "\"v\":4"),
            "version 4; this program reads versions 1 to 3",
        ),
        (good.replace("\"v\":2", "\"v\":1"), "its check"),
        (
            good.replace("\"user\":\"b\"", "\"user\":\"c\""),
            "its check",
        ),
        (good.replace("\"v\":2,", ""), "line "),
        (
            good.replace(&id, &keys[0].info.id.to_string()),
            "there twice. Restore",
        ),
        (format!("{good}{good}"), "line 5"),
    ];
    for (damaged, word) in cases {
        fs::write(file.path(), &damaged).unwrap();
        for refused in [
            file.list().map(drop).unwrap_err(),
            file.create(&user("c")).map(drop).unwrap_err(),
            file.revoke(keys[0].info.id).map(drop).unwrap_err(),
        ] {
            let why = refused.to_string();
            assert!(
                why.contains(word) && why.contains("keys.json"),
                "{why}\n{damaged}"
            );
            assert!(!why.contains(secret) && !format!("{refused:?}").contains(secret));
        }
        assert_eq!(text(&file), damaged, "left as it was");
    }
    let large = fs::File::create(file.path()).unwrap();
    large.set_len(MAX_BYTES + 1).unwrap();
    assert!(matches!(file.list(), Err(KeysError::TooLarge { .. })));
}

/// Protects the keys of two commands that run at once: no change is lost.
#[test]
fn writers_at_once_do_not_lose_each_others_keys() {
    let (_folder, file) = in_folder();
    let (writers, each) = (4, 8);
    std::thread::scope(|scope| {
        let write = |writer: usize| {
            // As another process has it: nothing shared but the path.
            let file = KeysFile::new(file.path());
            scope.spawn(move || {
                for key in 0..each {
                    let created = file.create(&user(&format!("{writer}-{key}"))).unwrap();
                    if key % 2 == 0 {
                        assert!(file.revoke(created.info.id).unwrap());
                    }
                }
            })
        };
        let running: Vec<_> = (0..writers).map(write).collect();
        // A reader at any time finds a whole file with no key missing that was there.
        let mut seen = 0;
        while !running.iter().all(|writer| writer.is_finished()) {
            let keys = file.list().unwrap().len();
            assert!(keys >= seen, "{keys} keys after {seen}");
            seen = keys;
        }
    });
    let keys = file.list().unwrap();
    assert_eq!(keys.len(), writers * each);
    let revoked = keys.iter().filter(|key| key.revoked_at.is_some()).count();
    assert_eq!(revoked, writers * each / 2);
    let users: HashSet<&UserId> = keys.iter().map(|key| &key.user).collect();
    assert_eq!(users.len(), keys.len());
}

/// Protects the file's size from whoever makes and revokes keys all day.
#[test]
fn the_oldest_revoked_keys_are_forgotten() {
    let (_folder, file) = in_folder();
    let kept = file.create(&user("kept")).unwrap();
    let old = file.create(&user("old")).unwrap();
    file.revoke(old.info.id).unwrap();
    let old_at = file.list().unwrap()[1].revoked_at;
    let many = vec![user("many"); MAX_REVOKED];
    let many = file.create_all(&many).unwrap();
    // Revoked later than the old one, by the clock that decides.
    while now() <= old_at.unwrap() {
        std::thread::yield_now();
    }
    let ids: Vec<KeyId> = many.iter().map(|key| key.info.id).collect();
    assert_eq!(file.revoke_all(&ids).unwrap(), MAX_REVOKED);
    let listed = file.list().unwrap();
    assert_eq!(listed.len(), MAX_REVOKED + 1);
    assert_eq!(listed[0], kept.info);
    assert!(listed.iter().all(|key| key.id != old.info.id));
}

/// Protects a link that leads to the file elsewhere: the link stays, and the file is changed.
#[test]
fn a_link_to_the_file_stays_a_link() {
    let (folder, file) = in_folder();
    file.create(&user("a")).unwrap();
    let link = folder.path().join("link.json");
    std::os::unix::fs::symlink(file.path(), &link).unwrap();
    KeysFile::new(&link).create(&user("b")).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(file.list().unwrap().len(), 2);
}

/// Protects the keys there are from a change that fails half-way, at any step; and the next
/// change from what it left behind.
#[test]
fn a_change_that_fails_leaves_the_keys_as_they_were() {
    let disk = SimDisk::default();
    let file = KeysFile::on(Arc::new(disk.clone()), "/keys/keys.json");
    file.create(&user("first")).unwrap();
    let before = disk.bytes(file.path());
    let _ = disk.done();
    let again = disk.copy();
    let created = KeysFile::on(Arc::new(again.clone()), file.path()).create(&user("second"));
    created.unwrap();
    let mut steps: Vec<Op> = again.done().into_iter().map(|(_, op)| op).collect();
    steps.retain(|op| !matches!(op, Op::Open | Op::Read { .. }));
    assert_eq!(steps.last(), Some(&Op::SyncDir));
    assert!(
        steps.contains(&Op::Sync) && steps.contains(&Op::Rename),
        "{steps:?}"
    );
    for fails in &steps[..steps.len() - 1] {
        disk.set_fault(|_, _| None);
        let fails = std::mem::discriminant(fails);
        disk.set_fault(move |_, op| {
            (std::mem::discriminant(&op) == fails).then_some(io::ErrorKind::StorageFull)
        });
        let refused = file.create(&user("second")).unwrap_err();
        assert!(matches!(refused, KeysError::Write { .. }), "{refused}");
        assert_eq!(disk.bytes(file.path()), before, "{fails:?}");
    }
    // Renamed, but not known to survive: said, and the file is whole.
    disk.set_fault(|_, op| (op == Op::SyncDir).then_some(io::ErrorKind::Other));
    assert!(file.create(&user("second")).is_err());
    disk.heal();
    file.create(&user("third")).unwrap();
    let users = file.list().unwrap().into_iter().map(|key| key.user);
    assert_eq!(
        users.collect::<Vec<_>>(),
        ["first", "second", "third"].map(user)
    );
}

/// Protects keys from a power cut at any step of a change: a key that was told is there, one whose
/// making was cut off is there or not, and the file is always whole.
#[test]
fn a_power_cut_keeps_what_was_told() {
    for after in 0..12 {
        for seed in 0..40 {
            let disk = SimDisk::default();
            let file = KeysFile::on(Arc::new(disk.clone()), "/keys/keys.json");
            file.create(&user("told")).unwrap();
            disk.crash_after(after);
            let second = file.create(&user("perhaps"));
            assert_eq!(second.is_err(), disk.has_crashed(), "after {after}");
            let left = KeysFile::on(Arc::new(disk.after_crash(seed)), "/keys/keys.json");
            let users: Vec<_> = left
                .list()
                .unwrap()
                .into_iter()
                .map(|key| key.user)
                .collect();
            let both = users == ["told", "perhaps"].map(user);
            assert!(
                both || (second.is_err() && users == [user("told")]),
                "{users:?}"
            );
            left.create(&user("next")).unwrap();
        }
    }
}
