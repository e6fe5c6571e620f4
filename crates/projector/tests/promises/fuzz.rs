//! A redo file of any bytes: read whole or refused, and what its puts hold is read or called damaged.

use tally_fuzz::{fuzz, way};
use tally_projector::redo::Redo;
use tally_projector::store::{layout, values};

use super::common::resource;

/// First byte of an input: it stands as it is, or length and checksum are made right.
const AS_IT_IS: u8 = b'a';
/// Bytes before the puts, and of the checksum behind them.
const HEADER: usize = 16;
const CHECK: usize = 32;
/// One, so that the changes are of the same bucket.
const BUCKETS: u32 = 1;

/// Protects the state from a checkpoint that was not written: whatever the file holds, it is that, or
/// refused; and no value makes a start panic.
#[test]
fn fuzz_redo() {
    fuzz("redo", &["TALLYRD1", "v", "k", "d", "p", "i"], |input| {
        let Some((first, bytes)) = input.split_first() else {
            return 0;
        };
        let sealed = *first != AS_IT_IS;
        let file = if sealed { seal(bytes) } else { bytes.to_vec() };
        let Some(redo) = Redo::from_file(file.clone()) else {
            return way(format!("none {sealed}"));
        };
        assert_eq!(redo.to_file(), file);
        let mut again = Redo::default();
        for (key, value) in redo.iter() {
            again.put(key, value);
        }
        assert_eq!((again.to_file(), again.puts()), (file, redo.puts()));
        let last = redo.last_puts();
        assert!(last.puts() <= redo.puts());
        let ways: Vec<_> = last
            .iter()
            .filter_map(|(key, value)| Some(read(key, value?)))
            .collect();
        way(ways.join(" "))
    });
}

/// With length and checksum made right.
fn seal(bytes: &[u8]) -> Vec<u8> {
    let mut file = bytes.to_vec();
    file.resize(file.len().max(HEADER + CHECK), 0);
    let end = file.len() - CHECK;
    file[..8].copy_from_slice(b"TALLYRD1");
    let length = u64::try_from(end - HEADER).unwrap();
    file[8..HEADER].copy_from_slice(&length.to_le_bytes());
    let check = blake3::hash(&file[..end]);
    file[end..].copy_from_slice(check.as_bytes());
    file
}

/// Reads a value as its key says, with its checksum and without.
fn read(key: &[u8], sealed: &[u8]) -> String {
    let opened = layout::open(key, sealed);
    let value = opened.as_ref().map_or(sealed, |value| value);
    let kind = key.first().copied().unwrap_or_default();
    let read = match kind {
        b'b' | b'e' => layout::number_from(value).map(drop),
        b'p' => layout::Place::from_value(value).map(|place| {
            assert_eq!(place.to_value().len(), value.len());
        }),
        b'v' => values::entries(value)
            .collect::<Result<Vec<_>, _>>()
            .map(drop),
        b'k' => layout::chunk_from(value).map(drop),
        b'd' => layout::dead_letter_from(0, key, value).map(drop),
        b'm' => Ok(()),
        _ => return "another".to_owned(),
    };
    format!("{}{}{}", char::from(kind), opened.is_ok(), read.is_ok())
}

/// The corpus is made of what a checkpoint writes. With `FUZZ_WRITE_CORPUS` set to a folder it is
/// written there.
#[test]
fn the_corpus_is_what_a_checkpoint_writes() {
    let mut redo = Redo::default();
    let mut put = |key: &[u8], value: Vec<u8>| redo.put(key, Some(&layout::seal(key, value)));
    let place = layout::Place {
        next_offset: 18,
        last_event: Some((17, tally_domain::EventId::from_u128(7))),
        letters: tally_domain::LetterCounts {
            ever: 2,
            settled: 1,
        },
        next_key: 3,
    };
    let user = tally_domain::UserId::new("42").unwrap();
    let counters = tally_domain::Counters {
        views: 3,
        likes: 1,
        ..tally_domain::Counters::default()
    };
    put(layout::BEGUN, layout::number_value(7));
    put(layout::IDENTITY, b"{}".to_vec());
    put(&layout::partition_key(3), place.to_value());
    let liked = tally_domain::Toggles {
        liked: true,
        bookmarked: false,
    };
    let changes = [
        values::Change::counters(resource(42), &counters, BUCKETS),
        values::Change::toggles(resource(42), &user, liked, BUCKETS),
    ];
    let bucket = values::merged(&[], &changes).unwrap();
    put(&values::bucket_key(3, 1), bucket);
    put(
        &layout::chunk_key(3, 0, 512),
        [&[0; 8][..], &[1; 48]].concat(),
    );
    let letter = tally_domain::DeadLetter {
        position: tally_domain::Position {
            partition: 3,
            offset: 9,
        },
        reason: tally_domain::DeadLetterReason::Undecodable,
        detail: "not an event".to_owned(),
        append_time_millis: 1_795_492_212_345,
        key: b"quest:42".to_vec(),
        value: b"nonsense".to_vec(),
    };
    put(
        &layout::dead_letter_key(3, 9),
        layout::dead_letter_value(&letter),
    );
    let elsewhere = tally_domain::Position {
        partition: 1,
        offset: 4,
    };
    put(&layout::moved_key(3, elsewhere), Vec::new());
    put(layout::ENDED, layout::number_value(7));
    redo.put(&values::bucket_key(3, 0), None);
    redo.put(&layout::dead_letter_key(3, 8), None);
    let file = redo.to_file();
    assert_eq!(Redo::from_file(file.clone()).unwrap().puts(), redo.puts());
    if let Some(folder) = std::env::var_os("FUZZ_WRITE_CORPUS") {
        let folder = std::path::Path::new(&folder);
        let write = |name, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
        write("whole", &[&[AS_IT_IS], &file[..]].concat());
        write("whole-sealed", &[b"s", &file[..]].concat());
        write("cut", &[&[AS_IT_IS], &file[..file.len() - 1]].concat());
        write(
            "empty",
            &[&[AS_IT_IS], &Redo::default().to_file()[..]].concat(),
        );
    }
}

/// Protects the store from half a checkpoint: a file whose puts do not fill it is refused, although
/// its checksum is right.
#[test]
fn puts_that_do_not_fill_the_file_are_none() {
    let mut redo = Redo::default();
    redo.put(b"key", Some(b"value"));
    let file = redo.to_file();
    for cut in 1..6 + 3 + 5 {
        let mut short = file[..file.len() - CHECK - cut].to_vec();
        short.resize(short.len() + CHECK, 0);
        assert!(Redo::from_file(seal(&short)).is_none(), "cut by {cut}");
    }
}
