//! Dead letters that are published again: one effect at most, in the order of their key, nothing
//! lost and nothing stuck.

mod lost;

use idempotent_consumer::{Headers, Record};
use order_events::OrderEvent;
use serde_json::Value;
use uuid::Uuid;

use crate::support::broken::{PATIENT, break_customer, mend_customer};
use crate::support::consumer::Consumer;
use crate::support::events::{
    Event, change, content, event, message_id, placed, with_id, with_value,
};
use crate::support::poll::{eventually, wait};
use crate::support::stacks::{QUICK, quick};
use crate::support::world::{World, text};
use crate::support::{Place, Ran};

fn paid(number: u128, order: u128, customer: &str) -> Event {
    event(number, &OrderEvent::Paid(change(order, customer)))
}

fn redrive(place: &Place, arguments: &[&str]) -> Ran {
    place.run("dlq", &[&["redrive", "-o", "json", "--by", "alice"], arguments].concat())
}

/// The fates in a report, in its order.
#[track_caller]
fn fates(ran: &Ran) -> Vec<String> {
    let lines: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:#?}"));
    let lines = lines.as_array().unwrap().iter();
    lines.map(|line| line["fate"].as_str().unwrap().to_owned()).collect()
}

fn states(world: &World) -> Vec<(String, i32)> {
    world.rows(r#"SELECT state, redrive_count FROM dead_letters ORDER BY partition, "offset""#)
}

/// One letter: `order.paid` for an order that comes only afterwards, as message 2.
fn paid_too_early(what: &str) -> World {
    early(World::new(what, 1))
}

fn early(world: World) -> World {
    world.send(&[paid(2, 1, "c-1"), event(1, &placed(1, "c-1", 2))]);
    world.drain(&[]);
    assert_eq!(world.dead_letter_codes(), ["order_not_found"]);
    world
}

fn status(world: &World) -> String {
    world.scalar("SELECT status FROM orders")
}

fn redriven_copies(world: &World) -> i64 {
    world.log_end(0)
}

#[test]
fn a_redriven_message_is_applied_once_and_everything_else_with_its_id_is_a_duplicate() {
    let world = paid_too_early("redrive");
    let ran = redrive(&world, &["--all"]);
    assert_eq!((ran.code, fates(&ran)), (0, vec!["redriven".to_owned()]), "{ran:#?}");
    // Twice, before and after it was applied: nothing more is published.
    assert_eq!(fates(&redrive(&world, &["--all"])), ["already"]);
    // The copy waits in the outbox, which is no violation.
    assert_eq!(world.run("verify", &[]).code, 0);
    // The original again, by its producer, on both sides of the copy.
    world.send(&[paid(2, 1, "c-1")]);
    world.drain(&[]);
    world.send(&[paid(2, 1, "c-1")]);
    world.drain(&[]);
    assert_eq!(status(&world), "paid");
    assert_eq!(states(&world), [("resolved".to_owned(), 1)]);
    assert_eq!(fates(&redrive(&world, &[&message_id(2).to_string()])), ["already"]);
    // The story tells the record that died from those that were sent again.
    let story = world.run("show", &[&message_id(2).to_string()]).stdout;
    assert_eq!(story.matches("dead-lettered; its redriven copy, ").count(), 1, "{story}");
    assert_eq!(story.matches("duplicate of ").count(), 2, "{story}");
    assert_eq!(world.number("SELECT count(*) FROM outbox"), 0);
    // Everything is read again.
    world.commit_offset(0, 0);
    world.drain(&[]);
    assert_eq!(world.cents("c-1"), 900);
    let report = world.audit();
    let tally = &report["tally"];
    assert_eq!((&tally["applied"], &tally["dead_lettered"]), (&2.into(), &0.into()), "{report:#}");
    let by: String = world.scalar("SELECT state_changed_by FROM dead_letters");
    assert_eq!(by, "alice");
}

#[test]
fn what_is_wanted_is_reported_with_the_end_of_each_and_a_dry_run_changes_nothing() {
    let world = paid_too_early("report");
    world.send(&[event(1, &placed(9, "c-1", 9)), with_value(event(3, &placed(3, "c-1", 1)), b"{")]);
    let consumer = Consumer::start(&world, &[]);
    world.wait_consumed();
    let ran = redrive(&world, &["--all", "--dry-run"]);
    let mut would = fates(&ran);
    would.sort();
    assert_eq!(
        (ran.code, would),
        (4, ["refused", "would redrive", "would redrive"].map(str::to_owned).to_vec())
    );
    assert!(ran.stdout.contains("id_conflict"), "{ran:#?}");
    assert!(states(&world).iter().all(|(state, _)| state == "open"));
    let ran = redrive(&world, &["--code", "id_conflict"]);
    assert_eq!((ran.code, fates(&ran)), (4, vec!["refused".to_owned()]), "{ran:#?}");

    let ids = [message_id(2), message_id(3), Uuid::nil()].map(|id| id.to_string());
    let ran = redrive(&world, &["--wait", "60s", "--rate", "50", &ids[0], &ids[1], &ids[2]]);
    let mut ended = fates(&ran);
    ended.sort();
    assert_eq!(
        (ran.code, ended),
        (4, ["applied", "dead-lettered again", "refused"].map(str::to_owned).to_vec()),
        "{ran:#?}"
    );
    assert_eq!(
        fates(&redrive(&world, &["--code", "order_not_found", "--since", "1h"])),
        ["already"]
    );
    assert_eq!(fates(&redrive(&world, &["--until", "1h"])), Vec::<String>::new());
    for wrong in
        [&[][..], &["--all", "--code", "x"], &["--all", &ids[0]], &[&ids[0], "--since", "1h"]]
    {
        assert_eq!(redrive(&world, wrong).code, 2, "{wrong:?}");
    }
    consumer.stop().summary();
    world.audit();
}

#[test]
fn a_message_that_is_dead_again_is_open_again_under_a_dlq_id_of_its_own() {
    let world = World::new("again", 1);
    world.send(&[paid(2, 1, "c-1")]);
    let consumer = Consumer::start(&world, &[]);
    world.wait_consumed();
    for round in 1..=2 {
        let ran = redrive(&world, &["--all", "--wait", "60s"]);
        assert_eq!(
            (ran.code, fates(&ran)),
            (4, vec!["dead-lettered again".to_owned()]),
            "{ran:#?}"
        );
        assert_eq!(states(&world), [("open".to_owned(), round)]);
    }
    world.wait_consumed();
    let copies = world.dead_letter_topic();
    let mut ids: Vec<&str> = copies.iter().map(|copy| text(&copy.headers, "dlq-id")).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 3);
    // By the first id, too.
    let first = text(&copies[0].headers, "dlq-id");
    assert_eq!(world.run("dlq", &["show", first]).code, 0);
    world.send(&[event(1, &placed(1, "c-1", 2))]);
    world.wait_consumed();
    let ran = redrive(&world, &["--wait", "60s", first]);
    assert_eq!((ran.code, fates(&ran)), (0, vec!["applied".to_owned()]), "{ran:#?}");
    consumer.stop().summary();
    // All copies, and the original, once more.
    world.commit_offset(0, 0);
    world.drain(&[]);
    assert_eq!(
        (status(&world).as_str(), states(&world)),
        ("paid", vec![("resolved".to_owned(), 3)])
    );
    world.audit();
}

#[test]
fn a_message_known_by_its_place_keeps_its_id_at_the_place_of_the_copy() {
    let world = World::new("by_place", 1);
    let anonymous = |event| with_id(event, None);
    world.send(&[anonymous(paid(2, 1, "c-1")), anonymous(event(1, &placed(1, "c-1", 2)))]);
    let by = ["--message-id-from", "position"];
    world.drain(&by);
    redrive(&world, &["--all"]).succeeded();
    world.drain(&by);
    assert_eq!(status(&world), "paid");
    world.commit_offset(0, 0);
    world.drain(&by);
    assert_eq!(world.claims(), 2);
    world.audit();
}

#[test]
fn a_copy_that_the_topic_refuses_opens_its_dead_letter_again_and_holds_nothing_up() {
    let world = World::of(Place::on(local_stack::shared(), "too_large"));
    world.create_topic_with(&world.topic, 1, &[]);
    world.create_topic_with(&world.dlq_topic, 1, &[]);
    let mut noise = 1_u64;
    let large: Vec<u8> = std::iter::repeat_with(|| {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        noise.to_be_bytes()[0]
    })
    .take(50_000)
    .collect();
    let world = early(world);
    world.send(&[with_value(event(7, &placed(7, "c-1", 1)), &large)]);
    let consumer = Consumer::start(&world, &[]);
    world.wait_consumed();
    world.alter_topic(&world.topic, "max.message.bytes", "20000");
    let ran = redrive(&world, &["--all", "--wait", "60s"]);
    let mut ended = fates(&ran);
    ended.sort();
    assert_eq!(
        (ran.code, ended),
        (4, ["applied", "not published"].map(str::to_owned).to_vec()),
        "{ran:#?}"
    );
    assert_eq!(states(&world), [("resolved".to_owned(), 1), ("open".to_owned(), 0)]);
    assert_eq!(world.number("SELECT count(*) FROM outbox"), 0);
    consumer.stop().summary();
    world.audit();
}

/// Every record again that redrive published: key, value and headers.
fn copy_of(place: &World, number: u128, count: &str, original: Event) -> Event {
    let mut headers: Headers = original.headers;
    headers.push("dlq-message-id", Some(message_id(number).to_string().as_bytes()));
    headers.push("dlq-redrive-count", Some(count.as_bytes()));
    headers.push("dlq-consumer-group", Some(place.group.as_bytes()));
    Event { headers, ..original }
}

#[test]
fn forged_copies_copies_of_other_groups_and_repeats_do_nothing() {
    let world = paid_too_early("forged");
    let copy = |count| copy_of(&world, 2, count, paid(2, 1, "c-1"));
    let mut foreign = copy("7");
    foreign.headers.push("dlq-consumer-group", Some(b"another"));
    world.send(&[
        // Of a message that was applied.
        copy_of(&world, 1, "1", event(1, &placed(1, "c-1", 2))),
        foreign,
        // With the headers of the dead letter, and another message.
        copy_of(&world, 2, "7", event(5, &placed(5, "c-1", 1))),
    ]);
    let summary = world.drain(&[]);
    assert_eq!((&summary["applied"], &summary["duplicates"]), (&1.into(), &2.into()), "{summary}");
    assert_eq!(states(&world), [("open".to_owned(), 0)]);
    redrive(&world, &["--all"]).succeeded();
    world.drain(&[]);
    // The relay published it twice; and once more after all.
    world.send(&[copy("1"), copy("1"), copy("2")]);
    world.drain(&[]);
    assert_eq!(states(&world), [("resolved".to_owned(), 1)]);
    assert_eq!((status_of_1(&world).as_str(), world.cents("c-1")), ("paid", 900 + 450));
    world.audit();
}

fn status_of_1(world: &World) -> String {
    world.scalar("SELECT status FROM orders WHERE total_cents = 900")
}

#[test]
fn a_copy_that_comes_twice_in_one_batch_is_applied_once() {
    let world = paid_too_early("twice");
    wait(world.sql(
        "UPDATE dead_letters SET state = 'redriven', redrive_count = 1, state_changed_at = now()",
    ));
    let copy = copy_of(&world, 2, "1", paid(2, 1, "c-1"));
    world.send(&[copy.clone(), paid(2, 1, "c-1"), copy]);
    let summary = world.drain(&[]);
    assert_eq!((&summary["applied"], &summary["duplicates"]), (&1.into(), &2.into()), "{summary}");
    world.audit();
}

#[test]
fn a_copy_that_has_to_wait_waits_in_its_place_and_is_applied_in_its_order() {
    let world = World::new("waits", 1);
    world.send(&[
        event(2, &OrderEvent::Amended(content(1, "c-1", 5))),
        event(1, &placed(1, "c-1", 2)),
    ]);
    world.drain(&[]);
    wait(break_customer(&world, "c-1"));
    redrive(&world, &["--all"]).succeeded();
    let consumer = Consumer::start(&world, &PATIENT);
    world.wait_consumed();
    eventually("it waits", || world.number("SELECT count(*) FROM retry_queue") == 1);
    world.send(&[paid(3, 1, "c-1")]);
    world.wait_consumed();
    assert_eq!(world.number("SELECT count(*) FROM retry_queue"), 2);
    assert_eq!(world.run("dlq", &["discard", "--all"]).code, 4, "its redrive is under way");
    assert_eq!(world.run("verify", &[]).code, 0);
    // Read again while it waits.
    consumer.stop().summary();
    world.commit_offset(0, 0);
    let consumer = Consumer::start(&world, &PATIENT);
    eventually("all were read again", || {
        world.number("SELECT sum(duplicates)::bigint FROM partition_progress") >= 4
    });
    assert_eq!(states(&world), [("redriven".to_owned(), 1)]);
    wait(mend_customer(&world));
    world.run("retries", &["now", "--all"]).succeeded();
    eventually("nothing waits", || world.number("SELECT count(*) FROM retry_queue") == 0);
    consumer.stop().summary();
    assert_eq!(states(&world), [("resolved".to_owned(), 1)]);
    assert_eq!((status(&world).as_str(), world.cents("c-1")), ("paid", 5 * 450));
    world.audit();
}

#[test]
fn a_discarded_message_is_not_redriven_but_by_its_id() {
    let world = paid_too_early("discard");
    let ran = world.run("dlq", &["discard", "--code", "order_not_found", "--dry-run"]);
    assert!(ran.code == 0 && ran.stdout.contains("would discard"), "{ran:#?}");
    world.run("dlq", &["discard", "--all", "--by", "bob"]).succeeded();
    assert_eq!(states(&world), [("discarded".to_owned(), 0)]);
    assert_eq!(fates(&redrive(&world, &["--all"])), ["already"]);
    // It keeps its claim.
    world.send(&[paid(2, 1, "c-1")]);
    world.drain(&[]);
    assert_eq!(status(&world), "placed");
    world.audit();
    redrive(&world, &[&message_id(2).to_string()]).succeeded();
    world.drain(&[]);
    assert_eq!(
        (status(&world).as_str(), states(&world)),
        ("paid", vec![("resolved".to_owned(), 1)])
    );
    world.audit();
}

#[test]
fn a_database_set_back_finds_what_was_redriven_in_the_log() {
    let world = World::new("set_back", 1);
    // Twice in vain, then with success; and one whose redrive the database forgets half of.
    world.send(&[paid(2, 1, "c-1"), event(9, &placed(9, "c-9", 1))]);
    world.drain(&[]);
    let early = World::of(wait(world.with_copied_database()));
    redrive(&world, &["--all"]).succeeded();
    world.drain(&[]);
    assert_eq!(states(&world), [("open".to_owned(), 1)]);
    world.send(&[event(1, &placed(1, "c-1", 2))]);
    redrive(&world, &["--all"]).succeeded();
    let marked = World::of(wait(world.with_copied_database()));
    world.drain(&[]);
    assert_eq!(states(&world), [("resolved".to_owned(), 2)]);
    world.audit();

    let before_all = World::of(Place {
        database_url: world.stack.create_database(&crate::support::unique("anew")).unwrap(),
        ..world.place.clone()
    });
    before_all.run("migrate", &[]).succeeded();
    for (set_back, what) in [(early, "early"), (marked, "marked"), (before_all, "before all")] {
        set_back.drain(&[]);
        set_back.drain(&[]);
        assert_eq!(states(&set_back), [("resolved".to_owned(), 2)], "{what}");
        assert_eq!((set_back.cents("c-1"), set_back.cents("c-9")), (900, 450), "{what}");
        set_back.audit();
    }
}

#[test]
fn a_redrive_whose_consumers_are_killed_at_any_moment_is_applied_once() {
    let world = World::on(quick(), "killed", 1);
    let customer = |n: u128| format!("c-{}", n % 7);
    let early: Vec<Event> = (0..150)
        .map(|n| event(1000 + n, &OrderEvent::Amended(content(n, &customer(n), 3))))
        .collect();
    let orders: Vec<Event> = (0..150).map(|n| event(n, &placed(n, &customer(n), 1))).collect();
    world.send(&early);
    world.send(&orders);
    world.drain(&QUICK);
    assert_eq!(states(&world).len(), 150);
    // The command dies half way; what it has marked is published all the same.
    let mut command = world.command("dlq", &["redrive", "--all", "--rate", "100"]);
    let mut command = command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    eventually("some are marked", || {
        world.number("SELECT count(*) FROM dead_letters WHERE redrive_count > 0") > 20
    });
    command.kill().unwrap();
    command.wait().unwrap();
    for _ in 0..4 {
        let consumer = Consumer::start(&world, &[&QUICK[..], &["--batch-size", "3"]].concat());
        let before = world.number("SELECT count(*) FROM dead_letters WHERE state = 'resolved'");
        eventually("another one", || {
            world.number("SELECT count(*) FROM dead_letters WHERE state = 'resolved'") > before
                || world.number("SELECT count(*) FROM dead_letters WHERE state = 'redriven'") == 0
        });
        consumer.sigkill();
        redrive(&world, &["--all"]).succeeded();
    }
    let consumer = Consumer::start(&world, &QUICK);
    eventually("all are applied", || {
        world.number("SELECT count(*) FROM dead_letters WHERE state <> 'resolved'") == 0
    });
    consumer.stop().summary();
    assert_eq!(world.number("SELECT sum(spent_cents)::bigint FROM customer_totals"), 150 * 3 * 450);
    assert!(redriven_copies(&world) >= 450);
    world.audit();
}

#[test]
fn the_copy_is_the_original_byte_for_byte_and_says_what_it_is_of() {
    let world = World::new("bytes", 1);
    let mut odd = paid(2, 1, "c-1");
    odd.headers.push("odd", Some(&[0xff, 0]));
    odd.headers.push("none", None);
    odd.headers.push("DLQ-Redrive-Count", Some(b"9"));
    world.send(std::slice::from_ref(&odd));
    world.drain(&[]);
    redrive(&world, &["--all"]).succeeded();
    world.drain(&[]);
    let copy: Record = records(&world).pop().unwrap();
    assert_eq!((copy.source.partition, copy.offset), (0, 1));
    assert_eq!((copy.key, copy.value), (odd.key, odd.value));
    let kept = odd.headers.iter().filter(|(name, _)| *name != b"DLQ-Redrive-Count");
    let mut headers = Headers::new();
    kept.for_each(|(name, value)| headers.push(name, value));
    headers.push("dlq-message-id", Some(message_id(2).to_string().as_bytes()));
    headers.push("dlq-redrive-count", Some(b"1"));
    headers.push("dlq-consumer-group", Some(world.group.as_bytes()));
    assert_eq!(copy.headers, headers);
    world.audit();
}

fn records(world: &World) -> Vec<Record> {
    let topic = World::of(Place { dlq_topic: world.topic.clone(), ..world.place.clone() });
    topic.dead_letter_topic()
}

#[test]
fn a_redrive_without_its_copy_and_one_without_its_effect_are_found() {
    let world = paid_too_early("sabotage_redrive");
    let copy = || World::of(wait(world.with_copied_database()));
    let finds = |world: &World, what: &str| {
        let ran = world.run("verify", &["-o", "json"]);
        assert!(ran.code == 3 && ran.stdout.contains(what), "{what}: {ran:#?}");
    };
    let lost = copy();
    redrive(&lost, &["--all"]).succeeded();
    assert_eq!(lost.run("verify", &[]).code, 0);
    wait(lost.sql("DELETE FROM outbox WHERE redrive_of IS NOT NULL"));
    finds(&lost, "copy 1 is neither in the outbox nor ahead of the consumer");
    let invented = copy();
    wait(invented.sql("UPDATE dead_letters SET state = 'resolved'"));
    finds(&invented, "is contradicted by its claim");
    // Published, consumed and applied; the claim then taken back to the original's place.
    redrive(&world, &["--all"]).succeeded();
    world.drain(&[]);
    world.audit();
    let moved = copy();
    wait(moved.sql(&format!(
        "UPDATE processed_messages SET outcome = 'dead_lettered', \"offset\" = 0 \
          WHERE message_id = '{}'",
        message_id(2)
    )));
    finds(&moved, "is contradicted by its claim");
    let forgotten = copy();
    wait(forgotten.sql("UPDATE dead_letters SET state = 'redriven'"));
    finds(&forgotten, "is contradicted by its claim, which says applied");
}
