//! `send --file … --atomic`: all of a file, or nothing.

use std::io::Write;
use std::process::{Child, ChildStdin};

use local_stack::{Options, Stack};
use serde_json::Value;

use crate::kafka::{Isolation, count_seen, seen};
use crate::{
    TempFile, assert_exit, eventually, json, json_lines, producer, run, run_with_input, signal,
    spawn, stderr, stdout, topic,
};

fn paid(id: &str, customer: &str) -> String {
    let order = uuid::Uuid::nil();
    format!(
        r#"{{"type":"order.paid","id":"{id}","data":{{"order_id":"{order}","customer_id":"{customer}"}}}}"#
    )
}

fn file_of(count: usize) -> String {
    (0..count)
        .map(|number| paid(&format!("m-{number}"), &format!("c-{}", number % 17)) + "\n")
        .collect()
}

fn servers() -> &'static str {
    &local_stack::shared().bootstrap_servers
}

fn ids(topic: &str, isolation: Isolation) -> Vec<String> {
    let id = |record: &crate::kafka::Record| record.header("ce_id").unwrap().to_owned();
    seen(servers(), topic, isolation).iter().map(id).collect()
}

/// Begins to send, and waits until the broker has all of these lines. The input stays open.
fn begin(topic: &str, more: &[&str], lines: usize) -> (Child, ChildStdin) {
    let args =
        [&["send", "--file", "-", "--atomic", "--topic", topic, "-o", "json"], more].concat();
    let mut child = spawn(&mut producer(&args));
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(file_of(lines).as_bytes()).unwrap();
    eventually("the broker has the lines", || {
        count_seen(servers(), topic, Isolation::Uncommitted) >= lines
    });
    (child, stdin)
}

#[test]
fn a_whole_file_is_seen_and_each_line_is_acknowledged_after_the_commit() {
    let topic = topic("atomic");
    let file = TempFile::new("atomic");
    std::fs::write(&file.0, file_of(5000)).unwrap();
    let output =
        run(&["send", "--file", file.path(), "--atomic", "--topic", &topic, "-o", "jsonl"]);
    assert_exit(&output, 0);
    let ends = json_lines(&stdout(&output));
    assert_eq!(ends.len(), 5000);
    let log = seen(servers(), &topic, Isolation::Committed);
    assert_eq!(log.len(), 5000);
    for end in &ends {
        assert_eq!(end["outcome"], "acknowledged");
        let lies = log.iter().any(|record| {
            record.offset == end["offset"]
                && record.partition == end["partition"]
                && record.header("ce_id") == end["message_id"].as_str()
        });
        assert!(lies, "{end}");
    }
}

#[test]
fn one_refused_line_and_nothing_is_published_and_every_refused_line_is_named() {
    let topic = topic("atomic-refused");
    let input =
        file_of(300) + "not json\n" + &file_of(300) + &paid("m", "c 17") + "\n" + &file_of(2);
    let args = ["send", "--file", "-", "--atomic", "--topic", &topic, "-o", "json"];
    let output = run_with_input(&args, input.as_bytes());
    assert_exit(&output, 4);
    let text = stderr(&output);
    for part in ["line 301 refused", "line 602 refused", "nothing was published: 2 lines refused"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let ends = json(&output);
    let lines: Vec<_> = ends.as_array().unwrap().iter().map(|end| &end["line"]).collect();
    assert_eq!(lines, [301, 602]);
    nothing_is_published_and_nobody_waits(&topic);
}

/// Others may have their ends by then, or still wait for company: those go down with it.
#[test]
fn a_line_that_the_broker_refuses_is_named_and_nothing_is_published() {
    for linger in ["linger.ms=5", "linger.ms=3000"] {
        a_line_is_refused_by_the_broker(linger);
    }
}

fn a_line_is_refused_by_the_broker(linger: &str) {
    let topic = topic("atomic-large");
    // Below our limit of a line; above the broker's, with its headers.
    let padding = "x".repeat(1024 * 1024 - 300);
    let field = format!("\"x\":\"{padding}\",\"customer_id\"");
    let large = paid("large", "c").replace("\"customer_id\"", &field);
    let input = file_of(3) + &large + "\n" + &file_of(3);
    let plain = ["--compression", "none", "-X", linger, "-X", "batch.size=100000"];
    let args = [&["send", "--file", "-", "--atomic", "--topic", &topic][..], &plain].concat();
    let output = run_with_input(&args, input.as_bytes());
    assert_exit(&output, 4);
    assert!(stderr(&output).contains("line 4 refused"), "{}", stderr(&output));
    assert!(stderr(&output).contains("nothing was published: 1 line refused"));
    nothing_is_published_and_nobody_waits(&topic);
}

#[test]
fn killed_in_the_middle_it_stays_unseen_and_the_next_run_under_its_name_ends_it_at_once() {
    let topic = topic("atomic-killed");
    let named = ["--transactional-id", &topic, "--transaction-timeout", "5m"];
    let (mut child, _stdin) = begin(&topic, &named, 400);
    child.kill().unwrap();
    child.wait().unwrap();
    // Its transaction is open: a record behind it waits.
    let after = ["send", "--file", "-", "--topic", &topic];
    assert_exit(&run_with_input(&after, paid("after", "c").as_bytes()), 0);
    assert_eq!(ids(&topic, Isolation::Committed), [""; 0]);

    let again = [&["send", "--file", "-", "--atomic", "--topic", &topic][..], &named].concat();
    assert_exit(&run_with_input(&again, paid("again", "c").as_bytes()), 0);
    let mut committed = ids(&topic, Isolation::Committed);
    committed.sort_unstable();
    assert_eq!(committed, ["after", "again"]);
    assert_eq!(ids(&topic, Isolation::Uncommitted).len(), 402, "it was there, and was aborted");
}

#[test]
fn killed_in_the_middle_it_is_aborted_by_the_broker_after_its_timeout() {
    let topic = topic("atomic-timeout");
    let (mut child, _stdin) = begin(&topic, &["--transaction-timeout", "10s"], 50);
    child.kill().unwrap();
    child.wait().unwrap();
    let after = ["send", "--file", "-", "--topic", &topic];
    assert_exit(&run_with_input(&after, paid("after", "c").as_bytes()), 0);
    // The broker looks every ten seconds.
    eventually("the broker aborts it", || ids(&topic, Isolation::Committed) == ["after"]);
    assert_eq!(count_seen(servers(), &topic, Isolation::Uncommitted), 51);
}

#[test]
fn a_signal_in_the_middle_aborts_and_exits_with_4() {
    let topic = topic("atomic-signal");
    let (child, _stdin) = begin(&topic, &["--transaction-timeout", "5m"], 400);
    signal(&child, "-TERM");
    let output = child.wait_with_output().unwrap();
    assert_exit(&output, 4);
    assert!(stderr(&output).contains("stopped by a signal: nothing was published"));
    nothing_is_published_and_nobody_waits(&topic);
}

/// A record behind an open transaction would not be seen.
fn nothing_is_published_and_nobody_waits(topic: &str) {
    let after = ["send", "--file", "-", "--topic", topic];
    assert_exit(&run_with_input(&after, paid("after", "c").as_bytes()), 0);
    assert_eq!(ids(topic, Isolation::Committed), ["after"]);
}

#[test]
fn a_file_that_takes_longer_than_its_transaction_may_is_aborted_and_says_so() {
    let topic = topic("atomic-slow");
    let (child, _stdin) = begin(&topic, &["--transaction-timeout", "10s"], 20);
    let output = child.wait_with_output().unwrap();
    assert_exit(&output, 1);
    let text = stderr(&output);
    assert!(
        text.contains("nothing was published") && text.contains("--transaction-timeout"),
        "{text}"
    );
    nothing_is_published_and_nobody_waits(&topic);
}

#[test]
fn two_at_once_do_not_end_each_other() {
    let topic = topic("atomic-two");
    let (first, stdin) = begin(&topic, &[], 30);
    let args = ["send", "--file", "-", "--atomic", "--topic", &topic];
    assert_exit(&run_with_input(&args, file_of(30).as_bytes()), 0);
    drop(stdin);
    assert_exit(&first.wait_with_output().unwrap(), 0);
    assert_eq!(ids(&topic, Isolation::Committed).len(), 60);
}

#[test]
fn a_broker_that_dies_before_the_commit_leaves_it_unconfirmed_or_unpublished_and_all_or_nothing() {
    let stack = Stack::start(Options::private("atomic-broker")).unwrap();
    let topic = topic("atomic-broker");
    let servers = stack.bootstrap_servers();
    let args = [
        "send",
        "--file",
        "-",
        "--atomic",
        "--topic",
        &topic,
        "-o",
        "jsonl",
        "-b",
        servers,
        "--transaction-timeout",
        "10s",
    ];
    let mut child = spawn(&mut producer(&args));
    let mut stdin = child.stdin.take().unwrap();
    let no_ids = file_of(40).replace("\"id\":\"m-", "\"x\":\"m-");
    stdin.write_all(no_ids.as_bytes()).unwrap();
    eventually("the broker has the lines", || {
        count_seen(servers, &topic, Isolation::Uncommitted) == 40
    });
    stack.kafka().kill();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let text = stderr(&output);
    match output.status.code() {
        Some(1) => assert!(text.contains("nothing was published"), "{text}"),
        Some(4) => {
            assert!(
                text.contains("all of the 40 lines are in") && text.contains("40 lines have none"),
                "{text}"
            );
            let ends = json_lines(&stdout(&output));
            assert_eq!(ends.len(), 40);
            let is_told =
                |end: &Value| end["outcome"] == "unconfirmed" && end["message_id"].is_string();
            assert!(ends.iter().all(is_told), "{ends:?}");
        }
        other => panic!("{other:?}: {text}"),
    }
    stack.kafka().start().unwrap();
    // Seen only once the transaction is decided.
    let after = ["send", "--file", "-", "--topic", &topic, "-b", servers];
    assert_exit(&run_with_input(&after, paid("after", "c").as_bytes()), 0);
    let committed = || seen(servers, &topic, Isolation::Committed);
    eventually("the transaction is decided", || {
        committed().iter().any(|record| record.header("ce_id") == Some("after"))
    });
    // Whichever it is, it is so for all of them, and as it was told.
    let published = committed().len() - 1;
    assert!(published == 0 || (published == 40 && output.status.code() == Some(4)), "{published}");
}
