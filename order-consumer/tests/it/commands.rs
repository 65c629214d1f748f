//! What an operator looks at: `status`, `show`, `dlq list` and `dlq show`.

mod dlq;
mod show;
mod status;

use order_events::OrderEvent;
use serde_json::Value;

use crate::support::events::{Event, change, event, placed, with_value};
use crate::support::world::World;
use crate::support::{Place, Ran};

/// Nobody listens there.
const NOWHERE: &str = "127.0.0.1:1";

fn paid(order: u128, customer: &str) -> OrderEvent {
    OrderEvent::Paid(change(order, customer))
}

/// Two events of order 1, the second doubled, two that are dead-lettered, one of them poison that
/// names its order, and order 2 under the id of the first event.
fn history() -> Vec<Event> {
    let poison = with_value(event(5, &placed(1, "c-1", 1)), &poison_value());
    vec![
        event(1, &placed(1, "c-1", 2)),
        event(2, &paid(1, "c-1")),
        event(2, &paid(1, "c-1")),
        event(3, &paid(1, "c-1")),
        poison,
        event(1, &placed(2, "c-1", 9)),
    ]
}

fn poison_value() -> Vec<u8> {
    let order_id = crate::support::events::order_id(1);
    format!(r#"{{"order_id":"{order_id}","customer_id":"c-1","items":"none"}}"#).into_bytes()
}

/// A world where all of that was consumed.
fn world(what: &str) -> World {
    let world = World::new(what, 1);
    world.send(&history());
    world.drain(&[]);
    world
}

/// What the command says as JSON, and that it ends with this code.
#[track_caller]
fn json(place: &Place, code: i32, command: &str, arguments: &[&str]) -> Value {
    let ran = place.run(command, &[arguments, &["-o", "json"]].concat());
    assert_eq!(ran.code, code, "{ran:#?}");
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:#?}"))
}

/// Runs the command where Kafka cannot be reached.
fn without_kafka(place: &Place, command: &str, arguments: &[&str]) -> Ran {
    place.run(command, &[arguments, &["--bootstrap-servers", NOWHERE]].concat())
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}
