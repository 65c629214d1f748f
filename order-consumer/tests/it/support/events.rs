//! Order events with ids that a test can name.

use idempotent_consumer::Headers;
use order_events::{
    Cents, Currency, CustomerId, Envelope, Item, OrderContent, OrderEvent, Sku, StatusChange,
    encode,
};
use uuid::Uuid;

/// A record to publish.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Headers,
}

/// The id of message `number`.
pub(crate) fn message_id(number: u128) -> Uuid {
    Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0000 + number)
}

/// The id of order `number`.
pub(crate) fn order_id(number: u128) -> Uuid {
    Uuid::from_u128(0x0193_0000_0000_7000_8000_0000_0000_0000 + number)
}

/// An order of so many teas at 4.50.
pub(crate) fn content(order: u128, customer: &str, quantity: i64) -> OrderContent {
    OrderContent::new(
        order_id(order),
        CustomerId::new(customer).unwrap(),
        Currency::new("EUR").unwrap(),
        vec![Item::new(Sku::new("TEA-1").unwrap(), quantity, Cents::new(450)).unwrap()],
        time::macros::datetime!(2026-01-03 10:00:00.123456 UTC),
    )
    .unwrap()
}

pub(crate) fn placed(order: u128, customer: &str, quantity: i64) -> OrderEvent {
    OrderEvent::Placed(content(order, customer, quantity))
}

pub(crate) fn change(order: u128, customer: &str) -> StatusChange {
    StatusChange {
        order_id: order_id(order),
        customer_id: CustomerId::new(customer).unwrap(),
        reason: None,
    }
}

/// The record of an event as message `number`.
pub(crate) fn event(number: u128, event: &OrderEvent) -> Event {
    let envelope = Envelope {
        id: message_id(number).to_string(),
        source: "/test".to_owned(),
        time: time::macros::datetime!(2026-01-03 10:00 UTC),
        traceparent: None,
    };
    let record = encode(event, &envelope);
    let mut headers = Headers::new();
    for (name, value) in &record.headers {
        headers.push(name, Some(value));
    }
    Event { key: Some(record.key), value: Some(record.value), headers }
}

/// The same message with other bytes as its value.
pub(crate) fn with_value(mut event: Event, value: &[u8]) -> Event {
    event.value = Some(value.to_vec());
    event
}

/// The same record with another id, or without one.
pub(crate) fn with_id(event: Event, id: Option<&str>) -> Event {
    with_header(event, "ce_id", id.map(str::as_bytes))
}

/// The same record with another value of that header, or without the header.
pub(crate) fn with_header(mut event: Event, name: &str, value: Option<&[u8]>) -> Event {
    let mut headers = Headers::new();
    for (other, old) in event.headers.iter().filter(|(other, _)| *other != name.as_bytes()) {
        headers.push(other, old);
    }
    if value.is_some() {
        headers.push(name, value);
    }
    event.headers = headers;
    event
}
