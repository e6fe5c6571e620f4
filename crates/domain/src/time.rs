//! The time of an event, and its text. A date library is asked only for texts we don't write
//! ourselves: its formatter and parser cost more than the rest of an event.
//!
//! Days to a date and back: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms",
//! `civil_from_days` and `days_from_civil`, for years from 1970 on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::words::{Parsed, WordError};

const DAY_MILLIS: u64 = 86_400_000;
/// Days from 0000-03-01, where the algorithms count from, to 1970-01-01.
const EPOCH_DAYS: u64 = 719_468;
/// Days in 400 years.
const ERA_DAYS: u64 = 146_097;

/// A time in whole milliseconds since 1970-01-01 UTC, up to the end of the year 9999. In JSON it
/// is RFC 3339 with three decimals and `Z`.
///
/// Other writers' RFC 3339 times (another offset, more or fewer decimals) are read too; what is
/// finer than a millisecond is cut off, and a leap second is the second before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventTime(u64);

impl EventTime {
    /// 9999-12-31T23:59:59.999Z.
    pub const MAX_MILLIS: u64 = 253_402_300_799_999;

    /// A time from milliseconds since 1970; later than the year 9999 is held at its end.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        if millis > Self::MAX_MILLIS {
            Self(Self::MAX_MILLIS)
        } else {
            Self(millis)
        }
    }

    /// Milliseconds since 1970-01-01 UTC.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// `2026-11-24T03:50:12.345Z` in ASCII.
    fn to_ascii(self) -> [u8; 24] {
        let (days, millis) = (self.0 / DAY_MILLIS + EPOCH_DAYS, self.0 % DAY_MILLIS);
        let (era, day_of_era) = (days / ERA_DAYS, days % ERA_DAYS);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        };
        let year = year_of_era + era * 400 + u64::from(month <= 2);

        let ([y1, y2], [y3, y4]) = (two_digits(year / 100), two_digits(year));
        let ([o1, o2], [d1, d2]) = (two_digits(month), two_digits(day));
        let [h1, h2] = two_digits(millis / 3_600_000);
        let [m1, m2] = two_digits(millis / 60_000 % 60);
        let [s1, s2] = two_digits(millis / 1_000 % 60);
        let ([_, f1], [f2, f3]) = (two_digits(millis % 1_000 / 100), two_digits(millis));
        [
            y1, y2, y3, y4, b'-', o1, o2, b'-', d1, d2, b'T', h1, h2, b':', m1, m2, b':', s1, s2,
            b'.', f1, f2, f3, b'Z',
        ]
    }

    /// Reads what [`to_ascii`](Self::to_ascii) writes, and nothing else.
    fn from_ascii(text: &[u8]) -> Option<Self> {
        let [
            y1,
            y2,
            y3,
            y4,
            b'-',
            o1,
            o2,
            b'-',
            d1,
            d2,
            b'T',
            h1,
            h2,
            b':',
            m1,
            m2,
            b':',
            s1,
            s2,
            b'.',
            f1,
            f2,
            f3,
            b'Z',
        ] = text
        else {
            return None;
        };
        let year = number([y1, y2, y3, y4])?;
        let (month, day) = (number([o1, o2])?, number([d1, d2])?);
        let (hour, minute) = (number([h1, h2])?, number([m1, m2])?);
        let (second, milli) = (number([s1, s2])?, number([f1, f2, f3])?);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let last_day = match month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            2 => 28 + u64::from(leap),
            _ => return None,
        };
        if year < 1970 || day == 0 || day > last_day || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let shifted_year = year - u64::from(month <= 2);
        let (era, year_of_era) = (shifted_year / 400, shifted_year % 400);
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let day_of_era = 365 * year_of_era + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * ERA_DAYS + day_of_era - EPOCH_DAYS;
        let seconds = hour * 3_600 + minute * 60 + second;
        Some(Self(days * DAY_MILLIS + seconds * 1_000 + milli))
    }
}

/// The last two digits of a number.
fn two_digits(number: u64) -> [u8; 2] {
    let digit = |n: u64| b'0' + u8::try_from(n % 10).unwrap_or(0);
    [digit(number / 10), digit(number)]
}

fn number<const N: usize>(digits: [&u8; N]) -> Option<u64> {
    digits.into_iter().try_fold(0, |number, digit| {
        digit
            .is_ascii_digit()
            .then(|| number * 10 + u64::from(digit - b'0'))
    })
}

impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.to_ascii()).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for EventTime {
    type Err = WordError;
    fn from_str(text: &str) -> Result<Self, WordError> {
        if let Some(time) = Self::from_ascii(text.as_bytes()) {
            return Ok(time);
        }
        let bad = || WordError::Time(text.to_owned());
        let time: jiff::Timestamp = text.parse().map_err(|_| bad())?;
        if time < jiff::Timestamp::UNIX_EPOCH {
            return Err(bad());
        }
        let millis = u64::try_from(time.as_millisecond()).map_err(|_| bad())?;
        Ok(Self::from_millis(millis))
    }
}

impl Serialize for EventTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ascii = self.to_ascii();
        let text = std::str::from_utf8(&ascii).map_err(serde::ser::Error::custom)?;
        serializer.serialize_str(text)
    }
}

impl<'de> Deserialize<'de> for EventTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Parsed::NEW)
    }
}
