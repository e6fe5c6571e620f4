//! Strict JSON, read in place: what RFC 8259 allows, names once per object, nesting up to a bound,
//! and where the first mistake is. It keeps numbers as they were sent, which no general reader
//! does, and says what is wrong in the words of Python's `json`, which clients of this API's family
//! are used to.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

/// How deep arrays and objects may be nested.
pub(crate) const MAX_DEPTH: usize = 64;
/// How many characters of a name an error repeats.
const SHOWN_NAME: usize = 40;

/// A value. Of an array or object only that it is one: nothing here looks into them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, as it was sent.
    Number(&'a str),
    /// A string, its escapes resolved.
    String(Cow<'a, str>),
    /// An array, whatever is in it.
    Array,
    /// An object, whatever is in it.
    Object,
}

/// Why a text is not JSON, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: line {line} column {column} (char {offset})")]
pub(crate) struct JsonError {
    what: What,
    /// From 1.
    line: usize,
    /// In characters, from 1.
    column: usize,
    /// In characters, from 0.
    offset: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Value,
    Name,
    Colon,
    Comma,
    TrailingComma,
    ExtraData,
    UnterminatedString,
    ControlCharacter,
    Escape,
    Surrogate,
    NotUtf8,
    TooDeep,
    Twice(String),
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value => f.write_str("Expecting value"),
            Self::Name => f.write_str("Expecting property name enclosed in double quotes"),
            Self::Colon => f.write_str("Expecting ':' delimiter"),
            Self::Comma => f.write_str("Expecting ',' delimiter"),
            Self::TrailingComma => f.write_str("Illegal trailing comma"),
            Self::ExtraData => f.write_str("Extra data"),
            Self::UnterminatedString => f.write_str("Unterminated string starting at"),
            Self::ControlCharacter => f.write_str("Invalid control character at"),
            Self::Escape => f.write_str("Invalid escape"),
            Self::Surrogate => f.write_str("Unpaired surrogate"),
            Self::NotUtf8 => f.write_str("Not UTF-8"),
            Self::TooDeep => write!(f, "Nested deeper than {MAX_DEPTH} levels"),
            Self::Twice(name) => write!(f, "Duplicate name {name:?}"),
        }
    }
}

/// A mistake and the byte where it is; line and column are counted only when it is shown.
type Fail = (What, usize);

/// Reads a whole text. The fields of a top-level object are given to `field` in their order.
///
/// # Errors
/// [`JsonError`] at the first mistake.
pub(crate) fn read<'a>(
    bytes: &'a [u8],
    field: &mut dyn FnMut(&str, Value<'a>),
) -> Result<Value<'a>, JsonError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| located(bytes, (What::NotUtf8, error.valid_up_to())))?;
    let mut reader = Reader { text, at: 0 };
    reader.document(field).map_err(|fail| located(bytes, fail))
}

fn located(bytes: &[u8], (what, at): Fail) -> JsonError {
    let (mut line, mut column, mut offset) = (1, 1, 0);
    // What lies before a mistake is UTF-8: a character is what is no continuation byte.
    for byte in bytes.iter().take(at) {
        if *byte == b'\n' {
            (line, column, offset) = (line + 1, 1, offset + 1);
        } else if byte & 0xc0 != 0x80 {
            (column, offset) = (column + 1, offset + 1);
        }
    }
    JsonError {
        what,
        line,
        column,
        offset,
    }
}

/// The names of one object. Most have few, and those few without escapes: only others are worth a
/// table.
#[derive(Default)]
struct Names<'a> {
    few: [&'a str; 8],
    filled: usize,
    others: HashSet<Cow<'a, str>>,
}

impl<'a> Names<'a> {
    /// Whether it is new.
    fn add(&mut self, name: Cow<'a, str>) -> bool {
        let mut few = self.few.iter().take(self.filled);
        if few.any(|other| *other == name) || self.others.contains(&name) {
            return false;
        }
        match (name, self.few.get_mut(self.filled)) {
            (Cow::Borrowed(name), Some(place)) => {
                *place = name;
                self.filled += 1;
            }
            (name, _) => {
                self.others.insert(name);
            }
        }
        true
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// From `start` to here. Both are ends of ASCII characters.
    fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn fail<T>(&self, what: What) -> Result<T, Fail> {
        Err((what, self.at))
    }

    fn document(&mut self, field: &mut dyn FnMut(&str, Value<'a>)) -> Result<Value<'a>, Fail> {
        self.space();
        let value = if self.peek() == Some(b'{') {
            self.object(1, field)?;
            Value::Object
        } else {
            self.value(0)?
        };
        self.space();
        if self.at == self.text.len() {
            Ok(value)
        } else {
            self.fail(What::ExtraData)
        }
    }

    /// A value inside `depth` arrays and objects.
    fn value(&mut self, depth: usize) -> Result<Value<'a>, Fail> {
        match self.peek() {
            Some(b'"') => self.string().map(Value::String),
            Some(b'-' | b'0'..=b'9') => self.number().map(Value::Number),
            Some(b'{') => {
                self.object(depth + 1, &mut |_, _| ())?;
                Ok(Value::Object)
            }
            Some(b'[') => {
                self.array(depth + 1)?;
                Ok(Value::Array)
            }
            Some(b'n') => self.word("null", Value::Null),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(_) | None => self.fail(What::Value),
        }
    }

    fn word(&mut self, word: &str, value: Value<'a>) -> Result<Value<'a>, Fail> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        if rest.starts_with(word) {
            self.at += word.len();
            Ok(value)
        } else {
            self.fail(What::Value)
        }
    }

    fn object(&mut self, depth: usize, field: &mut dyn FnMut(&str, Value<'a>)) -> Result<(), Fail> {
        if depth > MAX_DEPTH {
            return self.fail(What::TooDeep);
        }
        self.at += 1;
        self.space();
        if self.take(b'}') {
            return Ok(());
        }
        let mut names = Names::default();
        loop {
            let at = self.at;
            if self.peek() != Some(b'"') {
                return self.fail(What::Name);
            }
            let name = self.string()?;
            if !names.add(name.clone()) {
                let shown = name.chars().take(SHOWN_NAME).collect();
                return Err((What::Twice(shown), at));
            }
            self.space();
            if !self.take(b':') {
                return self.fail(What::Colon);
            }
            self.space();
            field(&name, self.value(depth)?);
            self.space();
            if self.take(b'}') {
                return Ok(());
            }
            self.comma(b'}')?;
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), Fail> {
        if depth > MAX_DEPTH {
            return self.fail(What::TooDeep);
        }
        self.at += 1;
        self.space();
        if self.take(b']') {
            return Ok(());
        }
        loop {
            self.value(depth)?;
            self.space();
            if self.take(b']') {
                return Ok(());
            }
            self.comma(b']')?;
        }
    }

    /// A comma, the space after it, and not the end.
    fn comma(&mut self, end: u8) -> Result<(), Fail> {
        let at = self.at;
        if !self.take(b',') {
            return self.fail(What::Comma);
        }
        self.space();
        if self.peek() == Some(end) {
            return Err((What::TrailingComma, at));
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Fail> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start {
            return self.fail(What::Value);
        }
        Ok(())
    }

    fn number(&mut self) -> Result<&'a str, Fail> {
        let start = self.at;
        self.take(b'-');
        // A number goes on after a leading zero only with a point or an exponent: in `042` the
        // rest is a mistake of whoever comes next.
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if !self.take(b'-') {
                self.take(b'+');
            }
            self.digits()?;
        }
        Ok(self.since(start))
    }

    fn string(&mut self) -> Result<Cow<'a, str>, Fail> {
        let quote = self.at;
        self.at += 1;
        let mut start = self.at;
        let mut unescaped: Option<String> = None;
        loop {
            match self.peek() {
                None => return Err((What::UnterminatedString, quote)),
                Some(b'"') => {
                    let rest = self.since(start);
                    self.at += 1;
                    return Ok(match unescaped {
                        None => Cow::Borrowed(rest),
                        Some(mut text) => {
                            text.push_str(rest);
                            Cow::Owned(text)
                        }
                    });
                }
                Some(b'\\') => {
                    let text = unescaped.get_or_insert_default();
                    text.push_str(self.since(start));
                    text.push(self.escape()?);
                    start = self.at;
                }
                Some(0..0x20) => return self.fail(What::ControlCharacter),
                Some(_) => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Result<char, Fail> {
        let start = self.at;
        self.at += 1;
        let Some(letter) = self.peek() else {
            return Err((What::Escape, start));
        };
        self.at += 1;
        Ok(match letter {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.code_point(start),
            _ => return Err((What::Escape, start)),
        })
    }

    /// What follows `\u`; two of them where the first is the first half of a pair.
    fn code_point(&mut self, start: usize) -> Result<char, Fail> {
        let first = self.hex4(start)?;
        let code = if (0xd800..0xdc00).contains(&first) && self.take(b'\\') {
            if !self.take(b'u') {
                return Err((What::Surrogate, start));
            }
            let second = self.hex4(start)?;
            if !(0xdc00..0xe000).contains(&second) {
                return Err((What::Surrogate, start));
            }
            0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
        } else {
            first
        };
        char::from_u32(code).ok_or((What::Surrogate, start))
    }

    fn hex4(&mut self, start: usize) -> Result<u32, Fail> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4);
        let mut code = 0;
        for digit in digits.ok_or((What::Escape, start))? {
            let digit = char::from(*digit).to_digit(16);
            code = code * 16 + digit.ok_or((What::Escape, start))?;
        }
        self.at += 4;
        Ok(code)
    }
}

#[cfg(test)]
mod tests;
