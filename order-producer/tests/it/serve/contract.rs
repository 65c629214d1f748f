//! What the methods promise.

use std::collections::HashSet;

use serde_json::{Value, json};
use uuid::Uuid;

use super::client::{Answer, at_last, request};
use super::server::{Place, Server, tea};
use crate::kafka;

#[test]
fn an_order_is_accepted_with_its_place_and_published_under_its_customers_key() {
    let place = Place::new("accepted");
    let server = Server::start(&place);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let answer = request("POST", "/v1/orders")
        .key("\"first\"")
        .header("traceparent", trace)
        .json(&tea("c-17", 2))
        .send(&server.address)
        .expect(201);
    let order = answer.json();
    assert_eq!((&order["state"], &order["total_cents"]), (&json!("accepted"), &json!(900)));
    let id = order["order_id"].as_str().unwrap();
    let location = format!("/v1/orders/{id}");
    assert_eq!(answer.header("location"), Some(location.as_str()));
    assert_eq!(answer.header("idempotency-replayed"), None);
    assert_eq!(server.get(&location).expect(200).json(), order);
    place.wait_published();
    let records = kafka::read(&place.topic);
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].key.as_deref(), Some(b"c-17".as_slice()));
    assert_eq!(records[0].header("ce_id"), order["pending"][0]["message_id"].as_str());
    assert_eq!(records[0].header("ce_type"), Some("order.placed"));
    assert_eq!(records[0].header("traceparent"), Some(trace));
    let decoded = order_events::decode(&records[0].view()).unwrap();
    assert_eq!(decoded.event.order_id().to_string(), id);
}

#[test]
fn five_hundred_requests_at_once_with_one_key_make_one_order() {
    let place = Place::new("one-key");
    let server = Server::start(&place);
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let send = || at_last(|| Some(server.place("the-one", &tea("c-1", 3)))).unwrap();
        let threads: Vec<_> = (0..500).map(|_| scope.spawn(send)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let bodies: HashSet<Vec<u8>> =
        answers.iter().map(|answer| answer.clone().expect(201).body).collect();
    assert_eq!(bodies.len(), 1);
    let replayed = answers.iter().filter(|a| a.header("idempotency-replayed") == Some("true"));
    assert!(replayed.count() >= 499);
    assert_eq!(place.number("SELECT count(*) FROM accepted_orders"), 1);
    place.wait_published();
    assert_eq!(kafka::count(&place.topic), 1);
}

/// Without what is of the request and not of the answer.
fn kept(answer: &Answer) -> Vec<(String, String)> {
    let of_request = ["date", "x-request-id", "idempotency-replayed", "ratelimit", "connection"];
    let mut headers = answer.headers.clone();
    headers.retain(|(name, _)| !of_request.contains(&name.as_str()));
    headers
}

#[test]
fn the_first_answer_is_replayed_byte_for_byte_and_another_request_under_its_key_refused() {
    let place = Place::new("replay");
    let server = Server::start(&place);
    let first = server.place("k", &tea("c-1", 1)).expect(201);
    let id = first.json()["order_id"].as_str().unwrap().to_owned();
    // Whatever becomes of the order meanwhile.
    request("DELETE", &format!("/v1/orders/{id}")).send(&server.address).expect(202);
    let again = server.place("k", &tea("c-1", 1)).expect(201);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!((kept(&again), &again.body), (kept(&first), &first.body));
    server.place("k", &tea("c-1", 2)).problem(422, "idempotency_key_reused");
    let pay = format!("/v1/orders/{id}/pay");
    request("POST", &pay).key("k").send(&server.address).problem(422, "idempotency_key_reused");
    // What was refused by the order's state is an answer as well.
    let refused = request("POST", &pay).key("late").send(&server.address);
    refused.clone().problem(409, "wrong_status");
    let again = request("POST", &pay).key("late").send(&server.address);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(again.body, refused.body);
    assert_eq!(place.number("SELECT count(*) FROM accepted_orders"), 1);
}

#[test]
fn a_hundred_gets_change_nothing() {
    let place = Place::new("gets");
    let server = Server::start(&place);
    let order = server.place("k", &tea("c-1", 1)).expect(201).json();
    place.wait_published();
    let before = (place.everything(), kafka::count(&place.topic));
    let path = format!("/v1/orders/{}", order["order_id"].as_str().unwrap());
    let first = server.get(&path).expect(200).body;
    for _ in 0..100 {
        assert_eq!(server.get(&path).expect(200).body, first);
        server.get("/v1/orders?customer_id=c-1").expect(200);
    }
    assert_eq!((place.everything(), kafka::count(&place.topic)), before);
}

fn put(server: &Server, id: Uuid, order: &Value) -> Answer {
    request("PUT", &format!("/v1/orders/{id}")).json(order).send(&server.address)
}

/// All but the times.
fn state(answer: &Answer) -> Value {
    let mut order = answer.json();
    order.as_object_mut().unwrap().remove("updated_at");
    order
}

#[test]
fn a_put_creates_replaces_and_repeated_publishes_nothing() {
    let place = Place::new("put");
    let server = Server::start(&place);
    let id = Uuid::now_v7();
    let first = put(&server, id, &tea("c-1", 1)).expect(201);
    for _ in 0..5 {
        assert_eq!(state(&put(&server, id, &tea("c-1", 1)).expect(200)), state(&first));
    }
    let amended = put(&server, id, &tea("c-1", 2)).expect(200).json();
    assert_eq!((&amended["total_cents"], &amended["version"]), (&json!(900), &json!(2)));
    put(&server, id, &tea("c-1", 2)).expect(200);
    put(&server, id, &tea("c-2", 2)).problem(409, "customer_mismatch");
    place.wait_published();
    let records = kafka::read(&place.topic);
    let types: Vec<_> = records.iter().map(|record| record.header("ce_type").unwrap()).collect();
    assert_eq!(types, ["order.placed", "order.amended"]);
}

#[test]
fn equal_puts_at_once_place_the_order_once() {
    let place = Place::new("puts");
    let server = Server::start(&place);
    let id = Uuid::now_v7();
    let mut statuses: Vec<u16> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..32)
            .map(|_| {
                scope.spawn(|| at_last(|| Some(put(&server, id, &tea("c-1", 1)))).unwrap().status)
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    statuses.sort_unstable();
    assert_eq!((statuses[31], &statuses[..31]), (201, &[200; 31][..]));
    place.wait_published();
    assert_eq!(kafka::count(&place.topic), 1);
}

#[test]
fn of_payments_at_once_one_is_accepted() {
    let place = Place::new("payments");
    let server = Server::start(&place);
    let order = server.place("place", &tea("c-1", 1)).expect(201).json();
    let pay = format!("/v1/orders/{}/pay", order["order_id"].as_str().unwrap());
    let send = |n: u32| request("POST", &pay).key(&format!("pay-{n}")).send(&server.address).status;
    let mut statuses: Vec<u16> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..32).map(|n| scope.spawn(move || send(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    statuses.sort_unstable();
    assert_eq!((statuses[0], &statuses[1..]), (202, &[409; 31][..]));
    place.wait_published();
    assert_eq!(kafka::count(&place.topic), 2);
}

#[test]
fn what_happens_to_an_order_is_published_in_its_order() {
    let place = Place::new("life");
    let server = Server::start(&place);
    let order = server.place("place", &tea("c-1", 1)).expect(201).json();
    let path = format!("/v1/orders/{}", order["order_id"].as_str().unwrap());
    let pay = format!("{path}/pay");
    request("POST", &pay).send(&server.address).problem(400, "idempotency_key_missing");
    let reason = json!({ "reason": "by card" });
    let paid = request("POST", &pay).key("pay").json(&reason).send(&server.address).expect(202);
    assert_eq!(paid.json()["accepted_state"], "paid");
    request("POST", &pay).key("again").send(&server.address).problem(409, "wrong_status");
    let cancel = || request("DELETE", &path).send(&server.address);
    let cancelled = cancel().expect(202);
    assert_eq!(cancelled.json()["accepted_state"], "cancelled");
    assert_eq!(state(&cancel().expect(200)), state(&cancelled));
    place.wait_published();
    let records = kafka::read(&place.topic);
    let types: Vec<_> = records.iter().map(|record| record.header("ce_type").unwrap()).collect();
    assert_eq!(types, ["order.placed", "order.paid", "order.cancelled"]);
}

#[test]
fn a_customers_orders_come_in_pages_the_newest_first() {
    let place = Place::new("pages");
    let server = Server::start(&place);
    let mut ids: Vec<Value> = (0..5)
        .map(|n| {
            server.place(&format!("k{n}"), &tea("c-1", 1)).expect(201).json()["order_id"].clone()
        })
        .collect();
    server.place("other", &tea("c-2", 1)).expect(201);
    ids.reverse();
    let mut seen = Vec::new();
    let mut path = "/v1/orders?customer_id=c-1&limit=2".to_owned();
    for _ in 0..3 {
        let page = server.get(&path).expect(200).json();
        seen.extend(page["orders"].as_array().unwrap().iter().map(|o| o["order_id"].clone()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/orders?customer_id=c-1&limit=2&cursor={cursor}");
    }
    assert_eq!(seen, ids);
    let none = server.get("/v1/orders?customer_id=nobody").expect(200).json();
    assert_eq!(none, json!({ "orders": [] }));
}
