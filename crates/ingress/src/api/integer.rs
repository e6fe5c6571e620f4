//! Whole numbers in any spelling that JSON has: `42`, `42.0`, `4.2e1`.

/// The most digits a number may be written with.
pub(crate) const MAX_DIGITS: usize = 1_000;
/// The largest exponent, either way.
pub(crate) const MAX_EXPONENT: i64 = 1_000;

/// What a JSON number is, as an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Integer {
    /// This one.
    Small(u64),
    /// A whole number below 0 or past `u64`.
    Elsewhere,
    /// Not whole, or spelt beyond the bounds.
    Not,
}

/// Reads a number as JSON spells it; anything else is [`Integer::Not`].
pub(crate) fn read(number: &str) -> Integer {
    // As nearly all are sent.
    if number.len() < 19 && number.bytes().all(|byte| byte.is_ascii_digit()) {
        return number.parse().map_or(Integer::Not, Integer::Small);
    }
    let (negative, rest) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number),
    };
    let (mantissa, exponent) = rest.split_once(['e', 'E']).unwrap_or((rest, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let Some(exponent) = read_exponent(exponent) else {
        return Integer::Not;
    };
    let digits = || whole.bytes().chain(fraction.bytes());
    let written = whole.len() + fraction.len();
    if written > MAX_DIGITS || !digits().all(|digit| digit.is_ascii_digit()) {
        return Integer::Not;
    }
    let zeros_after = digits().rev().take_while(|digit| *digit == b'0').count();
    if zeros_after == written {
        return Integer::Small(0);
    }
    // The number is what is left of the digits, times ten to the power of `tens`.
    let signed = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let tens = exponent - signed(fraction.len()) + signed(zeros_after);
    let Ok(tens) = u32::try_from(tens) else {
        return Integer::Not;
    };
    if negative {
        return Integer::Elsewhere;
    }
    let mut significant = digits().take(written - zeros_after);
    let value = significant.try_fold(0_u64, |value, digit| {
        value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    });
    let power = 10_u64.checked_pow(tens);
    value
        .zip(power)
        .and_then(|(value, power)| value.checked_mul(power))
        .map_or(Integer::Elsewhere, Integer::Small)
}

/// An exponent within the bounds, however many zeros lead it.
fn read_exponent(exponent: &str) -> Option<i64> {
    let (negative, digits) = match exponent.as_bytes() {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    let size = digits.iter().try_fold(0_i64, |size, digit| {
        let digit = digit.is_ascii_digit().then(|| i64::from(digit - b'0'))?;
        Some(size * 10 + digit).filter(|size| *size <= MAX_EXPONENT)
    })?;
    Some(if negative { -size } else { size })
}

#[cfg(test)]
mod tests;
