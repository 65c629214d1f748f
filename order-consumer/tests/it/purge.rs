//! Claims leave after the dedup window, and nothing is applied twice for it.

use std::thread;

use serde_json::Value;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::support::consumer::Consumer;
use crate::support::events::{Event, event, message_id, placed, with_id, with_value};
use crate::support::poll::{eventually, wait};
use crate::support::world::{World, orders};
use crate::support::{Place, Ran};

/// More than the topics here keep records: an hour, a segment of an hour, and a day.
const WINDOW: &str = "30h";

/// A claim of another topic, aged 60 days, with an id of version 7 as old as that.
const OLD_CLAIMS: &str = "
    INSERT INTO processed_messages
    SELECT overlay(gen_random_uuid()::text PLACING left(claim_bound(at)::text, 13) || '-7' FROM 1 FOR 15)::uuid,
           n, 1, at, 0, 'elsewhere', 'elsewhere', 'applied', ''
      FROM generate_series(1, 20000) AS n, LATERAL (SELECT now() - interval '60 days') AS time (at)";

/// The same with random ids, none of which happens to be in a year of ours.
const OLD_RANDOM_CLAIMS: &str = "
    INSERT INTO processed_messages
    SELECT ('f' || substr(gen_random_uuid()::text, 2))::uuid, n, 1, now() - interval '60 days', 0, 'elsewhere', 'elsewhere', 'applied', ''
      FROM generate_series(1, 5000) AS n";

/// Makes the claims of a topic 60 days older than they are.
fn age_claims(world: &World, which: &str) {
    wait(world.sql(&format!(
        "SET session_replication_role = replica;
         UPDATE processed_messages SET processed_at = processed_at - interval '60 days' WHERE {which}"
    )));
}

/// Topics that keep records for an hour.
fn world(what: &str) -> World {
    world_with(what, &[("retention.ms", "3600000"), ("segment.ms", "3600000")])
}

fn world_with(what: &str, settings: &[(&str, &str)]) -> World {
    let world = World::of(Place::on(local_stack::shared(), what));
    world.create_topic_with(&world.topic, 1, settings);
    world.create_topic_with(&world.dlq_topic, 1, settings);
    world
}

/// Order `number` as a message that is made now.
fn young(number: u128) -> Event {
    with_id(event(number, &placed(number, "c-1", 1)), Some(&Uuid::now_v7().to_string()))
}

/// Order `number` as a message whose id is of the year 2024.
fn old(number: u128) -> Event {
    event(number, &placed(number, "c-1", 1))
}

#[track_caller]
fn purge(world: &World, arguments: &[&str]) -> Value {
    let ran = world.run("purge", &[&["-o", "json"], arguments].concat());
    ran.succeeded();
    serde_json::from_str(&ran.stdout).unwrap()
}

/// Claims as somebody may count them who knows nothing of ranges.
fn claims_of(world: &World, topic: &str) -> i64 {
    world.number(&format!("SELECT count(*) FROM processed_messages WHERE topic = '{topic}'"))
}

fn is_claimed(world: &World, id: Uuid) -> bool {
    let query = format!("SELECT count(*) FROM processed_messages WHERE message_id = '{id}'");
    world.number(&query) == 1
}

#[test]
fn claims_past_the_window_go_and_those_that_are_young_or_of_dead_letters_stay() {
    let world = world("purge");
    let poison = with_value(old(3), b"no JSON");
    world.send(&[old(1), old(2), poison, young(4), young(5)]);
    world.drain(&[]);
    // All but that of order 2 were made long ago; 4 and 5 have ids that say otherwise.
    age_claims(&world, &format!("message_id <> '{}'", message_id(2)));
    wait(world.sql(OLD_CLAIMS));
    wait(world.sql(OLD_RANDOM_CLAIMS));

    let window = ["--dedup-window", WINDOW];
    let shown = purge(&world, &[&window[..], &["--dry-run"]].concat());
    assert!(shown["purged"].is_null());
    let ways = |report: &Value| -> Vec<(String, bool)> {
        let found = report["found"].as_array().unwrap().iter();
        found.map(|leaf| (leaf["leaf"].to_string(), leaf["is_whole"] == true)).collect()
    };
    let whole = ways(&shown).iter().filter(|(_, is_whole)| *is_whole).count();
    assert_eq!((whole, ways(&shown).len()), (2, 3), "2024, a week, and random ids: {shown:#}");
    assert_eq!((claims_of(&world, "elsewhere"), world.claims()), (25_000, 25_005));

    let done = purge(&world, &window);
    assert_eq!(ways(&done), ways(&shown), "it does what it said");
    assert_eq!(claims_of(&world, "elsewhere"), 0);
    let left = [1, 2, 3].map(|number| is_claimed(&world, message_id(number)));
    assert_eq!(left, [false, true, true], "the young one and the dead letter stay");
    assert_eq!(claims_of(&world, &world.topic), 4, "4 and 5 have young ids");

    // Idempotent, and the window is known by now.
    let again = purge(&world, &[]);
    assert_eq!(again["found"], serde_json::json!([]));
    assert!(world.audit()["not_provable"].as_u64().unwrap() > 0);
}

#[test]
fn what_was_purged_is_not_applied_again_from_its_old_place_or_sent_anew() {
    let world = world("purge_replay");
    world.send(&[old(1), young(2)]);
    world.drain(&[]);
    age_claims(&world, "true");
    purge(&world, &["--dedup-window", WINDOW]);
    assert!(!is_claimed(&world, message_id(1)));

    world.commit_offset(0, 0);
    let summary = world.drain(&[]);
    assert_eq!((&summary["applied"], &summary["duplicates"]), (&0.into(), &2.into()));
    assert_eq!(world.dead_letter_codes(), Vec::<String>::new());

    world.send(&[old(1), old(1)]);
    let summary = world.drain(&[]);
    assert_eq!((&summary["dead_lettered"], &summary["duplicates"]), (&1.into(), &1.into()));
    assert_eq!(world.dead_letter_codes(), ["outside_dedup_window"]);
    assert_eq!(world.cents("c-1"), 900, "each once");
    world.audit();
}

#[test]
fn a_message_older_than_the_window_is_dead_lettered_unless_it_has_its_claim() {
    let world = world("outside_window");
    world.send(&[old(1)]);
    world.drain(&[]);
    let random = Uuid::new_v4();
    let undated = with_id(event(4, &placed(4, "c-1", 1)), Some(&random.to_string()));
    world.send(&[old(1), old(2), young(3), undated]);
    world.send_with_timestamp(&old_random(5), 1_700_000_000_000);
    let summary = world.drain(&["--dedup-window", WINDOW]);
    let count = |name: &str| summary[name].as_i64().unwrap();
    assert_eq!((count("applied"), count("duplicates"), count("dead_lettered")), (2, 1, 2));
    let codes = ["outside_dedup_window", "outside_dedup_window"];
    assert_eq!(world.dead_letter_codes(), codes, "by its id's time, and by its timestamp");
    assert_eq!(world.cents("c-1"), 3 * 450);
    world.audit();
}

/// The copy of a redriven message is not asked for its age.
#[test]
fn what_came_too_late_is_applied_once_when_redriven_whatever_is_purged() {
    let world = world("late_redriven");
    let window = ["--dedup-window", WINDOW];
    world.send(&[young(1), old(2)]);
    world.drain(&window);
    assert_eq!(world.dead_letter_codes(), ["outside_dedup_window"]);
    world.run("dlq", &["redrive", "--all"]).succeeded();
    world.drain(&window);
    assert_eq!(world.cents("c-1"), 900);
    let letters = || -> Vec<(String, i32, String)> {
        world.rows("SELECT state, redrive_count, error_code FROM dead_letters")
    };
    let late = || "outside_dedup_window".to_owned();
    assert_eq!(letters(), [("resolved".to_owned(), 1, late())]);
    world.send(&[old(2)]);
    world.drain(&window);
    assert_eq!(world.cents("c-1"), 900, "its claim is there");
    world.audit();

    age_claims(&world, "true");
    purge(&world, &window);
    assert!(is_claimed(&world, message_id(2)), "it stays as long as the row in dead_letters");
    world.commit_offset(0, 0);
    world.drain(&window);
    world.send(&[old(2)]);
    world.drain(&window);
    assert_eq!(letters(), [("resolved".to_owned(), 1, late())]);
    assert_eq!(world.cents("c-1"), 900);
    world.audit();
}

/// An order whose id has no time in it.
fn old_random(number: u128) -> Event {
    with_id(event(number, &placed(number, "c-1", 1)), Some(&Uuid::new_v4().to_string()))
}

#[test]
fn two_purges_at_once_beside_a_consumer_take_each_claim_once_and_hinder_nobody() {
    let world = world("two_purges");
    wait(world.sql(OLD_CLAIMS));
    wait(world.sql(OLD_RANDOM_CLAIMS));
    let mut consumer = Consumer::start(&world, &["--batch-size", "5", "--dedup-window", WINDOW]);
    consumer.wait_ready();
    let events: Vec<Event> = (0..200).map(young).collect();
    let purges = thread::scope(|scope| {
        let purges = [(); 2].map(|()| scope.spawn(|| world.run("purge", &["-o", "json"])));
        world.send(&events);
        purges.map(|purge| purge.join().unwrap())
    });
    purges.iter().for_each(Ran::succeeded);
    let deleted: i64 = purges
        .iter()
        .map(|ran| serde_json::from_str::<Value>(&ran.stdout).unwrap())
        .map(|report| report["purged"]["deleted"].as_i64().unwrap())
        .sum();
    assert_eq!(deleted, 5_000, "random ids, each by one of them");
    assert_eq!(claims_of(&world, "elsewhere"), 0);
    world.wait_consumed();
    assert_eq!(consumer.stop().summary()["applied"], 200);
    world.audit();
}

#[test]
fn a_long_reader_holds_up_the_purge_and_no_batch() {
    let world = world("long_reader");
    wait(world.sql(OLD_CLAIMS));
    let mut consumer = Consumer::start(&world, &["--dedup-window", WINDOW]);
    consumer.wait_ready();
    let mut reader = wait(async {
        let mut reader = PgConnection::connect(&world.database_url).await.unwrap();
        let statement = "BEGIN; SELECT count(*) FROM processed_messages";
        sqlx::raw_sql(statement).execute(&mut reader).await.unwrap();
        reader
    });
    thread::scope(|scope| {
        let purge = scope.spawn(|| world.run("purge", &[]));
        let held = "SELECT count(*) FROM pg_locks JOIN pg_class ON pg_class.oid = relation \
                     WHERE NOT granted AND relname LIKE 'processed_messages%'";
        eventually("the purge waits", || world.number(held) > 0);
        world.send(&(0..20).map(young).collect::<Vec<_>>());
        world.wait_consumed();
        assert_eq!(claims_of(&world, "elsewhere"), 20_000);
        wait(sqlx::raw_sql("COMMIT").execute(&mut reader)).unwrap();
        purge.join().unwrap().succeeded();
    });
    assert_eq!(claims_of(&world, "elsewhere"), 0);
    consumer.stop().summary();
    world.audit();
}

#[test]
fn a_window_that_is_too_short_is_refused_with_both_figures() {
    let week = [("retention.ms", "604800000"), ("segment.ms", "86400000")];
    let compacted = [("cleanup.policy", "compact")];
    let endless = [("retention.ms", "-1")];
    for (settings, parts) in [
        (&week[..], ["window of 9d is too short", "keeps records for 9d"]),
        (&compacted[..], ["window of 9d is too short", "cleanup.policy=compact"]),
        (&endless[..], ["window of 9d is too short", "retention.ms=-1"]),
    ] {
        let world = world_with("window", settings);
        world.send(&orders(0, 1, 1));
        for command in ["run", "purge"] {
            let ran = world.run(command, &["--dedup-window", "9d"]);
            assert_eq!(ran.code, 1, "{ran:#?}");
            assert!(parts.iter().all(|part| ran.stderr.contains(part)), "{ran:#?}");
        }
        assert_eq!(world.claims(), 0);
    }
    // The dead letter topic counts as well.
    let world = World::of(Place::on(local_stack::shared(), "window_dlq"));
    world.create_topic_with(&world.topic, 1, &[("retention.ms", "1000"), ("segment.ms", "1000")]);
    world.create_topic_with(&world.dlq_topic, 1, &week);
    let ran = world.run("purge", &["--dedup-window", "9d"]);
    assert!(ran.stderr.contains(&format!("the topic {} keeps records for 9d", world.dlq_topic)));
    let ran = world.run("purge", &[]);
    assert_eq!(ran.code, 2, "nothing says how long: {ran:#?}");
}
