//! Pages of other origins.

use super::client::{Answer, Request, request};
use super::server::{Place, Server, tea};

const SHOP: &str = "https://shop.example";

fn from<'a>(request: Request<'a>, origin: &str) -> Request<'a> {
    request.header("origin", origin)
}

/// Asks as a browser does before a page of this origin sends such a request.
fn preflight(server: &Server, origin: &str, path: &str) -> Answer {
    from(request("OPTIONS", path), origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type,idempotency-key")
        .send(&server.address)
}

/// Whose pages may read the answer.
fn readers(answer: &Answer) -> Option<&str> {
    let readers = answer.header("access-control-allow-origin");
    let exposed = answer.header("access-control-expose-headers");
    assert_eq!(readers.is_some(), exposed.is_some(), "{answer:?}");
    assert_eq!(answer.header("access-control-allow-credentials"), None, "{answer:?}");
    readers
}

#[track_caller]
fn says_nothing_of_origins(answer: &Answer) {
    let said = answer.headers.iter().find(|(name, _)| name.starts_with("access-control-"));
    assert_eq!(said, None, "{answer:?}");
}

#[test]
fn a_browser_asks_beforehand_without_a_key_and_is_told_what_the_path_takes() {
    let place = Place::new("preflight");
    // As many as count as one address's: each preflight would be one.
    let args = ["--rate-per-address", "1", "--cors-origin", SHOP];
    let server = Server::with(&place, &args);
    for _ in 0..20 {
        let answer = preflight(&server, SHOP, "/v1/orders").expect(204);
        assert_eq!(answer.header("access-control-allow-methods"), Some("GET, POST"));
        assert_eq!(answer.header("access-control-max-age"), Some("600"));
        assert_eq!(answer.header("vary"), Some("Origin"));
        assert_eq!(readers(&answer), Some(SHOP));
        let headers = answer.header("access-control-allow-headers").unwrap().to_ascii_lowercase();
        for name in ["authorization", "content-type", "idempotency-key", "traceparent"] {
            assert!(headers.split(", ").any(|it| it == name), "{name} is not in {headers}");
        }
    }
    let order = "/v1/orders/0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3";
    for (path, methods) in [
        (order.to_owned(), "GET, PUT, DELETE"),
        (format!("{order}/pay"), "POST"),
        ("/openapi.json".to_owned(), "GET"),
    ] {
        let answer = preflight(&server, SHOP, &path).expect(204);
        assert_eq!(answer.header("access-control-allow-methods"), Some(methods), "{path}");
    }
    // Others, and what is no preflight, are treated as ever.
    for origin in
        ["https://shop.example.evil.example", "https://shop", "http://shop.example", "null"]
    {
        let answer = from(request("OPTIONS", "/livez"), origin).send(&server.address).expect(405);
        says_nothing_of_origins(&answer);
        let answer = preflight(&server, origin, "/openapi.json").expect(405);
        says_nothing_of_origins(&answer);
        assert_eq!(answer.header("vary"), Some("Origin"));
    }
    from(request("OPTIONS", "/openapi.json"), SHOP).send(&server.address).expect(405);
    assert_eq!(place.number("SELECT count(*) FROM accepted_orders"), 0);
}

#[test]
fn an_allowed_page_may_read_every_kind_of_answer_and_another_none() {
    let place = Place::new("cors");
    let both = format!("http://localhost:5173,{SHOP}");
    let args = ["--rate-per-address", "2", "--body-bytes", "1000", "--cors-origin", &both];
    let server = Server::with(&place, &args);
    let key = place.command(&["keys", "create", "--client", "web"]).output().unwrap().stdout;
    let bearer = format!("Bearer {}", String::from_utf8(key).unwrap().trim());
    let post = |key: &str, customer: &str| {
        let request = request("POST", "/v1/orders").header("authorization", &bearer);
        request.key(key).json(&tea(customer, 1))
    };
    let good = || post("k", "c-1");
    let address = &server.address;
    let placed = from(good(), SHOP).send(address).expect(201);
    assert_eq!((readers(&placed), placed.header("vary")), (Some(SHOP), Some("Origin")));
    let replayed = from(good(), "http://localhost:5173").send(address).expect(201);
    assert_eq!(readers(&replayed), Some("http://localhost:5173"));
    let exposed = replayed.header("access-control-expose-headers").unwrap().to_ascii_lowercase();
    for (name, _) in &replayed.headers {
        let is_of_http = ["content-length", "connection", "date"].contains(&name.as_str());
        let is_for_the_browser = ["content-type", "cache-control", "referrer-policy", "vary"]
            .contains(&name.as_str())
            || ["x-content-type", "content-security", "access-control"]
                .iter()
                .any(|it| name.starts_with(it));
        let is_exposed = exposed.split(", ").any(|it| it == name);
        assert!(is_of_http || is_for_the_browser || is_exposed, "{name} is not in {exposed}");
    }
    let other = from(good(), "https://other.example").send(address).expect(201);
    says_nothing_of_origins(&other);
    assert_eq!(other.header("vary"), Some("Origin"));
    assert_eq!(good().send(address).expect(201).header("vary"), Some("Origin"));

    let refused = from(request("GET", "/v1/orders?customer_id=c"), SHOP).send(address);
    assert_eq!(readers(&refused), Some(SHOP));
    refused.problem(401, "unauthorized");
    for (request, status, code) in [
        (post("large", &"c".repeat(1000)), 413, "body_too_large"),
        (post("wrong", "c 1"), 422, "invalid_order"),
        (request("GET", "/v1/nothing").header("authorization", &bearer), 404, "not_found"),
        (
            request("PATCH", "/v1/orders").header("authorization", &bearer),
            405,
            "method_not_allowed",
        ),
    ] {
        let answer = from(request, SHOP).send(address);
        assert_eq!(readers(&answer), Some(SHOP), "{code}");
        answer.problem(status, code);
    }
    let answers = (0..100).map(|_| from(request("GET", "/v1/orders?customer_id=c"), SHOP));
    let too_often = answers.map(|it| it.send(address)).find(|answer| answer.status == 429).unwrap();
    assert_eq!(readers(&too_often), Some(SHOP));
    // Neither the pages nor the probes are for others.
    for path in ["/", "/livez", "/readyz", "/metrics"] {
        says_nothing_of_origins(&from(request("GET", path), SHOP).send(address));
    }
}

#[test]
fn a_page_may_also_read_that_its_request_took_too_long() {
    let place = Place::new("cors-slow");
    let args = ["--no-auth", "--request-timeout", "200ms", "--cors-origin", SHOP];
    let server = Server::with(&place, &args);
    place.slow_orders(3);
    let order = request("POST", "/v1/orders").key("k").json(&tea("c-1", 1));
    let answer = from(order, SHOP).send(&server.address);
    assert_eq!(readers(&answer), Some(SHOP));
    answer.problem(503, "timeout");
}

#[test]
fn every_page_may_where_that_is_asked_for_and_none_by_default() {
    let place = Place::new("cors-all");
    let server = Server::with(&place, &["--cors-origin", "*"]);
    let answer = preflight(&server, "https://any.example", "/v1/orders").expect(204);
    assert_eq!((readers(&answer), answer.header("vary")), (Some("*"), None));
    let answer = server.get("/v1/orders?customer_id=c").expect(401);
    assert_eq!((readers(&answer), answer.header("vary")), (Some("*"), None));
    drop(server);

    let server = Server::start(&place);
    let order = request("POST", "/v1/orders").key("k").json(&tea("c-1", 1));
    for answer in [
        from(order, SHOP).send(&server.address).expect(201),
        preflight(&server, SHOP, "/v1/orders").expect(405),
        preflight(&server, SHOP, "/openapi.json").expect(405),
    ] {
        says_nothing_of_origins(&answer);
        assert_eq!(answer.header("vary"), None);
    }
}
