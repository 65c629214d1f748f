//! `status`.

use serde_json::json as value;

use super::{NOWHERE, assert_says, json, without_kafka, world};
use crate::support::Place;
use crate::support::events::{event, placed};
use crate::support::poll::wait;
use crate::support::world::World;

#[test]
fn before_migrations_and_before_the_first_run_it_says_what_to_do() {
    let place = Place::without_tables(local_stack::shared(), "status_empty");
    let ran = place.run("status", &[]);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
    assert_says(&ran.stderr, &["lacks migrations", "run `order-consumer migrate` first"]);

    place.run("migrate", &[]).succeeded();
    let ran = place.run("status", &[]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert_says(&ran.stdout, &["no consumer of this group has run", "does not exist yet"]);
    let status = json(&place, 0, "status", &[]);
    assert_eq!((&status["partitions"], &status["totals"]["lag"]), (&value!([]), &value!(null)));
}

#[test]
fn another_group_is_told_whose_progress_the_database_has() {
    let world = world("status_other");
    let ran = world.run("status", &["--group", "somebody-else"]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert_says(&ran.stdout, &["no consumer", &format!("progress of group {}", world.group)]);
}

#[test]
fn everything_that_became_of_the_records_is_counted() {
    let world = world("status_counts");
    world.send(&[event(6, &placed(3, "c-1", 1)), event(7, &placed(4, "c-1", 1))]);
    let status = json(&world, 0, "status", &[]);
    let partition = &status["partitions"][0];
    let found = ["next_offset", "log_end", "lag", "applied", "duplicates", "dead_lettered"]
        .map(|name| partition[name].as_i64().unwrap());
    assert_eq!(found, [6, 8, 2, 2, 1, 3], "{status:#}");
    assert!(partition["last_progress_age_seconds"].as_f64().unwrap() < 600.0);
    assert!(partition["owner"].as_str().unwrap().len() > 8);
    assert_eq!(status["totals"]["lag"], 2);
    let codes: Vec<_> = status["dead_letters"].as_array().unwrap().iter().collect();
    assert_eq!(codes.len(), 3, "{status:#}");
    assert!(codes.iter().all(|count| count["state"] == "open" && count["count"] == 1));
    assert!(status["ages"]["oldest_open_dead_letter_seconds"].as_f64().unwrap() < 600.0);
    assert_eq!(
        status["outbox"],
        value!({
            "rows": 0, "oldest_age_seconds": null, "refused_rows": 0, "refused": [],
        })
    );
    assert_eq!(status["stopped"], value!([]));

    let ran = world.run("status", &[]);
    assert_says(&ran.stdout, &["dead letters open: 3", "id_conflict", "invalid_field", "all"]);
    assert!(!ran.stdout.contains('\u{1b}'), "no colours where no terminal is");
}

#[test]
fn what_stands_in_the_outbox_and_what_was_lost_shows_with_its_reason() {
    let world = world("status_outbox");
    wait(world.sql(
        "INSERT INTO outbox (topic, headers, created_at, refused_at, refused_reason)
         VALUES ('elsewhere', '[]', now() - interval '2 hours', now(), 'no such\u{7}topic'),
                ('elsewhere', '[]', now(), NULL, NULL)",
    ));
    wait(world.sql(
        "INSERT INTO lost_ranges
         SELECT consumer_group, topic, 0, topic_id, 3, 5, now() FROM partition_progress",
    ));
    let status = json(&world, 0, "status", &[]);
    let outbox = &status["outbox"];
    assert_eq!((&outbox["rows"], &outbox["refused_rows"]), (&value!(2), &value!(1)));
    assert!(status["ages"]["oldest_outbox_row_seconds"].as_f64().unwrap() > 7000.0);
    assert_eq!(status["lost_ranges"][0]["to_offset"], 5);
    let ran = world.run("status", &[]);
    assert_says(
        &ran.stdout,
        &[
            "2 to be published, 1 refused",
            "no such\\u{7}topic",
            "offsets 3 to 4 were deleted",
            "2h 0m ago",
        ],
    );
}

#[test]
fn without_kafka_the_databases_part_is_printed_and_the_reason_is_on_stderr() {
    let world = world("status_no_kafka");
    let ran = without_kafka(&world, "status", &[]);
    assert_eq!(ran.code, 1, "{ran:#?}");
    assert_says(&ran.stdout, &["lag is not known", "?", "dead letters open: 3"]);
    assert_says(&ran.stderr, &["error: no answer from Kafka", NOWHERE]);
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:#?}");
    let ran = without_kafka(&world, "status", &["-o", "json"]);
    let status: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(status["kafka"]["reachable"], false);
    assert_eq!(
        (&status["partitions"][0]["lag"], &status["totals"]["applied"]),
        (&value!(null), &value!(2))
    );
}

#[test]
fn a_topic_that_is_gone_is_an_error_once_a_consumer_has_run() {
    let world = world("status_gone");
    world.delete_topic(&world.topic);
    let ran = world.run("status", &[]);
    assert_eq!(ran.code, 1, "{ran:#?}");
    assert_says(&ran.stderr, &["does not exist"]);
    assert_says(&ran.stdout, &["dead letters open: 3"]);
}

#[test]
fn a_partition_stopped_by_a_topic_created_anew_shows_with_the_command_that_helps() {
    let world = world("status_stopped");
    world.delete_topic(&world.topic);
    world.create_topic_with(&world.topic, 1, &[]);
    let status = json(&world, 0, "status", &[]);
    assert!(status["stopped"][0]["reason"].as_str().unwrap().contains("created anew"));
    assert_eq!(status["partitions"][0]["lag"], value!(null));
    let ran = world.run("status", &[]);
    let command = ran.stdout.split("order-consumer accept").nth(1).unwrap();
    assert!(command.starts_with(" --partition 0"), "{}", ran.stdout);

    world.run("accept", &["--partition", "0"]).succeeded();
    assert_eq!(json(&world, 0, "status", &[])["stopped"], value!([]));
}

#[test]
fn a_partition_that_the_topic_no_longer_has_shows_until_it_is_given_up() {
    let world = World::new("status_fewer", 2);
    world.drain(&[]);
    world.delete_topic(&world.topic);
    world.create_topic_with(&world.topic, 1, &[]);
    let text = world.run("status", &[]).stdout;
    assert_says(&text, &["accept --partition 0", "no such partition", "accept --partition 1"]);
    world.run("accept", &["--partition", "0"]).succeeded();
    let stopped = &json(&world, 0, "status", &[])["stopped"];
    assert_eq!(stopped[0]["partition"], 1, "{stopped:#}");
    world.run("accept", &[]).succeeded();
    assert_eq!(json(&world, 0, "status", &[])["stopped"], value!([]));
    let again = world.run("accept", &[]);
    assert_says(&again.stderr, &["no partition is waiting"]);
}

#[test]
fn a_command_to_run_next_repeats_what_was_given_as_a_flag() {
    let world = World::new("status_flags", 1);
    world.drain(&[]);
    world.delete_topic(&world.topic);
    world.create_topic_with(&world.topic, 1, &[]);
    let topic = world.topic.clone();
    let ran = world.command("status", &["--topic", &topic]).env_remove("ORDERS_TOPIC").output();
    let stdout = String::from_utf8(ran.unwrap().stdout).unwrap();
    assert_says(&stdout, &[&format!("order-consumer accept --topic {topic} --partition 0")]);
}
