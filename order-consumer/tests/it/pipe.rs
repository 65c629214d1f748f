//! `pipe`: whatever end a process comes to, each raw order comes out once.

use idempotent_consumer::failpoint;
use rustix::process::Signal;

use crate::support::consumer::Consumer;
use crate::support::pipes::{Piped, raw_order, raw_record, wait_frozen};
use crate::support::poll::eventually;
use crate::support::stacks::{QUICK, quick};
use crate::support::world::text;

/// Small transactions, and a broker that soon takes a process for dead.
const SMALL: [&str; 8] =
    [QUICK[0], QUICK[1], QUICK[2], QUICK[3], "--batch-size", "20", "--transaction-timeout", "5s"];

#[test]
fn killed_at_each_step_again_and_again_each_raw_order_comes_out_once() {
    let mut piped = Piped::on(quick(), "pipe_killed", 3);
    piped.send(0, 1200);
    for point in failpoint::PIPE {
        // A new start under its old names goes on at once; one without has to be missed first.
        for (times, is_named) in [(1, true), (3, true), (2, false)] {
            let names = ["--transactional-id", &piped.group, "-X", "group.instance.id=one"];
            let arguments = if is_named { [&SMALL[..], &names].concat() } else { SMALL.to_vec() };
            let consumer = piped.start(&arguments, &[("FAILPOINT", &format!("{point}:{times}"))]);
            let ended = consumer.wait();
            assert_eq!(ended.code, None, "killed at {point}: {}", ended.stderr);
        }
    }
    let summary = piped.drain(&SMALL);
    assert!(summary["records"].as_i64().unwrap() > 20, "{summary}");
    let aborted = piped.assert_each_once();
    // Killed behind its records and before its commit, nine times over.
    assert!(aborted >= 9 * 20, "{aborted} records of transactions that were aborted");
    piped.assert_applied(1140);
}

/// Where a process is frozen, for how long its transaction may be open, and whether the other one
/// has its name.
const FROZEN: [(&str, &str, bool); 7] = [
    ("pipe.after_read", "10m", false),
    ("pipe.after_begin", "10m", false),
    // Its offsets were not told: the other one need not wait for them, and has done all of its work.
    ("pipe.after_produce", "10m", false),
    ("pipe.after_offsets", "5s", false),
    ("transaction.before_commit", "5s", false),
    ("pipe.after_commit", "10m", false),
    ("pipe.after_offsets", "10m", true),
];

#[test]
fn one_that_freezes_at_any_step_and_wakes_up_behind_another_doubles_nothing() {
    std::thread::scope(|scope| {
        for (point, timeout, has_same_name) in FROZEN {
            scope.spawn(move || freeze(point, timeout, has_same_name));
        }
    });
}

fn freeze(point: &str, timeout: &str, has_same_name: bool) {
    let mut piped = Piped::on(quick(), "pipe_frozen", 2);
    piped.send(0, 200);
    let name = piped.group.clone();
    let mut arguments = [&QUICK[..], &["--batch-size", "20"]].concat();
    if has_same_name {
        arguments.extend(["--transactional-id", &name]);
    }
    let own = [&arguments[..], &["--transaction-timeout", timeout]].concat();
    let mut frozen = piped.start(&own, &[("FAILPOINT_FREEZES", &format!("{point}:2"))]);
    wait_frozen(&frozen);
    // It takes over once the first is missed, and works off all there is.
    let summary = piped.drain(&[&arguments[..], &["--transaction-timeout", "5s"]].concat());
    assert!(summary["records"].as_i64().unwrap() >= 140, "{point}: {summary}");

    frozen.signal(Signal::CONT);
    piped.send(200, 40);
    if has_same_name || timeout == "5s" {
        frozen.wait().failed(1, "fenced");
        piped.drain(&arguments);
    } else {
        // It has learned that it was missed, and is a member again.
        eventually(&format!("{point}: it goes on"), || {
            assert!(frozen.is_running(), "{point}: {}", frozen.log());
            piped.downstream(true).len() == 240
        });
        frozen.stop().summary();
    }
    piped.assert_each_once();
}

#[test]
fn processes_that_join_and_leave_share_the_work_and_double_nothing() {
    let mut piped = Piped::on(quick(), "pipe_shared", 4);
    piped.send(0, 400);
    let small = [&SMALL[..], &["--batch-linger", "5ms"]].concat();
    let first = piped.start(&small, &[]);
    eventually("it works", || !piped.downstream(true).is_empty());
    let others: Vec<Consumer> = (0..2).map(|_| piped.start(&small, &[])).collect();
    piped.send(400, 800);
    let share = first.stop().summary();
    assert_eq!(share["lost"], 0);
    piped.send(1200, 200);
    eventually("the others have done the rest", || piped.downstream(true).len() == 1400);
    let mut records = share["records"].as_i64().unwrap();
    for other in others {
        records += other.stop().summary()["records"].as_i64().unwrap();
    }
    assert_eq!(records, 1400);
    piped.assert_each_once();
    piped.assert_applied(1330);
}

#[test]
fn what_a_topic_is_too_small_for_is_a_dead_letter_and_its_neighbours_go_through() {
    let mut piped = Piped::on(quick(), "pipe_large", 1);
    piped.world.alter_topic(&piped.world.topic, "max.message.bytes", "4000");
    piped.world.alter_topic(&piped.world.dlq_topic, "max.message.bytes", "20000");
    piped.send(0, 15);
    let padded = |number: u128, bytes: u32| {
        // Text that no codec makes much smaller.
        let words: Vec<String> = (0..bytes / 8)
            .map(|n| format!("{:08x}", n.wrapping_mul(2_654_435_761).rotate_left(7)))
            .collect();
        let padding = words.concat();
        let value =
            raw_order(number).replace("\"data\":{", &format!("\"data\":{{\"x\":\"{padding}\","));
        raw_record(number, &value)
    };
    let large = [padded(100, 10_000), padded(101, 100_000)];
    piped.world.publish_to(&piped.incoming, &large);
    piped.send(20, 15);
    let summary = piped.drain(&QUICK);
    assert_eq!((&summary["published"], &summary["dead_lettered"]), (&30.into(), &2.into()));
    let letters = piped.world.seen(&piped.world.dlq_topic, true);
    assert_eq!(letters.len(), 2);
    for (letter, original) in letters.iter().zip(&large) {
        assert_eq!(text(&letter.headers, "dlq-error-code"), "too_large");
        assert_eq!(text(&letter.headers, "dlq-consumer-group"), piped.group);
        assert_eq!(letter.key, original.key);
    }
    assert_eq!(letters[0].value, large[0].value);
    assert_eq!(
        (letters[1].value.as_ref(), text(&letters[1].headers, "dlq-value-omitted")),
        (None, "true")
    );
}

#[test]
fn orders_without_ids_keep_theirs_when_they_are_read_again_and_letters_tell_their_origin() {
    let mut piped = Piped::on(quick(), "pipe_ids", 1);
    let value =
        raw_order(1).replace(&format!("\"id\":\"{}\",", crate::support::events::message_id(1)), "");
    piped.world.publish_to(&piped.incoming, &[raw_record(1, &value), raw_record(2, "no order")]);
    piped.drain(&QUICK);
    // As if the group's offsets were lost: Kafka keeps them for a week of absence by default.
    piped.group.push_str("-again");
    piped.drain(&QUICK);
    let orders = piped.world.seen(&piped.world.topic, true);
    assert_eq!(orders.len(), 2);
    assert_eq!(text(&orders[0].headers, "ce_id"), text(&orders[1].headers, "ce_id"));
    let letters = piped.world.seen(&piped.world.dlq_topic, true);
    let header = |name| text(&letters[0].headers, name);
    assert_eq!(header("dlq-original-topic"), piped.incoming);
    assert_eq!((header("dlq-original-partition"), header("dlq-original-offset")), ("0", "1"));
    assert_eq!(
        (header("dlq-error-code"), header("dlq-error-class")),
        ("invalid_json", "permanent")
    );
    // The pair folds what is there twice.
    assert_eq!(piped.world.drain(&[])["duplicates"], 1);
    piped.world.audit();
}

#[test]
fn records_that_retention_took_are_counted_and_the_rest_goes_on() {
    let mut piped = Piped::on(quick(), "pipe_lost", 1);
    piped.send(0, 19);
    piped.drain(&QUICK);
    piped.send(20, 10);
    let gone = 19 + 4;
    crate::support::poll::wait(piped.world.delete_records_before(&piped.incoming, 0, gone));
    let summary = piped.drain(&QUICK);
    assert_eq!((&summary["lost"], &summary["records"]), (&4.into(), &6.into()));
}

/// The client looks one up when it is told to begin at a name and not at a number, and goes there
/// half a second later even where the partition was taken away and given back meanwhile.
#[test]
fn no_offset_is_left_to_the_client_to_look_up() {
    let mut piped = Piped::on(quick(), "pipe_lookup", 2);
    piped.send(0, 40);
    let arguments = [&["--exit-when-idle", "1s", "-X", "debug=topic"], &QUICK[..]].concat();
    let ended = piped.start(&arguments, &[("RUST_LOG", "debug")]).wait();
    assert!(ended.stderr.contains("the group has no offset here"), "{}", ended.stderr);
    assert!(ended.stderr.contains("Start fetch for"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("querying for logical offset"), "{}", ended.stderr);
    assert_eq!(ended.summary()["records"], 40);
    piped.assert_each_once();
}

#[test]
fn what_cannot_work_is_refused_with_its_reason() {
    let piped = Piped::on(quick(), "pipe_refused", 1);
    let run = |arguments: &[&str]| piped.start(arguments, &[]).wait();
    run(&["--topic", &piped.incoming]).failed(2, "--from and --topic are the same");
    run(&["--transaction-timeout", "10ms"]).failed(2, "at least 1s");
    run(&["--transaction-timeout", "20m"]).failed(1, "transaction.max.timeout.ms");
    run(&["--topic", "missing-here", "--no-create-topics"])
        .failed(1, "missing-here does not exist");
    run(&["-b", "127.0.0.1:1"]).failed(1, "127.0.0.1:1");
    run(&["-X", "transactional.id=x"]).failed(2, "transactional.id");
}
