//! Consumers come, go, freeze and wake up; partitions are added.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _};

use crate::support::consumer::Consumer;
use crate::support::load::Load;
use crate::support::poll::{eventually, until, wait};
use crate::support::stacks::{QUICK, quick};
use crate::support::world::{World, orders};

const SMALL: [&str; 6] = [QUICK[0], QUICK[1], QUICK[2], QUICK[3], "--batch-size", "20"];

#[track_caller]
fn wait_progress(world: &World) {
    let before: Vec<i64> = (0..3).map(|partition| world.next_offset(partition)).collect();
    for (partition, before) in (0..3).zip(before) {
        eventually(&format!("partition {partition} moves on from {before}"), || {
            world.next_offset(partition) > before
        });
    }
}

#[test]
fn consumers_that_join_leave_and_die_under_load_lose_and_double_nothing() {
    let world = Arc::new(World::on(quick(), "come_and_go", 3));
    let load = Load::start(&world, 0);
    let start = || Consumer::start(&world, &SMALL);
    let first = start();
    wait_progress(&world);
    let mut second = start();
    second.wait_ready();
    wait_progress(&world);
    let mut third = start();
    third.wait_ready();
    wait_progress(&world);
    first.stop().summary();
    wait_progress(&world);
    second.sigkill();
    wait_progress(&world);
    let mut fourth = start();
    fourth.wait_ready();
    third.stop().summary();
    wait_progress(&world);
    load.stop();
    world.wait_consumed();
    fourth.stop().summary();
    world.audit();
}

#[test]
fn a_consumer_frozen_past_its_session_does_no_harm_when_it_wakes_up() {
    let world = Arc::new(World::on(quick(), "zombie", 3));
    let load = Load::start(&world, 0);
    let mut zombie = Consumer::start(&world, &SMALL);
    wait_progress(&world);
    for _ in 0..2 {
        zombie.signal(Signal::STOP);
        let other = Consumer::start(&world, &SMALL);
        wait_progress(&world);
        zombie.signal(Signal::CONT);
        load.wait_more(100);
        zombie.wait_ready();
        wait_progress(&world);
        other.stop().summary();
        wait_progress(&world);
    }
    load.stop();
    world.wait_consumed();
    zombie.stop().summary();
    world.audit();
}

/// The statement in which a lane waits for this lock.
const LANE_WAITS: &str = "
    SELECT count(*) FROM pg_stat_activity
     WHERE datname = current_database() AND application_name LIKE 'idempotent-consumer lane%'
       AND wait_event_type = 'Lock'";

fn connect(world: &World, application_name: &str) -> PgConnection {
    let options: PgConnectOptions = world.database_url.parse().unwrap();
    wait(options.application_name(application_name).connect()).unwrap()
}

/// A lane gets as far as `table`, and freezes there with its claims and its partition: its session
/// is as `left` says. Another consumer takes over.
fn freezes_inside_its_transaction(what: &str, count: u128, table: &str, left: &str) {
    let world = World::on(quick(), what, 1);
    let sessions = format!(
        "SELECT count(*) FROM pg_stat_activity
          WHERE datname = current_database() AND {left}
            AND application_name LIKE 'idempotent-consumer lane%'
            AND (SELECT count(DISTINCT relation)
                   FROM pg_locks
                  WHERE pg_locks.pid = pg_stat_activity.pid AND granted
                    AND relation IN ('partition_progress'::regclass, '{table}'::regclass)) = 2"
    );
    let mut sent = 0;
    let mut send = || {
        world.send(&orders(sent, count, 2));
        sent += count;
        sent
    };
    send();
    world.drain(&QUICK);
    let frozen = (0..10).find_map(|_| {
        send();
        let frozen = freezes_before(&world, table);
        // A first batch of a few records is written by other statements than a large one.
        let is_there = || {
            std::thread::sleep(Duration::from_millis(100));
            world.number(&sessions) == 1
        };
        if (0..30).any(|_| is_there()) {
            return Some(frozen);
        }
        frozen.signal(Signal::CONT);
        world.wait_consumed();
        frozen.stop();
        None
    });
    let frozen = frozen.expect("its transaction is open, and nobody there");

    let next = Consumer::start(&world, &QUICK);
    world.wait_consumed();
    assert!(next.says("ended a frozen lane of this partition"), "{}", next.log());
    frozen.signal(Signal::CONT);
    let sent = send();
    world.wait_consumed();
    frozen.stop().summary();
    next.stop().summary();
    assert_eq!(world.claims(), i64::try_from(sent).unwrap());
    world.audit();
}

/// A consumer that stops where it would have gone on to write to `table`.
fn freezes_before(world: &World, table: &str) -> Consumer {
    let mut obstacle = connect(world, "obstacle");
    let mut transaction = wait(obstacle.begin()).unwrap();
    let lock = sqlx::AssertSqlSafe(format!("LOCK TABLE {table} IN SHARE MODE"));
    wait(sqlx::query(lock).execute(&mut *transaction)).unwrap();
    let frozen = Consumer::start(world, &QUICK);
    eventually("the lane waits in its transaction", || world.number(LANE_WAITS) == 1);
    frozen.signal(Signal::STOP);
    wait(transaction.rollback()).unwrap();
    frozen
}

#[test]
fn a_consumer_frozen_inside_its_transaction_is_ended_by_the_next_one() {
    freezes_inside_its_transaction(
        "frozen",
        10,
        "customer_totals",
        "state = 'idle in transaction'",
    );
}

/// There no timeout of PostgreSQL reaches it.
#[test]
fn a_consumer_frozen_inside_copy_is_ended_by_the_next_one() {
    for table in ["orders", "processed_messages"] {
        let left = format!("query LIKE 'COPY {table}%' AND wait_event = 'ClientRead'");
        freezes_inside_its_transaction(&format!("frozen_{table}"), 100, table, &left);
    }
}

#[test]
fn nobody_but_an_older_lane_of_the_partition_is_ended_for_holding_it() {
    let world = World::on(quick(), "held", 2);
    let mut consumer = Consumer::start(&world, &QUICK);
    consumer.wait_ready();
    let lane = |partition: i32| {
        format!(
            "SELECT application_name FROM pg_stat_activity
              WHERE datname = current_database()
                AND application_name LIKE 'idempotent-consumer lane% {partition}'"
        )
    };
    let (own, other) = (world.scalar::<String>(&lane(0)), world.scalar::<String>(&lane(1)));
    assert_eq!(consumer.stop().code, Some(0));
    world.send_to(0, &orders(0, 10, 2));

    let hold = "SELECT FROM partition_progress WHERE partition = 0 FOR UPDATE";
    for (application_name, is_ended) in [("psql", false), (&*other, false), (&*own, true)] {
        let mut holder = connect(&world, application_name);
        let mut transaction = wait(holder.begin()).unwrap();
        wait(sqlx::query(hold).execute(&mut *transaction)).unwrap();
        let before = world.next_offset(0);
        let consumer = Consumer::start(&world, &QUICK);
        if is_ended {
            world.wait_consumed();
            assert!(wait(sqlx::query("SELECT 1").execute(&mut *transaction)).is_err());
        } else {
            consumer.wait_unready("lock timeout");
            assert_eq!(world.next_offset(0), before);
            wait(transaction.rollback()).unwrap();
            world.wait_consumed();
        }
        assert_eq!(consumer.stop().code, Some(0));
        world.send_to(0, &orders(100 + u128::try_from(world.claims()).unwrap(), 10, 2));
    }
    world.drain(&QUICK);
    world.audit();
}

#[test]
fn added_partitions_wait_until_the_old_ones_are_drained() {
    let world = World::new("added", 1);
    world.send(&orders(0, 10, 50));
    world.drain(&[]);
    world.send(&orders(10, 400, 50));
    let old_end = world.log_end(0);
    world.add_partitions(3);
    // Now other keys go to other partitions.
    world.send(&orders(410, 400, 50));
    assert!((1..3).all(|partition| world.log_end(partition) > 0), "keys have moved");
    world.drain(&["--batch-size", "10"]);
    let old = format!(
        r#"SELECT max(batch_seq) FROM processed_messages WHERE partition = 0 AND "offset" < {old_end}"#
    );
    let new = "SELECT min(batch_seq) FROM processed_messages WHERE partition > 0";
    let (old, new) = (world.number(&old), world.number(new));
    assert!(old < new, "the last old one was applied at {old}, the first new one at {new}");
    assert_eq!(world.claims(), 810);
    world.audit();
}

#[test]
fn a_running_consumer_takes_added_partitions_on() {
    let world = World::new("added_live", 1);
    let mut consumer = Consumer::start(&world, &["-X", "topic.metadata.refresh.interval.ms=500"]);
    consumer.wait_ready();
    world.send(&orders(0, 100, 50));
    world.add_partitions(2);
    world.send(&orders(100, 200, 50));
    until("the new partition is known", || (world.next_offset(1) >= 0).then_some(()));
    world.wait_consumed();
    assert_eq!(consumer.stop().summary()["applied"], 300);
    world.audit();
}
