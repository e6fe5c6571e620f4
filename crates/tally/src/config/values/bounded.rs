//! Numbers, times and sizes. What is valid stands in the type, and so in every error.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Whole<const MIN: u64, const MAX: u64>(u64);

/// A length of time, held in milliseconds, from `MIN` to `MAX`. Written `"2s"`, `"500 ms"`,
/// `"1.5 min"`, or as a bare number of seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span<const MIN: u64, const MAX: u64>(u64);

/// A number of bytes from `MIN` to `MAX`. Written `"64 MiB"`, `"10 MB"`, or as a bare number of
/// bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Whole<MIN, MAX> {
    /// The number as `u32`; the range's own bound keeps it whole.
    #[must_use]
    pub(crate) fn as_u32(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }

    /// The number as `usize`; the range's own bound keeps it whole.
    #[must_use]
    pub(crate) fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// The number.
    #[must_use]
    pub(crate) fn as_u64(self) -> u64 {
        self.0
    }
}

impl<const MIN: u64, const MAX: u64> Span<MIN, MAX> {
    /// The length of time.
    #[must_use]
    pub(crate) fn get(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl<const MIN: u64, const MAX: u64> Size<MIN, MAX> {
    /// The number of bytes.
    #[must_use]
    pub(crate) fn get(self) -> u64 {
        self.0
    }

    /// The number of bytes as `usize`.
    #[must_use]
    pub(crate) fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// A number, or a number with a unit, as written.
fn split_unit(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    let number = number.replace('_', "").parse::<f64>().ok()?;
    Some((number, unit.trim()))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a finite number below 2^63 that is not negative; fractions are cut off"
)]
fn scaled(number: f64, factor: u64) -> Option<u64> {
    let product = number * factor as f64;
    (product.is_finite() && (0.0..9.2e18).contains(&product)).then_some(product as u64)
}

/// Milliseconds from a text such as `2s`, `500 ms`, or `2` for seconds.
fn millis(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let factor = match unit {
        "ms" => 1,
        "s" | "" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    // Less than a millisecond that is not nothing would otherwise become nothing.
    scaled(number, factor).filter(|millis| *millis > 0 || number == 0.0)
}

/// Bytes from a text such as `64 MiB`, or `4096`.
fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let factor = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return None,
    };
    scaled(number, factor)
}

fn write_millis(millis: u64) -> String {
    let exact = [(3_600_000, "h"), (60_000, "min"), (1_000, "s")];
    let unit = exact
        .iter()
        .find(|(factor, _)| millis > 0 && millis.is_multiple_of(*factor));
    match unit {
        Some((factor, unit)) => format!("{}{unit}", millis / factor),
        None if millis == 0 => "0s".to_owned(),
        None => format!("{millis}ms"),
    }
}

fn write_bytes(bytes: u64) -> String {
    let exact = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = exact
        .iter()
        .find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << *shift));
    match unit {
        Some((shift, unit)) => format!("{} {unit}", bytes >> shift),
        None => format!("{bytes} B"),
    }
}

/// One kind of bounded value: how it is written and read.
trait Bounded: Sized {
    const WHAT: &'static str;
    const RANGE: (u64, u64);
    fn wrap(value: u64) -> Self;
    fn of_text(text: &str) -> Option<u64>;
    fn of_number(number: f64) -> Option<u64>;
    fn write(value: u64) -> String;

    fn checked(value: Option<u64>, found: &dyn fmt::Display) -> Result<Self, String> {
        let (min, max) = Self::RANGE;
        match value {
            Some(value) if (min..=max).contains(&value) => Ok(Self::wrap(value)),
            Some(_) | None => Err(format!("{found} is not {}", Self::valid())),
        }
    }

    fn valid() -> String {
        let (min, max) = Self::RANGE;
        format!(
            "{} from {} to {}",
            Self::WHAT,
            Self::write(min),
            Self::write(max)
        )
    }
}

impl<const MIN: u64, const MAX: u64> Bounded for Whole<MIN, MAX> {
    const WHAT: &'static str = "a whole number";
    const RANGE: (u64, u64) = (MIN, MAX);
    fn wrap(value: u64) -> Self {
        Self(value)
    }
    fn of_text(text: &str) -> Option<u64> {
        text.trim().replace('_', "").parse().ok()
    }
    fn of_number(number: f64) -> Option<u64> {
        (number.fract() == 0.0).then(|| scaled(number, 1)).flatten()
    }
    fn write(value: u64) -> String {
        value.to_string()
    }
}

impl<const MIN: u64, const MAX: u64> Bounded for Span<MIN, MAX> {
    const WHAT: &'static str = "a length of time (\"500ms\", \"2s\", \"1min\", or seconds)";
    const RANGE: (u64, u64) = (MIN, MAX);
    fn wrap(value: u64) -> Self {
        Self(value)
    }
    fn of_text(text: &str) -> Option<u64> {
        millis(text)
    }
    fn of_number(number: f64) -> Option<u64> {
        scaled(number, 1_000).filter(|millis| *millis > 0 || number == 0.0)
    }
    fn write(value: u64) -> String {
        write_millis(value)
    }
}

impl<const MIN: u64, const MAX: u64> Bounded for Size<MIN, MAX> {
    const WHAT: &'static str = "a size (\"64 MiB\", \"10 MB\", or bytes)";
    const RANGE: (u64, u64) = (MIN, MAX);
    fn wrap(value: u64) -> Self {
        Self(value)
    }
    fn of_text(text: &str) -> Option<u64> {
        bytes(text)
    }
    fn of_number(number: f64) -> Option<u64> {
        (number.fract() == 0.0).then(|| scaled(number, 1)).flatten()
    }
    fn write(value: u64) -> String {
        write_bytes(value)
    }
}

struct BoundedVisitor<T>(std::marker::PhantomData<T>);

impl<T: Bounded> Visitor<'_> for BoundedVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&T::valid())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        // Through text, since a large number is not exact as a float.
        let value = T::of_text(&number.to_string());
        T::checked(value, &number).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        let value = T::of_text(&number.to_string());
        T::checked(value, &number).map_err(E::custom)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        T::checked(T::of_number(number), &number).map_err(E::custom)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::checked(T::of_text(text), &format_args!("{text:?}")).map_err(E::custom)
    }
}

macro_rules! bounded_serde {
    ($($name:ident),+) => {$(
        impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for $name<MIN, MAX> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(BoundedVisitor(std::marker::PhantomData))
            }
        }

        impl<const MIN: u64, const MAX: u64> fmt::Display for $name<MIN, MAX> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&<Self as Bounded>::write(self.0))
            }
        }

        impl<const MIN: u64, const MAX: u64> FromStr for $name<MIN, MAX> {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                Self::checked(<Self as Bounded>::of_text(text), &format_args!("{text:?}"))
            }
        }
    )+};
}

bounded_serde!(Whole, Span, Size);

impl<const MIN: u64, const MAX: u64> Serialize for Whole<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<const MIN: u64, const MAX: u64> Serialize for Span<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<const MIN: u64, const MAX: u64> Serialize for Size<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Wait = Span<1, 60_000>;
    type Body = Size<1_024, { 1 << 30 }>;

    /// Guards the ways of writing a length of time that the configuration's comments promise.
    #[test]
    fn lengths_of_time_are_read_as_written() {
        for (text, wanted) in [
            ("2s", 2_000),
            ("2 s", 2_000),
            ("500ms", 500),
            (" 500 ms ", 500),
            ("1min", 60_000),
            ("0.5m", 30_000),
            ("1.5s", 1_500),
            ("2", 2_000),
            ("0.25", 250),
        ] {
            assert_eq!(
                text.parse::<Wait>().map(|span| span.0),
                Ok(wanted),
                "{text}"
            );
        }
    }

    /// Guards that nothing else is taken for one, zero and what rounds to zero included.
    #[test]
    fn what_is_no_length_of_time_in_range_is_refused() {
        for text in [
            "",
            "s",
            "-1s",
            "0",
            "0.0001s",
            "61s",
            "2 parsecs",
            "1e3s",
            "1..5s",
            "∞",
        ] {
            let error = text.parse::<Wait>().unwrap_err();
            assert!(error.contains("from 1ms to 1min"), "{text}: {error}");
        }
    }

    /// Guards the ways of writing a size.
    #[test]
    fn sizes_are_read_as_written() {
        for (text, wanted) in [
            ("64 KiB", 65_536),
            ("64KiB", 65_536),
            ("1 MB", 1_000_000),
            ("1.5 MiB", 1_572_864),
            ("4096", 4_096),
            ("4_096 B", 4_096),
        ] {
            assert_eq!(
                text.parse::<Body>().map(|size| size.0),
                Ok(wanted),
                "{text}"
            );
        }
        for text in ["", "MiB", "64 mib", "1023", "2 GiB", "-4096", "64 Mb"] {
            assert!(text.parse::<Body>().is_err(), "{text}");
        }
    }

    /// Guards that what is shown of a value can be pasted back.
    #[test]
    fn a_value_reads_back_as_it_is_written() {
        for millis in [1, 250, 1_000, 1_500, 60_000] {
            let span: Wait = Span(millis);
            assert_eq!(span.to_string().parse(), Ok(span));
        }
        for bytes in [1_024, 1_025, 65_536, 1 << 20, 1 << 30] {
            let size: Body = Size(bytes);
            assert_eq!(size.to_string().parse(), Ok(size));
        }
    }
}
