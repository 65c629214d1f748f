//! How often, and how many at once.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::client::request;
use super::server::{Place, Server, tea};
use crate::eventually;

#[test]
fn who_comes_too_often_is_told_when_to_come_again() {
    let place = Place::new("rate");
    let server = Server::with(&place, &["--no-auth", "--rate-per-address", "1"]);
    let path = "/v1/orders?customer_id=c";
    let first = server.get(path).expect(200);
    assert_eq!(first.header("ratelimit-policy"), Some("\"address\";q=10;w=10"));
    assert_eq!(first.header("ratelimit"), Some("\"address\";r=9;t=1"));
    let answers: Vec<_> = (0..20).map(|_| server.get(path)).collect();
    let refused = answers.iter().find(|answer| answer.status == 429).unwrap();
    assert_eq!(refused.header("retry-after"), Some("1"));
    refused.clone().problem(429, "rate_limited");
    // What watches over the gateway is not counted.
    server.get("/readyz").expect(200);
    std::thread::sleep(Duration::from_millis(1100));
    server.get(path).expect(200);
}

#[test]
fn connections_beyond_the_limit_wait_until_one_is_closed() {
    let place = Place::new("connections");
    let server = Server::with(&place, &["--no-auth", "--max-connections", "2"]);
    let silent: Vec<_> = (0..2).map(|_| TcpStream::connect(&server.address).unwrap()).collect();
    std::thread::scope(|scope| {
        let third = scope.spawn(|| server.get("/livez"));
        std::thread::sleep(Duration::from_millis(500));
        assert!(!third.is_finished());
        drop(silent);
        third.join().unwrap().expect(200);
    });
}

#[test]
fn a_head_that_never_ends_is_given_up() {
    let place = Place::new("head");
    let server = Server::start(&place);
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: ").unwrap();
    let mut rest = Vec::new();
    let began = Instant::now();
    // However it says so: the connection is over.
    let _ = stream.read_to_end(&mut rest);
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    assert!(!rest.starts_with(b"HTTP/1.1 200"), "{rest:?}");
}

#[test]
fn more_requests_than_there_are_places_for_are_sent_away_at_once() {
    let place = Place::new("crowd");
    let server = Server::with(&place, &["--no-auth", "--max-requests", "1"]);
    place.slow_orders(4);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| server.place("k", &tea("c", 1)));
        place.wait_until_slow();
        let second = request("GET", "/v1/orders?customer_id=c").send(&server.address);
        assert!(second.header("retry-after").is_some());
        second.problem(503, "overloaded");
        server.get("/livez").expect(200);
        first.join().unwrap().expect(201);
    });
    server.get("/v1/orders?customer_id=c").expect(200);
}

#[test]
fn a_request_whose_client_has_gone_keeps_its_place_until_its_work_has_ended() {
    let place = Place::new("gone");
    let server = Server::with(&place, &["--no-auth", "--max-requests", "1"]);
    place.slow_orders(4);
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let order = request("POST", "/v1/orders").key("k").json(&tea("c", 1));
    stream.write_all(&order.bytes()).unwrap();
    place.wait_until_slow();
    drop(stream);
    std::thread::sleep(Duration::from_millis(300));
    server.get("/v1/orders?customer_id=c").problem(503, "overloaded");
    eventually("its work has ended", || server.get("/v1/orders?customer_id=c").status == 200);
    assert_eq!(place.number("SELECT count(*) FROM accepted_orders"), 1);
}
