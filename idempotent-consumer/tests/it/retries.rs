//! The retry queue: order within a key, no wait for other keys, attempts that survive restarts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use idempotent_consumer::{Answer, Engine};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio_util::sync::CancellationToken;

use crate::handlers::{Do, numbers};
use crate::support::World;

fn later() -> Do {
    Do::Say(Answer::Retry("later".into()))
}

/// The numbers in the order in which they were applied.
async fn applied(world: &World) -> Vec<i64> {
    sqlx::query_scalar("SELECT n FROM effects ORDER BY seq").fetch_all(&world.pool).await.unwrap()
}

async fn world(partitions: usize) -> World {
    let world = World::with_partitions(partitions).await;
    sqlx::query("ALTER TABLE effects ADD seq bigint GENERATED ALWAYS AS IDENTITY")
        .execute(&world.pool)
        .await
        .unwrap();
    world
}

#[tokio::test]
async fn a_message_that_waits_holds_back_its_key_and_nothing_else() {
    let world = world(1).await;
    // Keys a and b in turns, and one message without a key.
    for n in 0..40 {
        world.send_keyed(n, (n != 20).then_some(if n % 2 == 0 { "a" } else { "b" }));
    }
    world.flush();
    let tried = Mutex::new(0);
    let handler = numbers(move |n| {
        let mut tried = tried.lock().unwrap();
        if n == 4 && *tried < 3 {
            *tried += 1;
            return later();
        }
        Do::Apply
    });
    let summary = world.run(handler).await.unwrap();
    assert_eq!((summary.applied, summary.dead_lettered), (40, 0));
    // 4 and the 17 behind it with the key a.
    assert_eq!(summary.deferred, 17);
    let applied = applied(&world).await;
    let (key_a, others): (Vec<i64>, Vec<i64>) =
        applied.iter().partition(|n| **n % 2 == 0 && **n != 20);
    assert_eq!(key_a, (0..40).filter(|n| n % 2 == 0 && *n != 20).collect::<Vec<_>>());
    assert_eq!(others, (0..40).filter(|n| n % 2 == 1 || *n == 20).collect::<Vec<_>>());
    let position = |n| applied.iter().position(|other| *other == n).unwrap();
    assert!(position(39) < position(4), "{applied:?}");
}

#[tokio::test]
async fn a_repeat_of_a_message_that_waits_waits_behind_it_and_is_a_duplicate_in_the_end() {
    let world = world(1).await;
    for n in [1, 2, 1, 1, 3] {
        world.send_keyed(n, Some("a"));
    }
    world.flush();
    let tried = Mutex::new(0);
    let handler = numbers(move |n| {
        let mut tried = tried.lock().unwrap();
        if n == 1 && *tried < 2 {
            *tried += 1;
            return later();
        }
        Do::Apply
    });
    let summary = world.run(handler).await.unwrap();
    assert_eq!((summary.applied, summary.duplicates, summary.deferred), (3, 2, 5));
    assert_eq!(applied(&world).await, [1, 2, 3]);
}

#[tokio::test]
async fn attempts_are_counted_across_restarts() {
    let mut world = world(1).await;
    world.config.max_attempts = 3;
    world.config.retry_backoff.base = Duration::from_millis(300);
    world.config.retry_backoff.cap = Duration::from_millis(300);
    world.send(0..1);
    let tried = Arc::new(Mutex::new(0));
    for attempt in 1..=3 {
        let count = Arc::clone(&tried);
        let handler = numbers(move |_| {
            *count.lock().unwrap() += 1;
            later()
        });
        let engine = Engine::new(world.config.clone(), handler, world.pool.clone());
        let stop = CancellationToken::new();
        let run = tokio::spawn(engine.run(stop.clone()));
        // One that a stop cuts short is not counted.
        let counted = "SELECT greatest((SELECT max(attempts) FROM retry_queue),
                                       (SELECT max(attempts) FROM dead_letters))";
        while sqlx::query_scalar::<_, Option<i32>>(counted).fetch_one(&world.pool).await.unwrap()
            < Some(attempt)
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
        run.await.unwrap().unwrap();
    }
    assert!(*tried.lock().unwrap() >= 3);
    world.run(numbers(|_| Do::Apply)).await.unwrap();
    let expected = ("0".into(), "retryable".into(), "retries_exhausted".into(), 3);
    assert_eq!(world.dead_letters().await, [expected]);
}

/// What a message does, decided by its number and the seed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Nature {
    Good,
    /// Wanted later so often.
    Later(u32),
    Never,
    Rejected,
    Panics,
    /// Refused by the database.
    Refused,
}

impl Nature {
    fn draw(random: &mut StdRng) -> Self {
        match random.random_range(0..40) {
            0..4 => Self::Later(random.random_range(1..=3)),
            4 => Self::Never,
            5 => Self::Rejected,
            6 => Self::Panics,
            7 => Self::Refused,
            _ => Self::Good,
        }
    }

    /// The code of its dead letter and the attempts, if it becomes one.
    fn dead(self) -> Option<(&'static str, i32)> {
        match self {
            Self::Good | Self::Later(_) => None,
            Self::Never => Some(("retries_exhausted", 5)),
            Self::Rejected => Some(("no", 1)),
            Self::Panics => Some(("handler_panicked", 5)),
            Self::Refused => Some(("sqlstate_22012", 1)),
        }
    }
}

const KEYS: i64 = 9;
const MESSAGES: i64 = 300;

/// Consumers that come and go at random over messages that fail at random, compared with a model:
/// which outcome each message has, and in which order those of a key were applied.
async fn schedule(seed: u64) {
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = world(3).await;
    world.config.batch_size = random.random_range(1..60);
    let natures: Vec<Nature> = (0..MESSAGES).map(|_| Nature::draw(&mut random)).collect();
    let key_of = |n: i64| format!("key-{}", n % KEYS);
    for n in 0..MESSAGES {
        world.send_keyed(n, Some(&key_of(n)));
        if random.random_range(0..10) == 0 {
            // Sent twice: some time later, so that its first delivery may still be waiting.
            let earlier = random.random_range(0..=n);
            world.send_keyed(earlier, Some(&key_of(earlier)));
        }
    }
    world.flush();
    let tried: Arc<Mutex<HashMap<i64, u32>>> = Arc::default();
    let handler = || {
        let (tried, natures) = (Arc::clone(&tried), natures.clone());
        numbers(move |n| {
            let nature = usize::try_from(n).ok().and_then(|n| natures.get(n)).copied();
            match nature.unwrap_or(Nature::Good) {
                Nature::Good => Do::Apply,
                Nature::Never => later(),
                Nature::Rejected => Do::Say(Answer::rejected("no", "never")),
                Nature::Panics => Do::Panic,
                Nature::Refused => Do::Run("SELECT 1 / 0"),
                Nature::Later(times) => {
                    let mut tried = tried.lock().unwrap();
                    let tried = tried.entry(n).or_default();
                    *tried += 1;
                    if *tried <= times { later() } else { Do::Apply }
                }
            }
        })
    };
    let mut running = Vec::new();
    let mut endless = world.config.clone();
    endless.exit_when_idle = None;
    for _ in 0..random.random_range(4..10) {
        if running.len() < 3 && random.random_range(0..3) > 0 {
            let stop = CancellationToken::new();
            let engine = Engine::new(endless.clone(), handler(), world.pool.clone());
            running.push((stop.clone(), tokio::spawn(engine.run(stop))));
        } else if !running.is_empty() {
            let (stop, run) = running.swap_remove(random.random_range(0..running.len()));
            stop.cancel();
            run.await.unwrap().unwrap();
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(50..700))).await;
    }
    for (stop, run) in running {
        stop.cancel();
        run.await.unwrap().unwrap();
    }
    world.run(handler()).await.unwrap();

    assert_eq!(world.count("retry_queue").await, 0, "seed {seed}");
    let applied = applied(&world).await;
    let dead: HashMap<i64, (String, i32)> = world
        .dead_letters()
        .await
        .into_iter()
        .map(|(n, _, code, attempts)| (n.parse().unwrap(), (code, attempts)))
        .collect();
    for (n, nature) in (0..).zip(&natures) {
        let times = applied.iter().filter(|other| **other == n).count();
        match nature.dead() {
            None => assert_eq!(times, 1, "seed {seed}: {n} is {nature:?}"),
            Some((code, attempts)) => {
                assert_eq!(times, 0, "seed {seed}: {n} is {nature:?}");
                let found = dead.get(&n).map(|(code, attempts)| (code.as_str(), *attempts));
                assert_eq!(found, Some((code, attempts)), "seed {seed}: {n} is {nature:?}");
            }
        }
    }
    for key in 0..KEYS {
        let of_key: Vec<i64> = applied.iter().filter(|n| **n % KEYS == key).copied().collect();
        assert!(of_key.is_sorted(), "seed {seed}: key {key} was applied as {of_key:?}");
    }
}

#[tokio::test]
async fn whatever_fails_and_whoever_comes_and_goes_outcomes_and_order_are_those_of_the_model() {
    let mut seeds = vec![1, 2, 3, rand::random()];
    if let Ok(seed) = std::env::var("SEED") {
        seeds = vec![seed.parse().unwrap()];
    }
    for seed in seeds {
        schedule(seed).await;
    }
}
