//! What payloads say when they are right.

use order_events::{Cents, EventKind, OrderEvent};
use time::macros::datetime;

use crate::{ORDER_ID, Record, placed, placed_but, status_event};

#[test]
fn the_example_of_the_contract_is_read_with_its_total_computed() {
    let record = placed();
    let OrderEvent::Placed(order) = record.decode().unwrap().event else { panic!("not placed") };
    assert_eq!(order.order_id().to_string(), ORDER_ID);
    assert_eq!(order.customer_id().as_str(), "c-17");
    assert_eq!(order.currency().as_str(), "EUR");
    assert_eq!(order.items()[0].sku().as_str(), "TEA-1");
    assert_eq!(order.items()[0].quantity(), 2);
    assert_eq!(order.items()[0].unit_price(), Cents::new(450));
    assert_eq!(order.placed_at(), datetime!(2026-01-03 10:00 UTC));
    assert_eq!(order.total(), Cents::new(900));
}

#[test]
fn a_total_in_the_payload_is_not_trusted() {
    let record = placed_but("{\"order_id\"", "{\"total_cents\":1,\"order_id\"");
    assert_eq!(record.decode().unwrap().event.content().unwrap().total(), Cents::new(900));
}

#[test]
fn each_type_has_its_event() {
    for kind in EventKind::ALL {
        let mut record = if kind.has_content() { placed() } else { status_event("", "null") };
        record.headers[0].1 = kind.as_str().as_bytes().to_vec();
        assert_eq!(record.decode().unwrap().event.kind(), kind);
    }
}

#[test]
fn a_reason_may_be_given_null_or_absent() {
    let reason = |record: &Record| match record.decode().unwrap().event {
        OrderEvent::Cancelled(change) => change.reason.map(|reason| reason.to_string()),
        other => panic!("{other:?}"),
    };
    let given = status_event("order.cancelled", "\"changed my mind \\u00fc\\ud83c\\udf75\"");
    assert_eq!(reason(&given).as_deref(), Some("changed my mind ü🍵"));
    assert_eq!(reason(&status_event("order.cancelled", "null")), None);
    let absent = format!(r#"{{"order_id":"{ORDER_ID}","customer_id":"c-17"}}"#);
    assert_eq!(reason(&Record::new("order.cancelled", absent)), None);
}

#[test]
fn unknown_fields_are_ignored_even_twice_and_of_any_type() {
    let extra = r#"{"x":1,"x":[{"y":null,"z":-1.5e3}],"\u0000":true,"reason":7,"order_id""#;
    assert_eq!(
        placed_but("{\"order_id\"", extra).decode().unwrap().event,
        placed().decode().unwrap().event
    );
    let within_an_item = placed_but("\"sku\"", "\"colour\":{\"r\":1},\"sku\"");
    assert!(within_an_item.decode().is_ok());
    // What only other events carry is unknown to a status event.
    let foreign = format!(r#"{{"items":3,"order_id":"{ORDER_ID}","customer_id":"c-17"}}"#);
    assert!(Record::new("order.paid", foreign).decode().is_ok());
}

#[test]
fn escaped_field_names_are_the_same_names() {
    assert!(placed_but("\"order_id\"", "\"order\\u005fid\"").decode().is_ok());
}

#[test]
fn a_time_with_an_offset_is_the_same_instant() {
    let record = placed_but("10:00:00Z", "12:00:00+02:00");
    assert_eq!(record.decode().unwrap().event, placed().decode().unwrap().event);
}

#[test]
fn values_at_their_limits_are_accepted() {
    let item = r#"{"sku":"TEA-1","quantity":2,"unit_price_cents":450}"#;
    let hundred = vec![item; 100].join(",");
    for (from, to) in [
        ("\"quantity\":2", "\"quantity\":1".to_owned()),
        ("\"quantity\":2", "\"quantity\":10000".to_owned()),
        (":450", ":0".to_owned()),
        (":450", ":100000000".to_owned()),
        (item, hundred),
        ("TEA-1", "T".to_owned()),
        ("TEA-1", "T".repeat(64)),
        ("2026-01-03T10:00:00Z", "9999-12-31T23:59:59.999999Z".to_owned()),
    ] {
        let record = placed_but(from, &to);
        assert!(record.decode().is_ok(), "{to}: {:?}", record.decode());
    }
    let longest = format!("\"{}\"", "é".repeat(1024));
    assert!(status_event("order.cancelled", &longest).decode().is_ok());
    // 127 levels with the payload's own.
    let deep = format!("{{\"x\":{}{},\"order_id\"", "[".repeat(126), "]".repeat(126));
    assert!(placed_but("{\"order_id\"", &deep).decode().is_ok());
}
