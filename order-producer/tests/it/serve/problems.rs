//! What is refused, and how.

use serde_json::json;
use uuid::Uuid;

use super::client::{exchange, request};
use super::server::{Place, Server, tea};

#[test]
fn each_invalid_field_is_named_by_its_place() {
    let place = Place::new("fields");
    let server = Server::start(&place);
    let order = json!({
        "customer_id": "c 1", "currency": "EURO", "order_id": Uuid::nil(),
        "items": [{ "sku": "A", "quantity": 0, "unit_price_cents": 1.5 }],
    });
    let problem = server.place("k", &order).problem(422, "invalid_order");
    let errors = problem["errors"].as_array().unwrap();
    let pointers: Vec<_> = errors.iter().map(|e| e["pointer"].as_str().unwrap()).collect();
    let expected = [
        "/order_id",
        "/customer_id",
        "/currency",
        "/items/0/quantity",
        "/items/0/unit_price_cents",
    ];
    let mut sorted = pointers.clone();
    sorted.sort_unstable();
    let mut wanted = expected.to_vec();
    wanted.sort_unstable();
    assert_eq!(sorted, wanted);
    // The key was not used up.
    server.place("k", &tea("c-1", 1)).expect(201);
}

#[test]
fn bad_requests_of_all_kinds_are_problems_of_the_client_and_never_failures() {
    let place = Place::new("bad");
    let server = Server::start(&place);
    let address = &server.address;
    let post = || request("POST", "/v1/orders");
    let id = Uuid::now_v7();
    let order = format!("/v1/orders/{id}");
    let text = tea("c-1", 1).to_string();
    let json_body = |body: &[u8]| post().key("k").body("application/json", body).send(address);
    let deep = "[".repeat(200_000);
    let zero = text.replace("c-1", "c\\u0000");
    post().json(&tea("c", 1)).send(address).problem(400, "idempotency_key_missing");
    let long = "k".repeat(256);
    post().key(&long).json(&tea("c", 1)).send(address).problem(400, "idempotency_key_invalid");
    post().key("k").send(address).problem(415, "unsupported_media_type");
    let plain = post().key("k").body("text/plain", text.as_bytes()).send(address);
    plain.problem(415, "unsupported_media_type");
    json_body(b"").problem(400, "invalid_json");
    json_body(b"{").problem(400, "invalid_json");
    json_body(b"\xff\xfe").problem(400, "invalid_json");
    json_body(deep.as_bytes()).problem(400, "invalid_json");
    json_body(b"[]").problem(422, "invalid_order");
    json_body(b"null").problem(422, "invalid_order");
    json_body(zero.as_bytes()).problem(422, "invalid_order");
    let twice = text.replacen('{', "{\"currency\":\"USD\",", 1);
    json_body(twice.as_bytes()).problem(422, "invalid_order");
    let large = vec![b' '; 1024 * 1024 + 1];
    json_body(&large).problem(413, "body_too_large");
    server.get("/v1/orders/17").problem(400, "invalid_order_id");
    server.get("/v1/orders/%ff%fe").problem(400, "invalid_order_id");
    server.get(&order).problem(404, "order_not_found");
    request("DELETE", &order).send(address).problem(404, "order_not_found");
    let pay = format!("{order}/pay");
    request("POST", &pay).key("p").send(address).problem(404, "order_not_found");
    let reason = request("POST", &pay).key("q").json(&json!({ "reason": 7 })).send(address);
    reason.problem(422, "invalid_order");
    server.get("/v1/orders").problem(400, "invalid_query");
    server.get("/v1/orders?customer_id=c&cursor=x").problem(400, "invalid_query");
    server.get("/nothing").problem(404, "not_found");
    server.get("/v1/orders/").problem(404, "not_found");
    let patch = request("PATCH", &order).send(address);
    assert!(patch.header("allow").is_some_and(|allow| allow.contains("PUT")), "{patch:?}");
    patch.problem(405, "method_not_allowed");
    request("DELETE", "/v1/orders").send(address).problem(405, "method_not_allowed");
    request("BREW", "/v1/orders").send(address).problem(405, "method_not_allowed");
    request("POST", "/readyz").send(address).problem(405, "method_not_allowed");
    // What is no HTTP is refused below us, without a body, and the server goes on.
    let noise = exchange(address, b"\x16\x03\x01 no http\r\n\r\n");
    assert!(noise.is_none_or(|answer| answer.status == 400));
    let cut =
        exchange(address, b"POST /v1/orders HTTP/1.1\r\nhost: t\r\ncontent-length: zz\r\n\r\n");
    assert!(cut.is_none_or(|answer| answer.status == 400));
    assert_eq!(place.number("SELECT count(*) FROM accepted_orders"), 0);
    assert_eq!(server.ready().0, 200);
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

#[test]
fn a_body_that_does_not_arrive_in_time_is_given_up() {
    let place = Place::new("slow");
    let server = Server::with(&place, &["--no-auth", "--request-timeout", "500ms"]);
    let head = "POST /v1/orders HTTP/1.1\r\nhost: t\r\nidempotency-key: k\r\n\
                content-type: application/json\r\ncontent-length: 100\r\nconnection: close\r\n\r\n{";
    let answer = exchange(&server.address, head.as_bytes()).unwrap();
    answer.problem(408, "body_too_slow");
}

#[test]
fn every_answer_has_an_id_and_says_how_it_may_be_used() {
    let place = Place::new("headers");
    let server = Server::start(&place);
    for path in ["/v1/orders?customer_id=c", "/nothing", "/readyz"] {
        let answer = request("GET", path).header("x-request-id", "abc-1").send(&server.address);
        assert_eq!(answer.header("x-request-id"), Some("abc-1"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        let odd = request("GET", path).header("x-request-id", "a b").send(&server.address);
        assert!(Uuid::try_parse(odd.header("x-request-id").unwrap()).is_ok());
    }
}
