//! The leaves of the payload: keys, texts, integers, and what is skipped.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::trace::{Field, Trace};
use crate::error::{FieldError, excerpt};
use crate::order::storable_time;
use crate::text::Reason;

/// An object's key, without allocating.
pub(super) struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Option<Field>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Key {
    type Value = Option<Field>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }
    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(match name {
            "order_id" => Some(Field::OrderId),
            "customer_id" => Some(Field::CustomerId),
            "currency" => Some(Field::Currency),
            "items" => Some(Field::Items),
            "placed_at" => Some(Field::PlacedAt),
            "reason" => Some(Field::Reason),
            "sku" => Some(Field::Sku),
            "quantity" => Some(Field::Quantity),
            "unit_price_cents" => Some(Field::UnitPriceCents),
            _ => None,
        })
    }
}

/// A text, checked and converted by a function without a copy in between.
pub(super) struct Text<'a, T>(
    pub(super) &'a Trace<'a>,
    pub(super) &'static str,
    pub(super) fn(&str) -> Result<T, FieldError>,
);

impl<'de, T> DeserializeSeed<'de> for Text<'_, T> {
    type Value = T;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<T> Visitor<'_> for Text<'_, T> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in quotes", self.1)
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.2)(text).map_err(|error| self.0.stop_here(error))
    }
}

/// An integer, checked and converted by a function. Fractions, exponents and quotes are refused
/// even where the value is whole: what they mean differs between readers.
pub(super) struct Integer<'a, T>(
    pub(super) &'a Trace<'a>,
    pub(super) fn(i64) -> Result<T, FieldError>,
);

impl<'de, T> DeserializeSeed<'de> for Integer<'_, T> {
    type Value = T;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_i64(self)
    }
}

impl<T> Visitor<'_> for Integer<'_, T> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer without quotes or fraction")
    }
    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<T, E> {
        (self.1)(number).map_err(|error| self.0.stop_here(error))
    }
    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<T, E> {
        // Every limit is far below, so the error is right, if not the number it prints.
        self.visit_i64(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// A reason, or `null`.
pub(super) struct OptionalReason<'a>(pub(super) &'a Trace<'a>);

impl<'de> DeserializeSeed<'de> for OptionalReason<'_> {
    type Value = Option<Reason>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for OptionalReason<'_> {
    type Value = Option<Reason>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text in quotes or null")
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        Text(self.0, "text", Reason::new).deserialize(deserializer).map(Some)
    }
}

/// Any value, looked at only as far as JSON and its depth go. Unlike `serde::de::IgnoredAny`,
/// which `serde_json` skips without a depth limit and without reading escapes.
pub(crate) struct Skipped;

impl<'de> DeserializeSeed<'de> for Skipped {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Skipped {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Skipped)?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key_seed(Skipped)?.is_some() {
            map.next_value_seed(Skipped)?;
        }
        Ok(())
    }
}

/// A UUID in the canonical hyphenated form; the `uuid` crate would also take braces and URNs.
pub(super) fn parse_uuid(text: &str) -> Result<Uuid, FieldError> {
    const HYPHENATED_LEN: usize = 36;
    (text.len() == HYPHENATED_LEN).then(|| Uuid::try_parse(text).ok()).flatten().ok_or_else(|| {
        FieldError::Invalid(format!(
            "\"{}\" is not a UUID such as 0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3",
            excerpt(text)
        ))
    })
}

/// An instant in RFC 3339, in UTC and microseconds.
pub(super) fn parse_time(text: &str) -> Result<OffsetDateTime, FieldError> {
    let instant = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| {
        FieldError::Invalid(format!(
            "\"{}\" is not a time in RFC 3339 such as 2026-01-03T10:00:00Z",
            excerpt(text)
        ))
    })?;
    storable_time(instant)
}
