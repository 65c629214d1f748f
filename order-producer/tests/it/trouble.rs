//! Kafka is away, goes away, or says no.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use local_stack::{Options, Stack};
use serde_json::Value;
use uuid::Uuid;

use crate::kafka::Isolation;
use crate::{
    TempFile, assert_exit, eventually, json, json_lines, kafka, producer, run, run_with_input,
    spawn, stderr, topic,
};

/// Nothing listens there.
const CLOSED: &str = "127.0.0.1:1";

#[test]
fn without_a_broker_a_send_is_unconfirmed_in_bounded_time_with_the_command_that_resends_it() {
    let started = Instant::now();
    let output = run(&[
        "send",
        "--customer",
        "it's",
        "--item",
        "TEA-1:2:450",
        "-b",
        CLOSED,
        "--delivery-timeout",
        "1s",
        "-o",
        "json",
    ]);
    assert_exit(&output, 4);
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    let send = &json(&output)[0];
    assert_eq!(send["outcome"], "unconfirmed");
    let resend = send["resend"].as_str().unwrap();
    assert!(stderr(&output).contains(resend), "{}", stderr(&output));
    assert!(resend.contains(send["message_id"].as_str().unwrap()), "{resend}");
    assert!(resend.contains(send["order_id"].as_str().unwrap()), "{resend}");
}

/// Runs a printed command with the shared broker in place of the closed port.
fn run_printed(command: &str, topic: &str) -> Output {
    let program = env!("CARGO_BIN_EXE_order-producer");
    let script = command
        .replace("order-producer", program)
        .replace(CLOSED, &local_stack::shared().bootstrap_servers);
    Command::new("sh").args(["-c", &format!("{script} --topic {topic} -o json")]).output().unwrap()
}

#[test]
fn the_printed_command_sends_the_same_ids_and_bytes_every_time() {
    for args in [
        &["send", "--customer", "it's", "--item", "$A:1:2", "--item", "TEA:1:2"][..],
        &["send", "--customer", "c", "--item=-x:1:2", "--message-id", "any text, it's"],
        &["cancel", &Uuid::nil().to_string(), "--customer", "c", "--reason", "don't $x"],
    ] {
        let rest = ["-b", CLOSED, "--delivery-timeout", "100ms", "-o", "json"];
        let output = run(&[args, &rest].concat());
        assert_exit(&output, 4);
        let send = json(&output)[0].clone();
        let topic = topic("resend");
        for _ in 0..2 {
            let resent = run_printed(send["resend"].as_str().unwrap(), &topic);
            assert_exit(&resent, 0);
            assert_eq!(json(&resent)[0]["message_id"], send["message_id"]);
            assert_eq!(json(&resent)[0]["order_id"], send["order_id"]);
        }
        let records = kafka::read(&topic);
        assert_eq!(records[0].value, records[1].value);
    }
}

#[test]
fn a_broker_killed_in_mid_load_leaves_unconfirmed_messages_and_no_false_acknowledgement() {
    let stack = Stack::start(Options::private("producer-killed")).unwrap();
    let manifest = TempFile::new("killed");
    let topic = topic("killed");
    let args = [
        "load",
        "--orders",
        "10000",
        "--rate",
        "500",
        "--delivery-timeout",
        "10s",
        "--manifest",
        manifest.path(),
        "--topic",
        &topic,
        "-b",
        stack.bootstrap_servers(),
        "-o",
        "json",
    ];
    let child = spawn(&mut producer(&args));
    eventually("some are in the log", || {
        kafka::count_seen(stack.bootstrap_servers(), &topic, Isolation::Uncommitted) > 100
    });
    stack.kafka().kill();
    let output = child.wait_with_output().unwrap();
    assert_exit(&output, 4);
    let summary = json(&output);
    let count = |name: &str| summary[name].as_u64().unwrap();
    assert!(count("acknowledged") > 0 && count("unconfirmed") > 0, "{summary}");
    assert_eq!(count("acknowledged") + count("unconfirmed"), 10_000);
    let lines = json_lines(&manifest.text());
    stack.kafka().start().unwrap();
    let log = kafka::read_from(stack.bootstrap_servers(), &topic);
    let acknowledged = lines.iter().filter(|line| line["outcome"] == "acknowledged");
    for line in acknowledged.clone() {
        let id = line["id"].as_str();
        let lies =
            |r: &kafka::Record| r.offset == line["offset"] && r.partition == line["partition"];
        assert!(log.iter().any(|record| lies(record) && record.header("ce_id") == id), "{line}");
    }
    assert_eq!(acknowledged.count() as u64, count("acknowledged"));
    let unconfirmed = |line: &&Value| line["outcome"] == "unconfirmed" && line["offset"].is_null();
    assert_eq!(lines.iter().filter(unconfirmed).count() as u64, count("unconfirmed"));
}

#[test]
fn a_line_too_large_for_the_broker_is_refused_and_the_next_one_sent() {
    let topic = topic("large");
    let line = |reason: &str, padding: usize| {
        format!(
            "{{\"type\":\"order.cancelled\",\"id\":\"{reason}\",\"data\":{{\"order_id\":\"{}\",\"customer_id\":\"c\",\"x\":\"{}\"}}}}\n",
            Uuid::nil(),
            noise(padding)
        )
    };
    let first =
        run_with_input(&["send", "--file", "-", "--topic", &topic], line("a", 1).as_bytes());
    assert_exit(&first, 0);
    // The line is below the producer's limit, the record with its headers above the broker's.
    let input = line("large", 1024 * 1024 - 200) + &line("small", 1);
    let args = ["send", "--file", "-", "--topic", &topic, "-o", "json", "--compression", "none"];
    let output = run_with_input(&args, input.as_bytes());
    assert_exit(&output, 4);
    let ends = json(&output);
    let outcome = |id: &str| {
        let end = ends.as_array().unwrap().iter().find(|end| end["message_id"] == id).unwrap();
        end["outcome"].as_str().unwrap().to_owned()
    };
    assert_eq!(outcome("large"), "refused");
    assert_eq!(outcome("small"), "acknowledged");
}

/// Letters that no codec makes much smaller.
fn noise(length: usize) -> String {
    let mut state = 1_u32;
    let mut letter = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'a' + u8::try_from((state >> 24) % 26).unwrap())
    };
    (0..length).map(|_| letter()).collect()
}
