//! Whatever end a consumer or its connection comes to, each message has one effect.

use std::sync::Arc;

use rustix::process::Signal;

use crate::support::consumer::Consumer;
use crate::support::events::{event, placed, with_value};
use crate::support::load::Load;
use crate::support::poll::{eventually, wait};
use crate::support::proxy::{Cut, Harm, before};
use crate::support::stacks::{QUICK, quick};
use crate::support::world::{World, orders, text};

/// Small transactions, so that a stop finds one half done.
const SMALL: [&str; 6] = [QUICK[0], QUICK[1], QUICK[2], QUICK[3], "--batch-size", "20"];

#[test]
fn killed_in_mid_batch_again_and_again_it_loses_and_doubles_nothing() {
    let world = Arc::new(World::on(quick(), "killed", 3));
    let load = Load::start(&world, 0);
    for round in 0..6 {
        let consumer = Consumer::start(&world, &SMALL);
        let seen = world.claims();
        // Each time at another point of its work, from the first commit on.
        eventually("it has committed something", || world.claims() > seen + round * 45);
        consumer.sigkill();
    }
    let sent = load.stop();
    assert!(sent > 500, "there was a load: {sent}");
    world.drain(&QUICK);
    world.audit();
}

#[test]
fn what_the_database_has_and_kafka_does_not_know_of_is_read_again_without_effect() {
    let world = World::on(quick(), "before_the_offset", 1);
    let mut consumer = Consumer::start(&world, &QUICK);
    consumer.wait_ready();
    world.send(&orders(0, 200, 5));
    eventually("all are in the database", || world.claims() == 200);
    consumer.sigkill();
    // Offsets are committed once a second, so one may have got through before the kill.
    if world.committed(0).is_some_and(|committed| committed > 50) {
        world.set_committed(0, 50);
    }
    let again = 200 - world.committed(0).unwrap_or(200);
    let summary = world.drain(&QUICK);
    assert_eq!(
        (summary["applied"].as_i64(), summary["duplicates"].as_i64()),
        (Some(0), Some(again))
    );
    assert_eq!(world.number("SELECT sum(spent_cents)::bigint FROM customer_totals"), 200 * 450);
    world.audit();
}

fn cut_commits(what: &str, cut: Cut) {
    let world = World::new(what, 3);
    let proxy = before(&world.database_url);
    let mut consumer = Consumer::start(&world.through(proxy.port()), &["--batch-size", "20"]);
    consumer.wait_ready();
    // Every third COMMIT, and two in a row.
    let plan = [None, Some(cut), None, None, Some(cut), Some(cut), None];
    proxy.cut_at(plan.into_iter().cycle().take(28));
    world.send(&orders(0, 1000, 11));
    world.wait_consumed();
    assert_eq!(proxy.call_cuts_off(), 0, "all of them came");
    let summary = consumer.stop().summary();
    // The database told what became of each: nothing had to be read again to find out.
    assert_eq!(summary["applied"], 1000);
    assert_eq!(summary["duplicates"], 0);
    world.audit();
}

#[test]
fn a_commit_that_never_reached_the_server_is_done_again() {
    cut_commits("cut_before", Cut::BeforeTheServer);
}

#[test]
fn a_commit_whose_answer_was_lost_is_not_done_again() {
    cut_commits("cut_after", Cut::BeforeTheClient);
}

#[test]
fn connections_cut_and_backends_terminated_at_random_lose_and_double_nothing() {
    let world = Arc::new(World::new("cut_anywhere", 3));
    let proxy = before(&world.database_url);
    let consumer = Consumer::start(&world.through(proxy.port()), &["--batch-size", "20"]);
    let load = Load::start(&world, 0);
    for round in 0..24 {
        let seen = world.claims();
        eventually("it goes on", || world.claims() > seen + round % 7 * 5);
        if round % 2 == 0 {
            proxy.cut();
        } else {
            let _ended: Vec<(bool,)> = world.rows(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                  WHERE datname = current_database() AND pid <> pg_backend_pid()
                    AND application_name LIKE 'idempotent-consumer%'
                  ORDER BY random() LIMIT 2",
            );
        }
    }
    load.stop();
    world.wait_consumed();
    consumer.stop().summary();
    world.audit();
}

#[test]
fn a_database_that_falls_silent_is_given_as_the_reason_and_waited_for() {
    let world = World::new("silent", 1);
    let proxy = before(&world.database_url);
    let mut consumer = Consumer::start(&world.through(proxy.port()), &[]);
    consumer.wait_ready();
    proxy.harm(Harm::Silent);
    consumer.wait_unready("database");
    world.send(&orders(0, 10, 2));
    proxy.heal();
    world.wait_consumed();
    consumer.wait_ready();
    assert_eq!(consumer.stop().summary()["applied"], 10);
    world.audit();
}

#[test]
fn on_sigterm_and_ctrl_c_it_commits_what_is_under_way_and_prints_its_summary() {
    let world = Arc::new(World::new("stopped", 3));
    let load = Load::start(&world, 0);
    for signal in [Signal::TERM, Signal::INT] {
        let consumer = Consumer::start(&world, &["--batch-size", "20"]);
        let seen = world.claims();
        eventually("it works", || world.claims() > seen + 100);
        consumer.signal(signal);
        let summary = consumer.wait().summary();
        let count = |name: &str| summary[name].as_i64().unwrap();
        assert_eq!(count("applied") + count("dead_lettered"), world.claims() - seen);
        for partition in 0..3 {
            // Nobody has to read anything again.
            let next = Some(world.next_offset(partition)).filter(|next| *next > 0);
            assert_eq!(world.committed(partition), next, "of partition {partition}");
        }
    }
    load.stop();
    world.drain(&[]);
    world.audit();
}

#[test]
fn dead_letters_of_a_killed_consumer_are_published_by_the_next_one_under_the_same_id() {
    let world = World::on(quick(), "outbox", 2);
    // As if another process held the relay's lease.
    let lease = "INSERT INTO relay_lease VALUES (true, 'another', now() + interval '1 hour')";
    wait(world.sql(lease));
    let poison: Vec<_> = (0..6)
        .map(|number| with_value(event(number, &placed(number, "c-1", 1)), b"no JSON"))
        .collect();
    world.send(&poison);
    let consumer = Consumer::start(&world, &QUICK);
    let waiting = "SELECT count(*) FROM outbox";
    eventually("the dead letters wait in the outbox", || world.number(waiting) == 6);
    consumer.sigkill();
    assert!(world.dead_letter_topic().is_empty());

    wait(world.sql("CREATE TABLE kept AS SELECT * FROM outbox"));
    wait(world.sql("DELETE FROM relay_lease"));
    world.drain(&QUICK);
    let ids = || {
        let letters = world.dead_letter_topic();
        let mut ids: Vec<_> =
            letters.iter().map(|letter| text(&letter.headers, "dlq-id").to_owned()).collect();
        ids.sort_unstable();
        ids
    };
    let rows: Vec<(String,)> =
        world.rows("SELECT dlq_id::text FROM dead_letters ORDER BY dlq_id::text COLLATE \"C\"");
    let rows: Vec<String> = rows.into_iter().map(|(id,)| id).collect();
    assert_eq!(ids(), rows, "each once, as the database has it");
    world.audit();

    // As if it had been killed between Kafka's acknowledgement and the row's removal.
    wait(world.sql(
        "INSERT INTO outbox (topic, key, value, headers, may_omit_value)
         SELECT topic, key, value, headers, may_omit_value FROM kept LIMIT 1",
    ));
    wait(world.sql("DROP TABLE kept"));
    world.drain(&QUICK);
    let after = ids();
    assert_eq!(after.len(), 7);
    assert!(after.iter().all(|id| rows.contains(id)), "a copy is known by its id");
    world.audit();
}
