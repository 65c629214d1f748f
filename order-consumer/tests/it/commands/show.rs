//! `show`.

use serde_json::{Value, json as value};

use super::{assert_says, json, paid, without_kafka, world};
use crate::support::events::{event, message_id, order_id, placed, with_id};
use crate::support::poll::wait;
use crate::support::world::World;

/// Offset and outcome of each record told of.
fn outcomes(story: &Value) -> Vec<(i64, &str)> {
    let records = story["records"].as_array().unwrap();
    records
        .iter()
        .map(|record| (record["offset"].as_i64().unwrap(), record["outcome"].as_str().unwrap()))
        .collect()
}

#[test]
fn an_orders_story_has_every_event_and_what_became_of_it() {
    let world = world("show_order");
    world.send(&[event(8, &paid(1, "c-1"))]);
    let story = json(&world, 0, "show", &[&order_id(1).to_string()]);
    assert_eq!(story["kind"], "order");
    assert_eq!(
        outcomes(&story),
        [
            (0, "applied"),
            (1, "applied"),
            (2, "duplicate"),
            (3, "dead_lettered"),
            (4, "dead_lettered"),
            (6, "pending")
        ],
        "{story:#}"
    );
    let records = &story["records"];
    assert_eq!(records[0]["type"], "order.placed");
    assert_eq!(records[0]["message_id"], message_id(1).to_string());
    assert!(records[0]["claim"]["batch_seq"].as_i64().unwrap() > 0);
    assert_eq!(records[2]["claim"]["offset"], 1, "of which it is a duplicate");
    assert_eq!(records[4]["dead_letter"]["error_code"], "invalid_field");
    assert_eq!(story["orders"][0]["status"], "paid");
    assert_eq!(story["customer_totals"][0]["spent_cents"], 900);
    assert_eq!(story["looked_through"]["records"], 7);

    let text = world.run("show", &[&order_id(1).to_string()]).stdout;
    assert_says(
        &text,
        &[
            "applied 20",
            "duplicate of",
            "pending",
            "invalid_field",
            "paid, customer c-1, 900 cents EUR",
        ],
    );
}

#[test]
fn a_messages_story_tells_the_conflict_from_the_first_with_its_id() {
    let world = world("show_conflict");
    let story = json(&world, 0, "show", &[&message_id(1).to_string()]);
    assert_eq!(story["kind"], "message");
    assert_eq!(outcomes(&story), [(0, "applied"), (5, "id_conflict")]);
    let conflict = &story["records"][1];
    assert_eq!(conflict["conflicts_with"]["offset"], 0);
    // The conflict's own id, and the dlq id, lead to the same record.
    for id in ["message_id", "dlq_id"] {
        let id = conflict["dead_letter"][id].as_str().unwrap();
        assert_eq!(outcomes(&json(&world, 0, "show", &[id])), [(5, "id_conflict")]);
    }
}

#[test]
fn a_producers_own_id_text_finds_its_message() {
    let world = World::new("show_text_id", 3);
    let order = with_id(event(1, &placed(1, "c-1", 1)), Some("order-7"));
    world.send(&[order, event(2, &paid(1, "c-1"))]);
    world.drain(&[]);
    let story = json(&world, 0, "show", &["order-7"]);
    assert_eq!(outcomes(&story), [(0, "applied")]);
    assert_eq!(story["records"][0]["producer_id"], "order-7");
    assert_eq!(story["orders"][0]["order_id"], order_id(1).to_string());
}

#[test]
fn before_any_run_everything_is_pending() {
    let world = World::new("show_pending", 3);
    world.send(&[event(1, &placed(1, "c-1", 1)), event(2, &paid(1, "c-1"))]);
    let story = json(&world, 0, "show", &[&order_id(1).to_string()]);
    assert_eq!(outcomes(&story), [(0, "pending"), (1, "pending")]);
}

#[test]
fn records_of_a_topic_created_anew_are_pending_until_it_is_accepted() {
    let world = world("show_anew");
    world.delete_topic(&world.topic);
    world.create_topic_with(&world.topic, 1, &[]);
    world.send(&[event(9, &placed(9, "c-1", 1))]);
    let show = || json(&world, 0, "show", &[&order_id(9).to_string()]);
    assert_eq!(outcomes(&show()), [(0, "pending")]);
    world.run("accept", &[]).succeeded();
    world.drain(&[]);
    assert_eq!(outcomes(&show()), [(0, "applied")]);
}

#[test]
fn a_record_without_its_outcome_is_called_missing() {
    let world = world("show_missing");
    wait(world.sql(r#"DELETE FROM processed_messages WHERE "offset" = 1"#));
    let story = json(&world, 0, "show", &[&message_id(2).to_string()]);
    assert_eq!(outcomes(&story), [(1, "missing"), (2, "missing")]);
    assert_says(
        &world.run("show", &[&message_id(2).to_string()]).stdout,
        &["order-consumer verify"],
    );
}

#[test]
fn what_retention_deleted_is_told_by_its_claim() {
    let world = world("show_deleted");
    wait(world.delete_records_before(&world.topic, 0, 4));
    let story = json(&world, 0, "show", &[&message_id(3).to_string()]);
    assert_eq!((&story["kind"], &story["records"]), (&value!("message"), &value!([])));
    let outcome = &story["without_record"][0];
    assert_eq!(
        (&outcome["claim"]["offset"], &outcome["claim"]["outcome"]),
        (&value!(3), &value!("dead_lettered"))
    );
    assert_eq!(outcome["dead_letter"]["state"], "open");
    let text = world.run("show", &[&message_id(3).to_string()]).stdout;
    assert_says(&text, &["not in the log any more, which begins at offset 4", "dead-lettered"]);

    let story = json(&world, 0, "show", &[&order_id(1).to_string()]);
    assert_eq!(outcomes(&story), [(4, "dead_lettered")]);
    assert_eq!(story["without_record"][0]["claim"]["message_id"], message_id(2).to_string());
}

#[test]
fn without_kafka_the_database_tells_what_it_knows() {
    let world = world("show_no_kafka");
    let ran = without_kafka(&world, "show", &[&order_id(1).to_string()]);
    assert_eq!(ran.code, 1, "{ran:#?}");
    assert_says(&ran.stderr, &["the log was not read to its end", "no answer from Kafka"]);
    assert_says(
        &ran.stdout,
        &["paid, customer c-1", &message_id(2).to_string(), "which was not read"],
    );
}

#[test]
fn an_id_nobody_knows_is_answered_with_what_was_looked_through() {
    let world = world("show_nothing");
    let ran = world.run("show", &["nobody\u{1b}[2J"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
    assert_says(
        &ran.stderr,
        &["nothing is known of nobody\\u{1b}[2J", "6 records", "table orders"],
    );
    let story = json(&world, 1, "show", &[&order_id(99).to_string()]);
    assert_eq!((&story["kind"], &story["records"]), (&value!(null), &value!([])));
}

#[test]
fn more_records_than_the_limit_are_counted() {
    let world = world("show_limit");
    let story = json(&world, 0, "show", &["--limit", "2", &order_id(1).to_string()]);
    assert_eq!(outcomes(&story), [(0, "applied"), (1, "applied")]);
    assert_eq!((&story["more_records"], &story["without_record"]), (&value!(3), &value!([])));
}
