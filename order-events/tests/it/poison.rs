//! Records that can never be applied: each kind, its code, and its place.

use order_events::limits;

use crate::{ORDER_ID, Record, placed, placed_but, status_event};

#[track_caller]
fn assert_error(record: &Record, code: &str, pointer: &str) {
    let error = record.error();
    assert_eq!(error.code(), code, "{error}");
    assert!(error.to_string().contains(pointer), "{error} does not name {pointer}");
    assert!(error.to_string().len() <= limits::ERROR_TEXT_BYTES_MAX);
}

#[test]
fn a_tombstone_and_an_empty_value_are_told_apart() {
    let mut record = placed();
    record.value = None;
    assert_error(&record, "tombstone", "");
    record.value = Some(Vec::new());
    assert_error(&record, "empty_value", "");
}

#[test]
fn a_record_without_headers_lacks_its_type() {
    let mut record = placed();
    record.headers.clear();
    assert_error(&record, "missing_type", "ce_type");
}

#[test]
fn an_unknown_type_is_reported_whatever_the_value_is() {
    for name in ["order.lost", "", "Order.Placed", "order.placed "] {
        assert_error(&Record::new(name, "{"), "unknown_type", name.trim());
    }
    let mut record = Record::new("order.lost", "");
    record.value = None;
    assert_error(&record, "unknown_type", "order.lost");
    record.headers[0].1 = vec![0xff, 0xfe];
    assert_error(&record, "unknown_type", "");
}

#[test]
fn what_is_not_json_is_invalid_json() {
    let nested = "[".repeat(100_000);
    for value in ["{", " ", "nul", "{\"order_id\":}", "{'a':1}", "\u{feff}{}", "{\"a\":1,}"] {
        assert_error(&Record::new("order.placed", value), "invalid_json", "");
    }
    assert_error(&placed_but("Z\"}", "Z\"}}"), "invalid_json", "trailing");
    let deep = format!("{{\"x\":{nested}");
    assert_error(&Record::new("order.placed", deep), "invalid_json", "recursion");
}

#[test]
fn one_level_too_deep_is_poison_even_in_an_unknown_field() {
    let levels = limits::JSON_DEPTH;
    let deep = format!("{{\"x\":{}{},\"order_id\"", "[".repeat(levels), "]".repeat(levels));
    assert_error(&placed_but("{\"order_id\"", &deep), "invalid_json", "recursion");
}

#[test]
fn bytes_that_are_not_utf8_are_poison_wherever_they_stand() {
    let mut record = placed_but("TEA-1", "TEA?1");
    let value = record.value.as_mut().unwrap();
    let at = value.iter().position(|byte| *byte == b'?').unwrap();
    value[at] = 0xff;
    assert_error(&record, "invalid_json", &format!("byte {at}"));
    let mut unknown = placed_but("{\"order_id\"", "{\"x\":\"?\",\"order_id\"");
    let value = unknown.value.as_mut().unwrap();
    let at = value.iter().position(|byte| *byte == b'?').unwrap();
    value[at] = 0xc0;
    assert_error(&unknown, "invalid_json", "UTF-8");
}

#[test]
fn lone_surrogates_are_poison_even_in_an_unknown_field() {
    for text in ["\\ud800", "\\udc00", "\\ud800\\u0041", "\\ud800x"] {
        assert_error(&placed_but("TEA-1", text), "invalid_json", "");
        let unknown = format!("{{\"x\":\"{text}\",\"order_id\"");
        assert_error(&placed_but("{\"order_id\"", &unknown), "invalid_json", "");
    }
}

#[test]
fn nul_is_poison_in_every_text() {
    assert_error(&placed_but("TEA-1", "TEA\\u0000"), "invalid_field", "/items/0/sku");
    assert_error(&placed_but("\"c-17\"", "\"c\\u0000\""), "invalid_field", "/customer_id");
    assert_error(&placed_but("EUR", "E\\u0000R"), "invalid_field", "/currency");
    let reason = status_event("order.cancelled", "\"a\\u0000b\"");
    assert_error(&reason, "invalid_field", "/reason");
    // A raw NUL is not JSON.
    assert_error(&placed_but("TEA-1", "TEA\0"), "invalid_json", "");
}

#[test]
fn a_wrong_type_names_the_field_what_was_found_and_what_is_expected() {
    let quantity = "\"quantity\":2";
    for wrong in ["2.0", "2e0", "\"2\"", "null", "true", "[2]", "{}", "99999999999999999999999"] {
        let record = placed_but(quantity, &format!("\"quantity\":{wrong}"));
        assert_error(&record, "invalid_field", "/items/0/quantity: expected an integer");
    }
    assert_error(&placed_but(":450", ":4.5"), "invalid_field", "/items/0/unit_price_cents");
    assert_error(&placed_but("\"TEA-1\"", "7"), "invalid_field", "/items/0/sku: expected text");
    assert_error(&placed_but("\"EUR\"", "978"), "invalid_field", "/currency");
    assert_error(&placed_but("\"c-17\"", "17"), "invalid_field", "/customer_id");
    assert_error(&placed_but("[{", "[7,{"), "invalid_field", "/items/0: expected an object");
    assert_error(&placed_but("}],", "},7],"), "invalid_field", "/items/1: expected an object");
    assert_error(&status_event("order.paid", "7"), "invalid_field", "/reason");
    for value in ["[]", "7", "null", "\"x\""] {
        let record = Record::new("order.placed", value);
        assert_error(&record, "invalid_field", "the value: expected an object");
    }
}

#[test]
fn a_wrong_form_names_the_field() {
    for id in ["1", "{0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3}", "0192f0c12d3e7a4b8c5d6e7f8091a2b3"] {
        assert_error(&placed_but(ORDER_ID, id), "invalid_field", "/order_id");
    }
    for time in ["yesterday", "2026-01-03", "2026-02-30T10:00:00Z", "2026-01-03T10:00:00"] {
        let record = placed_but("2026-01-03T10:00:00Z", time);
        assert_error(&record, "invalid_field", "/placed_at");
    }
    assert_error(&placed_but("EUR", "EURO"), "invalid_field", "/currency");
    assert_error(&placed_but("EUR", "BGN"), "invalid_field", "/currency");
    assert_error(&placed_but("TEA-1", "TEA 1"), "invalid_field", "/items/0/sku");
}

#[test]
fn a_value_one_beyond_its_limit_is_poison() {
    let item = r#"{"sku":"TEA-1","quantity":2,"unit_price_cents":450}"#;
    let too_many = vec![item; 101].join(",");
    for (from, to, pointer) in [
        ("\"quantity\":2", "\"quantity\":0".to_owned(), "/items/0/quantity"),
        ("\"quantity\":2", "\"quantity\":-1".to_owned(), "/items/0/quantity"),
        ("\"quantity\":2", "\"quantity\":10001".to_owned(), "/items/0/quantity"),
        ("\"quantity\":2", format!("\"quantity\":{}", i64::MAX), "/items/0/quantity"),
        ("\"quantity\":2", format!("\"quantity\":{}", u64::MAX), "/items/0/quantity"),
        (":450", ":-1".to_owned(), "/items/0/unit_price_cents"),
        (":450", ":100000001".to_owned(), "/items/0/unit_price_cents"),
        (item, String::new(), "/items: "),
        (item, too_many, "/items: "),
        ("TEA-1", String::new(), "/items/0/sku"),
        ("TEA-1", "T".repeat(65), "/items/0/sku"),
        ("\"c-17\"", "\"\"".to_owned(), "/customer_id"),
        ("c-17", "c".repeat(65), "/customer_id"),
        ("2026-01-03T10:00:00Z", "9999-12-31T23:59:59-23:59".to_owned(), "/placed_at"),
    ] {
        assert_error(&placed_but(from, &to), "limit_exceeded", pointer);
    }
    let reason = |length| format!("\"{}\"", "é".repeat(length));
    assert_error(&status_event("order.paid", &reason(1025)), "limit_exceeded", "/reason");
    assert_error(&status_event("order.paid", "\"\""), "limit_exceeded", "/reason");
}

#[test]
fn each_missing_field_is_named() {
    for (from, to, pointer) in [
        ("\"order_id\"", "\"x\"", "/order_id is missing"),
        ("\"customer_id\"", "\"x\"", "/customer_id is missing"),
        ("\"currency\"", "\"x\"", "/currency is missing"),
        ("\"items\"", "\"x\"", "/items is missing"),
        ("\"placed_at\"", "\"x\"", "/placed_at is missing"),
        ("\"sku\"", "\"x\"", "/items/0/sku is missing"),
        ("\"quantity\"", "\"x\"", "/items/0/quantity is missing"),
        ("\"unit_price_cents\"", "\"x\"", "/items/0/unit_price_cents is missing"),
    ] {
        assert_error(&placed_but(from, to), "missing_field", pointer);
    }
    assert_error(&Record::new("order.paid", "{}"), "missing_field", "/order_id");
}

#[test]
fn a_known_field_that_appears_twice_is_poison() {
    let twice = placed_but("\"currency\"", "\"customer_id\":\"c-17\",\"currency\"");
    assert_error(&twice, "invalid_field", "/customer_id: appears more than once");
    let twice = placed_but("\"sku\"", "\"quantity\":1,\"sku\"");
    assert_error(&twice, "invalid_field", "/items/0/quantity: appears more than once");
}

#[test]
fn a_key_other_than_the_customer_is_poison() {
    for key in [None, Some(b"".to_vec()), Some(b"c-18".to_vec()), Some(vec![0xff])] {
        let record = Record { key, ..placed() };
        assert_error(&record, "key_mismatch", "c-17");
    }
    let record = Record { key: Some(vec![0; 1_000_000]), ..placed() };
    assert_error(&record, "key_mismatch", "…");
}

#[test]
fn a_megabyte_of_anything_gives_a_short_text() {
    let long = "\u{202e}".repeat(350_000);
    for record in [
        placed_but("TEA-1", &long),
        placed_but("EUR", &long),
        placed_but(ORDER_ID, &long),
        placed_but("2026-01-03T10:00:00Z", &long),
        placed_but("\"quantity\":2", &format!("\"quantity\":\"{long}\"")),
        placed_but("\"quantity\":2", &format!("\"quantity\":{}", "9".repeat(1_000_000))),
        status_event("order.paid", &format!("\"{long}\"")),
        Record::new(&long, "{}"),
        Record::new("order.placed", long.clone()),
        Record::new("order.placed", vec![0xff; 1_000_000]),
        placed().with_header("content-type", &long),
        placed().with_header("ce_specversion", &long),
        Record::structured(format!("{{\"type\":\"{long}\"}}")),
        Record::structured(format!("{{\"type\":[\"{long}\"]}}")),
        Record::structured(format!("\"{long}\"")),
    ] {
        let error = record.error();
        assert!(error.to_string().len() <= limits::ERROR_TEXT_BYTES_MAX, "{error}");
        assert!(!error.to_string().contains('\u{202e}'), "{error}");
    }
}
