//! That docs/asyncapi.yaml says what the code does.

use std::collections::BTreeSet;

use jsonschema::Validator;
use order_events::{Currency, Envelope, EventKind, encode, limits};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use crate::properties::event;
use crate::{ORDER_ID, Record};

fn document() -> Value {
    serde_saphyr::from_str(include_str!("../../../docs/asyncapi.yaml")).unwrap()
}

/// A part of the document as a schema that can use the others.
fn schema(document: &Value, at: &str) -> Validator {
    let mut schema = document.pointer(at).unwrap().clone();
    schema["components"] = document["components"].clone();
    jsonschema::options().should_validate_formats(true).build(&schema).unwrap()
}

/// What the document says of an event.
struct Described {
    headers: Validator,
    payload: Validator,
    key: Validator,
}

impl Described {
    fn of(document: &Value, kind: EventKind) -> Self {
        let part = |name: &str| schema(document, &format!("/components/messages/{kind}/{name}"));
        Self {
            headers: part("headers"),
            payload: part("payload"),
            key: schema(document, "/components/messageTraits/event/bindings/kafka/key"),
        }
    }

    fn fits(&self, key: &[u8], value: &[u8], headers: &[(String, Vec<u8>)]) -> bool {
        let text = |bytes: &[u8]| Value::from(String::from_utf8_lossy(bytes));
        let headers: Map<String, Value> =
            headers.iter().map(|(name, value)| (name.clone(), text(value))).collect();
        self.key.is_valid(&text(key))
            && self.headers.is_valid(&headers.into())
            && serde_json::from_slice(value).is_ok_and(|value| self.payload.is_valid(&value))
    }
}

/// Whether the document and the code agree on a record: both take it, or neither does.
#[track_caller]
fn agree(described: &Described, record: &Record) -> bool {
    let (key, value) = (record.key.as_deref().unwrap(), record.value.as_deref().unwrap());
    let is_taken = record.decode().is_ok();
    let value_text = String::from_utf8_lossy(value);
    assert_eq!(
        described.fits(key, value, &record.headers),
        is_taken,
        "taken: {is_taken}; {:?} {value_text:.300}",
        record.headers
    );
    is_taken
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_event_fits_the_document(event in event(), has_trace in any::<bool>()) {
        let document = document();
        let envelope = Envelope {
            id: uuid::Uuid::now_v7().to_string(),
            source: "/order-producer".to_owned(),
            time: OffsetDateTime::now_utc(),
            traceparent: has_trace.then(|| "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
        };
        let record = encode(&event, &envelope);
        let headers = record.headers.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec()));
        let record = Record { key: Some(record.key), value: Some(record.value), headers: headers.collect() };
        prop_assert!(agree(&Described::of(&document, event.kind()), &record));
        // The headers that the code writes are those that are described.
        let known = &document["components"]["schemas"]["EventHeaders"]["properties"];
        prop_assert!(record.headers.iter().all(|(name, _)| known[name].is_object()));
    }
}

fn content(change: impl FnOnce(&mut Value)) -> Record {
    let mut order = json!({ "order_id": ORDER_ID, "customer_id": "c-17", "currency": "EUR",
        "items": [{ "sku": "TEA-1", "quantity": 2, "unit_price_cents": 450 }],
        "placed_at": "2026-01-03T10:00:00Z" });
    change(&mut order);
    Record::new("order.placed", order.to_string())
}

fn set(at: &str, value: Value) -> Record {
    content(|order| match order.pointer_mut(at) {
        Some(there) => *there = value,
        None => order[&at[1..]] = value,
    })
}

/// A text of so many characters.
fn text(chars: usize) -> Value {
    json!("x".repeat(chars))
}

#[test]
fn each_limit_of_an_orders_content_is_that_of_the_document() {
    let placed = Described::of(&document(), EventKind::Placed);
    let edges = |at: &str, least: i64, most: i64| {
        for (number, is_within) in
            [(least - 1, false), (least, true), (most, true), (most + 1, false)]
        {
            assert_eq!(agree(&placed, &set(at, json!(number))), is_within, "{at} {number}");
        }
    };
    edges("/items/0/quantity", limits::QUANTITY_MIN, limits::QUANTITY_MAX);
    edges("/items/0/unit_price_cents", limits::UNIT_PRICE_CENTS_MIN, limits::UNIT_PRICE_CENTS_MAX);
    let item = json!({ "sku": "TEA-1", "quantity": 2, "unit_price_cents": 450 });
    for (count, is_within) in
        [(0, false), (1, true), (limits::ITEMS_MAX, true), (limits::ITEMS_MAX + 1, false)]
    {
        assert_eq!(
            agree(&placed, &set("/items", json!(vec![item.clone(); count]))),
            is_within,
            "{count} items"
        );
    }
    for (chars, is_within) in
        [(0, false), (1, true), (limits::ID_CHARS_MAX, true), (limits::ID_CHARS_MAX + 1, false)]
    {
        assert_eq!(
            agree(&placed, &set("/items/0/sku", text(chars))),
            is_within,
            "{chars} characters"
        );
        let mut record = set("/customer_id", text(chars));
        record.key = Some("x".repeat(chars).into_bytes());
        assert_eq!(agree(&placed, &record), is_within, "a customer of {chars} characters");
    }
}

#[test]
fn what_is_of_the_wrong_form_is_so_in_the_document_too() {
    let placed = Described::of(&document(), EventKind::Placed);
    for odd in ["a b", "a\n", "a\0", "é"] {
        assert!(!agree(&placed, &set("/items/0/sku", json!(odd))), "{odd:?}");
    }
    for currency in ["eur", "EURO", "ZZZ", "BGN", ""] {
        assert!(!agree(&placed, &set("/currency", json!(currency))), "{currency}");
    }
    for time in ["2026-01-03", "today", "2026-02-30T10:00:00Z", "2026-01-03 10:00"] {
        assert!(!agree(&placed, &set("/placed_at", json!(time))), "{time}");
    }
    for id in ["", "17", "0192f0c12d3e7a4b8c5d6e7f8091a2b3"] {
        assert!(!agree(&placed, &set("/order_id", json!(id))), "{id}");
    }
    assert!(agree(&placed, &set("/placed_at", json!("2026-01-03T10:00:00.5+02:00"))));
    assert!(agree(&placed, &set("/unknown", json!([{ "any": 1.5 }]))));
    for at in [
        "/order_id",
        "/customer_id",
        "/currency",
        "/items",
        "/placed_at",
        "/items/0/sku",
        "/items/0/quantity",
        "/items/0/unit_price_cents",
    ] {
        for wrong in [json!(null), json!(1.5), json!({}), json!([]), json!(true)] {
            assert!(!agree(&placed, &set(at, wrong.clone())), "{at} {wrong}");
        }
        let (parent, field) = at.rsplit_once('/').unwrap();
        let without = content(|order| {
            order.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(field);
        });
        assert!(!agree(&placed, &without), "without {at}");
    }
}

#[test]
fn a_reason_is_limited_as_the_document_says() {
    let document = document();
    for kind in EventKind::ALL.into_iter().filter(|kind| !kind.has_content()) {
        let described = Described::of(&document, kind);
        let with = |reason: Value| {
            let value = json!({ "order_id": ORDER_ID, "customer_id": "c-17", "reason": reason });
            agree(&described, &Record::new(kind.as_str(), value.to_string()))
        };
        for (reason, is_within) in [
            (json!(null), true),
            (json!(""), false),
            (json!("é"), true),
            (json!("é".repeat(limits::REASON_CHARS_MAX)), true),
            (json!("é".repeat(limits::REASON_CHARS_MAX + 1)), false),
            (json!("a\0b"), false),
            (json!(7), false),
        ] {
            assert_eq!(with(reason.clone()), is_within, "{kind} {reason:.20}");
        }
    }
}

#[test]
fn headers_that_are_refused_are_refused_by_the_document() {
    let placed = Described::of(&document(), EventKind::Placed);
    let record = || content(|_| ());
    assert!(agree(
        &placed,
        &record()
            .with_header("ce_specversion", "1.0")
            .with_header("content-type", "application/json")
    ));
    assert!(agree(&placed, &record().with_header("ce_dataschema", "https://example.com/order/2")));
    for (name, value) in [
        ("ce_specversion", "2.0"),
        ("ce_dataschema", "urn:order-events:order.placed:2"),
        ("ce_dataschema", "urn:order-events:order.paid:1"),
        ("content-type", "text/plain"),
        ("content-type", "avro/binary"),
    ] {
        assert!(!agree(&placed, &record().with_header(name, value)), "{name}: {value}");
    }
    let mut without_type = record();
    without_type.headers.clear();
    assert!(!agree(&placed, &without_type));
}

#[test]
fn types_currencies_and_headers_are_all_in_the_document() {
    let document = document();
    let names = |at: &str| -> BTreeSet<String> {
        document.pointer(at).unwrap().as_object().unwrap().keys().cloned().collect()
    };
    let types: BTreeSet<String> = EventKind::ALL.map(|kind| kind.as_str().to_owned()).into();
    assert_eq!(names("/channels/orders/messages"), types);
    let currencies = &document["components"]["schemas"]["Currency"]["enum"];
    assert_eq!(*currencies, json!(Currency::codes().collect::<Vec<_>>()));
    // The engine writes these; it knows nothing of orders, so what it writes is looked up in its source.
    let source =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../idempotent-consumer/src/store/dead_letters.rs");
    let source = std::fs::read_to_string(source).unwrap();
    let mut written: BTreeSet<String> = source
        .split("add(\"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap().to_owned())
        .collect();
    written.insert("dlq-value-omitted".to_owned());
    assert_eq!(names("/components/schemas/DeadLetterHeaders/properties"), written);
}
