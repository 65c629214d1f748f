//! That the document says what the code does.

use std::collections::HashSet;

use axum::http::{HeaderMap, HeaderValue};
use jsonschema::Validator;
use order_events::limits;
use serde_json::{Value, json};

use crate::serve::body::{OrderId, read_order, read_reason};
use crate::serve::code::Code;
use crate::serve::cursor::Cursor;
use crate::serve::fields::PROBLEMS_MAX;
use crate::serve::{idempotency, query, routes};

fn document() -> Value {
    super::document(&routes::all(), true)
}

/// A schema that can use the others of the document.
fn validator(document: &Value, schema: &Value) -> Validator {
    let mut schema = schema.clone();
    schema["components"] = document["components"].clone();
    jsonschema::options().should_validate_formats(true).build(&schema).unwrap()
}

#[test]
fn every_route_is_described_and_there_is_no_other_way_to_add_one() {
    let document = document();
    let routes = routes::all();
    for route in &routes {
        let described = &document["paths"][route.path][route.method.as_str().to_ascii_lowercase()];
        assert!(described["responses"].is_object(), "{} {}", route.method, route.path);
    }
    let ids: HashSet<&str> = routes.iter().map(|route| route.operation.id).collect();
    assert_eq!(ids.len(), routes.len(), "each operation has an id of its own");
    // Only the table of routes is made into a router.
    let source = include_str!("../routes.rs");
    for (way, times) in
        [(".route(", 1), (".route_service(", 0), (".nest", 0), ("Route::new(", routes.len())]
    {
        assert_eq!(source.matches(way).count(), times, "{way} in routes.rs");
    }
}

#[test]
fn every_code_is_described_where_it_can_be_answered() {
    let document = document();
    let mut described = HashSet::new();
    for operation in document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|it| it.as_object().unwrap().values())
    {
        for (status, answer) in operation["responses"].as_object().unwrap() {
            let schema = &answer["content"]["application/problem+json"]["schema"];
            for code in
                schema["allOf"][1]["properties"]["code"]["enum"].as_array().into_iter().flatten()
            {
                described.insert((status.clone(), code.as_str().unwrap().to_owned()));
            }
        }
    }
    let elsewhere = [Code::MethodNotAllowed];
    for code in Code::ALL.iter().filter(|code| !elsewhere.contains(code)) {
        let expected = (code.status().as_u16().to_string(), code.as_str().to_owned());
        assert!(described.contains(&expected), "{expected:?} is of no operation");
    }
    let listed = document["x-problem-codes"].as_array().unwrap();
    assert_eq!(listed.len(), Code::ALL.len());
}

/// Each limit of the contract, and where the document has it.
#[test]
fn every_limit_is_in_the_document() {
    let document = document();
    let schema = |at: &str| document["components"]["schemas"].pointer(at).unwrap().clone();
    let id = json!(format!("^[!-~]{{1,{}}}$", limits::ID_CHARS_MAX));
    let depth = format!("nested at most {} deep", limits::JSON_DEPTH);
    let known = [
        ("ITEMS_MAX", schema("/NewOrder/properties/items/maxItems") == limits::ITEMS_MAX),
        ("QUANTITY_MIN", schema("/Item/properties/quantity/minimum") == limits::QUANTITY_MIN),
        ("QUANTITY_MAX", schema("/Item/properties/quantity/maximum") == limits::QUANTITY_MAX),
        (
            "UNIT_PRICE_CENTS_MIN",
            schema("/Item/properties/unit_price_cents/minimum") == limits::UNIT_PRICE_CENTS_MIN,
        ),
        (
            "UNIT_PRICE_CENTS_MAX",
            schema("/Item/properties/unit_price_cents/maximum") == limits::UNIT_PRICE_CENTS_MAX,
        ),
        ("ID_CHARS_MAX", schema("/Item/properties/sku/pattern") == id),
        (
            "REASON_CHARS_MAX",
            schema("/Reason/properties/reason/maxLength") == limits::REASON_CHARS_MAX,
        ),
        (
            "JSON_DEPTH",
            document["paths"]["/v1/orders"]["post"]["requestBody"]["description"]
                .as_str()
                .unwrap()
                .contains(&depth),
        ),
        // An id of a message is the gateway's own, and a text of an error no part of a request.
        ("MESSAGE_ID_CHARS_MAX", true),
        ("ERROR_TEXT_BYTES_MAX", true),
    ];
    for (name, is_there) in known {
        assert!(is_there, "{name}");
    }
    let source = include_str!("../../../../order-events/src/limits.rs");
    let names =
        source.lines().filter_map(|line| line.strip_prefix("pub const ")?.split(':').next());
    for name in names {
        assert!(
            known.iter().any(|(known, _)| *known == name),
            "where does the document have {name}?"
        );
    }
    assert_eq!(schema("/Problem/properties/errors/maxItems"), PROBLEMS_MAX);
    let limit = &document["components"]["parameters"]["limit"]["schema"]["maximum"];
    assert!(query::page(&format!("customer_id=c&limit={limit}")).is_ok());
}

fn order(change: impl FnOnce(&mut Value)) -> Value {
    let mut order = json!({ "customer_id": "c-17", "currency": "EUR",
        "items": [{ "sku": "TEA-1", "quantity": 2, "unit_price_cents": 450 }] });
    change(&mut order);
    order
}

#[test]
fn an_order_fits_the_document_if_and_only_if_it_is_taken() {
    let document = document();
    let schema = validator(&document, &super::schemas::reference("NewOrder"));
    let set = |at: &'static str, value: Value| {
        order(|order| match order.pointer_mut(at) {
            Some(there) => *there = value,
            None => order[&at[1..]] = value,
        })
    };
    let items = |count: usize| {
        order(|order| order["items"] = json!(vec![order["items"][0].clone(); count]))
    };
    let mut tried = vec![
        order(|_| ()),
        items(0),
        items(limits::ITEMS_MAX),
        items(limits::ITEMS_MAX + 1),
        set("/unknown", json!({ "any": [1.5, null] })),
        set("/order_id", json!("0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3")),
        set("/order_id", json!(null)),
        set("/items/0", json!([])),
        json!([]),
        json!(null),
        json!({}),
    ];
    for quantity in [limits::QUANTITY_MIN, limits::QUANTITY_MAX] {
        tried.extend((-1..=1).map(|beyond| set("/items/0/quantity", json!(quantity + beyond))));
    }
    for price in [limits::UNIT_PRICE_CENTS_MIN, limits::UNIT_PRICE_CENTS_MAX] {
        tried
            .extend((-1..=1).map(|beyond| set("/items/0/unit_price_cents", json!(price + beyond))));
    }
    for text in [
        json!(""),
        json!("x".repeat(limits::ID_CHARS_MAX)),
        json!("x".repeat(limits::ID_CHARS_MAX + 1)),
        json!("a b"),
        json!("é"),
        json!("a\n"),
        json!("a\0"),
        json!("!~"),
        json!(7),
        json!(null),
    ] {
        tried.push(set("/customer_id", text.clone()));
        tried.push(set("/items/0/sku", text));
    }
    for currency in ["EUR", "XXX", "eur", "ZZZ", "", "EURO"] {
        tried.push(set("/currency", json!(currency)));
    }
    for time in [
        json!("2026-01-03T10:00:00Z"),
        json!("2026-01-03T10:00:00.5+02:00"),
        json!("0000-01-01T00:00:00Z"),
        json!("9999-12-31T23:59:59Z"),
        json!("2026-01-03"),
        json!("2026-02-30T10:00:00Z"),
        json!("today"),
        json!(7),
        json!(null),
    ] {
        tried.push(set("/placed_at", time));
    }
    for field in [
        "/customer_id",
        "/currency",
        "/items",
        "/items/0/sku",
        "/items/0/quantity",
        "/items/0/unit_price_cents",
    ] {
        let (parent, name) = field.rsplit_once('/').unwrap();
        tried.push(order(|order| {
            order.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name);
        }));
        tried.push(set(field, json!(2.0)));
        tried.push(set(field, json!(1.5)));
    }
    for order in tried {
        let is_taken = read_order(order.to_string().as_bytes(), OrderId::Made).is_ok();
        assert_eq!(schema.is_valid(&order), is_taken, "taken: {is_taken}; {order}");
    }
}

#[test]
fn a_reason_fits_the_document_if_and_only_if_it_is_taken() {
    let document = document();
    let schema = validator(&document, &super::schemas::reference("Reason"));
    let longest = "é".repeat(limits::REASON_CHARS_MAX);
    for body in [
        json!({}),
        json!([]),
        json!(null),
        json!({ "reason": null }),
        json!({ "reason": "" }),
        json!({ "reason": 7 }),
        json!({ "reason": "a\0b" }),
        json!({ "reason": longest }),
        json!({ "reason": format!("{longest}é") }),
    ] {
        assert_eq!(
            schema.is_valid(&body),
            read_reason(body.to_string().as_bytes()).is_ok(),
            "{body}"
        );
    }
}

#[test]
fn a_key_and_a_cursor_fit_the_document_if_and_only_if_they_are_taken() {
    let document = document();
    let parameter =
        |name: &str| validator(&document, &document["components"]["parameters"][name]["schema"]);
    let key = parameter("Idempotency-Key");
    let (longest, longer) = ("k".repeat(255), "k".repeat(256));
    for text in [
        "8e03978e",
        "a b",
        "a\"",
        "\"a\"",
        "\"a b\"",
        "\"a\\\"\\\\\"",
        "\"a\\b\"",
        "\"a",
        "\"\"",
        "\"a\"b",
        "",
        &longest,
        &longer,
        &format!("\"{longest}\""),
        &format!("\"{longer}\""),
        "é",
    ] {
        let value = HeaderValue::from_bytes(text.as_bytes()).unwrap();
        let headers = HeaderMap::from_iter([("idempotency-key".parse().unwrap(), value)]);
        assert_eq!(key.is_valid(&json!(text)), idempotency::key_of(&headers).is_ok(), "{text}");
    }
    let cursor = parameter("cursor");
    let beyond = |first: &str| format!("{first}{}", "A".repeat(34 - first.len()));
    let (zero, last) = (beyond("AQA"), format!("AQH{}w", "_".repeat(30)));
    for text in [
        &zero,
        &last,
        &beyond("AQI"),
        &beyond("AQ_"),
        &beyond("Ag"),
        &format!("{zero}A"),
        &zero[1..],
        "",
        "x",
    ] {
        assert_eq!(cursor.is_valid(&json!(text)), Cursor::from_text(text).is_some(), "{text}");
    }
}

#[test]
fn where_nobody_is_asked_for_a_key_none_is_described() {
    let document = super::document(&routes::all(), false).to_string();
    for word in ["securitySchemes", "orders:write", "\"401\"", "\"403\""] {
        assert!(!document.contains(word), "{word}");
    }
}
