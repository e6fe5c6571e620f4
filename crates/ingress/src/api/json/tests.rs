//! Strict JSON: what is refused, and where.

use proptest::prelude::*;

use super::*;

fn read_all(text: &[u8]) -> Result<Vec<(String, String)>, String> {
    let mut fields = Vec::new();
    read(text, &mut |name, value| {
        fields.push((name.to_owned(), format!("{value:?}")));
    })
    .map(|_| fields)
    .map_err(|error| error.to_string())
}

fn mistakes(cases: &[(&[u8], &str)]) {
    for (text, error) in cases {
        let sent = String::from_utf8_lossy(text);
        assert_eq!(read_all(text).err().as_deref(), Some(*error), "{sent}");
    }
}

/// Protects people who look for their mistake in what they put together: what, and where.
#[test]
fn a_mistake_of_structure_is_named_with_its_place() {
    let deep = format!("{}1", "[".repeat(65));
    let deep_objects = r#"{"":"#.repeat(65);
    mistakes(&[
        (b"nonsense", "Expecting value: line 1 column 1 (char 0)"),
        (b"   ", "Expecting value: line 1 column 4 (char 3)"),
        (b"nul", "Expecting value: line 1 column 1 (char 0)"),
        (
            b"{",
            "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        ),
        (
            b"{'a':1}",
            "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        ),
        (
            b"{a:1}",
            "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        ),
        (
            br#"{"a" 1}"#,
            "Expecting ':' delimiter: line 1 column 6 (char 5)",
        ),
        (br#"{"a":}"#, "Expecting value: line 1 column 6 (char 5)"),
        (
            br#"{"a":1 "b":2}"#,
            "Expecting ',' delimiter: line 1 column 8 (char 7)",
        ),
        (
            br#"{"a":1"#,
            "Expecting ',' delimiter: line 1 column 7 (char 6)",
        ),
        (
            br#"{"a":1,}"#,
            "Illegal trailing comma: line 1 column 7 (char 6)",
        ),
        (
            b"[1 , ]",
            "Illegal trailing comma: line 1 column 4 (char 3)",
        ),
        (b"[1", "Expecting ',' delimiter: line 1 column 3 (char 2)"),
        (b"{} {}", "Extra data: line 1 column 4 (char 3)"),
        (b"1 and more", "Extra data: line 1 column 3 (char 2)"),
        (b"042", "Extra data: line 1 column 2 (char 1)"),
        (
            deep_objects.as_bytes(),
            "Nested deeper than 64 levels: line 1 column 257 (char 256)",
        ),
        (
            deep.as_bytes(),
            "Nested deeper than 64 levels: line 1 column 65 (char 64)",
        ),
    ]);
}

/// The same, for numbers and strings.
#[test]
fn a_mistake_in_a_value_is_named_with_its_place() {
    mistakes(&[
        (b"[-]", "Expecting value: line 1 column 3 (char 2)"),
        (b"[+1]", "Expecting value: line 1 column 2 (char 1)"),
        (b"[1.]", "Expecting value: line 1 column 4 (char 3)"),
        (b"[1e]", "Expecting value: line 1 column 4 (char 3)"),
        (b"[.5]", "Expecting value: line 1 column 2 (char 1)"),
        (b"[NaN]", "Expecting value: line 1 column 2 (char 1)"),
        (b"[-Infinity]", "Expecting value: line 1 column 3 (char 2)"),
        (
            b"\"abc",
            "Unterminated string starting at: line 1 column 1 (char 0)",
        ),
        (
            b"\"a\nb\"",
            "Invalid control character at: line 1 column 3 (char 2)",
        ),
        (br#""\x""#, "Invalid escape: line 1 column 2 (char 1)"),
        (br#""\u12g4""#, "Invalid escape: line 1 column 2 (char 1)"),
        (
            br#""\ud800""#,
            "Unpaired surrogate: line 1 column 2 (char 1)",
        ),
        (
            br#""\ud800\u0041""#,
            "Unpaired surrogate: line 1 column 2 (char 1)",
        ),
        (
            br#""\udc00""#,
            "Unpaired surrogate: line 1 column 2 (char 1)",
        ),
        (b"\"\xff\"", "Not UTF-8: line 1 column 2 (char 1)"),
        (
            "{\n \"é\": 1,\n \"ü\": x}".as_bytes(),
            "Expecting value: line 3 column 7 (char 17)",
        ),
        (
            b"\xef\xbb\xbf{}",
            "Expecting value: line 1 column 1 (char 0)",
        ),
    ]);
}

/// Protects against two readers taking two values of the same name, however it is spelt and
/// however deep it lies.
#[test]
fn a_name_stands_once_in_its_object() {
    let many = |last: usize| {
        let names: Vec<String> = (0..100)
            .chain([last])
            .map(|n| format!("\"n{n}\":1"))
            .collect();
        format!("{{{}}}", names.join(","))
    };
    let twice = [
        r#"{"a":1,"a":1}"#.to_owned(),
        r#"{"a":1,"b":2,"\u0061":1}"#.to_owned(),
        r#"{"\u0061":1,"a":1}"#.to_owned(),
        r#"{"x":{"a":1,"a":1}}"#.to_owned(),
        r#"[{"a":1,"a":1}]"#.to_owned(),
        many(0),
        many(50),
        many(99),
    ];
    for text in twice {
        let error = read_all(text.as_bytes()).unwrap_err();
        assert!(error.starts_with("Duplicate name \""), "{text}: {error}");
    }
    let long = format!(r#"{{"{0}":1,"{0}":1}}"#, "n".repeat(10_000));
    assert!(read_all(long.as_bytes()).unwrap_err().len() < 100);
    for text in [
        r#"{"a":{"a":[{"a":1},{"a":1}]},"b":{"a":1}}"#.to_owned(),
        many(100),
    ] {
        assert!(read_all(text.as_bytes()).is_ok(), "{text}");
    }
}

/// Protects what is valid, with any space and any escape, and the order of fields.
#[test]
fn what_is_valid_is_read() {
    let text = " {\r\n\t\"a\\n\" : -0.5e+10 , \"\\ud83d\\ude00\" : [ [ ] , { } ] , \"\" : { \"x\" : null } , \"d\" : \"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9é\" , \"e\" : true , \"f\":false,\"g\":null } ";
    let fields = read_all(text.as_bytes()).unwrap();
    let fields: Vec<(&str, &str)> = fields
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let expected = [
        ("a\n", "Number(\"-0.5e+10\")"),
        ("😀", "Array"),
        ("", "Object"),
        ("d", "String(\"\\\"\\\\/\\u{8}\\u{c}\\n\\r\\téé\")"),
        ("e", "Bool(true)"),
        ("f", "Bool(false)"),
        ("g", "Null"),
    ];
    assert_eq!(fields, expected);
    let deep = format!("{}{}", "[".repeat(64), "]".repeat(64));
    assert!(read_all(deep.as_bytes()).is_ok());
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

proptest! {
    /// Protects against taking for JSON what is none, and the other way round: an independent
    /// reader says the same of a valid text with a byte changed.
    #[test]
    fn it_agrees_with_another_reader(
        value in json(),
        pretty in any::<bool>(),
        change in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut text = if pretty {
            serde_json::to_vec_pretty(&value).unwrap()
        } else {
            serde_json::to_vec(&value).unwrap()
        };
        if let Some((place, byte)) = change {
            let place = place.index(text.len());
            text[place] = byte;
        }
        let ours = read(&text, &mut |_, _| ());
        // The other reader does not mind a name that comes twice.
        let twice = ours.as_ref().is_err_and(|error| matches!(error.what, What::Twice(_)));
        let theirs = serde_json::from_slice::<&serde_json::value::RawValue>(&text);
        let theirs = theirs.is_ok() && serde_json::from_slice::<serde_json::Value>(&text).is_ok_and(|_| true)
            || theirs.is_ok_and(|_| serde_json::from_slice::<serde_json::Value>(&text)
                .is_err_and(|error| error.to_string().starts_with("number out of range")));
        prop_assert_eq!(ours.is_ok() || twice, theirs, "{}", String::from_utf8_lossy(&text));
    }

    /// Protects the server from any bytes at all.
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = read_all(&bytes);
    }
}
