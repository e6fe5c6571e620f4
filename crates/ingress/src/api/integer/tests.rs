//! Integers in any spelling, against a slow model.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// Protects each spelling that the contract names.
#[test]
fn whole_numbers_in_any_spelling_are_integers() {
    let cases = [
        ("42", Integer::Small(42)),
        ("42.0", Integer::Small(42)),
        ("42.000", Integer::Small(42)),
        ("4.2e1", Integer::Small(42)),
        ("4.2E+1", Integer::Small(42)),
        ("420e-1", Integer::Small(42)),
        ("0.42e2", Integer::Small(42)),
        ("42e0", Integer::Small(42)),
        ("42e0000000000000000000000", Integer::Small(42)),
        ("0", Integer::Small(0)),
        ("-0", Integer::Small(0)),
        ("-0.0e5", Integer::Small(0)),
        ("0e-1000", Integer::Small(0)),
        ("18446744073709551615", Integer::Small(u64::MAX)),
        ("18446744073709551616", Integer::Elsewhere),
        ("1e19", Integer::Small(10_000_000_000_000_000_000)),
        ("1e20", Integer::Elsewhere),
        ("1e30", Integer::Elsewhere),
        ("1e1000", Integer::Elsewhere),
        ("-1", Integer::Elsewhere),
        ("-42.0", Integer::Elsewhere),
        ("42.5", Integer::Not),
        ("425e-1", Integer::Not),
        ("-0.1", Integer::Not),
        ("1e-1", Integer::Not),
        ("1e1001", Integer::Not),
        ("1e-1001", Integer::Not),
        ("0e1001", Integer::Not),
        ("1e99999999999999999999", Integer::Not),
        ("1e-99999999999999999999", Integer::Not),
    ];
    for (number, integer) in cases {
        assert_eq!(read(number), integer, "{number}");
    }
}

/// Protects the bound on digits, of which those after the point are some.
#[test]
fn a_thousand_digits_are_taken_and_no_more() {
    assert_eq!(read(&"9".repeat(1_000)), Integer::Elsewhere);
    assert_eq!(read(&format!("1{}", "0".repeat(1_000))), Integer::Not);
    assert_eq!(read(&format!("42.{}", "0".repeat(998))), Integer::Small(42));
    assert_eq!(read(&format!("42.{}", "0".repeat(999))), Integer::Not);
    assert_eq!(
        read(&format!("1{}e-999", "0".repeat(999))),
        Integer::Small(1)
    );
}

/// A number as a client may spell it: sign, digits, fraction, exponent.
fn spelling() -> impl Strategy<Value = (bool, String, String, i64)> {
    let whole = prop_oneof![Just("0".to_owned()), "[1-9][0-9]{0,24}", "[1-9]0{0,24}"];
    let fraction = prop_oneof![
        Just(String::new()),
        "[0-9]{1,24}",
        "0{1,24}",
        "[0-9]{1,4}0{0,9}"
    ];
    (any::<bool>(), whole, fraction, -40_i64..40)
}

/// The same, slowly: the digits in a row, moved past the point one by one.
fn model(negative: bool, whole: &str, fraction: &str, exponent: i64) -> Integer {
    let mut digits: VecDeque<u8> = whole.bytes().collect();
    let mut after: VecDeque<u8> = fraction.bytes().collect();
    for _ in 0..exponent {
        digits.push_back(after.pop_front().unwrap_or(b'0'));
    }
    for _ in exponent..0 {
        after.push_front(digits.pop_back().unwrap_or(b'0'));
    }
    if after.iter().any(|digit| *digit != b'0') {
        return Integer::Not;
    }
    let text = String::from_utf8(digits.into()).unwrap();
    let text = text.trim_start_matches('0');
    match (negative, text) {
        (_, "") => Integer::Small(0),
        (true, _) => Integer::Elsewhere,
        (false, text) => text.parse().map_or(Integer::Elsewhere, Integer::Small),
    }
}

proptest! {
    /// Protects the arithmetic, against moving the point by hand.
    #[test]
    fn any_spelling_is_the_number_it_spells((negative, whole, fraction, exponent) in spelling()) {
        let sign = if negative { "-" } else { "" };
        let point = if fraction.is_empty() { "" } else { "." };
        let expected = model(negative, &whole, &fraction, exponent);
        for e in [format!("e{exponent}"), format!("E{exponent:+}"), format!("e{exponent:+04}")] {
            let number = format!("{sign}{whole}{point}{fraction}{e}");
            prop_assert_eq!(read(&number), expected, "{}", number);
        }
        if exponent == 0 {
            let number = format!("{sign}{whole}{point}{fraction}");
            prop_assert_eq!(read(&number), expected, "{}", number);
        }
    }

    /// Protects every id there can be.
    #[test]
    fn every_integer_is_itself(number in any::<u64>()) {
        prop_assert_eq!(read(&number.to_string()), Integer::Small(number));
    }
}
