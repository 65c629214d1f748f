//! What is told of orders through the outbox: once for each change of a status that was applied.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use idempotent_consumer::{Headers, Record};
use order_events::{OrderEvent, OrderNotification, Status};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::support::consumer::Consumer;
use crate::support::events::{
    Event, change, content, event, message_id, order_id, placed, with_header, with_value,
};
use crate::support::pipes::WITH_FAILPOINTS;
use crate::support::poll::{eventually, wait};
use crate::support::stacks::{QUICK, quick};
use crate::support::world::{World, orders, text};

/// The topic of a world's notifications.
fn topic_of(world: &World) -> String {
    format!("{}.told", world.topic)
}

fn drain(world: &World, arguments: &[&str]) {
    let topic = topic_of(world);
    world.drain(&[arguments, &["--notifications-topic", &topic]].concat());
}

fn told(world: &World) -> Vec<Record> {
    world.seen(&topic_of(world), true)
}

fn read(record: &Record) -> OrderNotification {
    OrderNotification::decode(record.value.as_deref()).unwrap()
}

/// Customer 1's order through all of its life, and what is refused or says nothing new.
fn a_life() -> Vec<Event> {
    let traced =
        with_header(event(1, &placed(1, "c-1", 2)), "traceparent", Some(b"00-4bf9-00f0-01"));
    let paid = event(3, &OrderEvent::Paid(change(1, "c-1")));
    vec![
        traced,
        event(2, &OrderEvent::Amended(content(1, "c-1", 3))),
        paid.clone(),
        paid,
        event(4, &placed(2, "c-1", 1)),
        event(5, &placed(2, "c-1", 1)), // placed again: nothing new
        event(6, &OrderEvent::Paid(change(9, "c-1"))), // rejected: there is no such order
        with_value(event(7, &placed(7, "c-1", 1)), b"no JSON"),
        event(8, &OrderEvent::Fulfilled(change(1, "c-1"))),
        event(9, &OrderEvent::Cancelled(change(2, "c-1"))),
    ]
}

#[test]
fn each_applied_change_of_a_status_is_told_once_in_its_order_and_nothing_else_is() {
    let world = World::new("told", 3);
    world.send(&a_life());
    drain(&world, &[]);
    world.send(&a_life());
    drain(&world, &["--batch-size", "1"]);

    let records = told(&world);
    let expected = [
        (1, 1, Status::Placed, 900),
        (1, 3, Status::Paid, 1350),
        (2, 4, Status::Placed, 450),
        (1, 8, Status::Fulfilled, 1350),
        (2, 9, Status::Cancelled, 450),
    ];
    let found: Vec<_> = records.iter().map(read).collect();
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for ((order, message, status, cents), notification) in expected.into_iter().zip(&found) {
        assert_eq!(notification.order_id, order_id(order));
        assert_eq!(notification.message_id, message_id(message));
        assert_eq!((notification.status, notification.total.get()), (status, cents));
        assert_eq!(notification.customer_id.as_str(), "c-1");
        assert_eq!(notification.currency, "EUR");
    }
    for (record, notification) in records.iter().zip(&found) {
        assert_eq!(record.key.as_deref(), Some(&b"c-1"[..]));
        let Record { headers, .. } = record;
        assert_eq!(text(headers, "ce_type"), "order.notification");
        assert_eq!(text(headers, "ce_id"), notification.id().to_string());
        assert_eq!(text(headers, "ce_time"), "2026-01-03T10:00:00Z");
    }
    assert_eq!(text(&records[0].headers, "traceparent"), "00-4bf9-00f0-01");
    assert_eq!(records[1].headers.get("traceparent"), None);
    world.audit();
}

/// More than the few of which no batch is taken for new, some of them there already: the first attempt
/// at such a batch is undone, with what it would have told.
#[test]
fn a_batch_that_is_done_again_tells_everything_once() {
    let world = World::new("told_again", 1);
    world.send(&orders(40, 1, 5));
    world.drain(&[]);
    // Not `ce_id`'s repeat: the same order under another id, so that the order is in the way.
    let again = event(5000, &placed(40, "c-0", 1));
    world.send(&[orders(0, 100, 5), vec![again], orders(100, 100, 5)].concat());
    drain(&world, &["--batch-linger", "1s"]);
    let ids = ids_of(&told(&world));
    // Of order 40 nobody was told when it was placed, and the repeat of its id is a duplicate.
    assert_eq!(ids, expected_ids((0..200).filter(|number| *number != 40)));
    world.audit();
}

#[test]
fn killed_at_any_step_it_tells_of_each_applied_event_under_one_id() {
    let world = Arc::new(World::on(quick(), "told_killed", 3));
    world.send(&[orders(0, 400, 13), a_life_of_many(400, 40)].concat());
    let topic = topic_of(&world);
    for point in [
        "consumer.inside_copy:1",
        "consumer.inside_copy:4",
        "consumer.after_effects:3",
        "consumer.before_commit:1",
        "consumer.before_commit:3",
        "consumer.after_commit:2",
        "relay.before_send:1",
        "relay.after_send_before_delete:1",
    ] {
        let mut command = world.command_of(&WITH_FAILPOINTS, "run", &QUICK);
        command
            .args(["--batch-size", "20", "--notifications-topic", &topic])
            // No message is guilty of these deaths, even one that is alone in work at three of them.
            .args(["--max-crashes", "100"])
            .env("FAILPOINT", point);
        let ended = Consumer::of(command, &world.topic).wait();
        assert_eq!(ended.code, None, "killed at {point}: {}", ended.stderr);
    }
    drain(&world, &QUICK);
    eventually("all are out", || world.number("SELECT count(*) FROM outbox") == 0);
    let applied: i64 =
        world.number("SELECT count(*) FROM processed_messages WHERE outcome = 'applied'");
    assert_eq!(applied, 400 + 40 * 2);
    // A relay that dies before it removes a row sends it again: under the same id, with the same bytes.
    let mut seen: BTreeMap<Uuid, Vec<u8>> = BTreeMap::new();
    for record in told(&world) {
        let id = text(&record.headers, "ce_id").parse().unwrap();
        let value = record.value.unwrap();
        assert_eq!(seen.entry(id).or_insert_with(|| value.clone()), &value);
    }
    let expected = (0..400).chain(10_000..10_040).chain(20_000..20_040);
    assert_eq!(seen.into_keys().collect::<Vec<_>>(), expected_ids(expected));
    world.audit();
}

/// Orders numbered from `first`, each placed and paid, by messages of their own.
fn a_life_of_many(first: u128, count: u128) -> Vec<Event> {
    (0..count)
        .flat_map(|number| {
            let order = first + number;
            [
                event(10_000 + number, &placed(order, "c-1", 1)),
                event(20_000 + number, &OrderEvent::Paid(change(order, "c-1"))),
            ]
        })
        .collect()
}

fn ids_of(records: &[Record]) -> Vec<Uuid> {
    let id = |headers: &Headers| text(headers, "ce_id").parse().unwrap();
    let mut ids: Vec<Uuid> = records.iter().map(|record| id(&record.headers)).collect();
    ids.sort_unstable();
    ids
}

/// The ids of what is told of these messages, sorted.
fn expected_ids(messages: impl Iterator<Item = u128>) -> Vec<Uuid> {
    let some = OrderNotification {
        order_id: Uuid::nil(),
        status: Status::Placed,
        customer_id: order_events::CustomerId::new("c-1").unwrap(),
        total: order_events::Cents::ZERO,
        currency: "EUR".to_owned(),
        message_id: Uuid::nil(),
    };
    let mut ids: Vec<Uuid> = messages
        .map(|number| OrderNotification { message_id: message_id(number), ..some.clone() }.id())
        .collect();
    ids.sort_unstable();
    ids
}

/// Rows of a full outbox, each with its number: most are of 300 keys, many of one key, some of none.
fn fill_outbox(world: &World, rows: i64) {
    let topic = topic_of(world);
    let filled = world.number(&format!(
        "WITH filled AS (
             INSERT INTO outbox (topic, key, value, headers)
             SELECT '{topic}',
                    CASE WHEN n % 11 = 0 THEN NULL
                         WHEN n % 7 = 0 THEN 'often'
                         ELSE 'k-' || n % 300 END::bytea,
                    n::text::bytea,
                    '[]'
               FROM generate_series(1, {rows}) AS n
             RETURNING 1
         )
         SELECT count(*) FROM filled"
    ));
    assert_eq!(filled, rows);
}

fn left_in_outbox(world: &World) -> i64 {
    world.number("SELECT count(*) FROM outbox")
}

/// Has a consumer publish all of it.
fn empty_outbox(world: &World, arguments: &[&str]) {
    let consumer = Consumer::start(world, arguments);
    eventually("all are out", || left_in_outbox(world) == 0);
    consumer.stop();
}

/// Looks at the numbers of what was told: those of a key are in their order, where the first of each
/// counts. Returns them, and how many records there are.
fn told_in_order(world: &World) -> (BTreeSet<i64>, usize) {
    let mut records = told(world);
    records.sort_by_key(|record| (record.source.partition, record.offset));
    let mut seen = BTreeSet::new();
    let mut last: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
    for record in &records {
        let value = record.value.as_deref().unwrap();
        let number: i64 = std::str::from_utf8(value).unwrap().parse().unwrap();
        if seen.insert(number)
            && let Some(key) = &record.key
        {
            let before = last.insert(key.clone(), number);
            assert!(before < Some(number), "{number} of {key:?} went behind {before:?}");
        }
    }
    (seen, records.len())
}

/// The same, where all are there. Returns how many records there are.
fn assert_all_in_order(world: &World, rows: i64) -> usize {
    let (seen, records) = told_in_order(world);
    assert!(seen.into_iter().eq(1..=rows), "some are missing");
    records
}

/// So many that some are removed and others read while others are under way.
#[test]
fn a_full_outbox_goes_out_once_and_in_the_order_of_each_key_also_where_the_client_has_little_room()
{
    let world = World::new("full_outbox", 3);
    drain(&world, &[]); // for the tables and the topic
    fill_outbox(&world, 9_000);
    let few = ["-X", "queue.buffering.max.messages=7", "--notifications-topic", &topic_of(&world)];
    empty_outbox(&world, &few);
    assert_eq!(assert_all_in_order(&world, 9_000), 9_000);
}

/// Those behind it that were seen before it was refused do not go, and none before another of its key.
#[test]
fn a_row_that_its_topic_refuses_holds_up_all_of_its_key_and_no_others() {
    const ROWS: i64 = 3_000;
    let world = World::new("outbox_refused", 3);
    world.create_topic_with(&topic_of(&world), 3, &[("max.message.bytes", "20000")]);
    drain(&world, &[]);
    // Too large: digits without a pattern, which lz4 makes little smaller.
    let filled = world.number(&format!(
        "WITH large AS (
             INSERT INTO outbox (topic, key, value, headers)
             SELECT '{}', 'k-1', convert_to(string_agg(md5(n::text), ''), 'UTF8'), '[]'
               FROM generate_series(1, 2000) AS n
             RETURNING 1
         )
         SELECT count(*) FROM large",
        topic_of(&world)
    ));
    assert_eq!(filled, 1);
    fill_outbox(&world, ROWS);
    let held_up: BTreeSet<i64> =
        (1..=ROWS).filter(|n| n % 300 == 1 && n % 7 != 0 && n % 11 != 0).collect();
    let expected: BTreeSet<i64> = (1..=ROWS).filter(|n| !held_up.contains(n)).collect();
    let consumer = Consumer::start(&world, &["--notifications-topic", &topic_of(&world)]);
    let left = 1 + i64::try_from(held_up.len()).unwrap();
    eventually("the others are out", || left_in_outbox(&world) <= left);
    consumer.stop();
    assert_eq!(told_in_order(&world).0, expected);
    assert_eq!(left_in_outbox(&world), left);
    assert_eq!(world.number("SELECT count(*) FROM outbox WHERE refused_at IS NOT NULL"), 1);
}

/// While there is little, PostgreSQL plans to read all of the table; later there is much.
#[test]
fn an_outbox_that_fills_is_not_read_whole_for_each_round() {
    const ROWS: i64 = 20_000;
    let world = World::new("outbox_plans", 3);
    drain(&world, &[]);
    let consumer = Consumer::start(&world, &["--notifications-topic", &topic_of(&world)]);
    let fill = |rows| {
        fill_outbox(&world, rows);
        eventually("all are out", || left_in_outbox(&world) == 0);
    };
    for _ in 0..4 {
        fill(8);
    }
    wait(async {
        let mut connection = PgConnection::connect(&world.database_url).await.unwrap();
        // By itself it would be analysed within a minute.
        for statement in
            ["VACUUM (ANALYZE) outbox", "ALTER TABLE outbox SET (autovacuum_enabled = off)"]
        {
            sqlx::query(statement).execute(&mut connection).await.unwrap();
        }
    });
    for _ in 0..8 {
        fill(1);
    }
    let statistics = "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'outbox'";
    let before = world.number(statistics);
    let told_before = told(&world).len();
    fill_outbox(&world, ROWS);
    eventually("all are out", || told(&world).len() >= told_before + 20_000);
    consumer.stop();
    let read = world.number(statistics) - before;
    // The health and the figures of the consumer count it now and then.
    assert!(read < 4 * ROWS, "{read} rows were read beside the index");
}

/// Somebody holds a lock on one of them for longer than the relay waits for it. The client has little room, so
/// that others may still be to go when that one is removed in vain.
#[test]
fn rows_that_cannot_be_removed_do_not_go_out_again() {
    const ROWS: i64 = 3_000;
    let world = World::new("outbox_locked", 3);
    drain(&world, &[]);
    fill_outbox(&world, ROWS);
    let topic = topic_of(&world);
    let mut connection = wait(PgConnection::connect(&world.database_url)).unwrap();
    wait(sqlx::query("BEGIN").execute(&mut connection)).unwrap();
    let lock = "SELECT FROM outbox WHERE value = '17' FOR UPDATE";
    wait(sqlx::query(lock).execute(&mut connection)).unwrap();
    let few = ["-X", "queue.buffering.max.messages=7", "--notifications-topic", &topic];
    let consumer = Consumer::start(&world, &few);
    eventually("it waits", || consumer.log().contains("cannot remove what is published"));
    // Two more attempts in vain.
    std::thread::sleep(Duration::from_secs(12));
    wait(sqlx::query("ROLLBACK").execute(&mut connection)).unwrap();
    eventually("all are out", || left_in_outbox(&world) == 0);
    consumer.stop();
    assert_eq!(assert_all_in_order(&world, ROWS), 3_000);
}

/// What the producer has is waited for, for a second, and what Kafka has is removed.
#[test]
fn relays_that_are_told_to_stop_at_their_work_leave_nothing_that_goes_out_again() {
    // Where Kafka takes longer than that, some go out again.
    assert!((0..3).any(|_| told_by_relays_that_stop() == 12_000), "some went out again each time");
}

fn told_by_relays_that_stop() -> usize {
    const ROWS: i64 = 12_000;
    let world = World::new("full_outbox_stopped", 3);
    drain(&world, &[]);
    let slow = ["-X", "linger.ms=50", "--notifications-topic", &topic_of(&world)];
    fill_outbox(&world, ROWS);
    let mut left = ROWS;
    for _ in 0..3 {
        let consumer = Consumer::start(&world, &slow);
        eventually("it is at its work", || left_in_outbox(&world) < left);
        consumer.stop();
        left = left_in_outbox(&world);
    }
    assert!(left > 0, "the last one was stopped at its work");
    empty_outbox(&world, &[]);
    assert_all_in_order(&world, ROWS)
}

#[test]
fn a_full_outbox_goes_out_in_the_order_of_each_key_wherever_its_relay_is_killed() {
    const ROWS: i64 = 20_000;
    let world = World::new("full_outbox_killed", 3);
    drain(&world, &[]);
    let topic = topic_of(&world);
    fill_outbox(&world, ROWS);
    for point in [
        "relay.before_send:1",
        "relay.before_send:3000",
        "relay.after_send_before_delete:1",
        "relay.after_send_before_delete:3",
        "relay.before_send:4500",
        "relay.after_delete:1",
        "relay.after_delete:2",
    ] {
        let mut command = world.command_of(&WITH_FAILPOINTS, "run", &[]);
        command.args(["--notifications-topic", &topic]).env("FAILPOINT", point);
        let ended = Consumer::of(command, &world.topic).wait();
        assert_eq!(ended.code, None, "killed at {point}: {}", ended.stderr);
        // Nobody has to wait until the dead one's lease runs out.
        let leases = "WITH dead AS (DELETE FROM relay_lease RETURNING 1) SELECT count(*) FROM dead";
        assert_eq!(world.number(leases), 1);
    }
    assert!(left_in_outbox(&world) > 0, "the last one was killed at its work");
    empty_outbox(&world, &[]);
    let records = assert_all_in_order(&world, ROWS);
    assert!(records > 20_000, "nothing was sent again: nobody was killed at his work");
}

/// A row that the relay cannot read, written by somebody else, ends its turn while others are under way.
#[test]
fn what_is_under_way_is_removed_also_where_what_follows_cannot_be_read() {
    let world = World::new("unreadable", 3);
    drain(&world, &[]);
    fill_outbox(&world, 5_000);
    let unreadable = "value = '2700'";
    let spoil = |headers: &str| {
        world.number(&format!(
            "WITH spoilt AS (UPDATE outbox SET headers = '{headers}' WHERE {unreadable} RETURNING 1)
             SELECT count(*) FROM spoilt"
        ))
    };
    assert_eq!(spoil("{}"), 1);
    let topic = topic_of(&world);
    let consumer = Consumer::start(&world, &["--notifications-topic", &topic]);
    eventually("the round before it is out", || left_in_outbox(&world) < 4_000);
    // Some more turns that end at it.
    std::thread::sleep(Duration::from_secs(3));
    assert!(left_in_outbox(&world) >= 2_300, "what follows it is not sent");
    assert_eq!(spoil("[]"), 1);
    eventually("all are out", || left_in_outbox(&world) == 0);
    consumer.stop();
    assert_eq!(assert_all_in_order(&world, 5_000), 5_000);
}

#[test]
fn without_the_flag_nothing_is_told_and_a_topic_of_its_own_is_asked_for() {
    let world = World::new("not_told", 1);
    world.send(&a_life());
    world.drain(&[]);
    assert_eq!(world.topics().partitions(&topic_of(&world)).unwrap(), None);

    let ran = world.run("run", &["--notifications-topic", &world.topic]);
    assert_eq!(ran.code, 2, "{ran:?}");
    let topic = topic_of(&world);
    let ran = world.run("run", &["--notifications-topic", &topic, "--no-create-topics"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains(&format!("the topic {topic} does not exist")), "{}", ran.stderr);
}
