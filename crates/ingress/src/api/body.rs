//! The body of an interaction: which fields it must have, and everything that is wrong with them
//! in one answer.

use std::borrow::Cow;
use std::fmt;

use tally_domain::{InteractionType, ResourceId, ResourceType};

use super::integer::{self, Integer};
use super::json::{self, JsonError, Value};

const REQUIRED: &str = "This field is required.";
const NOT_NULL: &str = "This field may not be null.";
const NOT_AN_INTEGER: &str = "A valid integer is required.";

/// A body that is JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document<'a> {
    /// `null`
    Null,
    /// Neither an object nor null.
    Other(Kind),
    /// An object, or nothing at all, which is read as an empty one.
    Fields(Fields<'a>),
}

/// The fields that count; others are ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fields<'a> {
    resource_type: Option<Value<'a>>,
    resource_id: Option<Value<'a>>,
    interaction_type: Option<Value<'a>>,
}

/// What a body is where it is no object, in Python's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An array.
    List,
    /// A string.
    Str,
    /// A number without point and exponent.
    Int,
    /// Another number.
    Float,
    /// `true` or `false`.
    Bool,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::List => "list",
            Self::Str => "str",
            Self::Int => "int",
            Self::Float => "float",
            Self::Bool => "bool",
        })
    }
}

/// What a client wants recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interaction {
    /// What kind of resource.
    pub(crate) resource_type: ResourceType,
    /// Which one; `None` where it is an integer that no resource can have.
    pub(crate) resource_id: Option<ResourceId>,
    /// What was done.
    pub(crate) interaction_type: InteractionType,
}

/// Why a document is no interaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Invalid {
    /// It is `null`.
    NoData,
    /// It is no object.
    NotAnObject(Kind),
    /// Fields are missing or wrong.
    Fields(FieldErrors),
}

/// What is wrong with each field, if anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FieldErrors {
    /// With `resource_type`.
    pub(crate) resource_type: Option<Cow<'static, str>>,
    /// With `resource_id`.
    pub(crate) resource_id: Option<Cow<'static, str>>,
    /// With `interaction_type`.
    pub(crate) interaction_type: Option<Cow<'static, str>>,
}

/// Reads a body as JSON.
///
/// # Errors
/// Where it is none.
pub(crate) fn parse(body: &[u8]) -> Result<Document<'_>, JsonError> {
    let mut fields = Fields::default();
    if body.is_empty() {
        return Ok(Document::Fields(fields));
    }
    let value = json::read(body, &mut |name, value| match name {
        "resource_type" => fields.resource_type = Some(value),
        "resource_id" => fields.resource_id = Some(value),
        "interaction_type" => fields.interaction_type = Some(value),
        _ => {}
    })?;
    Ok(match value {
        Value::Object => Document::Fields(fields),
        Value::Null => Document::Null,
        Value::Array => Document::Other(Kind::List),
        Value::String(_) => Document::Other(Kind::Str),
        Value::Bool(_) => Document::Other(Kind::Bool),
        Value::Number(number) if number.contains(['.', 'e', 'E']) => Document::Other(Kind::Float),
        Value::Number(_) => Document::Other(Kind::Int),
    })
}

impl Document<'_> {
    /// The interaction it asks for.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(crate) fn validate(&self) -> Result<Interaction, Invalid> {
        let fields = match self {
            Self::Null => return Err(Invalid::NoData),
            Self::Other(kind) => return Err(Invalid::NotAnObject(*kind)),
            Self::Fields(fields) => fields,
        };
        let resource_type = choice::<ResourceType>(fields.resource_type.as_ref());
        let resource_id = integer(fields.resource_id.as_ref());
        let interaction_type = choice::<InteractionType>(fields.interaction_type.as_ref());
        match (resource_type, resource_id, interaction_type) {
            (Ok(resource_type), Ok(resource_id), Ok(interaction_type)) => Ok(Interaction {
                resource_type,
                resource_id,
                interaction_type,
            }),
            (resource_type, resource_id, interaction_type) => Err(Invalid::Fields(FieldErrors {
                resource_type: resource_type.err(),
                resource_id: resource_id.err(),
                interaction_type: interaction_type.err(),
            })),
        }
    }
}

fn choice<T: std::str::FromStr>(value: Option<&Value<'_>>) -> Result<T, Cow<'static, str>> {
    let not_a_choice = |sent: &str| Err(format!("\"{sent}\" is not a valid choice.").into());
    match value {
        None => Err(REQUIRED.into()),
        Some(Value::Null) => Err(NOT_NULL.into()),
        Some(Value::Bool(true)) => not_a_choice("True"),
        Some(Value::Bool(false)) => not_a_choice("False"),
        Some(Value::Number(number)) => not_a_choice(number),
        Some(Value::Array) => not_a_choice("[]"),
        Some(Value::Object) => not_a_choice("{}"),
        Some(Value::String(text)) => text.parse().or_else(|_| not_a_choice(text)),
    }
}

fn integer(value: Option<&Value<'_>>) -> Result<Option<ResourceId>, Cow<'static, str>> {
    match value {
        None => Err(REQUIRED.into()),
        Some(Value::Null) => Err(NOT_NULL.into()),
        Some(Value::Number(number)) => match integer::read(number) {
            Integer::Small(id) => Ok(ResourceId::try_from(id).ok()),
            Integer::Elsewhere => Ok(None),
            Integer::Not => Err(NOT_AN_INTEGER.into()),
        },
        Some(Value::Bool(_) | Value::String(_) | Value::Array | Value::Object) => {
            Err(NOT_AN_INTEGER.into())
        }
    }
}

#[cfg(test)]
mod tests;
