//! CloudEvents in structured mode: the whole event is one JSON object.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{EventError, excerpt};
use crate::parse::{JsonError, Skipped, describe_mismatch, read_json};
use crate::record::is_json;

/// A structured CloudEvent: the attributes as fields, the payload under `data`.
#[derive(Default)]
pub(crate) struct Structured<'a> {
    pub(crate) specversion: Option<Cow<'a, str>>,
    pub(crate) event_type: Option<Cow<'a, str>>,
    pub(crate) id: Option<Cow<'a, str>>,
    pub(crate) source: Option<Cow<'a, str>>,
    pub(crate) dataschema: Option<Cow<'a, str>>,
    pub(crate) datacontenttype: Option<Cow<'a, str>>,
    pub(crate) data: Option<&'a RawValue>,
    pub(crate) data_base64: bool,
}

impl<'a> Structured<'a> {
    pub(crate) fn read(value: &'a [u8]) -> Result<Self, EventError> {
        let mut field = "";
        read_json(value, StructuredSeed { field: &mut field }).map_err(|error| match error {
            JsonError::Json(error) if error.is_data() => EventError::InvalidField {
                pointer: if field.is_empty() { String::new() } else { format!("/{field}") },
                problem: describe_mismatch(&error.to_string()),
            },
            error => error.invalid_json(),
        })
    }

    /// Whether `data` is declared to be JSON; it is by default.
    pub(crate) fn check_data_content_type(&self) -> Result<(), EventError> {
        match self.datacontenttype.as_deref() {
            Some(other) if !is_json(other) => {
                Err(EventError::UnsupportedContentType { content_type: excerpt(other) })
            }
            _ => Ok(()),
        }
    }
}

/// `field` names the attribute being read, for errors.
struct StructuredSeed<'f> {
    field: &'f mut &'static str,
}

impl<'de> DeserializeSeed<'de> for StructuredSeed<'_> {
    type Value = Structured<'de>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for StructuredSeed<'_> {
    type Value = Structured<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a CloudEvent as an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut event = Structured::default();
        while let Some(BorrowedText(name)) = map.next_key()? {
            let (field, slot) = match &*name {
                "specversion" => ("specversion", &mut event.specversion),
                "type" => ("type", &mut event.event_type),
                "id" => ("id", &mut event.id),
                "source" => ("source", &mut event.source),
                "dataschema" => ("dataschema", &mut event.dataschema),
                "datacontenttype" => ("datacontenttype", &mut event.datacontenttype),
                "data" => {
                    *self.field = "data";
                    if event.data.replace(map.next_value()?).is_some() {
                        return Err(serde::de::Error::custom(TWICE));
                    }
                    continue;
                }
                name => {
                    *self.field = "";
                    event.data_base64 |= name == "data_base64";
                    map.next_value_seed(Skipped)?;
                    continue;
                }
            };
            *self.field = field;
            // `null` stands for an absent attribute.
            if let Some(BorrowedText(text)) = map.next_value::<Option<BorrowedText<'de>>>()?
                && slot.replace(text).is_some()
            {
                return Err(serde::de::Error::custom(TWICE));
            }
        }
        Ok(event)
    }
}

const TWICE: &str = "appears more than once";

/// Text without a copy unless it holds escapes.
struct BorrowedText<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for BorrowedText<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(BorrowedTextVisitor)
    }
}

struct BorrowedTextVisitor;

impl<'de> Visitor<'de> for BorrowedTextVisitor {
    type Value = BorrowedText<'de>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text in quotes")
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(BorrowedText(Cow::Borrowed(text)))
    }
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(BorrowedText(Cow::Owned(text.to_owned())))
    }
}
