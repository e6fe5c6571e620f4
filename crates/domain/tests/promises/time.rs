//! Event times against a date library.

use proptest::prelude::*;
use tally_domain::EventTime;

/// The last millisecond that the library can say in UTC.
const LIBRARY_MAX: i64 = 253_402_207_200_999 - 999;

fn library(millis: i64) -> String {
    format!("{:.3}", jiff::Timestamp::from_millisecond(millis).unwrap())
}

fn agrees(millis: i64) {
    let time = EventTime::from_millis(u64::try_from(millis).unwrap());
    let text = time.to_string();
    assert_eq!(text, library(millis));
    assert_eq!(text.parse(), Ok(time));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_096, failure_persistence: None, ..ProptestConfig::default() })]

    /// Protects: any time's text is the date library's, and reads back.
    #[test]
    fn any_time_is_written_as_the_library_writes_it(millis in 0..LIBRARY_MAX) {
        agrees(millis);
    }

    /// Protects: whatever text of this form is read, the date library reads as the same time, and
    /// what it refuses is refused: days that a month does not have, 24 o'clock, other signs.
    #[test]
    fn a_text_is_read_as_the_library_reads_it(
        text in "(19[67]|20[02]|2100|99[89])[0-9]{0,1}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9]\\.[0-9]{3}Z",
    ) {
        let millis = text.parse::<EventTime>().ok().map(EventTime::as_millis);
        let library = text.parse::<jiff::Timestamp>().ok();
        let library = library.and_then(|time| u64::try_from(time.as_millisecond()).ok());
        // The library ends a day and two hours before the year does.
        prop_assert!(millis == library || text.as_str() > "9999-12-30T22", "{millis:?} {library:?}");
    }
}

/// Protects: every day of 800 years (two turns of the calendar's 400) has its own date.
#[test]
fn every_day_has_its_date() {
    for day in 0..2 * 146_097 {
        agrees(day * 86_400_000);
        agrees(day * 86_400_000 + 86_399_999);
    }
}

/// Protects: the year 9999 to its end, which the library can't say; times are held there.
#[test]
fn the_last_days_are_written_and_read_too() {
    let last = EventTime::from_millis(u64::MAX);
    assert_eq!(last.as_millis(), EventTime::MAX_MILLIS);
    for (before_the_end, text) in [
        (0, "9999-12-31T23:59:59.999Z"),
        (86_400_000, "9999-12-30T23:59:59.999Z"),
        (86_399_999, "9999-12-31T00:00:00.000Z"),
    ] {
        let time = EventTime::from_millis(EventTime::MAX_MILLIS - before_the_end);
        assert_eq!(time.to_string(), text);
        assert_eq!(text.parse(), Ok(time));
    }
}

/// Protects: a time before 1970 is refused, even by less than a millisecond, and so is what is
/// not a time.
#[test]
fn other_texts_are_no_times() {
    for text in [
        "",
        "now",
        "2026-11-24",
        "2026-11-24T03:50:12.345",
        "2026-02-29T00:00:00.000Z",
        "2026-11-24T24:00:00.000Z",
        "2026-11-24T03:50:1٢.345Z",
        "1969-12-31T23:59:59.9999Z",
        "1969-12-31T23:59:59.999Z",
        "1970-01-01T00:00:00.000+01:00",
        "+12026-11-24T03:50:12.345Z",
        "10000-01-01T00:00:00.000Z",
    ] {
        assert!(text.parse::<EventTime>().is_err(), "{text}");
    }
}
