//! An event to a record.

use std::borrow::Cow;

use serde::Serialize;
use serde::ser::SerializeStruct;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::currency::Currency;
use crate::event::{EventKind, OrderEvent, StatusChange};
use crate::order::{Item, OrderContent};
use crate::text::{CustomerId, Reason};

/// The CloudEvents attributes that an event does not have by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The message id. A version 7 UUID when we make it; another producer's id is any text.
    pub id: String,
    /// Who sends, as a URI reference such as `/order-producer`.
    pub source: String,
    /// When the event happened. Left out of the record if RFC 3339 can't write its year.
    pub time: OffsetDateTime,
    /// The W3C trace context, where a trace is on.
    pub traceparent: Option<String>,
}

/// The bytes of a header, borrowed where they are always the same.
pub type HeaderValue = Cow<'static, [u8]>;

/// A record ready to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedRecord {
    /// The customer id.
    pub key: Vec<u8>,
    /// JSON.
    pub value: Vec<u8>,
    /// Attributes in binary mode, the content type, the trace context.
    pub headers: Vec<(&'static str, HeaderValue)>,
}

/// The record of an event in CloudEvents binary mode.
pub fn encode(event: &OrderEvent, envelope: &Envelope) -> EncodedRecord {
    EncodedRecord {
        key: key_of(event),
        value: encode_value(event),
        headers: encode_headers(event.kind(), envelope),
    }
}

/// The headers of a record in CloudEvents binary mode.
pub fn encode_headers(kind: EventKind, envelope: &Envelope) -> Vec<(&'static str, HeaderValue)> {
    let fixed = |text: &'static str| Cow::Borrowed(text.as_bytes());
    let owned = |text: &str| Cow::Owned(text.as_bytes().to_vec());
    let mut headers = Vec::with_capacity(8);
    headers.push(("ce_specversion", fixed("1.0")));
    headers.push(("ce_id", owned(&envelope.id)));
    headers.push(("ce_type", fixed(kind.as_str())));
    headers.push(("ce_source", owned(&envelope.source)));
    if let Ok(time) = envelope.time.format(&Rfc3339) {
        headers.push(("ce_time", Cow::Owned(time.into_bytes())));
    }
    headers.push(("ce_dataschema", fixed(kind.dataschema())));
    headers.push(("content-type", fixed("application/json")));
    if let Some(traceparent) = &envelope.traceparent {
        headers.push(("traceparent", owned(traceparent)));
    }
    headers
}

/// The record of an event in CloudEvents structured mode.
pub fn encode_structured(event: &OrderEvent, envelope: &Envelope) -> EncodedRecord {
    #[derive(Serialize)]
    struct Structured<'a> {
        specversion: &'static str,
        id: &'a str,
        #[serde(rename = "type")]
        event_type: &'static str,
        source: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        time: Option<String>,
        dataschema: &'static str,
        datacontenttype: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        traceparent: Option<&'a str>,
        data: Payload<'a>,
    }
    let kind = event.kind();
    let value = to_json(&Structured {
        specversion: "1.0",
        id: &envelope.id,
        event_type: kind.as_str(),
        source: &envelope.source,
        time: envelope.time.format(&Rfc3339).ok(),
        dataschema: kind.dataschema(),
        datacontenttype: "application/json",
        traceparent: envelope.traceparent.as_deref(),
        data: Payload::of(event),
    });
    let content_type = Cow::Borrowed(b"application/cloudevents+json; charset=utf-8".as_slice());
    EncodedRecord { key: key_of(event), value, headers: vec![("content-type", content_type)] }
}

/// The payload alone: the value of a record in binary mode.
pub fn encode_value(event: &OrderEvent) -> Vec<u8> {
    to_json(&Payload::of(event))
}

fn key_of(event: &OrderEvent) -> Vec<u8> {
    event.customer_id().as_str().as_bytes().to_vec()
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    // An order of two items takes about 300 bytes.
    let mut json = Vec::with_capacity(384);
    serde_json::to_writer(&mut json, value)
        .expect("a Vec takes every byte, keys are text, and times were checked to be RFC 3339");
    json
}

#[derive(Serialize)]
#[serde(untagged)]
enum Payload<'a> {
    Content {
        order_id: Uuid,
        customer_id: &'a CustomerId,
        currency: Currency,
        items: &'a [Item],
        #[serde(with = "time::serde::rfc3339")]
        placed_at: OffsetDateTime,
    },
    Status {
        order_id: Uuid,
        customer_id: &'a CustomerId,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a Reason>,
    },
}

impl<'a> Payload<'a> {
    fn of(event: &'a OrderEvent) -> Self {
        match event {
            OrderEvent::Placed(content) | OrderEvent::Amended(content) => Self::content(content),
            OrderEvent::Paid(change)
            | OrderEvent::Fulfilled(change)
            | OrderEvent::Cancelled(change) => Self::status(change),
        }
    }

    fn content(content: &'a OrderContent) -> Self {
        Self::Content {
            order_id: content.order_id(),
            customer_id: content.customer_id(),
            currency: *content.currency(),
            items: content.items(),
            placed_at: content.placed_at(),
        }
    }

    fn status(change: &'a StatusChange) -> Self {
        Self::Status {
            order_id: change.order_id,
            customer_id: &change.customer_id,
            reason: change.reason.as_ref(),
        }
    }
}

impl Serialize for Item {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut item = serializer.serialize_struct("Item", 3)?;
        item.serialize_field("sku", self.sku())?;
        item.serialize_field("quantity", &self.quantity())?;
        item.serialize_field("unit_price_cents", &self.unit_price().get())?;
        item.end()
    }
}
