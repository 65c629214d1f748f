//! What is pure and what is idempotent: the table of `docs/use-cases/README.md`, row by row, and
//! each use case by a property. A repeat changes no state; its answer may differ.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use idempotent_consumer::{Answer, OneByOne, test_kit};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::card_payment::support::provider::{self, Stage, Verdict};
use crate::card_payment::{self, Intent, Intents};
use crate::elevator::{Answer as Lamp, Event, Panel, Presses};
use crate::likes::{self, Opinion, normalise};
use crate::support::World;
use crate::toggle::{self, Press};

/// An operation done twice: the state before, after the first time, after the second, and the answers.
#[derive(Debug)]
struct Repeated<S, A> {
    before: S,
    once: S,
    twice: S,
    answers: (A, A),
}

/// Does it twice. `state` is all that the operation can change.
async fn twice<W, S, A>(
    world: &mut W,
    operation: impl AsyncFn(&mut W) -> A,
    state: impl AsyncFn(&mut W) -> S,
) -> Repeated<S, A> {
    let before = state(world).await;
    let first = operation(world).await;
    let once = state(world).await;
    let second = operation(world).await;
    Repeated { before, once, twice: state(world).await, answers: (first, second) }
}

/// Tries a property on many values, each in a transaction on real tables that is rolled back.
fn in_database<I: Strategy>(
    tables: &'static str,
    inputs: &I,
    property: &impl AsyncFn(&mut PgConnection, I::Value) -> Result<(), TestCaseError>,
) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(World::new());
    let connection = runtime.block_on(async {
        sqlx::raw_sql(tables).execute(&world.pool).await.unwrap();
        PgConnection::connect(&world.database_url).await.unwrap()
    });
    let connection = std::cell::RefCell::new(connection);
    let result = TestRunner::new(ProptestConfig::with_cases(100)).run(inputs, |input| {
        let mut connection = connection.borrow_mut();
        runtime.block_on(async {
            let mut transaction = connection.begin().await.unwrap();
            let result = property(&mut transaction, input).await;
            transaction.rollback().await.unwrap();
            result
        })
    });
    drop(connection);
    result.unwrap();
}

/// Pure: nothing but the argument decides, also at another time and on another thread.
fn is_decided_by_its_argument<T, R>(function: fn(T) -> R, argument: T) -> bool
where
    T: Copy + Send,
    R: PartialEq + Send,
{
    let here = function(argument);
    let there = std::thread::scope(|scope| scope.spawn(move || function(argument)).join().unwrap());
    here == there && here == function(argument)
}

fn absolute(n: i64) -> i64 {
    n.saturating_abs()
}

fn plus_one(n: i64) -> i64 {
    n.wrapping_add(1)
}

fn reversed(text: &str) -> String {
    text.chars().rev().collect()
}

proptest! {
    #[test]
    fn the_absolute_value_of_an_absolute_value_is_itself(n: i64) {
        prop_assert!(is_decided_by_its_argument(absolute, n));
        prop_assert_eq!(absolute(absolute(n)), absolute(n));
    }

    #[test]
    fn a_normalised_address_is_not_changed_by_normalising_it(
        email in prop_oneof![any::<String>(), "[ \t]?[A-Za-zÄẞΣİ]{1,5}@[A-Z]{2}[ \n]?"]
    ) {
        prop_assert!(is_decided_by_its_argument(normalise, email.as_str()));
        prop_assert_eq!(normalise(&normalise(&email)), normalise(&email));
    }

    #[test]
    fn one_more_than_one_more_is_never_one_more(n: i64) {
        prop_assert!(is_decided_by_its_argument(plus_one, n));
        prop_assert_ne!(plus_one(plus_one(n)), plus_one(n));
    }

    #[test]
    fn a_text_reversed_twice_is_itself_and_not_its_reverse(text: String) {
        prop_assert!(is_decided_by_its_argument(reversed, text.as_str()));
        let once = reversed(&text);
        prop_assert_eq!(&reversed(&once), &text);
        // Only what reads the same from both ends is left as it was.
        let is_palindrome = text.chars().eq(text.chars().rev());
        prop_assert_eq!(reversed(&once) == once, is_palindrome);
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![(0_u8..5).prop_map(Event::Press), (0_u8..5).prop_map(Event::Arrive)]
}

fn panel_after<'a>(events: impl IntoIterator<Item = &'a Event>) -> Panel {
    let mut panel = Panel::default();
    for event in events {
        panel.apply(*event);
    }
    panel
}

proptest! {
    #[test]
    fn a_button_pressed_twice_is_lit_as_if_pressed_once(
        before in prop::collection::vec(event(), 0..20), event in event()
    ) {
        let mut panel = panel_after(&before);
        panel.apply(event);
        let once = panel.clone();
        let again = panel.apply(event);
        prop_assert_eq!(panel, once);
        // The answer to a repeat says that there was nothing to do, whatever the first one was.
        prop_assert_eq!(again, match event {
            Event::Press(_) => Lamp::WasLit,
            Event::Arrive(_) => Lamp::WasDark,
        });
    }

    #[test]
    fn buttons_read_again_from_any_offset_are_lit_as_before(
        events in prop::collection::vec(event(), 1..20), from: prop::sample::Index
    ) {
        let again = &events[from.index(events.len())..];
        prop_assert_eq!(panel_after(events.iter().chain(again)), panel_after(&events));
    }

    #[test]
    fn a_press_repeated_behind_its_arrival_lights_up_again(
        before in prop::collection::vec(event(), 0..20), floor in 0_u8..5
    ) {
        let (press, arrive) = (Event::Press(floor), Event::Arrive(floor));
        let right = panel_after(before.iter().chain([&press, &arrive]));
        let late = panel_after(before.iter().chain([&press, &arrive, &press]));
        prop_assert_eq!(late.0.symmetric_difference(&right.0).copied().collect::<Vec<_>>(), [floor]);
    }

    #[test]
    fn presses_counted_twice_are_never_those_counted_once(presses in 0..u64::MAX - 1, floor: u8) {
        let mut once = Presses(presses);
        once.apply(Event::Press(floor));
        let mut twice = once.clone();
        twice.apply(Event::Press(floor));
        prop_assert_ne!(once, twice);
    }
}

fn opinion() -> impl Strategy<Value = Opinion> {
    ("[ab]@x", "[pq]", any::<bool>()).prop_map(|(user, post, like)| Opinion { user, post, like })
}

async fn liked(connection: &mut PgConnection) -> Vec<(String, String)> {
    sqlx::query_as("SELECT user_name, post FROM likes ORDER BY 1, 2")
        .fetch_all(connection)
        .await
        .unwrap()
}

async fn counted(connection: &mut PgConnection) -> Vec<(String, i64)> {
    sqlx::query_as("SELECT post, likes FROM like_counters ORDER BY post")
        .fetch_all(connection)
        .await
        .unwrap()
}

async fn apply_all<'a>(
    connection: &mut PgConnection,
    opinions: impl IntoIterator<Item = &'a Opinion>,
) {
    for opinion in opinions {
        likes::apply(connection, opinion).await.unwrap();
    }
}

fn with_history() -> impl Strategy<Value = (Vec<Opinion>, Opinion)> {
    (prop::collection::vec(opinion(), 0..8), opinion())
}

/// On tables where other opinions came before, this one comes twice.
async fn opinion_twice(
    connection: &mut PgConnection,
    (before, opinion): (Vec<Opinion>, Opinion),
) -> Repeated<Vec<(String, String)>, bool> {
    apply_all(connection, &before).await;
    let apply =
        async |connection: &mut PgConnection| likes::apply(connection, &opinion).await.unwrap();
    twice(connection, apply, liked).await
}

#[test]
fn a_like_inserted_twice_is_there_once_and_the_second_is_answered_otherwise() {
    in_database(likes::TABLES, &with_history(), &async |connection: &mut PgConnection,
                                                        (before, mut opinion): (
        Vec<Opinion>,
        Opinion,
    )| {
        opinion.like = true;
        let row = (normalise(&opinion.user), opinion.post.clone());
        let ran = opinion_twice(connection, (before, opinion)).await;
        prop_assert_eq!(&ran.twice, &ran.once);
        prop_assert_eq!(ran.answers, (ran.before != ran.once, false));
        prop_assert_eq!(ran.once.contains(&row), true);
        Ok(())
    });
}

#[test]
fn a_like_deleted_twice_is_gone_as_if_deleted_once_and_the_second_is_answered_otherwise() {
    in_database(likes::TABLES, &with_history(), &async |connection: &mut PgConnection,
                                                        (before, mut opinion): (
        Vec<Opinion>,
        Opinion,
    )| {
        opinion.like = false;
        let row = (normalise(&opinion.user), opinion.post.clone());
        let ran = opinion_twice(connection, (before, opinion)).await;
        prop_assert_eq!(&ran.twice, &ran.once);
        prop_assert_eq!(ran.answers, (ran.before != ran.once, false));
        prop_assert_eq!(ran.once.contains(&row), false);
        Ok(())
    });
}

#[test]
fn likes_read_again_from_any_offset_are_the_same() {
    let inputs = (prop::collection::vec(opinion(), 1..10), any::<prop::sample::Index>());
    in_database(likes::TABLES, &inputs, &async |connection, (opinions, from)| {
        apply_all(connection, &opinions).await;
        let once = liked(connection).await;
        apply_all(connection, &opinions[from.index(opinions.len())..]).await;
        prop_assert_eq!(liked(connection).await, once);
        Ok(())
    });
}

#[test]
fn a_like_repeated_behind_its_withdrawal_is_there_again() {
    in_database(likes::TABLES, &with_history(), &async |connection: &mut PgConnection,
                                                        (before, mut opinion): (
        Vec<Opinion>,
        Opinion,
    )| {
        apply_all(connection, &before).await;
        opinion.like = true;
        let withdrawn = Opinion { like: false, ..opinion.clone() };
        apply_all(connection, [&opinion, &withdrawn]).await;
        let right = liked(connection).await;
        apply_all(connection, [&opinion]).await;
        prop_assert_ne!(liked(connection).await, right);
        Ok(())
    });
}

#[test]
fn a_counter_grows_with_every_repeat_and_the_number_of_rows_does_not() {
    let inputs = prop::collection::vec(("[a-e]@x", 1_usize..4), 1..6);
    in_database(likes::TABLES, &inputs, &async |connection, deliveries| {
        let users: BTreeSet<&String> = deliveries.iter().map(|(user, _)| user).collect();
        let mut total = 0;
        for (user, times) in &deliveries {
            let opinion = Opinion { user: user.clone(), post: "p".to_owned(), like: true };
            for _ in 0..*times {
                likes::apply(connection, &opinion).await.unwrap();
                let count = async |connection: &mut PgConnection| {
                    likes::count_up(connection, &opinion).await.unwrap();
                };
                let ran = twice(connection, count, counted).await;
                prop_assert_ne!(ran.twice, ran.once);
                total += 2;
            }
        }
        let rows = likes::likes(connection).await.unwrap();
        prop_assert_eq!(rows, [("p".to_owned(), i64::try_from(users.len()).unwrap())]);
        prop_assert_eq!(counted(connection).await, [("p".to_owned(), total)]);
        Ok(())
    });
}

async fn lamps(connection: &mut PgConnection) -> Vec<(String, bool)> {
    sqlx::query_as("SELECT lamp, is_on FROM lamps ORDER BY lamp")
        .fetch_all(connection)
        .await
        .unwrap()
}

/// Presses that came before, and a lamp.
fn with_presses() -> impl Strategy<Value = (Vec<Press>, String)> {
    let press = ("[ab]", any::<Option<bool>>()).prop_map(|(lamp, on)| Press { lamp, on });
    (prop::collection::vec(press, 0..6), "[ab]")
}

#[test]
fn a_lamp_flipped_twice_is_never_as_if_flipped_once() {
    in_database(toggle::TABLES, &with_presses(), &async |connection, (before, lamp)| {
        for press in &before {
            toggle::apply(connection, press).await.unwrap();
        }
        let flip =
            async |connection: &mut PgConnection| toggle::flip(connection, &lamp).await.unwrap();
        let ran = twice(connection, flip, lamps).await;
        prop_assert_ne!(&ran.twice, &ran.once);
        prop_assert_ne!(ran.answers.0, ran.answers.1);
        Ok(())
    });
}

#[test]
fn a_lamp_set_twice_is_as_if_set_once() {
    let inputs = (with_presses(), any::<bool>());
    in_database(toggle::TABLES, &inputs, &async |connection, ((before, lamp), on)| {
        for press in &before {
            toggle::apply(connection, press).await.unwrap();
        }
        let set = async |connection: &mut PgConnection| {
            toggle::set(connection, &lamp, on).await.unwrap();
        };
        let ran = twice(connection, set, lamps).await;
        prop_assert_eq!(&ran.twice, &ran.once);
        prop_assert!(ran.once.contains(&(lamp, on)), "{:?}", ran);
        Ok(())
    });
}

/// A file with this content, gone at the end.
struct File(std::path::PathBuf);

impl File {
    fn with(content: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("idempotence-{}", Uuid::new_v4()));
        fs::write(&path, content).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn overwrite(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap();
}

fn append(path: &Path, content: &[u8]) {
    fs::OpenOptions::new().append(true).open(path).unwrap().write_all(content).unwrap();
}

proptest! {
    #[test]
    fn a_file_overwritten_twice_is_as_if_overwritten_once(before: Vec<u8>, content: Vec<u8>) {
        let file = File::with(&before);
        overwrite(&file.0, &content);
        let once = fs::read(&file.0).unwrap();
        prop_assert_eq!(&once, &content);
        overwrite(&file.0, &content);
        prop_assert_eq!(fs::read(&file.0).unwrap(), once);
    }

    #[test]
    fn a_file_appended_to_twice_is_longer_than_after_once(
        before: Vec<u8>, content in prop::collection::vec(any::<u8>(), 1..50)
    ) {
        let file = File::with(&before);
        append(&file.0, &content);
        let once = fs::read(&file.0).unwrap();
        append(&file.0, &content);
        prop_assert_eq!(fs::read(&file.0).unwrap().len(), once.len() + content.len());
    }
}

fn charges() -> impl Strategy<Value = (i64, bool)> {
    (1..1_000_000_i64, prop::bool::weighted(0.2))
}

/// Tries a property of a provider that is new to each case.
fn at_a_provider<I: Strategy>(
    inputs: &I,
    property: &impl AsyncFn(&mut std::net::SocketAddr, I::Value) -> Result<(), TestCaseError>,
) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    TestRunner::new(ProptestConfig::with_cases(100))
        .run(inputs, |input| {
            runtime.block_on(async {
                let mut provider = provider::start(|_| true).await.unwrap();
                property(&mut provider, input).await
            })
        })
        .unwrap();
}

#[test]
fn a_charge_repeated_with_its_key_is_one_charge_with_one_answer() {
    at_a_provider(&charges(), &async |provider, (cents, is_empty)| {
        let card = if is_empty { "empty" } else { "visa" };
        let charge = async |provider: &mut std::net::SocketAddr| {
            provider::charge(*provider, Some("key"), card, cents).await.unwrap()
        };
        let state =
            async |provider: &mut std::net::SocketAddr| provider::totals(*provider).await.unwrap();
        let ran = twice(provider, charge, state).await;
        prop_assert_eq!(ran.twice, ran.once);
        prop_assert_eq!(ran.once.cents, if is_empty { 0 } else { cents });
        prop_assert_eq!(&ran.answers.0, &ran.answers.1);
        // The key of one charge is no key for another.
        prop_assert!(provider::charge(*provider, Some("key"), card, cents + 1).await.is_err());
        prop_assert_eq!(provider::totals(*provider).await.unwrap(), ran.once);
        Ok(())
    });
}

#[test]
fn a_charge_repeated_without_a_key_is_another_charge() {
    at_a_provider(&(1..1_000_000_i64), &async |provider, cents| {
        let charge = async |provider: &mut std::net::SocketAddr| {
            provider::charge(*provider, None, "visa", cents).await.unwrap()
        };
        let state =
            async |provider: &mut std::net::SocketAddr| provider::totals(*provider).await.unwrap();
        let ran = twice(provider, charge, state).await;
        prop_assert_eq!((ran.once.charges, ran.twice.charges), (1, 2));
        prop_assert_eq!(ran.twice.cents, 2 * cents);
        Ok(())
    });
}

#[tokio::test]
async fn an_intent_written_twice_is_there_once_and_the_second_is_answered_otherwise() {
    let world = World::new().await;
    sqlx::raw_sql(card_payment::TABLES).execute(&world.pool).await.unwrap();
    let intent = || Intent { payment: "p-1".to_owned(), card: "visa".to_owned(), cents: 450 };
    let messages: Vec<_> = (0..2).map(|_| test_kit::message(Uuid::new_v4(), intent())).collect();
    let answers = test_kit::check(&OneByOne(Intents), &world.pool, &messages).await.unwrap();
    assert_eq!(answers, [Answer::Applied, Answer::rejected("payment_exists", "p-1")]);
}

/// How far an attempt gets before its worker is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    BeforeTheRequest,
    Request(Stage),
    BeforeTheAnswerIsWritten,
}

fn cut() -> impl Strategy<Value = Cut> {
    prop::sample::select(vec![
        Cut::BeforeTheRequest,
        Cut::Request(Stage::Received),
        Cut::Request(Stage::Booked),
        Cut::BeforeTheAnswerIsWritten,
    ])
}

/// The steps of the worker, by hand, so that each can be the last one.
#[test]
fn wherever_each_attempt_is_cut_short_each_payment_is_charged_once() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(World::new());
    let pool = &world.pool;
    runtime.block_on(async { sqlx::raw_sql(card_payment::TABLES).execute(pool).await.unwrap() });
    // Fewer cuts than a payment has attempts.
    let inputs = (prop::collection::vec(charges(), 1..6), prop::collection::vec(cut(), 0..9));
    let config = ProptestConfig::with_cases(30);
    let property = async |(payments, cuts): (Vec<(i64, bool)>, Vec<Cut>)| {
        sqlx::query("DELETE FROM payments").execute(pool).await.unwrap();
        for (n, (cents, is_empty)) in payments.iter().enumerate() {
            let insert = "INSERT INTO payments (payment, idempotency_key, card, cents)
                          VALUES ($1, $2, $3, $4)";
            sqlx::query(insert)
                .bind(n.to_string())
                .bind(Uuid::new_v4())
                .bind(if *is_empty { "empty" } else { "visa" })
                .bind(cents)
                .execute(pool)
                .await
                .unwrap();
        }
        let now = std::sync::Arc::new(std::sync::Mutex::new(None));
        let shared = std::sync::Arc::clone(&now);
        let provider =
            provider::start(move |stage| *shared.lock().unwrap() != Some(Cut::Request(stage)))
                .await
                .unwrap();
        let mut cuts = cuts.into_iter();
        loop {
            // Its turn comes at once.
            let hurry = "UPDATE payments SET next_attempt_at = now()";
            sqlx::query(hurry).execute(pool).await.unwrap();
            let Some((key, card, cents)) = card_payment::next(pool).await.unwrap() else { break };
            let cut = cuts.next();
            *now.lock().unwrap() = cut;
            if cut == Some(Cut::BeforeTheRequest) {
                continue;
            }
            let asked = provider::charge(provider, Some(&key.to_string()), &card, cents).await;
            prop_assert_eq!(asked.is_err(), matches!(cut, Some(Cut::Request(_))));
            if let (Ok(verdict), None) = (asked, cut) {
                card_payment::settle(pool, key, &verdict).await.unwrap();
            }
        }
        let rows: Vec<(String, String, i64, i32)> =
            sqlx::query_as("SELECT card, status, cents, attempts FROM payments")
                .fetch_all(pool)
                .await
                .unwrap();
        let (mut charges, mut sum) = (0, 0);
        for (card, status, cents, attempts) in rows {
            prop_assert!(attempts < 10);
            prop_assert_eq!(&status, if card == "empty" { "declined" } else { "charged" });
            charges += u64::from(card != "empty");
            sum += if card == "empty" { 0 } else { cents };
        }
        let totals = provider::totals(provider).await.unwrap();
        prop_assert_eq!((totals.charges, totals.cents), (charges, sum));
        Ok(())
    };
    TestRunner::new(config).run(&inputs, |input| runtime.block_on(property(input))).unwrap();
}

#[test]
fn an_answer_written_twice_is_as_if_written_once_and_the_first_one_stays() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(World::new());
    let pool = &world.pool;
    runtime.block_on(async { sqlx::raw_sql(card_payment::TABLES).execute(pool).await.unwrap() });
    let verdict = || prop_oneof![Just(Verdict::Declined), Just(Verdict::Charged { charge: 1 })];
    let property = async |(first, other): (Verdict, Verdict)| {
        let key = Uuid::new_v4();
        sqlx::query(
            "INSERT INTO payments (payment, idempotency_key, card, cents) VALUES ($1, $2, 'visa', 1)",
        )
        .bind(key.to_string())
        .bind(key)
        .execute(pool)
        .await
        .unwrap();
        let status = async |pool: &mut &sqlx::PgPool| -> String {
            sqlx::query_scalar("SELECT status FROM payments WHERE idempotency_key = $1")
                .bind(key)
                .fetch_one(*pool)
                .await
                .unwrap()
        };
        let settle = async |pool: &mut &sqlx::PgPool| {
            card_payment::settle(pool, key, &first).await.unwrap();
        };
        let ran = twice(&mut &*pool, settle, status).await;
        prop_assert_eq!(ran.before, "pending");
        prop_assert_eq!(&ran.once, first.status());
        prop_assert_eq!(&ran.twice, &ran.once);
        card_payment::settle(pool, key, &other).await.unwrap();
        prop_assert_eq!(status(&mut &*pool).await, first.status());
        Ok(())
    };
    TestRunner::new(ProptestConfig::with_cases(20))
        .run(&(verdict(), verdict()), |input| runtime.block_on(property(input)))
        .unwrap();
}

/// A row whose test is gone, or was renamed, is a claim that nothing holds.
#[test]
fn every_row_of_the_table_names_a_test_of_this_file() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/use-cases/README.md");
    let page = fs::read_to_string(page).unwrap();
    let rows: Vec<&str> =
        page.lines().filter(|line| line.starts_with("| yes") || line.starts_with("| no")).collect();
    assert!(rows.len() >= 10, "{rows:?}");
    for row in rows {
        let tests: Vec<&str> =
            row.rsplit('|').nth(1).unwrap().split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "{row}");
        for test in tests {
            assert!(include_str!("idempotence.rs").contains(&format!("fn {test}(")), "{test}");
        }
    }
}
