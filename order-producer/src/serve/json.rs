//! A JSON text as a tree that forgets nothing: fields in their order, also those that appear twice.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A JSON value. Numbers with a fraction or outside 64 bits are only known to be there. `2.0` is 2, as it
/// is for JSON Schema, in which the API is described.
#[derive(Debug, PartialEq)]
pub(super) enum Json {
    Null,
    Bool,
    Integer(i64),
    OtherNumber,
    Text(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Reads one JSON text, whole. Deeper than [`order_events::limits::JSON_DEPTH`] is an error.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| format!("byte {} is not UTF-8", error.valid_up_to()))?;
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// What it is, for a person.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "true or false",
            Self::Integer(_) => "an integer",
            Self::OtherNumber => "a number that is no 64 bit integer",
            Self::Text(_) => "text",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Tree)
    }
}

struct Tree;

impl<'de> Visitor<'de> for Tree {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Bool)
    }
    fn visit_i64<E>(self, number: i64) -> Result<Json, E> {
        Ok(Json::Integer(number))
    }
    fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
        Ok(i64::try_from(number).map_or(Json::OtherNumber, Json::Integer))
    }
    fn visit_f64<E>(self, number: f64) -> Result<Json, E> {
        Ok(whole(number).map_or(Json::OtherNumber, Json::Integer))
    }
    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element()? {
            values.push(value);
        }
        Ok(Json::Array(values))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Json::Object(fields))
    }
}

/// The integer that a number is, as far as each of them has a float of its own.
#[expect(clippy::cast_possible_truncation, reason = "it is whole, and within 2^53")]
fn whole(number: f64) -> Option<i64> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    (number.fract() == 0.0 && number.abs() <= EXACT_MAX).then_some(number as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_appears_twice_is_there_twice() {
        let Ok(Json::Object(fields)) = Json::read(br#"{"a":1,"a":2.5,"b":null}"#) else { panic!() };
        let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "a", "b"]);
        assert_eq!(fields[1].1, Json::OtherNumber);
    }

    #[test]
    fn what_is_no_json_or_too_deep_is_an_error_and_no_panic() {
        let deep = "[".repeat(100_000);
        for text in ["", "{", "{}x", "nul", "\u{feff}{}", &deep, "1e999"] {
            assert!(Json::read(text.as_bytes()).is_err(), "{text:.20}");
        }
        assert!(Json::read(b"\"\xff\"").is_err());
        assert_eq!(Json::read(b"99999999999999999999"), Ok(Json::OtherNumber));
    }

    #[test]
    fn a_fraction_of_zero_is_none() {
        for (text, number) in [("2.0", 2), ("1e2", 100), ("-0.0", 0)] {
            assert_eq!(Json::read(text.as_bytes()), Ok(Json::Integer(number)), "{text}");
        }
        for text in ["1.5", "1e300", "9007199254740993.5e1"] {
            assert_eq!(Json::read(text.as_bytes()), Ok(Json::OtherNumber), "{text}");
        }
    }
}
