//! Starting.

use std::process::Command;
use std::time::Instant;

use local_stack::{Options, Stack};

use crate::client::{Down, create_topic, execute, local_stack, number, said, topics};

#[test]
fn a_started_stack_answers_and_leaves_nothing_behind() {
    let stack = Stack::start(Options::private("ready")).unwrap();
    create_topic(stack.bootstrap_servers(), "greetings");
    assert!(topics(stack.bootstrap_servers()).contains(&"greetings".to_owned()));
    assert_eq!(number(stack.database_url(), "SELECT 40 + 2::bigint"), 42);

    let folder = stack.folder().to_owned();
    assert!(folder.is_dir());
    let (kafka, postgres) = (stack.kafka().pid().unwrap(), stack.postgres().pid().unwrap());
    drop(stack);
    assert!(!folder.exists());
    assert!(!crate::client::runs(kafka) && !crate::client::runs(postgres));
}

#[test]
fn the_time_of_a_later_start_is_shown() {
    drop(Stack::start(Options::private("first")).unwrap());
    let start = Instant::now();
    let stack = Stack::start(Options::private("later")).unwrap();
    // Not asserted: it depends on what else the machine does. Without load it is about 2 s.
    println!("both servers were ready after {:.1} s", start.elapsed().as_secs_f32());
    drop(stack);
}

#[test]
fn a_later_start_needs_no_maven() {
    drop(Stack::start(Options::private("download")).unwrap());
    let java = Command::new("sh").args(["-c", "command -v java"]).output().unwrap().stdout;
    let java = std::fs::canonicalize(String::from_utf8(java).unwrap().trim()).unwrap();
    let _down = Down("it-offline");
    let (code, message) = said(
        local_stack()
            .args(["up", "--name", "it-offline", "--kafka-port", "0", "--postgres-port", "0"])
            .env("JAVA_HOME", java.ancestors().nth(2).unwrap())
            .env("PATH", ""),
    );
    assert_eq!(code, Some(0), "{message}");
}

#[test]
fn settings_of_the_caller_reach_both_servers() {
    let options = Options::private("settings")
        .kafka_property("num.partitions", "3")
        .kafka_property("auto.create.topics.enable", "true")
        .postgres_setting("max_connections", "17");
    let stack = Stack::start(options).unwrap();
    let query = "SELECT current_setting('max_connections')::bigint";
    assert_eq!(number(stack.database_url(), query), 17);
    let log = crate::client::read(&stack.kafka().log());
    assert!(log.contains("num.partitions = 3"));
}

#[test]
fn a_created_database_is_empty_and_separate_and_may_be_created_in_an_async_test() {
    let servers = local_stack::shared();
    let name = format!("it's \"one\" {}", std::process::id());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let other = runtime.block_on(async { servers.create_database("second_one").unwrap() });
    execute(&other, "CREATE TABLE t (i int)");
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(number(&other, tables), 1);
    assert_eq!(number(&servers.database_url, tables), 0);
    servers.create_database(&name).unwrap();
    let message = servers.create_database(&name).unwrap_err().to_string();
    assert!(message.contains("already exists"), "{message}");
}
