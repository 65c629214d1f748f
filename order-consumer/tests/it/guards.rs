//! Guards that a lucky run does without: each is given the moment in which it matters.

use sqlx::{Connection as _, PgConnection};

use crate::support::consumer::Consumer;
use crate::support::events::{event, placed, with_value};
use crate::support::poll::{eventually, wait};
use crate::support::stacks::{QUICK, quick};
use crate::support::world::{World, orders};

/// Another session in the middle of a transaction, until it is dropped.
struct Blocker(PgConnection);

impl Blocker {
    fn of(world: &World, sql: &'static str) -> Self {
        wait(async {
            let mut connection = PgConnection::connect(&world.database_url).await.unwrap();
            sqlx::query("BEGIN").execute(&mut connection).await.unwrap();
            sqlx::query(sql).execute(&mut connection).await.unwrap();
            Self(connection)
        })
    }

    fn release(self) {
        wait(self.0.close()).unwrap();
    }
}

/// Lanes of this database that wait for a lock.
const BLOCKED: &str = "SELECT count(*) FROM pg_stat_activity
     WHERE datname = current_database() AND wait_event_type = 'Lock'";

#[test]
fn an_offset_is_never_committed_before_its_transaction() {
    let world = World::new("offset_first", 1);
    let mut consumer = Consumer::start(&world, &[]);
    consumer.wait_ready();
    world.send(&orders(0, 50, 5));
    world.wait_consumed();
    let blocker = Blocker::of(&world, "LOCK TABLE orders IN ACCESS EXCLUSIVE MODE");
    world.send(&orders(50, 50, 5));
    eventually("its transaction is held up", || world.number(BLOCKED) > 0);
    // Offsets are committed once a second.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    assert!(world.committed(0).is_none_or(|committed| committed <= 50));
    assert_eq!(world.next_offset(0), 50);
    blocker.release();
    world.wait_consumed();
    assert_eq!(consumer.stop().summary()["applied"], 100);
    world.audit();
}

/// Several statements in one open a transaction. Cancelled among them, the session is in a failed
/// transaction that the client library knows nothing of, and never gets out of it by itself.
#[test]
fn statements_that_are_cancelled_at_any_moment_leave_no_lane_in_a_failed_transaction() {
    let world = World::new("cancelled", 2);
    let mut consumer = Consumer::start(&world, &["--batch-size", "5"]);
    consumer.wait_ready();
    let (mut sent, mut cancelled) = (0_u32, 0);
    // How many are hit depends on how busy the machine is.
    while cancelled <= 100 {
        assert!(sent < 40_000, "{cancelled} statements were in the way");
        world.send(&orders(sent.into(), 2000, 20));
        sent += 2000;
        cancelled += wait(cancels_what_lanes_do(&world, sent.into()));
    }
    world.wait_consumed();
    eventually("the retry queue is empty", || {
        world.number("SELECT count(*) FROM retry_queue") == 0
    });
    consumer.stop();
    world.audit();
}

/// Until all that was sent has its end, or many statements were cancelled. Returns how many.
async fn cancels_what_lanes_do(world: &World, sent: i64) -> i64 {
    let mut connection = PgConnection::connect(&world.database_url).await.unwrap();
    let mut cancelled = 0;
    let mut done = 0;
    while done < sent && cancelled < 1000 {
        let active = sqlx::query_scalar::<_, i64>(
            "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
              WHERE datname = current_database() AND state = 'active'
                AND application_name LIKE 'idempotent-consumer lane %'",
        );
        cancelled += active.fetch_one(&mut connection).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        let next = "SELECT coalesce(sum(next_offset), 0)::bigint FROM partition_progress";
        done = sqlx::query_scalar(next).fetch_one(&mut connection).await.unwrap();
    }
    cancelled
}

#[test]
fn an_id_that_is_claimed_meanwhile_with_other_content_is_a_conflict() {
    let world = World::new("claimed_meanwhile", 2);
    let mut consumer = Consumer::start(&world, &[]);
    consumer.wait_ready();
    world.send_to(0, &[event(1, &placed(1, "c-0", 1))]);
    world.wait_consumed();
    let blocker =
        Blocker::of(&world, "SELECT FROM customer_totals WHERE customer_id = 'c-0' FOR UPDATE");
    // The first holds its claim and waits for the total; the second waits for the claim.
    world.send_to(0, &[event(2, &placed(2, "c-0", 1))]);
    eventually("the first is held up", || world.number(BLOCKED) == 1);
    world.send_to(1, &[event(2, &placed(3, "c-1", 1))]);
    eventually("the second waits for it", || world.number(BLOCKED) == 2);
    blocker.release();
    world.wait_consumed();
    assert_eq!(world.dead_letter_codes(), ["id_conflict"]);
    assert_eq!((world.cents("c-0"), world.claims()), (900, 3));
    consumer.stop();
    world.audit();
}

#[test]
fn a_dead_letter_leaves_the_outbox_only_once_its_topic_has_it() {
    let world = World::on(quick(), "acknowledged", 1);
    let mut consumer = Consumer::start(&world, &QUICK);
    consumer.wait_ready();
    world.delete_topic(&world.dlq_topic);
    world.send(&[with_value(event(1, &placed(1, "c-1", 1)), b"no JSON")]);
    eventually("the dead letter is written", || world.claims() == 1);
    // Time enough for the relay to try.
    std::thread::sleep(std::time::Duration::from_secs(2));
    consumer.sigkill();
    assert_eq!(world.number("SELECT count(*) FROM outbox"), 1);
    // The next consumer creates the topic.
    world.drain(&QUICK);
    assert_eq!(world.dead_letter_topic().len(), 1);
    world.audit();
}
