//! What the consumer refuses, and what it stops at rather than guess.

use rustix::process::Signal;

use crate::support::Place;
use crate::support::consumer::Consumer;
use crate::support::events::{Event, event, placed, with_value};
use crate::support::poll::{eventually, wait};
use crate::support::world::{World, orders};

/// Runs to its own end.
fn ended(place: &Place, arguments: &[&str]) -> crate::support::consumer::Ended {
    Consumer::start(place, &[&["--exit-when-idle", "500ms"], arguments].concat()).wait()
}

#[test]
fn without_its_tables_it_says_to_migrate() {
    let place = Place::without_tables(local_stack::shared(), "no_tables");
    ended(&place, &[]).failed(1, "order-consumer migrate");
    place.run("migrate", &[]).succeeded();
    place.run("migrate", &[]).succeeded();
    let world = World::of(place);
    world.drain(&[]);
    world.audit();
}

#[test]
fn missing_topics_are_created_or_refused_as_told() {
    let world = World::of(Place::new("no_topics"));
    let refused = ended(&world, &["--no-create-topics"]);
    refused.failed(1, &format!("the topic {} does not exist", world.topic));
    world.create_topic_with(&world.topic, 2, &[]);
    let refused = ended(&world, &["--no-create-topics"]);
    refused.failed(1, &format!("the topic {} does not exist", world.dlq_topic));
    ended(&world, &[]).summary();
    assert!(world.topics().partitions(&world.dlq_topic).unwrap().is_some());
    assert_eq!(world.topics().partitions(&world.topic).unwrap(), Some(2));
    ended(&world, &["--no-create-topics"]).summary();
    world.audit();
}

#[test]
fn a_second_group_on_the_same_database_is_refused_with_both_names() {
    let world = World::new("two_groups", 1);
    world.send(&orders(0, 5, 2));
    world.drain(&[]);
    let second = Place { group: "another-group".to_owned(), ..world.place.clone() };
    let refused = ended(&second, &[]);
    refused.failed(1, &world.group);
    refused.failed(1, "another-group");
    assert_eq!(world.claims(), 5);
    world.audit();
}

#[test]
fn ids_from_elsewhere_than_at_the_first_run_are_refused_with_both_names() {
    let world = World::new("two_id_modes", 1);
    world.send(&orders(0, 5, 2));
    let by_header = ["--message-id-from", "header:CE_ID"];
    world.drain(&by_header);
    for (other, name) in [("", "ce_id"), ("json:/order_id", "json:/order_id")] {
        let flag = ["--message-id-from", other];
        let refused = ended(&world, if other.is_empty() { &[] } else { &flag });
        refused.failed(1, "ids from header:ce_id");
        refused.failed(1, &format!("ids from {name}"));
    }
    assert_eq!(world.drain(&["--message-id-from", "header:ce_id"])["events"], 0);
    assert_eq!(world.claims(), 5);
    world.audit();
}

#[test]
fn a_database_or_broker_that_is_not_there_at_the_start_is_named() {
    let world = World::new("nobody", 1);
    // Nobody listens on port 1.
    let database = world.through(1);
    ended(&database, &[]).failed(1, "no connection to PostgreSQL at 127.0.0.1:1");
    let ran = world.run("run", &["-b", "127.0.0.1:1"]);
    assert_eq!(ran.code, 1, "{ran:#?}");
    assert!(ran.stderr.contains("no answer from Kafka at 127.0.0.1:1"), "{ran:#?}");
    world.audit();
}

#[test]
fn wrong_use_is_exit_2_and_no_secret_is_printed() {
    let place = Place::new("wrong_use");
    for arguments in [
        &["--no-such-flag"][..],
        &["--batch-size", "0"],
        &["--batch-linger", "7 parsecs"],
        &["--max-dead-letter-ratio", "1.5"],
        &["-X", "sasl.pasword=hunter2"],
        &["-X", "sasl.mechanism=hunter2", "-X", "security.protocol=hunter2"],
        &["-X", "enable.auto.offset.store=true"],
        &["-X", "isolation.level=read_uncommitted"],
        &["--message-id-from", "order_id"],
        &["--message-id-from", "json:order_id"],
        &["-X", "hunter2"],
        &["--database-url", "postgres//u:hunter2@localhost/x"],
        &["--dlq-topic", &place.topic],
    ] {
        let ran = place.run("run", arguments);
        assert_eq!(ran.code, 2, "{arguments:?}: {ran:#?}");
        let printed = ran.stderr.contains("hunter2") || ran.stdout.contains("hunter2");
        assert!(!printed || arguments == ["-X", "hunter2"], "{arguments:?}: {ran:#?}");
    }
    let secret = ["sasl.password=hunter2", "sasl.username=u", "sasl.mechanism=PLAIN"];
    let mut command = place.command("run", &["-X", "security.protocol=SASL_PLAINTEXT"]);
    command.args(secret.iter().flat_map(|secret| ["-X", *secret])).env("RUST_LOG", "trace");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "the broker speaks no SASL");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("hunter2"));
}

#[test]
fn lost_offsets_of_the_group_lose_and_double_nothing() {
    let world = World::new("offsets_lost", 2);
    world.send(&orders(0, 100, 9));
    world.drain(&[]);
    world.delete_group();
    world.send(&orders(100, 50, 9));
    let summary = world.drain(&[]);
    assert_eq!((&summary["applied"], &summary["duplicates"]), (&50.into(), &0.into()));
    world.audit();
}

#[test]
fn records_that_retention_took_before_they_were_read_are_reported_and_not_called_fine() {
    let world = World::new("retention", 1);
    world.send(&orders(0, 10, 3));
    world.drain(&[]);
    world.send(&orders(10, 50, 3));
    wait(world.delete_records_before(&world.topic, 0, 40));
    world.send(&orders(60, 10, 3));
    assert_eq!(world.drain(&[])["applied"], 30);
    let lost: Vec<(i64, i64)> = world.rows("SELECT from_offset, to_offset FROM lost_ranges");
    assert_eq!(lost, [(10, 40)]);
    let report = world.report();
    assert_eq!(report["holds"], false);
    let named = "the offsets 10 to 39 were deleted before the consumer read them";
    assert!(report.to_string().contains(named), "{report:#}");
    assert!(report["not_provable"].as_u64().unwrap() >= 40, "{report:#}");
}

#[test]
fn a_topic_created_anew_stops_until_an_operator_accepts_it() {
    let world = World::new("anew", 1);
    let fast = ["-X", "topic.metadata.refresh.interval.ms=500"];
    let mut consumer = Consumer::start(&world, &fast);
    consumer.wait_ready();
    world.send(&orders(0, 100, 9));
    world.wait_consumed();
    world.delete_topic(&world.topic);
    world.create_topic_with(&world.topic, 1, &[]);
    let anew = World::of(world.place.clone());
    anew.send(&orders(100, 150, 9));
    consumer.wait_unready("created anew");
    assert_eq!(anew.claims(), 100, "nothing of it is read");
    let asked = anew.run("accept", &["--dry-run"]);
    assert!(asked.stdout.contains("begins again at offset 0 of 150"), "{asked:#?}");
    assert_eq!(anew.claims(), 100);
    anew.run("accept", &[]).succeeded();
    anew.wait_consumed();
    consumer.wait_ready();
    assert_eq!(anew.claims(), 250);
    // The same by one that starts on it.
    assert_eq!(consumer.stop().code, Some(0));
    anew.delete_topic(&world.topic);
    anew.create_topic_with(&world.topic, 1, &[]);
    let last = World::of(world.place.clone());
    last.send(&orders(250, 10, 9));
    let mut consumer = Consumer::start(&last, &fast);
    consumer.wait_unready("created anew");
    last.run("accept", &[]).succeeded();
    last.wait_consumed();
    consumer.wait_ready();
    assert_eq!(consumer.stop().summary()["applied"], 10);
    assert_eq!(last.claims(), 260);
    let audit = last.audit();
    assert_eq!(audit["not_provable"].as_u64().map(|count| count >= 250), Some(true), "{audit:#}");
}

/// The client meets the new log without having seen a moment in which there was no topic.
#[test]
fn a_topic_created_anew_behind_the_consumers_back_is_not_read_on_in_its_middle() {
    let world = World::new("anew_unseen", 1);
    let mut consumer = Consumer::start(&world, &[]);
    consumer.wait_ready();
    world.send(&orders(0, 100, 9));
    world.wait_consumed();
    consumer.signal(Signal::STOP);
    world.delete_topic(&world.topic);
    world.create_topic_with(&world.topic, 1, &[]);
    let anew = World::of(world.place.clone());
    anew.send(&orders(100, 150, 9));
    consumer.signal(Signal::CONT);
    consumer.wait_unready("created anew");
    assert_eq!(anew.claims(), 100, "nothing of it is read");
    anew.run("accept", &[]).succeeded();
    anew.wait_consumed();
    assert_eq!(consumer.stop().summary()["applied"], 250);
    assert_eq!(anew.claims(), 250);
}

#[test]
fn too_large_a_share_of_dead_letters_stops_it_before_any_of_them() {
    let world = World::new("ratio", 1);
    let mut events = orders(0, 300, 5);
    for event in events.iter_mut().skip(1).step_by(2) {
        *event = with_value(event.clone(), b"no JSON");
    }
    world.send(&events);
    // A share is judged by a hundred messages or more, so all of them have to be in one batch.
    let in_one_batch = ["--max-dead-letter-ratio", "0.2", "--batch-linger", "3s"];
    let stopped = ended(&world, &in_one_batch);
    stopped.failed(1, "nothing was dead-lettered");
    assert!(world.dead_letter_codes().is_empty());
    assert!(world.dead_letter_topic().is_empty());
    let summary = world.drain(&["--max-dead-letter-ratio", "0.6"]);
    assert_eq!((&summary["applied"], &summary["dead_lettered"]), (&150.into(), &150.into()));
    world.audit();
}

#[test]
fn records_of_a_megabyte_by_the_thousand_stay_within_256_mib() {
    let world = World::new("megabytes", 3);
    let filler = "x".repeat(900_000);
    let large = |number: u128| -> Event {
        let event = event(number, &placed(number, &format!("c-{}", number % 7), 1));
        if number.is_multiple_of(5) {
            return with_value(event, &vec![b'{'; 1_000_000]);
        }
        let value = String::from_utf8(event.value.clone().unwrap()).unwrap();
        let value = value.replacen('{', &format!("{{\"ignored\":\"{filler}\","), 1);
        with_value(event, value.as_bytes())
    };
    for first in (0..1000).step_by(20) {
        world.send(&(first..first + 20).map(large).collect::<Vec<_>>());
    }
    let consumer = Consumer::start(&world, &[]);
    world.wait_consumed();
    eventually("all have their outcome", || world.claims() == 1000);
    let peak = consumer.peak_memory_kib();
    let summary = consumer.stop().summary();
    assert_eq!((&summary["applied"], &summary["dead_lettered"]), (&800.into(), &200.into()));
    assert!(peak < 256 * 1024, "{peak} KiB");
    world.audit();
}
