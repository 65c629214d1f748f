//! The contract, seen from outside.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panic, as tests do")]

mod asyncapi;
mod envelope;
mod payload;
mod poison;
mod properties;

use order_events::{Decoded, EventError, RecordView, decode};

/// A record in parts that a test can change one by one.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
}

impl Record {
    /// Of customer `c-17`, in binary mode.
    pub(crate) fn new(event_type: &str, value: impl Into<Vec<u8>>) -> Self {
        Self {
            key: Some(b"c-17".to_vec()),
            value: Some(value.into()),
            headers: vec![("ce_type".to_owned(), event_type.as_bytes().to_vec())],
        }
    }

    pub(crate) fn with_header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// In structured mode, of a whole CloudEvent.
    pub(crate) fn structured(value: impl Into<Vec<u8>>) -> Self {
        let mut record = Self::new("", value);
        record.headers.clear();
        record.with_header("content-type", "application/cloudevents+json")
    }

    pub(crate) fn view(&self) -> RecordView<'_> {
        RecordView {
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: &self.headers,
        }
    }

    pub(crate) fn decode(&self) -> Result<Decoded<'_>, EventError> {
        decode(&self.view())
    }

    pub(crate) fn error(&self) -> EventError {
        self.decode().expect_err("the record is poison")
    }
}

pub(crate) const ORDER_ID: &str = "0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3";

/// A valid payload of `order.placed`, with `from` replaced by `to`.
pub(crate) fn placed_but(from: &str, to: &str) -> Record {
    let valid = format!(
        r#"{{"order_id":"{ORDER_ID}","customer_id":"c-17","currency":"EUR","items":[{{"sku":"TEA-1","quantity":2,"unit_price_cents":450}}],"placed_at":"2026-01-03T10:00:00Z"}}"#
    );
    assert!(valid.contains(from), "{from} is not in the payload");
    Record::new("order.placed", valid.replacen(from, to, 1))
}

pub(crate) fn placed() -> Record {
    placed_but("", "")
}

/// A valid payload of a status event with a reason.
pub(crate) fn status_event(event_type: &str, reason: &str) -> Record {
    Record::new(
        event_type,
        format!(r#"{{"order_id":"{ORDER_ID}","customer_id":"c-17","reason":{reason}}}"#),
    )
}
