//! Copies that never come, or whose partition is no more.

use super::{copy_of, fates, paid, paid_too_early, redrive, states, status, status_of_1};
use crate::support::broken::{PATIENT, break_customer, mend_customer};
use crate::support::consumer::Consumer;
use crate::support::events::{event, message_id, placed};
use crate::support::poll::{eventually, wait};
use crate::support::world::World;

#[test]
fn a_redrive_whose_copy_is_lost_is_begun_again_by_its_id_and_the_lost_one_is_a_duplicate() {
    let world = paid_too_early("lost_copy");
    let id = message_id(2).to_string();
    redrive(&world, &["--all"]).succeeded();
    // It is in the outbox, and not lost.
    let ran = redrive(&world, &["--again", &id]);
    assert_eq!((ran.code, fates(&ran)), (4, vec!["refused".to_owned()]), "{ran:#?}");
    wait(world.sql("DELETE FROM outbox WHERE redrive_of IS NOT NULL"));
    assert_eq!(world.run("verify", &[]).code, 3);
    assert_eq!(fates(&redrive(&world, &[&id])), ["already"]);
    assert_eq!(redrive(&world, &["--again", "--all"]).code, 2, "it is deliberate, and by id");
    let ran = redrive(&world, &["--again", &id]);
    assert_eq!((ran.code, fates(&ran)), (0, vec!["redriven".to_owned()]), "{ran:#?}");
    assert_eq!(world.run("verify", &[]).code, 0);
    // It was not lost but late, and comes before and behind the second one.
    world.send(&[copy_of(&world, 2, "1", paid(2, 1, "c-1"))]);
    let summary = world.drain(&[]);
    assert_eq!((&summary["applied"], &summary["duplicates"]), (&1.into(), &1.into()), "{summary}");
    world.send(&[copy_of(&world, 2, "1", paid(2, 1, "c-1"))]);
    world.drain(&[]);
    assert_eq!(
        (status(&world).as_str(), states(&world)),
        ("paid", vec![("resolved".to_owned(), 2)])
    );
    assert_eq!(fates(&redrive(&world, &["--again", &id])), ["already"]);
    world.audit();
}

#[test]
fn a_copy_that_waits_for_another_attempt_is_not_lost() {
    let world = paid_too_early("not_lost");
    wait(break_customer(&world, "c-1"));
    redrive(&world, &["--all"]).succeeded();
    let consumer = Consumer::start(&world, &PATIENT);
    eventually("it waits", || world.number("SELECT count(*) FROM retry_queue") == 1);
    let ran = redrive(&world, &["--again", &message_id(2).to_string()]);
    assert!(ran.code == 4 && ran.stdout.contains("its copy waits"), "{ran:#?}");
    assert_eq!(states(&world), [("redriven".to_owned(), 1)]);
    wait(mend_customer(&world));
    world.run("retries", &["now", "--all"]).succeeded();
    eventually("nothing waits", || world.number("SELECT count(*) FROM retry_queue") == 0);
    consumer.stop().summary();
    assert_eq!(states(&world), [("resolved".to_owned(), 1)]);
    world.audit();
}

#[test]
fn a_copy_for_a_partition_that_is_no_more_opens_its_dead_letter_again() {
    let world = World::new("fewer", 2);
    world.send_to(1, &[paid(2, 1, "c-1")]);
    world.send_to(0, &[event(9, &placed(9, "c-9", 1))]);
    world.drain(&[]);
    assert_eq!(world.dead_letter_codes(), ["order_not_found"]);
    world.delete_topic(&world.topic);
    world.create_topic_with(&world.topic, 1, &[]);
    let anew = World::of(world.place.clone());
    anew.run("accept", &[]).succeeded();
    anew.send(&[event(1, &placed(1, "c-1", 2))]);
    let consumer = Consumer::start(&anew, &[]);
    let ran = redrive(&anew, &["--all", "--wait", "60s"]);
    assert_eq!((ran.code, fates(&ran)), (4, vec!["not published".to_owned()]), "{ran:#?}");
    assert_eq!(states(&anew), [("open".to_owned(), 0)]);
    anew.wait_consumed();
    consumer.stop().summary();
    assert_eq!(anew.number("SELECT count(*) FROM outbox"), 0);
    assert_eq!((status_of_1(&anew).as_str(), anew.cents("c-1")), ("placed", 900));
    anew.audit();
}
