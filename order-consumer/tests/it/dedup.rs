//! One message, however often and in whatever way it arrives, has one outcome.

use order_events::{Envelope, OrderEvent, encode_structured};
use serde_json::Value;

use crate::support::consumer::Consumer;
use crate::support::events::{
    Event, change, content, event, message_id, order_id, placed, with_header, with_id, with_value,
};
use crate::support::poll::{eventually, wait};
use crate::support::world::{World, orders};

/// The counts of a summary: applied, duplicates, dead-lettered, skipped.
fn counts(summary: &Value) -> (i64, i64, i64, i64) {
    let count = |name: &str| summary[name].as_i64().unwrap();
    (count("applied"), count("duplicates"), count("dead_lettered"), count("skipped"))
}

fn paid(order: u128, customer: &str) -> OrderEvent {
    OrderEvent::Paid(change(order, customer))
}

#[test]
fn a_message_delivered_three_times_over_three_runs_is_applied_once() {
    let world = World::new("thrice", 3);
    let order = event(1, &placed(1, "c-1", 2));
    for run in 0..3 {
        world.send(std::slice::from_ref(&order));
        let summary = world.drain(&[]);
        let fresh = i64::from(run == 0);
        assert_eq!(counts(&summary), (fresh, 1 - fresh, 0, 0));
    }
    assert_eq!((world.cents("c-1"), world.claims()), (900, 1));
    assert_eq!(world.audit()["tally"]["duplicates"], 2);
}

#[test]
fn a_message_twice_in_one_batch_is_applied_once() {
    let world = World::new("in_one_batch", 1);
    let order = event(1, &placed(1, "c-1", 2));
    world.send(&[order.clone(), event(2, &placed(2, "c-1", 1)), order.clone(), order]);
    // A fetch may bring them in two parts.
    assert_eq!(counts(&world.drain(&["--batch-linger", "1s"])), (2, 2, 0, 0));
    let batches = "SELECT count(DISTINCT batch_seq) FROM processed_messages";
    assert_eq!(world.number(batches), 1, "it was one batch");
    assert_eq!(world.cents("c-1"), 1350);
    world.audit();
}

/// Claims go in by COPY as long as they are new: it is found out when they are not, and of those
/// that were seen a while ago before.
#[test]
fn in_batches_of_any_size_duplicates_are_found_whether_they_were_seen_or_not() {
    let world = World::new("seen", 1);
    world.send(&orders(0, 200, 7));
    assert_eq!(counts(&world.drain(&[])), (200, 0, 0, 0));
    // All of them again, with new ones in between: another process, which has seen none of them.
    let mixed: Vec<Event> =
        (0..200).flat_map(|n| [orders(n, 1, 7), orders(1000 + n, 1, 7)].concat()).collect();
    world.send(&mixed);
    assert_eq!(counts(&world.drain(&[])), (200, 200, 0, 0));
    // And again, by one that has seen some.
    let mut consumer = Consumer::start(&world, &["--batch-size", "64"]);
    consumer.wait_ready();
    for first in [2000, 2000, 2050] {
        world.send(&[&orders(first, 100, 7), &*mixed].concat());
    }
    world.wait_consumed();
    assert_eq!(counts(&consumer.stop().summary()), (150, 150 + 3 * 400, 0, 0));
    assert_eq!(world.claims(), 550);
    world.audit();
}

#[test]
fn a_table_that_takes_no_copy_is_written_all_the_same() {
    let world = World::new("view", 1);
    wait(world.sql("ALTER TABLE orders RENAME TO orders_rows"));
    wait(world.sql("CREATE VIEW orders AS SELECT * FROM orders_rows"));
    world.send(&orders(0, 200, 7));
    assert_eq!(counts(&world.drain(&[])), (200, 0, 0, 0));
    assert_eq!(world.number("SELECT count(*) FROM orders_rows"), 200);
    world.audit();
}

#[test]
fn the_same_messages_on_two_partitions_at_once_are_applied_once() {
    let world = World::new("two_partitions", 2);
    let all = orders(0, 300, 7);
    world.send_to(0, &all);
    world.send_to(1, &all);
    assert_eq!(counts(&world.drain(&["--batch-size", "10"])), (300, 300, 0, 0));
    assert_eq!(world.number("SELECT sum(spent_cents)::bigint FROM customer_totals"), 300 * 450);
    world.audit();
}

#[test]
fn another_payload_under_a_used_id_is_one_dead_letter_however_often_it_comes() {
    let world = World::new("conflict", 2);
    let original = event(1, &placed(1, "c-1", 2));
    let other = with_value(original.clone(), &event(1, &placed(1, "c-1", 3)).value.unwrap());
    let third = with_value(original.clone(), &event(1, &placed(1, "c-1", 4)).value.unwrap());
    world.send_to(0, &[original.clone(), other.clone(), other.clone(), third.clone()]);
    assert_eq!(counts(&world.drain(&[])), (1, 1, 2, 0));
    let fourth = with_value(original.clone(), &event(1, &placed(1, "c-1", 5)).value.unwrap());
    world.send_to(1, &[other, third, original, fourth]);
    assert_eq!(counts(&world.drain(&[])), (0, 3, 1, 0), "one is told by the database alone");
    assert_eq!(world.dead_letter_codes(), ["id_conflict"; 3]);
    let kept = format!(
        "SELECT count(*) FROM dead_letters WHERE original_id = '{0}' AND message_id <> '{0}'",
        message_id(1)
    );
    assert_eq!(world.number(&kept), 3);
    assert_eq!(world.cents("c-1"), 900, "the first one stands");
    assert_eq!(world.dead_letter_topic().len(), 3);
    world.audit();
}

#[test]
fn paid_and_fulfilled_with_equal_values_and_one_id_are_a_conflict() {
    let world = World::new("type_counts", 1);
    let paid = event(2, &paid(1, "c-1"));
    let fulfilled = event(2, &OrderEvent::Fulfilled(change(1, "c-1")));
    assert_eq!((&paid.key, &paid.value), (&fulfilled.key, &fulfilled.value));
    world.send(&[event(1, &placed(1, "c-1", 1)), paid, fulfilled]);
    assert_eq!(counts(&world.drain(&[])), (2, 0, 1, 0));
    assert_eq!(world.dead_letter_codes(), ["id_conflict"]);
    assert_eq!(world.scalar::<String>("SELECT status FROM orders"), "paid");
    world.audit();
}

#[test]
fn an_order_placed_again_under_a_new_id_has_no_effect_if_equal_and_is_rejected_if_not() {
    let world = World::new("placed_again", 1);
    world.send(&[
        event(1, &placed(1, "c-1", 2)),
        event(2, &placed(1, "c-1", 2)),
        event(3, &placed(1, "c-1", 3)),
    ]);
    world.drain(&["--batch-size", "1"]);
    assert_eq!(world.dead_letter_codes(), ["order_exists"]);
    assert_eq!((world.cents("c-1"), world.claims()), (900, 3));
    let last: uuid::Uuid = world.scalar("SELECT last_message_id FROM orders");
    assert_eq!(last, message_id(1), "the second changed nothing");
    world.audit();
}

#[test]
fn totals_follow_amendment_and_cancellation_and_strangers_are_rejected() {
    let world = World::new("amended", 1);
    world.send_to(
        0,
        &[
            event(1, &placed(1, "c-1", 2)),
            event(2, &OrderEvent::Amended(content(1, "c-1", 5))),
            event(3, &placed(2, "c-1", 1)),
            event(4, &OrderEvent::Cancelled(change(2, "c-1"))),
            event(5, &paid(1, "c-2")),
            event(6, &paid(9, "c-1")),
            event(7, &paid(1, "c-1")),
            event(8, &OrderEvent::Amended(content(1, "c-1", 6))),
        ],
    );
    assert_eq!(counts(&world.drain(&[])), (5, 0, 3, 0));
    let codes = ["customer_mismatch", "order_not_found", "wrong_status"];
    assert_eq!(world.dead_letter_codes(), codes);
    assert_eq!(world.cents("c-1"), 5 * 450);
    let status = format!("SELECT status FROM orders WHERE order_id = '{}'", order_id(1));
    assert_eq!(world.scalar::<String>(&status), "paid");
    world.audit();
}

#[test]
fn messages_with_text_ids_and_without_ids_are_duplicates_after_the_offsets_are_set_back() {
    let world = World::new("set_back", 1);
    let text = |number, source: &str| {
        let event = with_id(event(number, &placed(number, "c-1", 1)), Some("order-7"));
        with_header(event, "ce_source", Some(source.as_bytes()))
    };
    let bare = with_id(event(3, &placed(3, "c-1", 1)), None);
    // Twice the same bytes at two places, and nothing to say that they are one message.
    let twice = with_id(event(4, &OrderEvent::Amended(content(3, "c-1", 2))), None);
    world.send(&[text(1, "/shop-a"), text(2, "/shop-b"), bare, twice.clone(), twice]);
    assert_eq!(counts(&world.drain(&[])), (5, 0, 0, 0));
    world.commit_offset(0, 0);
    assert_eq!(counts(&world.drain(&[])), (0, 5, 0, 0));
    world.delete_group();
    world.drain(&[]);
    assert_eq!((world.cents("c-1"), world.claims()), (4 * 450, 5));
    world.audit();
}

/// An order whose `ce_id` says nothing: it is another one in each record.
fn order_with_own_id(number: u128, id: &str) -> Event {
    let order = event(number, &placed(number, "c-1", 1));
    let fresh = uuid::Uuid::new_v4().to_string();
    with_header(with_id(order, Some(&fresh)), "ID", Some(id.as_bytes()))
}

#[test]
fn messages_are_known_by_a_header_of_the_producers_choice() {
    let world = World::new("id_header", 2);
    let by_header = ["--message-id-from", "header:id"];
    let uuid = message_id(77).to_string();
    let first = [order_with_own_id(1, &uuid), order_with_own_id(2, "order-2")];
    let again = [order_with_own_id(1, &uuid), order_with_own_id(2, "order-2")];
    // Without an id it is what it is: another record, another message, and then an equal order.
    let bare = with_header(order_with_own_id(3, ""), "ID", None);
    world.send(&[&first[..], &again, &[bare.clone(), bare]].concat());
    assert_eq!(counts(&world.drain(&by_header)), (4, 2, 0, 0));
    world.send_to(1, &again);
    assert_eq!(counts(&world.drain(&by_header)), (0, 2, 0, 0));
    world.commit_offset(0, 0);
    world.commit_offset(1, 0);
    assert_eq!(counts(&world.drain(&by_header)), (0, 8, 0, 0));
    assert_eq!((world.cents("c-1"), world.claims()), (3 * 450, 4));
    let known = format!("SELECT count(*) FROM processed_messages WHERE message_id = '{uuid}'");
    assert_eq!(world.number(&known), 1);
    // Whoever asks later takes the mode from the database.
    let story = world.run("show", &["order-2", "-o", "json"]);
    story.succeeded();
    assert_eq!(story.stdout.matches("\"duplicate\"").count(), 2, "{}", story.stdout);
    world.audit();
}

#[test]
fn messages_are_known_by_a_text_or_number_in_their_value() {
    let world = World::new("id_pointer", 1);
    let order = |number: u128, id: &str| {
        let event = order_with_own_id(number, "x");
        let value = String::from_utf8(event.value.clone().unwrap()).unwrap();
        let own = format!(r#"{{"event":{{"a/b":{id}}},{}"#, value.strip_prefix('{').unwrap());
        with_value(event, own.as_bytes())
    };
    // Beyond what a float tells apart.
    let (one, two) = ("12345678901234567890123", "12345678901234567890124");
    world.send(&[order(1, one), order(2, two), order(3, r#""order-3""#), order(1, one)]);
    // The same id with other content, and a value that is no JSON.
    world.send(&[order(4, two), with_value(order(5, "7"), b"{"), order(2, two)]);
    let by_pointer = ["--message-id-from", "json:/event/a~1b"];
    assert_eq!(counts(&world.drain(&by_pointer)), (3, 2, 2, 0));
    assert_eq!(world.dead_letter_codes(), ["id_conflict", "invalid_json"]);
    // By the producer's own text, also where it is no `ce_id`.
    let letter = world.run("dlq", &["show", two]);
    letter.succeeded();
    assert!(letter.stdout.contains("id_conflict"), "{letter:#?}");
    world.commit_offset(0, 0);
    assert_eq!(counts(&world.drain(&by_pointer)), (0, 7, 0, 0));
    assert_eq!((world.cents("c-1"), world.claims()), (3 * 450, 5));
    world.audit();
}

#[test]
fn by_position_a_repeat_of_the_producer_is_a_message_and_one_of_kafka_is_not() {
    let world = World::new("id_position", 1);
    let order = event(1, &placed(1, "c-1", 1));
    let again = event(2, &paid(1, "c-1"));
    world.send(&[order, again.clone(), again]);
    let by_position = ["--message-id-from", "position"];
    assert_eq!(counts(&world.drain(&by_position)), (2, 0, 1, 0));
    assert_eq!(world.dead_letter_codes(), ["wrong_status"]);
    world.commit_offset(0, 0);
    assert_eq!(counts(&world.drain(&by_position)), (0, 3, 0, 0));
    assert_eq!(world.claims(), 3);
    world.audit();
}

#[test]
fn structured_mode_is_the_same_message_as_binary_mode_by_id_and_another_by_content() {
    let world = World::new("structured", 1);
    let structured = |number: u128, id: u128| {
        let envelope = Envelope {
            id: message_id(id).to_string(),
            source: "/test".to_owned(),
            time: time::macros::datetime!(2026-01-03 10:00 UTC),
            traceparent: None,
        };
        let record = encode_structured(&placed(number, "c-1", 1), &envelope);
        let headers = record.headers.iter().map(|(n, v)| (*n, v.as_ref())).collect();
        Event { key: Some(record.key), value: Some(record.value), headers }
    };
    world.send(&[
        event(1, &placed(1, "c-1", 1)),
        structured(2, 2),
        structured(2, 2),
        // Its value is another one, so it cannot be told from a conflict.
        structured(1, 1),
    ]);
    assert_eq!(counts(&world.drain(&[])), (2, 1, 1, 0));
    assert_eq!(world.dead_letter_codes(), ["id_conflict"]);
    world.audit();
}

#[test]
fn an_unknown_type_is_a_dead_letter_or_skipped_as_told() {
    for (choice, expected) in [("dead-letter", (2, 0, 1, 0)), ("skip", (2, 1, 0, 1))] {
        let world = World::new("unknown_type", 1);
        let foreign = event(2, &placed(2, "c-1", 1));
        let foreign = with_header(foreign, "ce_type", Some(b"invoice.sent"));
        let mut events = vec![event(1, &placed(1, "c-1", 1)), foreign.clone()];
        events.extend((choice == "skip").then_some(foreign));
        events.push(event(3, &placed(3, "c-1", 1)));
        world.send(&events);
        assert_eq!(counts(&world.drain(&["--unknown-type", choice])), expected);
        let skipped = "SELECT count(*) FROM processed_messages WHERE outcome = 'skipped'";
        assert_eq!(world.number(skipped), expected.3);
        world.audit();
    }
}

#[test]
fn aborted_transactions_are_never_seen_and_markers_leave_no_lag() {
    let world = World::new("transactional", 1);
    let mut consumer = Consumer::start(&world, &[]);
    consumer.wait_ready();
    world.publish_in_transaction(&orders(0, 20, 3), true);
    world.publish_in_transaction(&orders(100, 20, 3), false);
    world.publish_in_transaction(&orders(200, 20, 3), true);
    world.publish_in_transaction(&orders(300, 20, 3), false);
    // 80 records and 4 markers, of which the last 21 hold nothing to read.
    assert_eq!(world.log_end(0), 84);
    world.wait_consumed();
    assert_eq!(world.next_offset(0), 84);
    eventually("Kafka knows of the end", || world.committed(0) == Some(84));
    assert_eq!(counts(&consumer.stop().summary()), (40, 0, 0, 0));
    assert_eq!(world.claims(), 40);
    world.audit();
}
