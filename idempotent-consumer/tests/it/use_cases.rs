//! The use cases run as programs against real servers, with messages delivered again, and the card
//! payment is killed wherever it can be.

use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use idempotent_consumer::{Answer, Context, HandlerError, Message, MessageHandler, OneByOne};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::PgPool;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::card_payment::support::provider::{self, Stage, Totals};
use crate::card_payment::{self, work};
use crate::support::{World, example};

/// The program of a use case, on the topic and database of this world.
async fn program(world: &World, name: &'static str) -> Command {
    let path = tokio::task::spawn_blocking(move || example(name)).await.unwrap();
    let mut command = Command::new(path);
    command
        .env("KAFKA_BOOTSTRAP_SERVERS", world.config.kafka.bootstrap_servers())
        .env("DATABASE_URL", &world.database_url)
        .env("TOPIC", &world.config.topic)
        .env("SESSION_TIMEOUT_MS", "1500")
        .kill_on_drop(true);
    command
}

/// Runs it to its end. What it printed.
async fn printed(command: &mut Command) -> String {
    let output = command.output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// What it prints for the messages that it sends itself to a topic of its own.
async fn printed_for_samples(name: &'static str) -> String {
    let world = World::new().await;
    let topic = format!("{}.samples", world.config.topic);
    printed(program(&world, name).await.env("TOPIC", topic)).await
}

#[tokio::test]
async fn the_elevator_prints_the_same_after_every_restart_without_a_table() {
    let world = World::new().await;
    for (id, value) in [(1, r#"{"press": 4}"#), (2, r#"{"press": 9}"#), (3, r#"{"arrive": 4}"#)] {
        (0..3).for_each(|_| world.send_json(id, value));
    }
    world.send_json(4, "no button");
    world.flush();
    let mut elevator = program(&world, "elevator").await;
    elevator.env_remove("DATABASE_URL");
    let first = printed(&mut elevator).await;
    assert_eq!(first.lines().last(), Some("9 deliveries, lit floors {9}, 6 presses"));
    assert_eq!(printed(&mut elevator).await, first);

    let samples = printed_for_samples("elevator").await;
    let last = samples.lines().last();
    assert_eq!(last, Some("10 deliveries, lit floors {2, 5, 7}, 7 presses"));
    assert!(samples.contains("Press(2): LightsUp\nPress(2): WasLit\n"), "{samples}");
}

#[tokio::test]
async fn likes_are_counted_by_their_rows_with_and_without_the_claim_and_a_counter_is_wrong() {
    let world = World::new().await;
    let like = |id: i64| format!(r#"{{"user": "{id}@x.org", "post": "tea", "like": true}}"#);
    for id in (0..40).chain(10..25) {
        world.send_json(id, &like(id));
    }
    world.flush();
    let mut likes = program(&world, "likes").await;
    let expected = "40 applied, 15 seen before, 0 refused\nwith the claim: [(\"tea\", 40)]\n\
                    without it: [(\"tea\", 40)]\nby a counter: [(\"tea\", 55)]\n";
    assert_eq!(printed(&mut likes).await, expected);
    assert_eq!(world.count("likes").await, 40);
    assert_eq!(world.count("like_counters").await, 0, "what it shows last is rolled back");

    (0..40).for_each(|id| world.send_json(id, &like(id)));
    world.flush();
    assert!(printed(&mut likes).await.starts_with("0 applied, 40 seen before"));
    assert_eq!(world.count("likes").await, 40);

    let expected = "6 applied, 2 seen before, 0 refused\nwith the claim: [(\"mud\", 1), (\"tea\", 2)]\n\
                    without it: [(\"mud\", 2), (\"tea\", 2)]\n\
                    by a counter: [(\"mud\", 2), (\"tea\", 4)]\n";
    assert_eq!(printed_for_samples("likes").await, expected);
}

#[tokio::test]
async fn lamps_are_right_with_the_claim_and_wrong_without_it_or_without_a_message_id() {
    let world = World::new().await;
    for id in (0..5).chain(0..3).chain(0..2) {
        world.send_json(id, &format!(r#"{{"lamp": "lamp-{id}"}}"#));
    }
    world.flush();
    let mut toggle = program(&world, "toggle").await;
    let expected = "5 applied, 5 seen before, 0 refused\n\
                    with the claim these are lit: lamp-0 lamp-1 lamp-2 lamp-3 lamp-4\n\
                    without it: lamp-0 lamp-1 lamp-3 lamp-4\n";
    assert_eq!(printed(&mut toggle).await, expected);
    let lit: i64 = sqlx::query_scalar("SELECT count(*) FROM lamps WHERE is_on")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!(lit, 5, "what it shows last is rolled back");

    let expected = "6 applied, 3 seen before, 0 refused\nwith the claim these are lit: hall porch\n\
                    without it: attic porch\n";
    assert_eq!(printed_for_samples("toggle").await, expected);
}

#[tokio::test]
async fn a_provider_that_drops_every_second_answer_charges_each_payment_once() {
    let expected = "3 applied, 2 seen before, 1 refused\ncharged: 2 of 1250 cents\n\
                    declined: 1 of 99900 cents\nthe provider charged 2 of 1250 cents\n";
    assert_eq!(printed_for_samples("card_payment").await, expected);
}

/// Payments of 1.01, 2.02 and so on, each delivered twice; one from an empty card, for which its
/// customer pressed twice; and one of less than nothing.
const PAYMENTS: i64 = 8;
const CHARGED: &str = "charged: 8 of 3636 cents";

async fn payments() -> World {
    let world = World::new().await;
    sqlx::raw_sql(card_payment::TABLES).execute(&world.pool).await.unwrap();
    for id in (1..=PAYMENTS).chain(1..=PAYMENTS) {
        let cents = 101 * id;
        world.send_json(id, &format!(r#"{{"payment":"p-{id}","card":"visa","cents":{cents}}}"#));
    }
    world.send_json(100, r#"{"payment":"p-100","card":"empty","cents":7}"#);
    world.send_json(101, r#"{"payment":"p-100","card":"empty","cents":7}"#);
    world.send_json(102, r#"{"payment":"p-102","card":"visa","cents":-5}"#);
    world.flush();
    world
}

/// The most attempts that any payment took. Table and provider agree to the cent.
async fn settled(world: &World, output: &str) -> i32 {
    let expected =
        format!("{CHARGED}\ndeclined: 1 of 7 cents\nthe provider {}\n", CHARGED.replace(':', ""));
    assert!(output.ends_with(&expected), "{output}");
    let claimed: i64 =
        sqlx::query_scalar("SELECT count(*) FROM processed_messages WHERE outcome = 'applied'")
            .fetch_one(&world.pool)
            .await
            .unwrap();
    assert_eq!(claimed, PAYMENTS + 1);
    let codes: Vec<String> = world.dead_letters().await.into_iter().map(|l| l.2).collect();
    assert_eq!(codes, ["payment_exists", "not_positive"]);
    sqlx::query_scalar("SELECT max(attempts) FROM payments").fetch_one(&world.pool).await.unwrap()
}

/// Kills the program by SIGKILL when its first request is at this stage, and starts it again.
async fn killed_at_the_provider(at: Stage) {
    let world = payments().await;
    let victim: Arc<Mutex<Option<Pid>>> = Arc::default();
    let to_kill = Arc::clone(&victim);
    let provider = provider::start(move |stage| {
        let pid = if stage == at { to_kill.lock().unwrap().take() } else { None };
        pid.is_none_or(|pid| {
            kill_process(pid, Signal::KILL).unwrap();
            at == Stage::Booked
        })
    })
    .await
    .unwrap();
    let mut pay = program(&world, "card_payment").await;
    pay.env("PROVIDER", provider.to_string());
    let mut child = pay.stdout(Stdio::null()).spawn().unwrap();
    *victim.lock().unwrap() = Some(pid_of(&child));
    assert!(!child.wait().await.unwrap().success());
    let charged = provider::totals(provider).await.unwrap().charges;
    assert_eq!(charged, u64::from(at == Stage::Booked));
    assert_eq!(settled(&world, &printed(&mut pay).await).await, 2, "one was asked for twice");
}

fn pid_of(child: &tokio::process::Child) -> Pid {
    Pid::from_raw(child.id().unwrap().cast_signed()).unwrap()
}

#[tokio::test]
async fn killed_before_the_provider_charges_it_charges_each_payment_once() {
    killed_at_the_provider(Stage::Received).await;
}

#[tokio::test]
async fn killed_before_the_providers_answer_it_charges_each_payment_once() {
    killed_at_the_provider(Stage::Booked).await;
}

/// What becomes of the statement that a killed client has sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Statement {
    Undone,
    /// It commits, and nobody hears of it.
    Done,
}

/// Kills the program by SIGKILL while its first such statement is in work, and starts it again.
/// The most attempts that any payment took.
async fn killed_in(event: &str, statement: Statement) -> i32 {
    let world = payments().await;
    let provider = provider::start(|_| true).await.unwrap();
    // The statement waits for a lock that is held here.
    let wait = format!(
        "CREATE FUNCTION wait_here() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_advisory_xact_lock_shared(4711); RETURN NEW; END';
         CREATE TRIGGER wait_here BEFORE {event} ON payments FOR EACH ROW EXECUTE FUNCTION wait_here()"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(wait)).execute(&world.pool).await.unwrap();
    let mut holder = world.pool.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(4711)").execute(&mut *holder).await.unwrap();

    let mut pay = program(&world, "card_payment").await;
    pay.env("PROVIDER", provider.to_string());
    let mut child = pay.stdout(Stdio::null()).spawn().unwrap();
    let waiting = r"
        SELECT pid FROM pg_locks JOIN pg_database ON pg_database.oid = database
         WHERE datname = current_database() AND locktype = 'advisory' AND objid = 4711 AND NOT granted
        ";
    let backend: i32 = until(&world.pool, waiting).await;
    child.kill().await.unwrap();
    if statement == Statement::Undone {
        sqlx::query("SELECT pg_terminate_backend($1)")
            .bind(backend)
            .execute(&world.pool)
            .await
            .unwrap();
    }
    holder.rollback().await.unwrap();
    let gone = "SELECT 1 WHERE NOT EXISTS
                (SELECT FROM pg_stat_activity WHERE query LIKE '%payments%' AND state = 'active'
                    AND datname = current_database() AND pid <> pg_backend_pid())";
    until(&world.pool, gone).await;
    let written: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM payments WHERE attempts > 0 AND ($1 OR status <> 'pending')",
    )
    .bind(event.ends_with("attempts"))
    .fetch_one(&world.pool)
    .await
    .unwrap();
    assert_eq!(written, i64::from(statement == Statement::Done));
    settled(&world, &printed(&mut pay).await).await
}

/// The number that the query finds in the end.
async fn until(pool: &PgPool, query: &'static str) -> i32 {
    for _ in 0..600 {
        if let Some(found) = sqlx::query_scalar(query).fetch_optional(pool).await.unwrap() {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("nothing comes of {query}");
}

#[tokio::test]
async fn killed_while_it_writes_an_intent_it_charges_each_payment_once() {
    assert_eq!(killed_in("INSERT", Statement::Undone).await, 1);
}

#[tokio::test]
async fn killed_before_an_attempt_is_counted_it_charges_each_payment_once() {
    assert_eq!(killed_in("UPDATE OF attempts", Statement::Undone).await, 1);
}

#[tokio::test]
async fn killed_between_an_attempts_count_and_its_request_it_charges_each_payment_once() {
    assert_eq!(killed_in("UPDATE OF attempts", Statement::Done).await, 2);
}

#[tokio::test]
async fn killed_before_the_answer_is_written_it_charges_each_payment_once() {
    assert_eq!(killed_in("UPDATE OF status", Statement::Undone).await, 2);
}

#[tokio::test]
async fn killed_before_it_knows_that_the_answer_is_written_it_charges_each_payment_once() {
    assert_eq!(killed_in("UPDATE OF status", Statement::Done).await, 1);
}

#[tokio::test]
async fn what_the_provider_may_have_forgotten_is_not_sent_again() {
    let world = World::new().await;
    sqlx::raw_sql(card_payment::TABLES).execute(&world.pool).await.unwrap();
    let insert = r"
        INSERT INTO payments (payment, idempotency_key, card, cents, attempts, first_sent_at)
        VALUES ('old', gen_random_uuid(), 'visa', 10, 1, now() - interval '1 day'),
               ('often', gen_random_uuid(), 'visa', 20, 10, now()),
               ('young', gen_random_uuid(), 'visa', 40, 9, now() - interval '22 hours')
        ";
    sqlx::query(insert).execute(&world.pool).await.unwrap();
    let provider = provider::start(|_| true).await.unwrap();
    let output =
        printed(program(&world, "card_payment").await.env("PROVIDER", provider.to_string())).await;
    let expected =
        "charged: 1 of 40 cents\nunclear: 2 of 30 cents\nthe provider charged 1 of 40 cents\n";
    assert!(output.ends_with(expected), "{output}");
    // Its day began with the first request, not with the last.
    let first =
        "SELECT first_sent_at < now() - interval '21 h' FROM payments WHERE payment = 'young'";
    assert!(sqlx::query_scalar::<_, bool>(first).fetch_one(&world.pool).await.unwrap());
}

#[tokio::test]
async fn workers_side_by_side_ask_for_each_payment_once() {
    let world = World::new().await;
    sqlx::raw_sql(card_payment::TABLES).execute(&world.pool).await.unwrap();
    let insert = r"
        INSERT INTO payments (payment, idempotency_key, card, cents)
        SELECT n::text, gen_random_uuid(), 'visa', n FROM generate_series(1, 200) AS n
        ";
    sqlx::query(insert).execute(&world.pool).await.unwrap();
    let requests: Arc<AtomicUsize> = Arc::default();
    let count = Arc::clone(&requests);
    let provider = provider::start(move |stage| {
        count.fetch_add(usize::from(stage == Stage::Received), Ordering::Relaxed);
        true
    })
    .await
    .unwrap();
    let is_last = CancellationToken::new();
    is_last.cancel();
    let worker = || work(world.pool.clone(), provider, is_last.clone());
    let (one, two, three) = tokio::join!(worker(), worker(), worker());
    one.and(two).and(three).unwrap();
    assert_eq!(requests.load(Ordering::Relaxed), 200);
    let all = Totals { charges: 200, cents: 20_100 };
    assert_eq!(provider::totals(provider).await.unwrap(), all);
}

/// What the use case does not do: the call is made inside of the transaction, as if it were part of it.
struct CallInTransaction {
    provider: std::net::SocketAddr,
    with_key: bool,
    tried: AtomicUsize,
}

impl MessageHandler for CallInTransaction {
    type Body = i64;

    async fn handle(
        &self,
        context: &mut Context<'_>,
        message: &Message<i64>,
    ) -> Result<Answer, HandlerError> {
        if message.body == 5 && self.tried.fetch_add(1, Ordering::Relaxed) == 0 {
            return Ok(Answer::Retry("not yet".into()));
        }
        let key = message.id.to_string();
        provider::charge(self.provider, self.with_key.then_some(&key), "visa", message.body)
            .await
            .map_err(HandlerError::new)?;
        sqlx::query("INSERT INTO effects VALUES ($1)")
            .bind(message.body)
            .execute(context.connection())
            .await?;
        Ok(Answer::Applied)
    }
}

/// Sends 1 to 9, of which the database refuses 7. What the provider charged and what the database has.
async fn called_in_transaction(with_key: bool) -> (Totals, i64) {
    let world = World::new().await;
    sqlx::query("ALTER TABLE effects ADD CHECK (n <> 7)").execute(&world.pool).await.unwrap();
    world.send(1..10);
    let provider = provider::start(|_| true).await.unwrap();
    let handler = CallInTransaction { provider, with_key, tried: AtomicUsize::new(0) };
    let summary = world.run(OneByOne(handler)).await.unwrap();
    assert_eq!((summary.applied, summary.dead_lettered), (8, 1));
    (provider::totals(provider).await.unwrap(), world.effects().await.iter().sum())
}

#[tokio::test]
async fn called_inside_the_transaction_the_provider_charges_again_what_is_rolled_back() {
    let (charged, written) = called_in_transaction(false).await;
    assert_eq!(written, 45 - 7);
    assert!(charged.charges > 9 && charged.cents > 45, "{charged:?}");
    // With a key nothing is charged twice, and what is refused is charged all the same.
    let (charged, written) = called_in_transaction(true).await;
    assert_eq!((charged, written), (Totals { charges: 9, cents: 45 }, 45 - 7));
}
