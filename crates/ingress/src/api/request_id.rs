//! `X-Request-Id`: the client's own where it is one, else a new one.

use std::cell::Cell;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

/// The header, in requests and answers.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id taken over from a client, in bytes.
const MAX_BYTES: usize = 128;

/// Makes ids: one maker per thread, each with a random half that no other has.
#[derive(Debug)]
pub(crate) struct RequestIds {
    maker: [u8; 16],
    next: Cell<u64>,
}

impl RequestIds {
    /// A maker unlike all others.
    pub(crate) fn new() -> Self {
        // The low half of a version 7 id is random but for two bits.
        let (_, maker) = uuid::Uuid::now_v7().as_u64_pair();
        Self {
            maker: hex(maker),
            next: Cell::new(0),
        }
    }

    /// The id of a request.
    pub(crate) fn of(&self, request: &HeaderMap) -> HeaderValue {
        match request.get(X_REQUEST_ID) {
            Some(sent) if acceptable(sent.as_bytes()) => sent.clone(),
            Some(_) | None => self.make(),
        }
    }

    /// 32 hexadecimal digits.
    fn make(&self) -> HeaderValue {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        let id = [self.maker, hex(number)];
        HeaderValue::from_bytes(id.as_flattened()).unwrap_or(HeaderValue::from_static("-"))
    }
}

fn hex(number: u64) -> [u8; 16] {
    let mut digits = [b'0'; 16];
    let mut left = number;
    for digit in digits.iter_mut().rev() {
        let value = (left & 0xf).to_le_bytes()[0];
        *digit = if value < 10 {
            b'0' + value
        } else {
            b'a' + (value - 10)
        };
        left >>= 4;
    }
    digits
}

fn acceptable(id: &[u8]) -> bool {
    (1..=MAX_BYTES).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ids: &RequestIds, sent: Option<&[u8]>) -> String {
        let mut headers = HeaderMap::new();
        if let Some(sent) = sent {
            headers.insert(X_REQUEST_ID, HeaderValue::from_bytes(sent).unwrap());
        }
        ids.of(&headers).to_str().unwrap().to_owned()
    }

    /// Protects a client that finds its requests again by its own ids.
    #[test]
    fn a_clients_own_id_is_kept() {
        let ids = RequestIds::new();
        let longest = "~".repeat(128);
        for id in ["a", "!", "client-7/x:y", longest.as_str()] {
            assert_eq!(of(&ids, Some(id.as_bytes())), id);
        }
    }

    /// Protects log lines and answers from what clients send, and ids from being the same twice.
    #[test]
    fn any_other_gets_a_new_one_each_time() {
        let (ids, others) = (RequestIds::new(), RequestIds::new());
        let too_long = "~".repeat(129);
        let bad: [&[u8]; 5] = [b"", too_long.as_bytes(), b"a b", "ü".as_bytes(), b"a\tb"];
        let mut made: Vec<String> = bad.iter().map(|id| of(&ids, Some(id))).collect();
        made.extend((0..300).map(|_| of(&ids, None)));
        made.extend((0..300).map(|_| of(&others, None)));
        assert!(
            made.iter()
                .all(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()))
        );
        let many = made.len();
        made.sort();
        made.dedup();
        assert_eq!(made.len(), many);
    }
}
