//! What the gateway accepted is applied by the consumer, and what is told of it is true.

use std::time::Duration;

use idempotent_consumer::audit::{self, AuditConfig, AuditReport};
use idempotent_consumer::{Engine, EngineConfig, KafkaSettings, Summary};
use order_consumer::{OrderDecoder, OrderHandler, OrderProjection, UnknownType};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::client::request;
use super::server::{Place, Server, tea, wait};

/// Applies everything there is.
pub(crate) fn consume(place: &Place) -> Summary {
    wait(async {
        let mut config =
            EngineConfig::new(KafkaSettings::new(&place.servers), &place.topic, &place.topic);
        config.exit_when_idle = Some(Duration::from_secs(1));
        let pool = PgPool::connect(&place.database_url).await.unwrap();
        let decoder = OrderDecoder { unknown_type: UnknownType::DeadLetter };
        let engine = Engine::with_decoder(config, OrderHandler::default(), decoder, pool);
        engine.run(CancellationToken::new()).await.unwrap()
    })
}

/// The auditor's word on it.
pub(crate) fn audit(place: &Place) -> AuditReport {
    let config = AuditConfig {
        kafka: KafkaSettings::new(&place.servers),
        topic: place.topic.clone(),
        dlq_topic: format!("{}.dlq", place.topic),
        consumer_group: place.topic.clone(),
        manifest: None,
        wait: Some(Duration::from_secs(30)),
        examples: audit::DEFAULT_EXAMPLES,
    };
    let database = place.database_url.parse().unwrap();
    let mut projection = OrderProjection::default();
    wait(audit::audit(&config, &database, &mut projection, |_| {})).unwrap()
}

pub(crate) fn path(order: &Value) -> String {
    format!("/v1/orders/{}", order["order_id"].as_str().unwrap())
}

#[test]
fn what_is_accepted_takes_effect_once_and_get_says_so_at_each_stage() {
    let place = Place::new("effects");
    let server = Server::start(&place);
    let placed = server.place("placed", &tea("c-1", 2)).expect(201).json();
    let paid = server.place("paid", &tea("c-1", 3)).expect(201).json();
    let cancelled = server.place("cancelled", &tea("c-1", 5)).expect(201).json();
    server.place("placed", &tea("c-1", 2)).expect(201);
    let pay = |order: &Value, key: &str| {
        request("POST", &format!("{}/pay", path(order))).key(key).send(&server.address)
    };
    pay(&paid, "pay").expect(202);
    request("DELETE", &path(&cancelled)).send(&server.address).expect(202);
    let own = format!("/v1/orders/{}", Uuid::now_v7());
    request("PUT", &own).json(&tea("c-2", 1)).send(&server.address).expect(201);
    request("PUT", &own).json(&tea("c-2", 7)).send(&server.address).expect(200);
    let state = |path: &str| server.get(path).expect(200).json()["state"].clone();
    for order in [&placed, &paid, &cancelled] {
        assert_eq!(state(&path(order)), "accepted");
    }
    place.wait_published();
    assert_eq!(consume(&place).applied, 7);
    assert_eq!(state(&path(&placed)), "placed");
    assert_eq!(state(&path(&paid)), "paid");
    assert_eq!(state(&path(&cancelled)), "cancelled");
    let amended = server.get(&own).expect(200).json();
    assert_eq!((&amended["state"], &amended["total_cents"]), (&json!("placed"), &json!(7 * 450)));
    assert_eq!((&amended["pending"], &amended["dead_letters"]), (&json!([]), &json!([])));
    let spent = "SELECT spent_cents FROM customer_totals WHERE customer_id = 'c-1'";
    assert_eq!(place.number(spent), 5 * 450);
    let page = server.get("/v1/orders?customer_id=c-1").expect(200).json();
    let states: Vec<&Value> =
        page["orders"].as_array().unwrap().iter().map(|order| &order["state"]).collect();
    assert_eq!(states, ["cancelled", "paid", "placed"]);
    // Later requests go on from there.
    pay(&cancelled, "late").problem(409, "wrong_status");
    pay(&placed, "now").expect(202);
    let waiting = server.get(&path(&placed)).expect(200).json();
    assert_eq!((&waiting["state"], &waiting["accepted_state"]), (&json!("placed"), &json!("paid")));
    assert_eq!(waiting["pending"][0]["event"], "order.paid");
    place.wait_published();
    consume(&place);
    assert_eq!(state(&path(&placed)), "paid");
    let report = audit(&place);
    assert!(report.holds(), "{}", report.verdict());
}

#[test]
fn what_is_dead_lettered_is_told_with_its_reason_and_the_order_as_it_is() {
    let place = Place::new("dead");
    let server = Server::start(&place);
    let order = server.place("k", &tea("c-1", 2)).expect(201).json();
    let id = order["order_id"].as_str().unwrap();
    place.wait_published();
    // Somebody else cancels it behind the gateway's back.
    let cancelled =
        place.command(&["cancel", id, "--customer", "c-1"]).output().unwrap().status.code();
    assert_eq!(cancelled, Some(0));
    let pay = format!("{}/pay", path(&order));
    request("POST", &pay).key("pay").send(&server.address).expect(202);
    place.wait_published();
    let done = consume(&place);
    assert_eq!((done.applied, done.dead_lettered), (2, 1));
    let seen = server.get(&path(&order)).expect(200).json();
    assert_eq!((&seen["state"], &seen["pending"]), (&json!("cancelled"), &json!([])));
    assert_eq!(seen["dead_letters"][0]["event"], "order.paid");
    assert_eq!(seen["dead_letters"][0]["code"], "wrong_status");
    assert!(seen["dead_letters"][0]["reason"].as_str().unwrap().contains("cancelled"), "{seen:#}");
    // The gateway has learnt of it.
    request("DELETE", &path(&order)).send(&server.address).expect(200);
    place.wait_published();
    let report = audit(&place);
    assert!(report.holds(), "{}", report.verdict());
}

#[test]
fn an_order_that_never_took_effect_is_dead_lettered_and_can_not_be_paid() {
    let place = Place::new("never");
    let server = Server::start(&place);
    let own = format!("/v1/orders/{}", Uuid::now_v7());
    request("PUT", &own).json(&tea("c-1", 1)).send(&server.address).expect(201);
    place.wait_published();
    // Another customer's order has the id meanwhile.
    place.sql(
        "INSERT INTO orders (order_id, customer_id, status, currency, total_cents, items, placed_at,
                             last_message_id)
         SELECT order_id, 'c-9', 'placed', currency, total_cents, items, placed_at, order_id
           FROM accepted_orders",
    );
    assert_eq!(consume(&place).dead_lettered, 1);
    let seen = server.get(&own).expect(200).json();
    assert_eq!((&seen["state"], &seen["customer_id"]), (&json!("dead_lettered"), &json!("c-1")));
    assert_eq!(seen["dead_letters"][0]["code"], "customer_mismatch");
    let pay = format!("{own}/pay");
    let refused = |key: &str| {
        let paid = request("POST", &pay).key(key).send(&server.address);
        paid.problem(409, "order_dead_lettered");
        let cancelled = request("DELETE", &own).send(&server.address);
        cancelled.problem(409, "order_dead_lettered");
    };
    // The other customer's is neither paid nor cancelled instead.
    refused("others");
    assert_eq!(place.number("SELECT count(*) FROM accepted_events"), 1);
    place.sql("DELETE FROM orders");
    refused("gone");
    // It may be placed anew.
    request("PUT", &own).json(&tea("c-1", 1)).send(&server.address).expect(201);
    place.wait_published();
    assert_eq!(consume(&place).applied, 1);
    assert_eq!(server.get(&own).expect(200).json()["state"], "placed");
}

#[test]
fn an_order_that_came_by_another_way_is_shown_and_can_be_changed() {
    let place = Place::new("foreign");
    let server = Server::start(&place);
    let id = Uuid::now_v7().to_string();
    let sent = ["send", "--customer", "c-1", "--item", "TEA-1:2:450", "--order-id", &id];
    assert_eq!(place.command(&sent).output().unwrap().status.code(), Some(0));
    let own = format!("/v1/orders/{id}");
    server.get(&own).problem(404, "order_not_found");
    consume(&place);
    assert_eq!(server.get(&own).expect(200).json()["state"], "placed");
    request("PUT", &own).json(&tea("c-1", 2)).send(&server.address).expect(200);
    request("PUT", &own).json(&tea("c-1", 3)).send(&server.address).expect(200);
    place.wait_published();
    consume(&place);
    let seen = server.get(&own).expect(200).json();
    assert_eq!((&seen["state"], &seen["total_cents"]), (&json!("placed"), &json!(1350)));
    let report = audit(&place);
    assert!(report.holds(), "{}", report.verdict());
}

#[test]
fn of_payments_at_once_for_an_order_that_came_by_another_way_one_is_accepted() {
    let place = Place::new("at-once");
    let server = Server::start(&place);
    for _ in 0..5 {
        let id = Uuid::now_v7().to_string();
        let sent = ["send", "--customer", "c-1", "--item", "TEA-1:2:450", "--order-id", &id];
        assert_eq!(place.command(&sent).output().unwrap().status.code(), Some(0));
        consume(&place);
        let pay = format!("/v1/orders/{id}/pay");
        let mut statuses: Vec<u16> = std::thread::scope(|scope| {
            let send =
                |n: usize| request("POST", &pay).key(&format!("{id}-{n}")).send(&server.address);
            let sent: Vec<_> = (0..8).map(|n| scope.spawn(move || send(n).status)).collect();
            sent.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        statuses.sort_unstable();
        assert_eq!(statuses, [&[202][..], &[409; 7]].concat());
    }
}
