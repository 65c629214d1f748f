//! Kafka or PostgreSQL is away.

use std::time::{Duration, Instant};

use local_stack::{Options, Stack};

use super::client::request;
use super::server::{Place, Server, tea};
use crate::{eventually, kafka};

#[test]
fn without_kafka_orders_are_accepted_and_published_once_it_is_back() {
    let stack = Stack::start(Options::private("serve-kafka")).unwrap();
    let place = Place::on(stack.endpoints(), "no-kafka");
    let server = Server::start(&place);
    server.place("before", &tea("c-0", 1)).expect(201);
    place.wait_published();
    stack.kafka().kill();
    for n in 0..20 {
        server.place(&format!("k{n}"), &tea("c-1", n + 1)).expect(201);
    }
    let mut last = serde_json::Value::Null;
    eventually("/readyz says how far behind", || {
        let (status, body) = server.ready();
        last = body;
        assert_eq!(status, 200, "{last}");
        std::thread::sleep(Duration::from_millis(100));
        last["outbox"]["rows"] == 20 && last["degraded"][0]["what"] == "outbox"
    });
    let metrics = String::from_utf8(server.get("/metrics").expect(200).body).unwrap();
    assert!(metrics.contains("order_producer_outbox_rows 20"), "{metrics}");
    assert!(metrics.contains("order_producer_outbox_oldest_seconds"), "{metrics}");
    stack.kafka().start().unwrap();
    place.wait_published();
    let records = kafka::read_from(stack.bootstrap_servers(), &place.topic);
    let totals: Vec<i64> = records
        .iter()
        .filter(|record| record.key.as_deref() == Some(b"c-1"))
        .map(|record| {
            let decoded = order_events::decode(&record.view()).unwrap();
            decoded.event.content().unwrap().total().get()
        })
        .collect();
    // A repeat may follow, since the relay did not hear of an acknowledgement; the order stays.
    let mut once = totals.clone();
    once.dedup();
    assert_eq!(once, (1..=20).map(|n| n * 450).collect::<Vec<_>>());
}

#[test]
fn started_without_kafka_it_accepts_and_creates_the_topic_later() {
    let stack = Stack::start(Options::private("serve-late")).unwrap();
    let place = Place::on(stack.endpoints(), "late-kafka");
    stack.kafka().kill();
    let server = Server::start(&place);
    server.place("k", &tea("c", 1)).expect(201);
    stack.kafka().start().unwrap();
    place.wait_published();
    assert_eq!(kafka::read_from(stack.bootstrap_servers(), &place.topic).len(), 1);
}

#[test]
fn a_gateway_that_can_not_reach_kafka_leaves_the_outbox_to_one_that_can() {
    let place = Place::new("two");
    let apart = Server::cut_off_from_kafka(&place);
    apart.place("k", &tea("c", 1)).expect(201);
    eventually("it has the lease", || place.number("SELECT count(*) FROM relay_lease") == 1);
    let _other = Server::start(&place);
    // It asks for an answer for twenty seconds before it stands back.
    std::thread::sleep(Duration::from_secs(15));
    place.wait_published();
    assert_eq!(kafka::read_from(&place.servers, &place.topic).len(), 1);
}

#[test]
fn without_postgresql_it_answers_503_and_nothing_is_half_done() {
    let stack = Stack::start(Options::private("serve-postgres")).unwrap();
    let place = Place::on(stack.endpoints(), "no-postgres");
    let server = Server::start(&place);
    server.place("before", &tea("c-0", 1)).expect(201);
    stack.postgres().kill();
    let began = Instant::now();
    let answer = server.place("k", &tea("c-1", 1));
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    answer.problem(503, "database_unavailable");
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    server.get("/v1/orders?customer_id=c-1").problem(503, "database_unavailable");
    let (status, ready) = server.ready();
    assert_eq!(status, 503);
    // Not what the server or the network says of itself.
    assert_eq!(ready["reasons"][0]["why"], "it does not answer; the log says why");
    server.get("/livez").expect(200);
    stack.postgres().start().unwrap();
    eventually("it is ready again", || server.ready().0 == 200);
    server.place("k", &tea("c-1", 1)).expect(201);
    assert_eq!(place.number("SELECT count(*) FROM accepted_orders"), 2);
    assert_eq!(place.number("SELECT count(*) FROM idempotency_keys"), 2);
}

#[test]
fn a_request_that_waits_for_another_with_its_key_is_told_so() {
    let place = Place::new("in-flight");
    let server = Server::start(&place);
    place.slow_orders(4);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| server.place("k", &tea("c", 1)));
        place.wait_until_slow();
        let asked_at = Instant::now();
        let second =
            request("POST", "/v1/orders").key("k").json(&tea("c", 1)).send(&server.address);
        assert!(asked_at.elapsed() > Duration::from_millis(1900), "it did not wait");
        assert!(second.header("retry-after").is_some());
        second.problem(409, "request_in_flight");
        let first = first.join().unwrap().expect(201);
        let third = server.place("k", &tea("c", 1)).expect(201);
        assert_eq!(third.body, first.body);
    });
    assert_eq!(place.number("SELECT count(*) FROM accepted_orders"), 1);
}

#[test]
fn a_database_without_the_gateways_tables_is_refused_by_name() {
    let place = Place::without_tables(local_stack::shared(), "no-tables");
    let output =
        place.command(&["serve", "--listen", "127.0.0.1:0", "--no-auth"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("0002 gateway") && text.contains("order-consumer migrate"), "{text}");
}
