//! Killing, freezing, setting back.

use std::time::Duration;

use local_stack::{Options, Stack};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::client::{create_topic, execute, number, topics};

#[test]
fn killed_servers_come_back_on_the_same_ports_with_their_data() {
    let stack = Stack::start(Options::private("killed")).unwrap();
    create_topic(stack.bootstrap_servers(), "kept");
    execute(stack.database_url(), "CREATE TABLE kept AS SELECT 1 AS i");

    stack.kafka().kill();
    stack.postgres().kill();
    assert_eq!((stack.kafka().pid(), stack.postgres().pid()), (None, None));
    stack.check().expect("a server that was stopped is no failure");
    stack.postgres().start().unwrap();
    stack.kafka().start().unwrap();

    assert!(topics(stack.bootstrap_servers()).contains(&"kept".to_owned()));
    assert_eq!(number(stack.database_url(), "SELECT count(*) FROM kept"), 1);
}

#[test]
fn a_killed_postgresql_starts_again_while_a_backend_of_it_is_still_busy() {
    let stack = Stack::start(Options::private("busy")).unwrap();
    let url = stack.database_url().to_owned();
    let busy = std::thread::spawn(move || {
        crate::client::wait(async {
            let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(&url).await?;
            // Computes, so it does not notice the end of its server for a while.
            let query = "SELECT count(*) FROM generate_series(1, 20000000) i";
            sqlx::query(query).execute(&mut connection).await
        })
    });
    let working = "SELECT count(*) FROM pg_stat_activity \
                   WHERE query LIKE '%generate_series%' AND pid <> pg_backend_pid()";
    crate::client::eventually("the backend works", || number(stack.database_url(), working) > 0);
    stack.postgres().kill();
    stack.postgres().start().unwrap();
    assert_eq!(number(stack.database_url(), "SELECT 1::bigint"), 1);
    // Its server is gone: whether it had an answer in time does not matter here.
    let _ = busy.join().unwrap();
}

#[test]
fn a_restored_snapshot_gives_back_the_earlier_data() {
    let stack = Stack::start(Options::private("snapshot")).unwrap();
    let kept = tempfile::tempdir().unwrap();
    let snapshot = kept.path().join("earlier");
    execute(stack.database_url(), "CREATE TABLE seen AS SELECT 1 AS i");
    stack.postgres().snapshot(&snapshot).unwrap();
    execute(stack.database_url(), "INSERT INTO seen SELECT 2");
    assert_eq!(number(stack.database_url(), "SELECT count(*) FROM seen"), 2);
    stack.postgres().restore(&snapshot).unwrap();
    assert_eq!(number(stack.database_url(), "SELECT count(*) FROM seen"), 1);
    // It can be set back more than once.
    execute(stack.database_url(), "DELETE FROM seen");
    stack.postgres().restore(&snapshot).unwrap();
    assert_eq!(number(stack.database_url(), "SELECT count(*) FROM seen"), 1);
}

#[test]
fn a_frozen_broker_is_silent_until_it_is_continued() {
    let stack = Stack::start(Options::private("frozen")).unwrap();
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", stack.bootstrap_servers()).create().unwrap();
    consumer.fetch_metadata(None, Duration::from_secs(20)).unwrap();
    stack.kafka().pause().unwrap();
    // On a busy machine the signal reaches the broker's threads in their own time.
    let is_silent = |_| consumer.fetch_metadata(None, Duration::from_secs(1)).is_err();
    assert!((0..10).any(is_silent));
    stack.kafka().resume().unwrap();
    consumer.fetch_metadata(None, Duration::from_secs(20)).unwrap();
}
