//! The gateway dies, and comes back.

use std::sync::Mutex;
use std::time::Duration;

use super::client::{Answer, at_last, request};
use super::server::{Place, Server, tea};
use crate::{eventually, kafka};

/// Clients and what they send.
const CLIENTS: u32 = 6;
const ORDERS: u32 = 25;

/// Places an order and pays it; what was answered until the gateway died.
fn place_and_pay(server: &str, client: u32, order: u32) -> Vec<Answer> {
    let key = format!("{client}/{order}");
    let content = tea(&format!("c-{client}"), order + 1);
    let place = || request("POST", "/v1/orders").key(&key).json(&content).try_send(server);
    let Some(placed) = at_last(place) else { return Vec::new() };
    let pay = format!("{}/pay", placed.header("location").unwrap());
    let paid = at_last(|| request("POST", &pay).key(&format!("{key}/pay")).try_send(server));
    [Some(placed), paid].into_iter().flatten().collect()
}

#[test]
fn killed_under_load_it_gives_each_key_one_order_and_the_same_answer() {
    let place = Place::new("killed");
    let answered: Mutex<Vec<(u32, u32, Vec<Answer>)>> = Mutex::default();
    for round in 0..5 {
        let server = Server::start(&place);
        // Each begins with what it has sent before.
        let enough = answered.lock().unwrap().len() + 10 * (round + 1);
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (address, answered) = (server.address.clone(), &answered);
                scope.spawn(move || {
                    for order in 0..ORDERS {
                        let answers = place_and_pay(&address, client, order);
                        let is_dead = answers.len() < 2;
                        answered.lock().unwrap().push((client, order, answers));
                        if is_dead {
                            break;
                        }
                    }
                });
            }
            // At another moment each time.
            eventually("some are answered", || answered.lock().unwrap().len() >= enough);
            std::thread::sleep(Duration::from_millis(7 * round as u64));
            server.sigkill();
        });
    }
    let server = Server::start(&place);
    let before = answered.into_inner().unwrap();
    for client in 0..CLIENTS {
        for order in 0..ORDERS {
            let last = place_and_pay(&server.address, client, order);
            assert_eq!(last.iter().map(|answer| answer.status).collect::<Vec<_>>(), [201, 202]);
            let earlier = before.iter().filter(|(c, o, _)| (*c, *o) == (client, order));
            for (answer, last) in earlier.flat_map(|(_, _, answers)| answers.iter().zip(&last)) {
                assert_eq!((answer.status, &answer.body), (last.status, &last.body));
            }
        }
    }
    let count: usize = before.iter().map(|(_, _, answers)| answers.len()).sum();
    assert!(count > 10, "{count} answers came before the kills");
    let all = i64::from(CLIENTS * ORDERS);
    assert_eq!(place.number("SELECT count(*) FROM accepted_orders WHERE status = 'paid'"), all);
    place.wait_published();
    let records = kafka::read(&place.topic);
    let ids: std::collections::HashSet<_> =
        records.iter().map(|record| record.header("ce_id").unwrap()).collect();
    assert_eq!(ids.len(), usize::try_from(2 * all).unwrap(), "a repeat in the log has the same id");
}

/// A request that the gateway dies of, `point` being before or behind its commit, and that comes again:
/// its work was done once in the end, and `records` are in the log. `count` tells whether it is done.
#[cfg(feature = "failpoints")]
fn dies_and_answers(
    place: &Place,
    (point, done): (&str, i64),
    request: &super::client::Request<'_>,
    (status, count, records): (u16, &str, i64),
) {
    let server = Server::dying_at(place, point);
    assert_eq!(request.try_send(&server.address), None, "{point}");
    drop(server);
    assert_eq!(place.number(count), done, "{point}");
    let server = Server::start(place);
    let answer = request.send(&server.address).expect(status);
    let replayed = answer.header("idempotency-replayed").is_some();
    assert_eq!(replayed, done == 1, "{point}");
    assert_eq!(request.send(&server.address).body, answer.body);
    place.wait_published();
    assert_eq!(kafka::count(&place.topic), records);
}

/// With `--features failpoints`.
#[cfg(feature = "failpoints")]
#[test]
fn killed_before_or_behind_its_commit_it_gives_one_order_and_one_answer() {
    for point in [("gateway.before_placing", 0), ("gateway.after_placing_before_answer", 1)] {
        let place = Place::new("between");
        let order = request("POST", "/v1/orders").key("k").json(&tea("c", 1));
        let is_placed = "SELECT count(*) FROM accepted_orders";
        dies_and_answers(&place, point, &order, (201, is_placed, 1));
    }
}

/// With `--features failpoints`.
#[cfg(feature = "failpoints")]
#[test]
fn killed_before_or_behind_the_commit_of_a_payment_it_gives_one_and_one_answer() {
    for point in [("gateway.before_commit", 0), ("gateway.after_commit_before_answer", 1)] {
        let place = Place::new("between-pay");
        let server = Server::start(&place);
        let placed = server.place("k", &tea("c", 1)).expect(201);
        server.sigkill();
        let pay = format!("{}/pay", placed.header("location").unwrap());
        let pay = request("POST", &pay).key("pay");
        let is_paid = "SELECT count(*) FROM accepted_orders WHERE status = 'paid'";
        dies_and_answers(&place, point, &pay, (202, is_paid, 2));
    }
}

#[test]
fn a_key_is_kept_for_its_time_and_then_leaves() {
    let place = Place::new("retention");
    let server = Server::start(&place);
    for key in ["old", "young"] {
        server.place(key, &tea("c", 1)).expect(201);
    }
    place.sql(
        "UPDATE idempotency_keys
            SET created_at = now() - CASE key WHEN 'old' THEN interval '49h' ELSE interval '47h' END",
    );
    server.sigkill();
    let server = Server::start(&place);
    let keys = "SELECT count(*) FROM idempotency_keys";
    crate::eventually("the old key leaves", || place.number(keys) == 1);
    let young = server.place("young", &tea("c", 1)).expect(201);
    assert_eq!(young.header("idempotency-replayed"), Some("true"));
    let short = place.command(&["serve", "--no-auth", "--key-retention", "23h"]).output().unwrap();
    assert_eq!(short.status.code(), Some(2), "clients rely on a day");
}

#[test]
fn sigterm_answers_what_is_under_way_and_ends_with_0() {
    let place = Place::new("sigterm");
    let server = Server::start(&place);
    place.slow_orders(4);
    let address = server.address.clone();
    let sent = std::thread::spawn(move || {
        request("POST", "/v1/orders").key("k").json(&tea("c", 1)).send(&address)
    });
    place.wait_until_slow();
    let (code, log) = server.stop();
    assert_eq!(code, Some(0), "{log}");
    sent.join().unwrap().expect(201);
    assert_eq!(place.number("SELECT count(*) FROM accepted_orders"), 1);
}
