//! Where the parser is, and what it says when it stops.

use std::cell::{Cell, RefCell};

use serde::de::DeserializeSeed;

use crate::error::{EventError, FieldError, excerpt};

/// Deserializes one JSON text, whole. UTF-8 is checked first and everywhere: `serde_json` would
/// not look at the bytes of skipped text.
pub(crate) fn read_json<'de, S: DeserializeSeed<'de>>(
    json: &'de [u8],
    seed: S,
) -> Result<S::Value, JsonError> {
    let text = std::str::from_utf8(json).map_err(JsonError::Utf8)?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = seed.deserialize(&mut deserializer).map_err(JsonError::Json)?;
    deserializer.end().map_err(JsonError::Json)?;
    Ok(value)
}

/// Why [`read_json`] failed, without a place.
pub(crate) enum JsonError {
    Utf8(std::str::Utf8Error),
    Json(serde_json::Error),
}

impl JsonError {
    pub(crate) fn invalid_json(&self) -> EventError {
        let problem = match self {
            Self::Utf8(error) => format!("byte {} is not UTF-8", error.valid_up_to()),
            // Texts of syntax errors are fixed sentences with a line and a column.
            Self::Json(error) => error.to_string(),
        };
        EventError::InvalidJson { problem }
    }
}

/// Where the parser is, and the first error that a visitor found itself. Visitors can only pass
/// text through `serde`; this carries the typed error around it.
pub(super) struct Trace<'a> {
    at: &'a str,
    pub(super) place: Cell<Place>,
    failure: RefCell<Option<EventError>>,
}

/// A place in the payload: `/field`, `/field/index` or `/field/index/leaf`.
#[derive(Clone, Copy, Default)]
pub(super) struct Place {
    pub(super) field: Option<Field>,
    pub(super) index: Option<usize>,
    pub(super) leaf: Option<Field>,
}

impl<'a> Trace<'a> {
    pub(super) fn new(at: &'a str) -> Self {
        Self { at, place: Cell::default(), failure: RefCell::default() }
    }

    fn pointer(&self) -> String {
        let place = self.place.get();
        let mut pointer = self.at.to_owned();
        let parts = [
            place.field.map(|field| field.name().to_owned()),
            place.index.map(|index| index.to_string()),
            place.leaf.map(|leaf| leaf.name().to_owned()),
        ];
        for part in parts.into_iter().flatten() {
            pointer.push('/');
            pointer.push_str(&part);
        }
        pointer
    }

    /// Keeps the error and stops the parser.
    pub(super) fn stop<E: serde::de::Error>(&self, error: EventError) -> E {
        self.failure.replace(Some(error));
        E::custom("see the trace")
    }

    pub(super) fn stop_here<E: serde::de::Error>(&self, error: FieldError) -> E {
        self.stop(error.at(self.pointer()))
    }

    pub(super) fn enter(&self, field: Option<Field>) {
        let mut place = self.place.get();
        if place.index.is_some() {
            place.leaf = field;
        } else {
            place.field = field;
        }
        self.place.set(place);
    }

    pub(super) fn missing<E: serde::de::Error>(&self, field: Field) -> E {
        self.enter(Some(field));
        self.stop(EventError::MissingField { pointer: self.pointer() })
    }

    pub(super) fn explain(&self, error: &JsonError) -> EventError {
        if let Some(found) = self.failure.take() {
            return found;
        }
        match error {
            JsonError::Json(error) if error.is_data() => EventError::InvalidField {
                pointer: self.pointer(),
                problem: describe_mismatch(&error.to_string()),
            },
            error => error.invalid_json(),
        }
    }
}

/// Rewrites serde's `invalid type: FOUND, expected WHAT at line 1 column 2`, where FOUND can be
/// as long as the input.
pub(crate) fn describe_mismatch(text: &str) -> String {
    let (found, expected) = text.rsplit_once(", expected ").unwrap_or((text, "something else"));
    let found = found.split_once(": ").map_or(found, |(_, found)| found);
    format!("expected {}, found {}", excerpt_of_rest(expected), excerpt(found))
}

fn excerpt_of_rest(expected: &str) -> String {
    excerpt(expected.split_once(" at line ").map_or(expected, |(what, _)| what))
}

/// The names of the contract. Unknown names are [`None`] where a key is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    OrderId,
    CustomerId,
    Currency,
    Items,
    PlacedAt,
    Reason,
    Sku,
    Quantity,
    UnitPriceCents,
}

impl Field {
    const fn name(self) -> &'static str {
        match self {
            Self::OrderId => "order_id",
            Self::CustomerId => "customer_id",
            Self::Currency => "currency",
            Self::Items => "items",
            Self::PlacedAt => "placed_at",
            Self::Reason => "reason",
            Self::Sku => "sku",
            Self::Quantity => "quantity",
            Self::UnitPriceCents => "unit_price_cents",
        }
    }
}
