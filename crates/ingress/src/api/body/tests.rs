//! What is read from a body, and what is refused with which words.

use super::*;

const ALL_REQUIRED: [Option<&str>; 3] = [Some(REQUIRED), Some(REQUIRED), Some(REQUIRED)];

fn errors(body: &str) -> [Option<String>; 3] {
    match parse(body.as_bytes()).unwrap().validate() {
        Err(Invalid::Fields(fields)) => [
            fields.resource_type,
            fields.resource_id,
            fields.interaction_type,
        ]
        .map(|error| error.map(Cow::into_owned)),
        other => panic!("{body}: {other:?}"),
    }
}

fn texts(errors: [Option<&str>; 3]) -> [Option<String>; 3] {
    errors.map(|error| error.map(str::to_owned))
}

fn valid(body: &str) -> Interaction {
    parse(body.as_bytes()).unwrap().validate().unwrap()
}

/// Protects the contract's examples, unknown fields, any order and any spelling of an id.
#[test]
fn a_valid_body_is_what_it_says() {
    let like = Interaction {
        resource_type: ResourceType::Quest,
        resource_id: ResourceId::try_from(42).ok(),
        interaction_type: InteractionType::Like,
    };
    for body in [
        r#"{"resource_type":"quest","resource_id":42,"interaction_type":"like"}"#,
        r#"{"interaction_type":"like","more":[{"x":1}],"resource_id":4.2e1,"resource_type":"quest"}"#,
        " {\n\"resource_type\" : \"qu\\u0065st\", \"resource_id\":42.0, \"interaction_type\":\"like\"}\n",
    ] {
        assert_eq!(valid(body), like, "{body}");
    }
    for id in ["-1", "9223372036854775808", "1e30"] {
        let body =
            format!(r#"{{"resource_type":"quest","resource_id":{id},"interaction_type":"like"}}"#);
        assert_eq!(valid(&body).resource_id, None, "{id}");
    }
}

/// Protects the words of the contract: all of them are taken, and nothing near them.
#[test]
fn every_word_of_the_contract_is_taken() {
    for kind in ResourceType::ALL {
        for interaction in InteractionType::ALL {
            let body = format!(
                r#"{{"resource_type":"{kind}","resource_id":0,"interaction_type":"{interaction}"}}"#
            );
            let read = valid(&body);
            assert_eq!(
                (read.resource_type, read.interaction_type),
                (*kind, *interaction)
            );
        }
    }
}

/// Protects the texts for what is sent instead of a choice.
#[test]
fn a_wrong_choice_is_repeated_as_sent() {
    let cases = [
        (r#""foo""#, r#""foo" is not a valid choice."#),
        (r#""""#, r#""" is not a valid choice."#),
        (r#""Quest""#, r#""Quest" is not a valid choice."#),
        (r#"" quest""#, r#"" quest" is not a valid choice."#),
        (
            r#""é\u00e9 \"q\" \\""#,
            r#""éé "q" \" is not a valid choice."#,
        ),
        ("5", r#""5" is not a valid choice."#),
        ("-5.0e1", r#""-5.0e1" is not a valid choice."#),
        ("true", r#""True" is not a valid choice."#),
        ("false", r#""False" is not a valid choice."#),
        ("[]", r#""[]" is not a valid choice."#),
        (r#"["quest"]"#, r#""[]" is not a valid choice."#),
        ("{}", r#""{}" is not a valid choice."#),
        (r#"{"a":1}"#, r#""{}" is not a valid choice."#),
        ("null", NOT_NULL),
    ];
    for (sent, error) in cases {
        let body =
            format!(r#"{{"resource_type":{sent},"resource_id":"42","interaction_type":{sent}}}"#);
        let expected = [Some(error), Some(NOT_AN_INTEGER), Some(error)];
        assert_eq!(errors(&body), texts(expected), "{sent}");
    }
}

/// Protects the texts for what is sent instead of an id.
#[test]
fn a_wrong_id_is_told_alone() {
    let digits = format!("1{}", "0".repeat(1_000));
    let ids = [
        (r#""42""#, NOT_AN_INTEGER),
        ("true", NOT_AN_INTEGER),
        ("[42]", NOT_AN_INTEGER),
        (r#"{"a":1}"#, NOT_AN_INTEGER),
        ("42.5", NOT_AN_INTEGER),
        ("1e1001", NOT_AN_INTEGER),
        (digits.as_str(), NOT_AN_INTEGER),
        ("null", NOT_NULL),
    ];
    for (sent, error) in ids {
        let body = format!(
            r#"{{"resource_type":"quest","resource_id":{sent},"interaction_type":"like"}}"#
        );
        assert_eq!(errors(&body), texts([None, Some(error), None]), "{sent}");
    }
}

/// Protects what is said of bodies that are no objects.
#[test]
fn a_body_that_is_no_object_is_told_what_it_is() {
    for body in ["", "{}", r#"{"other":{"resource_type":"quest"}}"#] {
        assert_eq!(errors(body), texts(ALL_REQUIRED), "{body}");
    }
    let invalid = |body: &str| parse(body.as_bytes()).unwrap().validate().unwrap_err();
    assert_eq!(invalid("null"), Invalid::NoData);
    let kinds = [
        ("[]", "list"),
        ("[{}]", "list"),
        (r#""a""#, "str"),
        ("42", "int"),
        ("-1", "int"),
        ("4.5", "float"),
        ("1e3", "float"),
        ("1E3", "float"),
        ("true", "bool"),
        ("false", "bool"),
    ];
    for (body, name) in kinds {
        match invalid(body) {
            Invalid::NotAnObject(kind) => assert_eq!(kind.to_string(), name, "{body}"),
            other @ (Invalid::NoData | Invalid::Fields(_)) => panic!("{body}: {other:?}"),
        }
    }
}
