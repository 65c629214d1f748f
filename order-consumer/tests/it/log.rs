//! What became of a message stands in the log, with its ids and nothing of its content.

use order_events::OrderEvent;
use serde_json::Value;

use crate::support::broken::break_customer;
use crate::support::consumer::Consumer;
use crate::support::events::{
    Event, change, event, message_id, order_id, placed, with_header, with_value,
};
use crate::support::poll::wait;
use crate::support::world::World;

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";

fn traced(event: Event) -> Event {
    let traceparent = format!("00-{TRACE_ID}-b7ad6b7169203331-01");
    with_header(event, "traceparent", Some(traceparent.as_bytes()))
}

#[test]
fn lines_name_the_message_the_order_and_the_trace_and_no_customer() {
    let world = World::new("log", 1);
    wait(break_customer(&world, "c-broken-4"));
    let unknown = OrderEvent::Paid(change(2, "c-unknown-2"));
    world.send(&[
        traced(event(1, &placed(1, "c-good-1", 1))),
        traced(event(2, &unknown)),
        traced(with_value(
            event(3, &placed(3, "c-poison-3", 1)),
            b"{\"customer_id\":\"c-poison-3\"",
        )),
        event(4, &placed(4, "c-broken-4", 1)),
    ]);
    let retries = ["--max-attempts", "2", "--retry-backoff", "100ms"];
    let mut command =
        world.command("run", &["-o", "json", "--exit-when-idle", "2s", "--log-format", "json"]);
    command.args(retries).env("RUST_LOG", "idempotent_consumer=debug");
    let ended = Consumer::of(command, "log").wait();
    ended.summary();

    let lines: Vec<Value> =
        ended.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = |number: u128| -> Vec<&Value> {
        let id = message_id(number).to_string();
        lines.iter().filter(|line| line["message_id"] == id.as_str()).collect()
    };
    let says = |number: u128| -> Vec<(&str, Option<&str>)> {
        told(number)
            .into_iter()
            .map(|line| (line["message"].as_str().unwrap(), line["code"].as_str()))
            .collect()
    };
    assert_eq!(says(1), [("applied", None)]);
    assert_eq!(says(2), [("dead-lettered", Some("order_not_found"))]);
    assert_eq!(says(3), [("dead-lettered", Some("invalid_json"))]);
    let again = ("failed; another attempt follows", Some("sqlstate_57014"));
    assert_eq!(says(4), [again, ("dead-lettered", Some("sqlstate_57014"))]);

    for number in [1, 2, 4] {
        let order = order_id(number).to_string();
        assert!(told(number).iter().all(|line| line["subject"] == order.as_str()));
    }
    assert!(told(3)[0].get("subject").is_none(), "poison has no order");
    for number in [1, 2, 3] {
        assert_eq!(told(number)[0]["trace_id"], TRACE_ID);
    }
    assert!(told(4)[0].get("trace_id").is_none());
    for customer in ["c-good-1", "c-unknown-2", "c-poison-3", "c-broken-4"] {
        assert!(!ended.stderr.contains(customer), "{customer} in {}", ended.stderr);
    }
}
