//! Messages that end the process, or its thread: the service stops a bounded number of times, then
//! goes on without them, and nobody else is charged.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{World, example};

/// How often each of these messages may end the process when it is alone. The default.
const MAX_CRASHES: usize = 3;

/// A consumer that is started again whenever it dies, as a service manager would.
struct Service {
    program: PathBuf,
    environment: Vec<(&'static str, String)>,
    child: Child,
    deaths: usize,
    has_ended: bool,
}

impl Service {
    fn start(program: &Path, environment: Vec<(&'static str, String)>) -> Self {
        let child = spawn(program, &environment);
        Self { program: program.to_owned(), environment, child, deaths: 0, has_ended: false }
    }

    fn look(&mut self) {
        if self.has_ended {
            return;
        }
        if let Some(status) = self.child.try_wait().unwrap() {
            if status.success() {
                self.has_ended = true;
            } else {
                self.deaths += 1;
                self.child = spawn(&self.program, &self.environment);
            }
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(program: &Path, environment: &[(&'static str, String)]) -> Child {
    Command::new(program)
        .envs(environment.iter().map(|(name, value)| (*name, value.as_str())))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Runs so many consumers until all have ended by themselves. Returns how often they died.
async fn survive(world: &World, consumers: usize) -> usize {
    survive_with(world, consumers, &[]).await
}

async fn survive_with(world: &World, consumers: usize, settings: &[(&'static str, &str)]) -> usize {
    let mut environment = prepare(world).await;
    environment.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
    tokio::task::spawn_blocking(move || {
        let program = example("unruly");
        let mut services: Vec<Service> =
            (0..consumers).map(|_| Service::start(&program, environment.clone())).collect();
        let deadline = Instant::now() + Duration::from_mins(4);
        while !services.iter().all(|service| service.has_ended) {
            assert!(Instant::now() < deadline, "the services do not come to an end");
            services.iter_mut().for_each(Service::look);
            std::thread::sleep(Duration::from_millis(20));
        }
        services.iter().map(|service| service.deaths).sum()
    })
    .await
    .unwrap()
}

/// The tables of the handler, and what its program is started with.
async fn prepare(world: &World) -> Vec<(&'static str, String)> {
    for create in ["CREATE TABLE worked (id uuid)", "CREATE TABLE seen (id uuid PRIMARY KEY)"] {
        sqlx::query(create).execute(&world.pool).await.unwrap();
    }
    vec![
        ("KAFKA_BOOTSTRAP_SERVERS", world.config.kafka.bootstrap_servers().to_owned()),
        ("DATABASE_URL", world.database_url.clone()),
        ("TOPIC", world.config.topic.clone()),
        ("SESSION_TIMEOUT_MS", "1500".to_owned()),
    ]
}

/// Values of the dead letters and how often each was tried, by code.
async fn ends(world: &World) -> HashMap<String, Vec<(String, i32)>> {
    let mut ends: HashMap<String, Vec<(String, i32)>> = HashMap::new();
    for (value, _, code, attempts) in world.dead_letters().await {
        ends.entry(code).or_default().push((value, attempts));
    }
    for letters in ends.values_mut() {
        letters.sort();
    }
    ends
}

/// `innocent` messages among which the others are spread, each with a key of its own.
fn send(world: &World, innocent: usize, others: &[&str]) {
    let gap = innocent / (others.len() + 1);
    let mut id = 0;
    for n in 0..innocent {
        if let Some(other) = others.get((n / gap).wrapping_sub(1)).filter(|_| n % gap == 0) {
            world.send_as(id, &format!("\"{other}\""), &format!("other-{id}"));
            id += 1;
        }
        world.send_as(id, "\"work\"", &format!("key-{}", n % 60));
        id += 1;
    }
    world.flush();
}

async fn each_innocent_worked_once(world: &World, innocent: i64) {
    let worked: (i64, i64) = sqlx::query_as("SELECT count(*), count(DISTINCT id) FROM worked")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!(worked, (innocent, innocent));
    let suspected: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM partition_progress WHERE handed_out > next_offset OR NOT clean",
    )
    .fetch_one(&world.pool)
    .await
    .unwrap();
    assert_eq!(suspected, 0, "nothing is suspected in the end");
    assert_eq!(world.count("retry_queue").await, 0);
}

#[tokio::test]
async fn messages_that_abort_are_found_among_six_lanes_and_three_processes() {
    let world = World::with_partitions(6).await;
    send(&world, 900, &["abort", "late abort"]);
    let deaths = survive(&world, 3).await;
    let crashed = |value: &str| (format!("\"{value}\""), i32::try_from(MAX_CRASHES).unwrap());
    assert_eq!(
        ends(&world).await,
        HashMap::from([(
            "crashed_consumer".to_owned(),
            vec![crashed("abort"), crashed("late abort")]
        )])
    );
    each_innocent_worked_once(&world, 900).await;
    assert!(deaths > MAX_CRASHES && deaths <= 2 * (MAX_CRASHES + 4), "{deaths} deaths");
}

/// A lane that has to be alone does not wait for one that has the only permit and waits for it.
#[tokio::test]
async fn a_message_that_aborts_is_found_with_one_transaction_at_a_time() {
    let world = World::with_partitions(6).await;
    let mut id = 0;
    for partition in 0..6 {
        let values =
            if partition == 0 { &["nap", "nap", "nap", "abort"][..] } else { &["work"; 40] };
        for value in values {
            world.send_to(partition, id, &format!("\"{value}\""));
            id += 1;
        }
    }
    world.flush();
    // The others have something to do all the time that one is alone.
    let deaths = survive_with(&world, 1, &[("CONCURRENCY", "1"), ("BATCH_SIZE", "4")]).await;
    let crashed = vec![("\"abort\"".to_owned(), i32::try_from(MAX_CRASHES).unwrap())];
    assert_eq!(ends(&world).await, HashMap::from([("crashed_consumer".to_owned(), crashed)]));
    each_innocent_worked_once(&world, 203).await;
    assert!(deaths > MAX_CRASHES && deaths <= MAX_CRASHES + 4, "{deaths} deaths");
}

/// Each lane waits with a suspect of its own, and only the one that is in work may be charged.
#[tokio::test]
async fn a_death_charges_one_message_of_all_partitions() {
    let world = World::with_partitions(6).await;
    for partition in 0..6 {
        let values = if partition == 0 { ["nap", "abort"] } else { ["nap"; 2] };
        for (n, value) in (0..).zip(values) {
            world.send_to(partition, i64::from(partition) * 2 + n, &format!("\"{value}\""));
        }
    }
    world.flush();
    let mut environment = prepare(&world).await;
    environment.push(("HANDLER_TIMEOUT_MS", "5000".to_owned()));
    let (program, mut charged) = (example("unruly"), Vec::new());
    loop {
        let mut child = spawn(&program, &environment);
        let status = tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap();
        if status.success() {
            break;
        }
        let open: Vec<i32> = sqlx::query_scalar(
            r"
            SELECT partition
              FROM partition_progress
             WHERE charged_offset >= next_offset AND charges > 0
             ORDER BY partition
            ",
        )
        .fetch_all(&world.pool)
        .await
        .unwrap();
        charged.push(open);
        assert!(charged.len() < 20, "{charged:?}");
    }
    charged.retain(|partitions| !partitions.is_empty());
    assert_eq!(charged, vec![vec![0]; MAX_CRASHES], "partitions with a charge after each death");
    each_innocent_worked_once(&world, 11).await;
}

#[tokio::test]
async fn messages_that_block_their_thread_or_take_all_memory_are_found() {
    let world = World::with_partitions(2).await;
    send(&world, 300, &["block", "allocate"]);
    let deaths = survive(&world, 1).await;
    let crashed = |value: &str| (format!("\"{value}\""), i32::try_from(MAX_CRASHES).unwrap());
    assert_eq!(
        ends(&world).await,
        HashMap::from([(
            "crashed_consumer".to_owned(),
            vec![crashed("allocate"), crashed("block")]
        )])
    );
    each_innocent_worked_once(&world, 300).await;
    assert!(deaths > MAX_CRASHES && deaths <= 2 * (MAX_CRASHES + 4), "{deaths} deaths");
}

#[tokio::test]
async fn a_message_that_outlasts_every_timeout_stops_nobody() {
    let world = World::with_partitions(2).await;
    send(&world, 100, &["hang"]);
    // For longer than a turn at the retry queue takes: the attempt counts all the same.
    let deaths = survive_with(&world, 2, &[("HANDLER_TIMEOUT_MS", "1500")]).await;
    assert_eq!(deaths, 0, "a handler that awaits can be given up");
    let ends = ends(&world).await;
    assert_eq!(
        ends,
        HashMap::from([("handler_timeout".to_owned(), vec![("\"hang\"".to_owned(), 5)])])
    );
    each_innocent_worked_once(&world, 100).await;
}
