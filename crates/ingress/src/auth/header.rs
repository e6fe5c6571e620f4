//! The credential in an `Authorization` header.

use actix_web::http::header::{AUTHORIZATION, HeaderMap};

use super::AuthError;

/// The one word after `Bearer`, the scheme in any case.
///
/// More than one `Authorization` header is [`AuthError::Malformed`], whatever is in them: a proxy
/// in front may have looked at another one than we would, and the servers of this API's family
/// join them with a comma, which is one header of too many words.
pub(super) fn credential(headers: &HeaderMap) -> Result<&[u8], AuthError> {
    let mut sent = headers.get_all(AUTHORIZATION);
    let value = sent.next().ok_or(AuthError::NotProvided)?;
    if sent.next().is_some() {
        return Err(AuthError::Malformed);
    }
    let words = value.as_bytes().split(u8::is_ascii_whitespace);
    let mut words = words.filter(|word| !word.is_empty());
    match words.next() {
        Some(scheme) if scheme.eq_ignore_ascii_case(b"Bearer") => {}
        Some(_) | None => return Err(AuthError::NotProvided),
    }
    match (words.next(), words.next()) {
        (Some(credential), None) => Ok(credential),
        (Some(_) | None, _) => Err(AuthError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn sent(values: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    /// Protects what clients of this API's family match on: which refusal for which header.
    #[test]
    fn one_word_after_bearer_is_the_credential() {
        type Case<'a> = (&'a [&'a [u8]], Result<&'a [u8], AuthError>);
        let cases: [Case<'_>; 14] = [
            (&[], Err(AuthError::NotProvided)),
            (&[b""], Err(AuthError::NotProvided)),
            (&[b"  "], Err(AuthError::NotProvided)),
            (&[b"Basic dXNlcjpwYXNz"], Err(AuthError::NotProvided)),
            (&[b"Bearerx y"], Err(AuthError::NotProvided)),
            (&[b"Basic x", b"Bearer y"], Err(AuthError::Malformed)),
            (&[b"Bearer"], Err(AuthError::Malformed)),
            (&[b"Bearer "], Err(AuthError::Malformed)),
            (&[b"Bearer x y"], Err(AuthError::Malformed)),
            (&[b"Bearer x", b"Bearer x"], Err(AuthError::Malformed)),
            (&[b"Bearer x"], Ok(b"x")),
            (&[b"bEARER x"], Ok(b"x")),
            (&[b" Bearer \t x "], Ok(b"x")),
            (&[b"Bearer \xff\xfe"], Ok(b"\xff\xfe")),
        ];
        for (values, wanted) in cases {
            assert_eq!(credential(&sent(values)), wanted, "{values:?}");
        }
    }
}
