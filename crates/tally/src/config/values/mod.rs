//! Values that know what is valid, so that an impossible one never gets past the parser.
//!
//! - `bounded`: numbers, times and sizes with their range in the type
//! - `texts`: texts, lists, addresses, secrets

mod bounded;
mod texts;

pub(crate) use bounded::{Size, Span, Whole};
pub(crate) use texts::{Properties, PropertyFiles, Texts, address, optional_text, text};
