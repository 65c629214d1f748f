//! Broker and database die, come back, and go back in time.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::support::consumer::Consumer;
use crate::support::events::{event, placed, with_value};
use crate::support::load::Load;
use crate::support::poll::eventually;
use crate::support::stacks::{QUICK, Victim};
use crate::support::unique;
use crate::support::world::{World, orders, text};

const SMALL: [&str; 6] = [QUICK[0], QUICK[1], QUICK[2], QUICK[3], "--batch-size", "20"];

/// A consumer at work on a load, while `disturb` does its worst, twice.
fn disturbed(what: &str, disturb: impl Fn(&Victim, &mut Consumer)) {
    let stack = Victim::take();
    let world = Arc::new(World::on(stack.endpoints(), what, 3));
    let load = Load::start(&world, 0);
    let mut consumer = Consumer::start(&world, &SMALL);
    for _ in 0..2 {
        let seen = world.claims();
        eventually("it works", || world.claims() > seen + 60);
        disturb(&stack, &mut consumer);
        stack.check().unwrap();
        consumer.wait_ready();
    }
    load.wait_more(100);
    load.stop();
    world.wait_consumed();
    consumer.stop().summary();
    world.audit();
}

/// Where Kafka cannot be reached it asks for a while before it gives up.
#[test]
fn a_consumer_that_is_told_to_stop_before_it_has_begun_ends_well() {
    let world = World::new("stopped_early", 1);
    let nowhere =
        ["--bootstrap-servers", "127.0.0.1:1", "--notifications-topic", "stopped_early.told"];
    let consumer = Consumer::start(&world, &nowhere);
    eventually("it listens", || consumer.says("health and metrics on"));
    assert_eq!(consumer.stop().summary()["events"], 0);
}

#[test]
fn postgresql_killed_and_restarted_in_mid_stream() {
    disturbed("postgres_killed", |stack, consumer| {
        stack.postgres().kill();
        consumer.wait_unready("database");
        stack.postgres().start().unwrap();
    });
}

#[test]
fn kafka_killed_and_restarted_in_mid_stream() {
    disturbed("kafka_killed", |stack, consumer| {
        stack.kafka().kill();
        consumer.wait_unready("kafka");
        stack.kafka().start().unwrap();
    });
}

#[test]
fn both_killed_and_restarted_in_mid_stream() {
    disturbed("both_killed", |stack, consumer| {
        stack.postgres().kill();
        stack.kafka().kill();
        consumer.wait_unready("kafka");
        stack.kafka().start().unwrap();
        stack.postgres().start().unwrap();
    });
}

/// Where PostgreSQL's state is kept. Removed at the end.
struct Kept(PathBuf);

impl Kept {
    fn new() -> Self {
        Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique("snapshot")))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_database_set_back_is_caught_up_from_kafka_whose_offsets_stand_ahead() {
    let stack = Victim::take();
    let world = World::on(stack.endpoints(), "set_back", 2);
    let kept = Kept::new();
    let mut consumer = Consumer::start(&world, &QUICK);
    consumer.wait_ready();
    world.send(&orders(0, 200, 5));
    world.wait_consumed();
    stack.postgres().snapshot(&kept.0).unwrap();
    world.send(&orders(200, 199, 5));
    world.send(&[with_value(event(399, &placed(399, "c-1", 1)), b"no JSON")]);
    world.wait_consumed();
    let all_committed =
        || (0..2).all(|partition| world.committed(partition) == Some(world.log_end(partition)));
    eventually("Kafka has the offsets", all_committed);

    // With a consumer that is there and idle: nothing new arrives to wake it.
    stack.postgres().restore(&kept.0).unwrap();
    eventually("it is caught up", || world.claims() == 400);
    world.wait_consumed();
    world.audit();

    // And without one, and something new.
    assert_eq!(consumer.stop().code, Some(0));
    stack.postgres().restore(&kept.0).unwrap();
    assert!(all_committed());
    world.send(&orders(400, 50, 5));
    let summary = world.drain(&QUICK);
    assert_eq!((&summary["applied"], &summary["dead_lettered"]), (&249.into(), &1.into()));
    // Written three times, and one dead letter to whoever reads the topic.
    let mut ids: Vec<String> = world
        .dead_letter_topic()
        .iter()
        .map(|copy| text(&copy.headers, "dlq-id").to_owned())
        .collect();
    assert_eq!(ids.len(), 3);
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
    world.audit();
}
