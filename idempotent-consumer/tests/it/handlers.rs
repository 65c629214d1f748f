//! What becomes of messages under handlers that reject, ask for time, fail, panic, hang or cheat.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use idempotent_consumer::failure::FailureClass;
use idempotent_consumer::test_kit::{self, Violation};
use idempotent_consumer::{
    Answer, Context, Decoded, Decoder, Engine, EngineError, Handler, HandlerError, Headers, Json,
    Message, MessageHandler, OneByOne, Outgoing, Poison, Record,
};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::World;

/// Writes each number, and does with some whatever the closure says.
pub(crate) struct Numbers<F>(F);

pub(crate) enum Do {
    Apply,
    Say(Answer),
    Fail(HandlerError),
    Panic,
    Hang,
    /// Runs this statement first, and does not look at what comes of it.
    Swallow(&'static str),
    /// Runs this statement first.
    Run(&'static str),
    Publish(Outgoing),
}

impl<F> MessageHandler for Numbers<F>
where
    F: Fn(i64) -> Do + Send + Sync + 'static,
{
    type Body = i64;

    async fn handle(
        &self,
        context: &mut Context<'_>,
        message: &Message<i64>,
    ) -> Result<Answer, HandlerError> {
        match self.0(message.body) {
            Do::Apply => {}
            Do::Say(answer) => return Ok(answer),
            Do::Fail(error) => return Err(error),
            Do::Panic => panic!("on {}", message.body),
            Do::Hang => tokio::time::sleep(Duration::from_mins(10)).await,
            Do::Swallow(sql) => drop(sqlx::query(sql).execute(context.connection()).await),
            Do::Run(sql) => {
                sqlx::query(sql).execute(context.connection()).await?;
            }
            Do::Publish(record) => context.publish(record),
        }
        sqlx::query("INSERT INTO effects VALUES ($1)")
            .bind(message.body)
            .execute(context.connection())
            .await?;
        Ok(Answer::Applied)
    }
}

pub(crate) fn numbers<F: Fn(i64) -> Do + Send + Sync + 'static>(what: F) -> OneByOne<Numbers<F>> {
    OneByOne(Numbers(what))
}

fn others(all: std::ops::Range<i64>, guilty: i64) -> Vec<i64> {
    all.filter(|n| *n != guilty).collect()
}

#[tokio::test]
async fn a_rejected_message_is_dead_lettered_and_its_neighbours_are_applied() {
    let world = World::new().await;
    world.send(0..50);
    let handler = numbers(|n| match n {
        7 => Do::Say(Answer::rejected("unlucky", "seven")),
        _ => Do::Apply,
    });
    let summary = world.run(handler).await.unwrap();
    assert_eq!((summary.applied, summary.dead_lettered), (49, 1));
    assert_eq!(world.effects().await, others(0..50, 7));
    let expected = ("7".into(), "permanent".into(), "unlucky".into(), 1);
    assert_eq!(world.dead_letters().await, [expected]);
    assert_eq!(world.count("outbox").await, 0, "the copy has been published");
}

#[tokio::test]
async fn a_message_that_only_the_database_refuses_is_found_and_dead_lettered() {
    let world = World::new().await;
    sqlx::query("ALTER TABLE effects ADD CHECK (n <> 33)").execute(&world.pool).await.unwrap();
    world.send(0..100);
    let summary = world.run(numbers(|_| Do::Apply)).await.unwrap();
    assert_eq!((summary.applied, summary.dead_lettered), (99, 1));
    assert_eq!(world.effects().await, others(0..100, 33));
    let expected = ("33".into(), "permanent".into(), "sqlstate_23514".into(), 1);
    assert_eq!(world.dead_letters().await, [expected]);
}

#[tokio::test]
async fn a_message_to_be_retried_is_applied_once_it_may_and_holds_back_those_behind_it() {
    let world = World::new().await;
    world.send(0..20);
    let tried = Mutex::new(0);
    let handler = numbers(move |n| {
        let mut tried = tried.lock().unwrap();
        if n == 5 && *tried < 3 {
            *tried += 1;
            return Do::Say(Answer::Retry("the warehouse is closed".into()));
        }
        Do::Apply
    });
    let summary = world.run(handler).await.unwrap();
    assert_eq!((summary.applied, summary.dead_lettered), (20, 0));
    let order: Vec<i64> = sqlx::query_scalar(
        r#"SELECT "offset" FROM processed_messages ORDER BY batch_seq, "offset""#,
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    assert_eq!(order, (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_message_that_is_retried_in_vain_is_dead_lettered_after_the_last_attempt() {
    let world = World::new().await;
    world.send(0..10);
    let handler = numbers(|n| match n {
        4 => Do::Say(Answer::Retry("never".into())),
        _ => Do::Apply,
    });
    world.run(handler).await.unwrap();
    assert_eq!(world.effects().await, others(0..10, 4));
    let expected = ("4".into(), "retryable".into(), "retries_exhausted".into(), 5);
    assert_eq!(world.dead_letters().await, [expected]);
}

#[tokio::test]
async fn a_message_on_which_the_handler_panics_is_dead_lettered_and_the_engine_goes_on() {
    let world = World::new().await;
    world.send(0..10);
    world.run(numbers(|n| if n == 3 { Do::Panic } else { Do::Apply })).await.unwrap();
    assert_eq!(world.effects().await, others(0..10, 3));
    let expected = ("3".into(), "retryable".into(), "handler_panicked".into(), 5);
    assert_eq!(world.dead_letters().await, [expected]);
}

#[tokio::test]
async fn a_message_on_which_the_handler_hangs_is_given_up_after_its_attempts() {
    let mut world = World::new().await;
    world.config.handler_timeout = Duration::from_millis(300);
    world.config.max_attempts = 2;
    world.send(0..6);
    world.run(numbers(|n| if n == 3 { Do::Hang } else { Do::Apply })).await.unwrap();
    assert_eq!(world.effects().await, others(0..6, 3));
    let expected = ("3".into(), "retryable".into(), "handler_timeout".into(), 2);
    assert_eq!(world.dead_letters().await, [expected]);
}

#[tokio::test]
async fn a_handler_that_goes_on_after_a_failed_statement_loses_nothing_but_its_own_message() {
    let world = World::new().await;
    world.send(0..10);
    let handler = numbers(|n| if n == 2 { Do::Swallow("SELECT 1 / 0") } else { Do::Apply });
    world.run(handler).await.unwrap();
    assert_eq!(world.effects().await, others(0..10, 2));
    let expected = ("2".into(), "retryable".into(), "sqlstate_25P02".into(), 5);
    assert_eq!(world.dead_letters().await, [expected]);
}

#[tokio::test]
async fn a_handler_that_ends_its_transaction_stops_the_engine() {
    for statement in ["COMMIT", "ROLLBACK"] {
        let world = World::new().await;
        world.send(0..1);
        let ended = world.run(numbers(move |_| Do::Swallow(statement))).await;
        let Err(EngineError::Stopped { reason, .. }) = ended else { panic!("{ended:?}") };
        assert!(reason.contains("transaction"), "{reason}");
        assert_eq!(world.dead_letters().await, []);
    }
}

#[tokio::test]
async fn a_missing_table_stops_the_engine_and_dead_letters_nothing() {
    let world = World::new().await;
    world.send(0..10);
    sqlx::query("DROP TABLE effects").execute(&world.pool).await.unwrap();
    let ended = world.run(numbers(|_| Do::Apply)).await;
    let Err(EngineError::Stopped { reason, partition }) = ended else { panic!("{ended:?}") };
    assert!(reason.contains("effects") && partition.contains(&world.config.topic), "{reason}");
    assert_eq!(world.count("dead_letters").await, 0);
    assert_eq!(world.count("processed_messages").await, 0);
}

#[tokio::test]
async fn a_failure_of_the_world_around_is_waited_out_and_counts_no_attempt() {
    let world = World::new().await;
    world.send(0..10);
    let failed = Mutex::new(0);
    let handler = numbers(move |n| {
        let mut failed = failed.lock().unwrap();
        if n == 5 && *failed < 8 {
            *failed += 1;
            let down = std::io::Error::other("the payment provider is down");
            return Do::Fail(HandlerError::with_class(FailureClass::Infrastructure, down));
        }
        Do::Apply
    });
    let summary = world.run(handler).await.unwrap();
    assert_eq!((summary.applied, summary.dead_lettered), (10, 0));
}

#[tokio::test]
async fn an_outage_of_something_else_is_nobodys_fault_however_long_it_takes() {
    let mut world = World::new().await;
    world.config.infrastructure_backoff = world.config.retry_backoff;
    world.send(0..3);
    let failed = Mutex::new(0);
    let handler = numbers(move |_| {
        let mut failed = failed.lock().unwrap();
        *failed += 1;
        match *failed {
            0..200 => Do::Fail(HandlerError::with_class(FailureClass::Infrastructure, "down")),
            _ => Do::Apply,
        }
    });
    let summary = world.run(handler).await.unwrap();
    assert_eq!((summary.applied, summary.dead_lettered), (3, 0));
}

#[tokio::test]
async fn a_database_failure_that_keeps_to_one_message_is_blamed_on_it_also_in_a_single_lane() {
    let mut world = World::new().await;
    world.config.infrastructure_backoff = world.config.retry_backoff;
    // What a deadlock with another application says, on one message, for ever.
    let raise = "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40P01'; END $$";
    world.send(0..10);
    let handler = numbers(move |n| if n == 6 { Do::Run(raise) } else { Do::Apply });
    world.run(handler).await.unwrap();
    assert_eq!(world.effects().await, others(0..10, 6));
    let expected = ("6".into(), "retryable".into(), "sqlstate_40P01".into(), 5);
    assert_eq!(world.dead_letters().await, [expected]);
}

#[tokio::test]
async fn a_full_disk_is_no_messages_fault() {
    let mut world = World::new().await;
    world.config.infrastructure_backoff = world.config.retry_backoff;
    let full = "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '53100'; END $$";
    world.send(0..3);
    let failed = Mutex::new(0);
    let handler = numbers(move |_| {
        let mut failed = failed.lock().unwrap();
        *failed += 1;
        if *failed < 200 { Do::Run(full) } else { Do::Apply }
    });
    let summary = world.run(handler).await.unwrap();
    assert_eq!((summary.applied, summary.dead_lettered), (3, 0));
}

/// Reads numbers, and panics on one.
struct Fragile;

impl Decoder for Fragile {
    type Body = i64;

    fn decode(&self, record: &Record) -> Result<Decoded<i64>, Poison> {
        let decoded = Json::default().decode(record);
        assert_ne!(decoded, Ok(Decoded::Message(3)), "three");
        decoded
    }
}

#[tokio::test]
async fn a_record_on_which_the_decoder_panics_is_poison() {
    let world = World::new().await;
    world.send(0..6);
    let (config, pool) = (world.config.clone(), world.pool.clone());
    let engine = Engine::with_decoder(config, numbers(|_| Do::Apply), Fragile, pool);
    engine.run(CancellationToken::new()).await.unwrap();
    assert_eq!(world.effects().await, others(0..6, 3));
    let expected = ("3".into(), "permanent".into(), "decoder_panicked".into(), 0);
    assert_eq!(world.dead_letters().await, [expected]);
}

#[tokio::test]
async fn a_database_that_cannot_hold_every_text_is_refused() {
    let mut world = World::new().await;
    let name = format!("latin_{}", Uuid::new_v4().simple());
    let create = format!(
        "CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    );
    sqlx::query(sqlx::AssertSqlSafe(create)).execute(&world.pool).await.unwrap();
    let url = world.database_url.rsplit_once('/').unwrap().0.to_owned();
    world.pool = PgPool::connect(&format!("{url}/{name}")).await.unwrap();
    let refused = world.run(numbers(|_| Do::Apply)).await;
    assert!(matches!(&refused, Err(EngineError::Encoding(e)) if e == "LATIN1"), "{refused:?}");
}

#[tokio::test]
async fn too_large_a_share_of_dead_letters_stops_the_engine_before_it_writes_them() {
    let mut world = World::new().await;
    world.config.max_dead_letter_ratio = Some(0.2);
    world.send(0..300);
    let handler = numbers(|n| match n % 2 {
        0 => Do::Say(Answer::rejected("bad_deployment", "everything is wrong")),
        _ => Do::Apply,
    });
    let ended = world.run(handler).await;
    let Err(EngineError::Stopped { reason, .. }) = ended else { panic!("{ended:?}") };
    assert!(reason.contains("dead-lettered"), "{reason}");
    // What came in before there were enough messages to judge by.
    assert!(world.count("dead_letters").await < 100);
}

#[tokio::test]
async fn what_is_published_goes_out_with_the_effect_and_not_for_a_rejected_message() {
    let world = World::new().await;
    let topic = world.config.topic.clone();
    world.send(0..10);
    let handler = numbers(move |n| {
        if n >= 100 {
            return Do::Apply;
        }
        // Published numbers come back as messages of their own, a hundred higher.
        let headers: Headers = [("ce_id", format!("number-{}", n + 100))].into_iter().collect();
        Do::Publish(Outgoing {
            topic: topic.clone(),
            partition: None,
            key: Some(b"key".to_vec()),
            value: Some((n + 100).to_string().into_bytes()),
            headers,
        })
    });
    let summary = world.run(handler).await.unwrap();
    assert_eq!(summary.applied, 20);
    let expected: Vec<i64> = (0..10).chain(100..110).collect();
    assert_eq!(world.effects().await, expected);
}

/// Notes the settings of its transaction.
struct Curious;

impl MessageHandler for Curious {
    type Body = i64;

    async fn handle(
        &self,
        context: &mut Context<'_>,
        _message: &Message<i64>,
    ) -> Result<Answer, HandlerError> {
        sqlx::query(
            r"
            CREATE TABLE seen AS
            SELECT name, setting
              FROM pg_settings
             WHERE name IN ('synchronous_commit', 'transaction_isolation', 'lock_timeout')
            ",
        )
        .execute(context.connection())
        .await?;
        Ok(Answer::Applied)
    }
}

/// The settings a transaction has in a database with these defaults, in order of their names.
async fn settings_under(defaults: &[&str]) -> Vec<String> {
    let world = World::new().await;
    for default in defaults {
        let database = world.database_url.rsplit('/').next().unwrap();
        let alter = format!("ALTER DATABASE {database} SET {default}");
        sqlx::query(sqlx::AssertSqlSafe(alter)).execute(&world.pool).await.unwrap();
    }
    world.send(0..1);
    world.run(OneByOne(Curious)).await.unwrap();
    sqlx::query_scalar("SELECT name || ' ' || setting FROM seen ORDER BY name")
        .fetch_all(&world.pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_transaction_is_durable_and_read_committed_whatever_the_databases_defaults_are() {
    let defaults = ["synchronous_commit = off", "default_transaction_isolation = serializable"];
    assert_eq!(
        settings_under(&defaults).await,
        ["lock_timeout 5000", "synchronous_commit on", "transaction_isolation read committed"]
    );
}

#[tokio::test]
async fn a_database_that_waits_for_its_replicas_is_not_made_to_wait_for_less() {
    assert_eq!(
        settings_under(&["synchronous_commit = remote_apply"]).await,
        [
            "lock_timeout 5000",
            "synchronous_commit remote_apply",
            "transaction_isolation read committed"
        ]
    );
}

/// Answers for one message too few.
struct Forgetful;

impl Handler for Forgetful {
    type Body = i64;

    async fn handle(
        &self,
        _context: &mut Context<'_>,
        batch: &[&Message<i64>],
    ) -> Result<Vec<Answer>, HandlerError> {
        Ok(vec![Answer::Applied; batch.len() - 1])
    }
}

#[tokio::test]
async fn a_handler_that_forgets_an_answer_stops_the_engine() {
    let world = World::new().await;
    world.send(0..10);
    let ended = world.run(Forgetful).await;
    assert!(matches!(ended, Err(EngineError::Stopped { .. })), "{ended:?}");
    assert_eq!(world.count("processed_messages").await, 0);
}

/// Notes how often PostgreSQL planned its statement for any list, and how often for the one it got.
struct Planned;

impl Handler for Planned {
    type Body = i64;

    async fn handle(
        &self,
        context: &mut Context<'_>,
        batch: &[&Message<i64>],
    ) -> Result<Vec<Answer>, HandlerError> {
        let numbers: Vec<i64> = batch.iter().map(|message| message.body).collect();
        sqlx::query("SELECT n FROM listed WHERE n = ANY($1)")
            .bind(&numbers)
            .fetch_all(context.connection())
            .await?;
        sqlx::query(
            r"
            INSERT INTO plans
            SELECT $1, generic_plans, custom_plans
              FROM pg_prepared_statements
             WHERE statement LIKE 'SELECT n FROM listed%'
            ",
        )
        .bind(i64::try_from(numbers.len()).unwrap())
        .execute(context.connection())
        .await?;
        Ok(vec![Answer::Applied; numbers.len()])
    }
}

/// Otherwise a plan made for a small table would read all of one that has grown, for each of many.
#[tokio::test]
async fn the_statements_of_a_large_batch_are_planned_for_what_they_are_asked() {
    let mut world = World::new().await;
    world.config.batch_linger = Duration::from_millis(300);
    for statement in [
        "CREATE TABLE plans (messages bigint, generic bigint, custom bigint)",
        "CREATE TABLE listed AS SELECT n FROM generate_series(1, 50) AS n",
        "CREATE INDEX ON listed (n)",
        "ANALYZE listed",
    ] {
        sqlx::query(statement).execute(&world.pool).await.unwrap();
    }
    let feed = async {
        for n in 0..8 {
            world.send(n..=n);
            while world.count("plans").await <= n {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        world.send(100..400);
    };
    let feed = tokio::time::timeout(Duration::from_secs(80), feed);
    let (ended, fed) = tokio::join!(world.run(Planned), feed);
    assert_eq!(ended.unwrap().applied, 308);
    fed.unwrap();
    let plans: Vec<(i64, i64, i64)> =
        sqlx::query_as("SELECT * FROM plans ORDER BY messages, generic + custom")
            .fetch_all(&world.pool)
            .await
            .unwrap();
    assert_eq!(plans.len(), 9, "{plans:?}");
    assert!(plans[7].0 < 100 && plans[7].1 > 0, "few have the plan that is there: {plans:?}");
    assert_eq!(plans[8], (300, plans[7].1, plans[7].2 + 1));
}

/// Does what a test wants with a whole batch.
struct Batched(fn(&[i64]) -> HashMap<i64, i64>);

impl Handler for Batched {
    type Body = i64;

    /// Writes what the function says, and applies only even numbers.
    async fn handle(
        &self,
        context: &mut Context<'_>,
        batch: &[&Message<i64>],
    ) -> Result<Vec<Answer>, HandlerError> {
        let numbers: Vec<i64> = batch.iter().map(|message| message.body).collect();
        for (n, _) in (self.0)(&numbers) {
            sqlx::query("INSERT INTO effects VALUES ($1) ON CONFLICT DO NOTHING")
                .bind(n)
                .execute(context.connection())
                .await?;
        }
        let answer = |n: &i64| match n % 2 {
            0 => Answer::Applied,
            _ => Answer::rejected("odd", "odd"),
        };
        Ok(numbers.iter().map(answer).collect())
    }
}

#[tokio::test]
async fn the_test_kit_finds_what_breaks_the_contract_and_passes_what_keeps_it() {
    let world = World::new().await;
    let messages: Vec<_> = (0..6).map(|n| test_kit::message(Uuid::new_v4(), n)).collect();
    let even = |ns: &[i64]| ns.iter().filter(|n| *n % 2 == 0).map(|n| (*n, 0)).collect();
    let answers = test_kit::check(&Batched(even), &world.pool, &messages).await.unwrap();
    assert_eq!(answers.iter().filter(|a| **a == Answer::Applied).count(), 3);

    let all = |ns: &[i64]| ns.iter().map(|n| (*n, 0)).collect();
    let found = test_kit::check(&Batched(all), &world.pool, &messages).await;
    assert!(matches!(found, Err(Violation::WritesForUnapplied(_))), "{found:?}");

    let by_batch = |ns: &[i64]| HashMap::from([(i64::try_from(ns.len() / 4).unwrap(), 0)]);
    let found = test_kit::check(&Batched(by_batch), &world.pool, &messages[..1]).await;
    assert!(found.is_ok(), "{found:?}");
    let evens: Vec<_> = (0..6).map(|n| test_kit::message(Uuid::new_v4(), n * 2)).collect();
    let found = test_kit::check(&Batched(by_batch), &world.pool, &evens).await;
    assert!(matches!(found, Err(Violation::DependsOnBatches(_))), "{found:?}");

    let found = test_kit::check(&Forgetful, &world.pool, &messages).await;
    assert!(matches!(found, Err(Violation::WrongAnswers { expected: 6, got: 5 })), "{found:?}");
    assert_eq!(world.effects().await, [0_i64; 0], "the kit leaves nothing behind");
    let ends = numbers(|_| Do::Swallow("COMMIT"));
    assert!(test_kit::check(&ends, &world.pool, &messages).await.is_err());
}
