//! The trace a record belongs to, as W3C Trace Context writes it.
//!
//! <https://www.w3.org/TR/trace-context/#traceparent-header>, version 00:
//! `00-<trace id, 32 hex digits>-<parent id, 16>-<flags, 2>`, all in lower case.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// The value of a `traceparent` header. It is handed on by logs whose records have headers; the
/// fold never sees it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceParent([u8; Self::LEN]);

/// Not a `traceparent` that this build hands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent of version 00: 00-<32 hex digits>-<16>-<2>, in lower case")]
pub struct NotATraceParent;

impl TraceParent {
    /// How many characters it has.
    pub const LEN: usize = 55;

    /// A trace by its id, and the span in it that is the parent of what comes next.
    #[must_use]
    pub fn new(trace: [u8; 16], parent: [u8; 8], sampled: bool) -> Self {
        let mut text = [b'0'; Self::LEN];
        let hex = |bytes: &[u8], into: &mut [u8]| {
            const DIGITS: &[u8; 16] = b"0123456789abcdef";
            let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
            for (to, nibble) in into.iter_mut().zip(nibbles) {
                *to = DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0');
            }
        };
        if let Some(place) = text.get_mut(3..35) {
            hex(&trace, place);
        }
        if let Some(place) = text.get_mut(36..52) {
            hex(&parent, place);
        }
        if let Some(place) = text.get_mut(53..) {
            hex(&[u8::from(sampled)], place);
        }
        for dash in [2, 35, 52] {
            if let Some(at) = text.get_mut(dash) {
                *at = b'-';
            }
        }
        Self(text)
    }

    /// A trace that begins with the event of this id, for a request that came without one. It is
    /// not sampled: nobody but us knows of it.
    #[must_use]
    pub fn of_event(id: Uuid) -> Self {
        let (_, random) = id.as_u64_pair();
        Self::new(*id.as_bytes(), random.to_be_bytes(), false)
    }

    /// The trace's id.
    #[must_use]
    pub fn trace_id(&self) -> [u8; 16] {
        self.bytes(3)
    }

    /// The id of the span that is the parent of what comes next.
    #[must_use]
    pub fn parent_id(&self) -> [u8; 8] {
        self.bytes(36)
    }

    /// Whether whoever began the trace records it.
    #[must_use]
    pub fn sampled(&self) -> bool {
        let [flags] = self.bytes(53);
        flags & 1 == 1
    }

    /// The bytes whose hexadecimal digits begin at a place.
    fn bytes<const N: usize>(&self, from: usize) -> [u8; N] {
        let mut bytes = [0; N];
        let digits = self.as_str().get(from..).unwrap_or_default();
        for (place, byte) in bytes.iter_mut().enumerate() {
            let pair = digits.get(place * 2..place * 2 + 2);
            *byte = pair.map_or(0, |pair| u8::from_str_radix(pair, 16).unwrap_or(0));
        }
        bytes
    }

    /// As it stands in a header.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Only ASCII ever gets in.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl FromStr for TraceParent {
    type Err = NotATraceParent;

    fn from_str(text: &str) -> Result<Self, NotATraceParent> {
        let bytes: [u8; Self::LEN] = text.as_bytes().try_into().map_err(|_| NotATraceParent)?;
        let hex = |part: &str| {
            part.bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let some = |part: &str| part.bytes().any(|byte| byte != b'0');
        let mut parts = text.split('-');
        let (version, trace, parent, flags) =
            (parts.next(), parts.next(), parts.next(), parts.next());
        match (version, trace, parent, flags, parts.next()) {
            (Some("00"), Some(trace), Some(parent), Some(flags), None)
                if trace.len() == 32
                    && parent.len() == 16
                    && [trace, parent, flags].into_iter().all(hex)
                    && some(trace)
                    && some(parent) =>
            {
                Ok(Self(bytes))
            }
            _ => Err(NotATraceParent),
        }
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects traces that clients began: they go on under the same id.
    #[test]
    fn what_the_standard_shows_is_read_and_written_again() {
        for text in [
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        ] {
            let trace: TraceParent = text.parse().unwrap();
            assert_eq!(trace.to_string(), text);
        }
    }

    /// Protects consumers from headers that are none.
    #[test]
    fn what_is_no_traceparent_is_refused() {
        for text in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0-",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
        ] {
            assert_eq!(text.parse::<TraceParent>(), Err(NotATraceParent), "{text}");
        }
    }

    /// Protects requests without a trace: theirs is a valid one that names the event.
    #[test]
    fn a_trace_of_an_event_names_the_event() {
        let id = Uuid::from_u128(0x0193_a6f0_7b3e_7c4a_9d3e_2f1b_5c6d_7e8f);
        let text = TraceParent::of_event(id).to_string();
        assert_eq!(
            text,
            "00-0193a6f07b3e7c4a9d3e2f1b5c6d7e8f-9d3e2f1b5c6d7e8f-00"
        );
        assert!(text.parse::<TraceParent>().is_ok());
    }

    /// Protects the parts from being mixed up: what is put together is taken apart again.
    #[test]
    fn a_trace_is_put_together_and_taken_apart() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace: TraceParent = text.parse().unwrap();
        assert_eq!(
            u128::from_be_bytes(trace.trace_id()),
            0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736
        );
        assert_eq!(u64::from_be_bytes(trace.parent_id()), 0x00f0_67aa_0ba9_02b7);
        for (flags, sampled) in [("00", false), ("01", true), ("02", false), ("ff", true)] {
            let text = format!("{}{flags}", &text[..53]);
            let trace: TraceParent = text.parse().unwrap();
            assert_eq!(trace.sampled(), sampled, "{text}");
        }
        let again = TraceParent::new(trace.trace_id(), trace.parent_id(), true);
        assert_eq!(again.to_string(), text);
        let unsampled = TraceParent::new(trace.trace_id(), trace.parent_id(), false);
        assert!(unsampled.to_string().ends_with("-00") && !unsampled.sampled());
    }
}
