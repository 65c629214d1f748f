//! Kafka over TLS, with passwords and ACLs: the least that is needed suffices, and what is missing is
//! named.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::consumer::{Consumer, Ended};
use crate::support::events::{event, placed, with_value};
use crate::support::poll::{eventually, wait};
use crate::support::secure::{Secure, secure};
use crate::support::world::{World, orders};

/// Runs to its end.
fn ended(command: Command, world: &World) -> Ended {
    Consumer::of(command, &world.topic).wait()
}

/// The ACLs of docs/security.md for a consumer.
fn allow_consumer(secure: &Secure, user: &str, world: &World) {
    let (topic, dlq) = (world.topic.as_str(), world.dlq_topic.as_str());
    secure.allow(user, &["Read"], &["--topic", topic, "--group", &world.group]);
    secure.allow(user, &["Write"], &["--topic", topic, "--topic", dlq]);
}

#[test]
fn the_pair_works_over_tls_with_a_password_and_the_least_acls() {
    let secure = secure();
    let world = secure.world("least");
    let (consumer, producer, auditor) = (secure.user(), secure.user(), secure.user());
    let (topic, dlq) = (world.topic.as_str(), world.dlq_topic.as_str());
    allow_consumer(secure, &consumer, &world);
    secure.allow(&producer, &["Write"], &["--topic", topic, "--topic", dlq]);
    secure.allow(&auditor, &["Read"], &["--topic", topic, "--topic", dlq]);
    secure.allow(&auditor, &["Describe"], &["--group", &world.group]);

    wait(local_stack::programs::build(&["order-producer"], &[])).unwrap();
    let mut send = world.command_of(
        &Path::new(env!("CARGO_BIN_EXE_order-consumer")).with_file_name("order-producer"),
        "send",
        &["--customer", "c-1", "--item", "TEA-1:2:450"],
    );
    secure.secured(&mut send, &producer, &[]);
    let sent = send.output().unwrap();
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    world.send(&[with_value(event(100, &placed(100, "c-9", 1)), b"{")]);
    let run = ["run", "-o", "json", "--exit-when-idle", "1s"];
    let summary = ended(secure.command(&world, &consumer, &run), &world).summary();
    assert_eq!((&summary["applied"], &summary["dead_lettered"]), (&1.into(), &1.into()));
    // A redrive goes out by the consumer's relay, and is dead-lettered again.
    world.run("dlq", &["redrive", "--all"]).succeeded();
    ended(secure.command(&world, &consumer, &run), &world).summary();
    assert_eq!(world.number("SELECT redrive_count::bigint FROM dead_letters"), 1);
    let verify = ended(secure.command(&world, &auditor, &["verify", "--wait", "10s"]), &world);
    assert_eq!(verify.code, Some(0), "{}{}", verify.stderr, verify.stdout);
    let status = ended(secure.command(&world, &auditor, &["status"]), &world);
    assert_eq!(status.code, Some(0), "{}", status.stderr);
}

#[test]
fn a_client_that_is_turned_away_says_so_and_ends() {
    let secure = secure();
    let world = secure.world("turned_away");
    let user = secure.user();
    allow_consumer(secure, &user, &world);
    let turned_away = |other: &[(&str, &str)], address: Option<String>, reason: &str| {
        let mut command = secure.command_with(&world, &user, &["run"], other);
        if let Some(address) = address {
            command.env("KAFKA_BOOTSTRAP_SERVERS", address);
        }
        let ended = ended(command, &world);
        ended.failed(1, "turns this client away");
        ended.failed(1, reason);
        let lines = ended.stderr.lines().count();
        assert!(lines < 100, "{lines} lines in 15 s:\n{}", ended.stderr);
    };
    let turned_away = &turned_away;
    let expired = secure.expired_certificate();
    let expired = ("ssl.ca.location", expired.as_str());
    std::thread::scope(|scope| {
        for (other, address, reason) in [
            (("sasl.password", "wrong"), None, "Authentication failed"),
            (("sasl.username", "nobody"), None, "Authentication failed"),
            (expired, None, "certificate"),
            (expired, Some(secure.expired_address()), "certificate"),
        ] {
            scope.spawn(move || turned_away(&[other], address, reason));
        }
    });
}

#[test]
fn a_topic_that_an_acl_hides_is_not_taken_for_missing() {
    let secure = secure();
    let world = secure.world("hidden");
    let user = secure.user();
    secure.allow(&user, &["Read"], &["--group", &world.group]);
    ended(secure.command(&world, &user, &["run"]), &world)
        .failed(1, &format!("see the topic {}: ", world.topic));
    secure.allow(&user, &["Read"], &["--topic", &world.topic]);
    ended(secure.command(&world, &user, &["run"]), &world)
        .failed(1, &format!("see the topic {}: ", world.dlq_topic));
}

/// The consumer is not ready for this reason, does not spin, and goes on once it is allowed.
fn waits_for(denied: &[&str], operation: &str, reason: &str) {
    let secure = secure();
    let world = secure.world("denied");
    let user = secure.user();
    allow_consumer(secure, &user, &world);
    secure.deny(&user, &[operation], denied_of(&world, denied).as_slice());
    // It may see the topic, and not read it.
    secure.allow(&user, &["Describe"], &["--topic", &world.topic]);
    world.send(&orders(0, 10, 2));
    let consumer = Consumer::of(secure.command(&world, &user, &["run"]), &world.topic);
    consumer.wait_unready(reason);
    let (before, lines) = (consumer.processor_seconds(), consumer.log().lines().count());
    std::thread::sleep(Duration::from_secs(3));
    let spent = consumer.processor_seconds() - before;
    assert!(spent < 0.6, "{spent} s of processor time in 3 s");
    let more = consumer.log().lines().count() - lines;
    assert!(more < 10, "{more} lines in 3 s:\n{}", consumer.log());
    assert_eq!(world.claims(), 0);
    secure.allow(&user, &[operation], denied_of(&world, denied).as_slice());
    eventually("it goes on", || world.claims() == 10);
    eventually("it is ready", || consumer.ready().is_some_and(|(status, _)| status == 200));
}

fn denied_of<'a>(world: &'a World, kinds: &[&'a str]) -> Vec<&'a str> {
    let name = |kind: &str| if kind == "--group" { &world.group } else { &world.topic };
    kinds.iter().flat_map(|kind| [*kind, name(kind).as_str()]).collect()
}

#[test]
fn without_the_right_to_read_the_topic_a_consumer_is_not_ready_and_waits() {
    waits_for(&["--topic"], "Read", "the ACL Read on the topic");
}

#[test]
fn without_the_right_to_join_the_group_a_consumer_is_not_ready_and_waits() {
    waits_for(&["--group"], "Read", "the ACL Read on the group");
}

#[test]
fn without_the_right_to_write_dead_letters_they_wait_in_the_outbox_with_the_reason() {
    let secure = secure();
    let world = secure.world("no_dlq");
    let user = secure.user();
    allow_consumer(secure, &user, &world);
    secure.deny(&user, &["Write"], &["--topic", &world.dlq_topic]);
    secure.allow(&user, &["Describe"], &["--topic", &world.dlq_topic]);
    world.send(&[with_value(event(100, &placed(100, "c-9", 1)), b"{")]);
    world.send(&orders(0, 10, 2));
    let consumer = Consumer::of(secure.command(&world, &user, &["run"]), &world.topic);
    eventually("the row is refused", || {
        world.number("SELECT count(*) FROM outbox WHERE refused_reason LIKE '%authorization%'") == 1
    });
    eventually("the others are applied", || world.claims() == 11);
    let status = world.run("status", &[]);
    assert!(status.stdout.contains("authorization"), "{status:#?}");
    let before = consumer.processor_seconds();
    std::thread::sleep(Duration::from_secs(3));
    let spent = consumer.processor_seconds() - before;
    assert!(spent < 0.6, "{spent} s of processor time in 3 s");
    secure.allow(&user, &["Write"], &["--topic", &world.dlq_topic]);
    eventually("it goes out", || world.number("SELECT count(*) FROM outbox") == 0);
}

#[test]
fn a_pipe_works_with_the_least_acls_and_ends_at_one_that_is_missing() {
    let secure = secure();
    let world = secure.world("pipe_acls");
    let from = format!("{}.incoming", world.topic);
    world.create_topic_with(&from, 1, &[]);
    let user = secure.user();
    let group = format!("{}.pipe", world.topic);
    let pipe = || {
        let line = ["pipe", "--from", &from, "-g", &group, "--transactional-id", &group];
        let arguments = ["--exit-when-idle", "1s", "-o", "json"];
        ended(secure.command(&world, &user, &[&line[..], &arguments].concat()), &world)
    };
    let reads = ["--topic", from.as_str(), "--group", &group];
    let writes = ["--topic", world.topic.as_str(), "--topic", &world.dlq_topic];
    let id = ["--transactional-id", group.as_str()];
    secure.allow(&user, &["Read"], &reads);
    secure.allow(&user, &["Write"], &writes);
    secure.allow(&user, &["Write", "Describe"], &id);
    world.publish_to(&from, &[with_value(event(1, &placed(1, "c-1", 1)), b"{")]);
    assert_eq!(pipe().summary()["dead_lettered"], 1);

    for (operation, missing, reason) in [
        ("Read", &reads[..2], "see the topic"),
        ("Read", &reads[2..], "group"),
        ("Write", &writes[..2], "see the topic"),
        ("Write", &id[..], "ransactional"),
    ] {
        secure.deny(&user, &[operation], missing);
        if missing == id {
            secure.deny(&user, &["Describe"], missing);
        }
        let ended = pipe();
        ended.failed(1, "uthorization failed");
        ended.failed(1, reason);
        secure.allow(&user, &[operation], missing);
    }
}
