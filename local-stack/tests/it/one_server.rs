//! `stop`, `start`, `tool`.

use local_stack::{Options, Stack};

use crate::client::{Down, create_topic, execute, local_stack, number, runs, said, seen, topics};
use crate::lifetime::up_in_foreground;

#[test]
fn a_server_that_was_stopped_comes_back_with_its_data_settings_and_address() {
    let _down = Down("it-one");
    let name = ["--name", "it-one"];
    let of = |command: &[&str]| said(local_stack().args(name).args(command));
    let (code, message) = of(&[
        "up",
        "--kafka-port",
        "0",
        "--postgres-port",
        "0",
        "--kafka-property",
        "num.partitions=3",
        "--postgres-setting",
        "work_mem=7MB",
    ]);
    assert_eq!(code, Some(0), "{message}");
    let before = seen("it-one").unwrap();
    create_topic(&before.bootstrap_servers, "kept");
    execute(&before.database_url, "CREATE TABLE kept AS SELECT 1 AS i");

    let (code, message) = of(&["stop", "kafka"]);
    assert_eq!(code, Some(0), "{message}");
    assert!(!runs(before.kafka_pid) && runs(before.postgres_pid));
    let (code, message) = of(&["stop", "kafka"]);
    assert_eq!(code, Some(1));
    assert!(message.contains("is not running"), "{message}");
    assert!(message.contains("cargo stack start kafka --name it-one"), "{message}");
    let (code, message) = of(&["tool", "kafka-topics"]);
    assert_eq!(code, Some(1));
    assert!(message.contains("is not running"), "{message}");
    assert_eq!(of(&["env"]).0, Some(0), "the addresses hold");

    // Another stack's start cleans up after the dead, not after who lacks a server on purpose.
    drop(Stack::start(Options::private("beside")).unwrap());
    assert!(runs(before.postgres_pid));

    // PostgreSQL as well: then none runs, and still each can be started.
    assert_eq!(of(&["stop", "postgres"]).0, Some(0));
    assert!(!runs(before.postgres_pid));
    for server in ["postgres", "kafka"] {
        let (code, message) = of(&["start", server]);
        assert_eq!(code, Some(0), "{message}");
        assert!(message.contains("is ready after"), "{message}");
    }
    let (code, message) = of(&["start", "kafka"]);
    assert_eq!(code, Some(0), "what was asked for is so");
    assert!(message.contains("is running already"), "{message}");

    let after = seen("it-one").unwrap();
    assert_eq!(after.bootstrap_servers, before.bootstrap_servers);
    assert_eq!(after.database_url, before.database_url);
    assert!(topics(&after.bootstrap_servers).contains(&"kept".to_owned()));
    assert_eq!(number(&after.database_url, "SELECT count(*) FROM kept"), 1);
    let megabytes = "SELECT pg_size_bytes(current_setting('work_mem')) / 1048576";
    assert_eq!(number(&after.database_url, megabytes), 7);
    let settings = std::fs::read_to_string(after.folder.join("kafka/server.properties")).unwrap();
    assert!(settings.contains("num.partitions=3"), "{settings}");

    let tool = ["tool", "kafka-topics", "--list"];
    let output = local_stack().args(name).args(tool).output().unwrap();
    let listed = String::from_utf8(output.stdout).unwrap();
    assert!(listed.lines().any(|line| line == "kept"), "{listed}");
    assert_eq!(of(&["down"]).0, Some(0));
    assert!(!runs(after.kafka_pid) && !runs(after.postgres_pid));
}

#[test]
fn a_server_of_a_stack_in_the_foreground_is_not_stopped_by_others() {
    let _down = Down("it-owned");
    let (foreground, stack) = up_in_foreground("it-owned");
    for command in ["stop", "start"] {
        let (code, message) = said(local_stack().args([command, "kafka", "--name", "it-owned"]));
        assert_eq!(code, Some(1));
        assert!(message.contains(&format!("process {},", foreground.pid())), "{message}");
    }
    assert!(runs(stack.kafka_pid) && runs(stack.postgres_pid));
}

#[test]
fn a_server_of_no_stack_or_of_no_name_is_refused() {
    for command in [["stop", "kafka"], ["start", "postgres"], ["tool", "kafka-topics"]] {
        let (code, message) = said(local_stack().args(command).args(["--name", "it-nowhere"]));
        assert_eq!(code, Some(1));
        assert!(message.contains("no stack `it-nowhere` is up"), "{message}");
    }
    let (code, message) = said(local_stack().args(["stop", "redis"]));
    assert_eq!(code, Some(2));
    assert!(message.contains("kafka, postgres"), "{message}");
}
