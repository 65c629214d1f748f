//! Each program under its own role of the database: all of its work, and nothing beside it.

mod rights;
mod without_createrole;

use idempotent_consumer::{
    Answer, Context, Engine, EngineConfig, HandlerError, Message, MessageHandler, OneByOne, migrate,
};
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tokio_util::sync::CancellationToken;

use crate::support::broken::{PATIENT, break_customer, mend_customer};
use crate::support::consumer::Consumer;
use crate::support::events::{change, event, placed, with_value};
use crate::support::poll::{eventually, wait};
use crate::support::world::{World, customer, orders};
use crate::support::{Place, Ran};

/// More than the topics here keep records.
const WINDOW: &str = "30h";

/// PostgreSQL's insufficient_privilege.
const DENIED: &str = "42501";

fn world(what: &str) -> World {
    let world = World::of(Place::on(local_stack::shared(), what));
    for topic in [&world.topic, &world.dlq_topic] {
        world.create_topic_with(
            topic,
            1,
            &[("retention.ms", "3600000"), ("segment.ms", "3600000")],
        );
    }
    world
}

#[track_caller]
fn assert_denied(ran: &Ran) {
    assert_eq!(ran.code, 1, "{ran:#?}");
    assert!(ran.stderr.contains("permission denied"), "{ran:#?}");
    assert!(ran.stderr.contains("grant it this program's role"), "{ran:#?}");
}

#[test]
fn a_consumer_does_all_its_work_under_its_role() {
    let world = world("role_consumer");
    let consumer = World::of(world.as_member_of("order_pipeline_consumer"));
    wait(break_customer(&world, &customer(3)));
    world.send(&orders(0, 60, 6));
    // Poison, and a payment that comes before its order.
    world.send(&[
        with_value(event(100, &placed(100, "c-9", 1)), b"{"),
        event(101, &order_events::OrderEvent::Paid(change(101, "c-9"))),
        event(102, &placed(101, "c-9", 1)),
    ]);
    let running = Consumer::start(&consumer, &PATIENT);
    world.wait_consumed();
    assert_eq!(world.number("SELECT count(*) FROM retry_queue"), 10);

    let given_up = crate::support::events::message_id(3).to_string();
    consumer.run("retries", &["dead-letter", "--id", &given_up]).succeeded();
    wait(mend_customer(&world));
    consumer.run("retries", &["now", "--all"]).succeeded();
    eventually("nothing waits", || world.number("SELECT count(*) FROM retry_queue") == 0);
    let redrive = ["redrive", "--code", "order_not_found", "--wait", "1m"];
    consumer.run("dlq", &redrive).succeeded();
    consumer.run("dlq", &["discard", "--code", "invalid_json"]).succeeded();
    running.stop().summary();
    assert_eq!(world.number("SELECT count(*) FROM partition_progress WHERE clean"), 1);

    // A process that ended without a word is followed by one that takes over.
    let killed = Consumer::start(&consumer, &["-X", "session.timeout.ms=6000"]);
    eventually("it has taken the partition over", || {
        world.number("SELECT count(*) FROM partition_progress WHERE NOT clean") == 1
    });
    killed.sigkill();
    world.send(&orders(200, 10, 2));
    consumer.drain(&[]);
    assert_eq!(world.dead_letter_codes(), ["given_up", "invalid_json", "order_not_found"]);
    assert_eq!(world.number("SELECT count(*) FROM orders"), 70);
    consumer.audit();
}

#[test]
fn an_auditor_reads_everything_that_is_to_be_proved_and_changes_nothing() {
    let world = world("role_auditor");
    let auditor = World::of(world.as_member_of("order_pipeline_auditor"));
    world.send(&orders(0, 10, 2));
    world.send(&[with_value(event(100, &placed(100, "c-9", 1)), b"{")]);
    world.drain(&[]);
    auditor.audit();
    let id = crate::support::events::order_id(1).to_string();
    for (command, arguments) in [
        ("status", &[][..]),
        ("show", &[id.as_str()]),
        ("verify", &["--wait", "10s"]),
        ("dlq", &["list"]),
        ("retries", &["list"]),
    ] {
        let (mine, owners) = (auditor.run(command, arguments), world.run(command, arguments));
        assert_eq!((mine.code, owners.code), (0, 0), "{command}: {mine:#?}");
    }
    assert_denied(&auditor.run("dlq", &["discard", "--all"]));
    assert_denied(&auditor.run("dlq", &["redrive", "--all"]));
    assert_denied(&auditor.run("run", &["--exit-when-idle", "1s"]));
    assert_eq!(auditor.refusal("SELECT FROM api_keys").as_deref(), Some(DENIED));
    assert_eq!(world.number("SELECT count(*) FROM dead_letters WHERE state = 'open'"), 1);
}

#[test]
fn only_the_owner_purges_and_a_refused_purge_has_recorded_nothing() {
    let world = world("role_purge");
    let consumer = World::of(world.as_member_of("order_pipeline_consumer"));
    world.send(&orders(0, 10, 2));
    consumer.drain(&["--dedup-window", WINDOW]);
    for arguments in [&["--dry-run"][..], &[]] {
        let ran = consumer.run("purge", arguments);
        assert_eq!(ran.code, 1, "{ran:#?}");
        let user = consumer.user();
        assert!(ran.stderr.contains(&format!("{user} does not own the claims")), "{ran:#?}");
    }
    assert_eq!(world.number("SELECT count(purged_before) FROM dedup_window"), 0);
    world.run("purge", &[]).succeeded();
    assert_eq!(world.number("SELECT count(purged_before) FROM dedup_window"), 1);
    for statement in [
        "DELETE FROM processed_messages",
        "TRUNCATE processed_messages",
        "UPDATE processed_messages SET fingerprint = ''",
        "SELECT empty_claim_leaf('processed_messages_2020', now())",
        "SELECT delete_old_claims('processed_messages_before', now(), 0, 10)",
        "UPDATE dedup_window SET purged_before = now()",
    ] {
        let denied = consumer.refusal(statement);
        let is_harmless = statement.starts_with("SELECT delete") && denied.is_none();
        assert!(denied.as_deref() == Some(DENIED) || is_harmless, "{statement}: {denied:?}");
    }
}

#[test]
fn ranges_made_ahead_by_a_consumer_under_its_role_are_the_owners() {
    let world = world("role_ranges");
    let consumer = World::of(world.as_member_of("order_pipeline_consumer"));
    // As a database looks that was made years ago: this year is one leaf.
    wait(world.sql(
        "DO $$
         DECLARE
             year integer := extract(year FROM now());
         BEGIN
             EXECUTE format('DROP TABLE processed_messages_%s', year);
             PERFORM make_claim_year(year, format('processed_messages_%s', year), false);
             PERFORM attach_claim_year(year, format('processed_messages_%s', year));
         END $$",
    ));
    let due = "SELECT count(*) FROM claim_years_to_exchange()";
    assert_eq!(world.number(due), 1);
    world.send(&orders(0, 10, 2));
    consumer.drain(&["--dedup-window", WINDOW]);
    assert_eq!(world.number(due), 0);
    let owners =
        "SELECT count(DISTINCT relowner) FROM pg_class WHERE relname LIKE 'processed_messages%'";
    assert_eq!(world.number(owners), 1);
    // What stands before ours on a caller's path is not what the owner runs.
    let trap = "CREATE TEMP TABLE processed_messages (message_id uuid);
                SELECT exchange_claim_year(extract(year FROM now())::integer, true)";
    assert_eq!(consumer.refusal(trap), None);
    consumer.audit();
}

/// Counts deposits.
struct Ledger;

impl MessageHandler for Ledger {
    type Body = serde_json::Value;

    async fn handle(
        &self,
        context: &mut Context<'_>,
        _: &Message<serde_json::Value>,
    ) -> Result<Answer, HandlerError> {
        sqlx::query("INSERT INTO told DEFAULT VALUES").execute(context.connection()).await?;
        Ok(Answer::Applied)
    }
}

#[test]
fn a_notifier_has_the_engines_rights_in_its_own_schema_and_none_on_the_orders() {
    let world = world("role_notifier");
    let notifier = world.as_member_of("order_pipeline_notifier");
    wait(world.sql("CREATE SCHEMA notifier"));
    let schema =
        |url: &str| url.parse::<PgConnectOptions>().unwrap().options([("search_path", "notifier")]);
    world.send(&orders(0, 10, 2));
    let applied = wait(async {
        let owner = PgPool::connect_with(schema(&world.database_url)).await.unwrap();
        migrate::apply(&owner).await.unwrap();
        sqlx::raw_sql(
            "CREATE TABLE told (at timestamptz DEFAULT now());
             GRANT INSERT ON told TO order_pipeline_notifier;
             SELECT grant_engine_rights('order_pipeline_notifier')",
        )
        .execute(&owner)
        .await
        .unwrap();
        let mut config = EngineConfig::new(world.settings(), &world.topic, "notifier");
        config.dlq_topic.clone_from(&world.dlq_topic);
        config.exit_when_idle = Some(std::time::Duration::from_secs(1));
        let pool = PgPool::connect_with(schema(&notifier.database_url)).await.unwrap();
        let engine = Engine::new(config, OneByOne(Ledger), pool);
        engine.run(CancellationToken::new()).await.unwrap().applied
    });
    assert_eq!((applied, world.number("SELECT count(*) FROM notifier.told")), (10, 10));
    for table in ["orders", "customer_totals", "processed_messages", "api_keys", "outbox"] {
        let statement = format!("SELECT FROM public.{table}");
        assert_eq!(notifier.refusal(&statement).as_deref(), Some(DENIED), "{table}");
    }
}
