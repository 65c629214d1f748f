//! One plan's own topics, database, group and processes.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use local_stack::programs::{Ended, Program};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::process::Command;
use tokio::sync::watch;

use crate::admin::Admin;
use crate::fault::{Kind, Link};
use crate::plan::{Load, Plan, SESSION_TIMEOUT_MS};
use crate::scene::Scene;
use crate::timeline::Timeline;

/// Of the topic.
const PARTITIONS: usize = 4;
/// Within which the lag has to be zero after a healing, and any step done.
pub const LIMIT: Duration = Duration::from_mins(1);
/// Behind [`LIMIT`] a partition may still be late, on a slow machine that has much to catch up with, but not
/// stand still for so long.
const STANDS_STILL: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(100);
const TABLESPACE: &str = "small";

/// A partition whose end the database has not come to.
struct Late {
    partition: i32,
    end: i64,
    at: i64,
    /// When it came there.
    since: Instant,
}

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, end, at, since } = self;
        let seconds = since.elapsed().as_secs();
        write!(f, "partition {partition} is at {at} of {end}, for {seconds} s")
    }
}

/// Where one plan takes place.
pub struct Stage<'a> {
    /// The servers.
    pub scene: &'a Scene,
    /// What is to happen.
    pub plan: &'a Plan,
    /// What happened.
    pub timeline: Timeline,
    /// Logs, manifests, the timeline.
    pub folder: PathBuf,
    /// The topic.
    pub topic: String,
    /// The dead letter topic.
    pub dlq_topic: String,
    group: String,
    database: String,
    database_url: String,
    clock: PathBuf,
    /// The consumers that run throughout.
    pub consumers: tokio::sync::Mutex<Vec<Program>>,
    /// Faults that have to be there before the load begins, and are not yet.
    pub standing: watch::Sender<usize>,
    manifests: Mutex<Vec<PathBuf>>,
    violations: Mutex<Vec<String>>,
    peak_kib: AtomicU64,
    names: AtomicUsize,
    healing: Mutex<Healing>,
}

struct Healing {
    under_way: usize,
    last: Instant,
}

impl<'a> Stage<'a> {
    /// Creates all of it, consumers ready.
    pub async fn set(
        scene: &'a Scene,
        plan: &'a Plan,
        folder: &Path,
        shown: bool,
    ) -> anyhow::Result<Self> {
        let _ = std::fs::remove_dir_all(folder);
        std::fs::create_dir_all(folder)?;
        let stack = &scene.stack;
        let database = format!("seed_{}", plan.seed);
        let (server, _) = stack.database_url().rsplit_once('/').context("a URL of a database")?;
        let database_url = format!("{server}/{database}");
        let stage = Self {
            scene,
            plan,
            timeline: Timeline::begin(&folder.join("timeline.txt"), shown)?,
            folder: folder.to_owned(),
            topic: format!("orders-{}", plan.seed),
            dlq_topic: format!("orders-{}.dlq", plan.seed),
            group: format!("group-{}", plan.seed),
            database,
            database_url,
            clock: folder.join("clock"),
            consumers: tokio::sync::Mutex::default(),
            standing: watch::Sender::new(
                plan.faults.iter().filter(|fault| fault.at_ms == 0).count(),
            ),
            manifests: Mutex::default(),
            violations: Mutex::default(),
            peak_kib: AtomicU64::new(0),
            names: AtomicUsize::new(0),
            healing: Mutex::new(Healing { under_way: plan.faults.len(), last: Instant::now() }),
        };
        stage.step_clock(0)?;
        stage.clear().await?;
        let mut place = String::new();
        if let Some(mount) = scene.mount.as_ref().filter(|_| stage.has(Kind::DiskFull)) {
            let space = mount.space();
            stage
                .admin_sql(&format!(
                    "CREATE TABLESPACE {TABLESPACE} LOCATION '{}'",
                    space.display()
                ))
                .await?;
            place = format!(" TABLESPACE {TABLESPACE}");
        }
        stage.admin_sql(&format!("CREATE DATABASE {}{place}", stage.database)).await?;
        for (topic, partitions) in [(&stage.topic, PARTITIONS), (&stage.dlq_topic, 1)] {
            stage
                .patiently("a topic", async || stage.admin().create(topic, partitions).await)
                .await?;
        }
        let mut migrate = stage.auditor();
        let migrated = migrate.arg("migrate").output().await?;
        if !migrated.status.success() {
            anyhow::bail!("migrate: {}", String::from_utf8_lossy(&migrated.stderr));
        }
        for _ in 0..plan.consumers {
            let consumer = stage.start_consumer(&[])?;
            stage.consumers.lock().await.push(consumer);
        }
        stage
            .patiently("the consumers share the partitions", async || {
                let mut connection = PgConnection::connect(&stage.database_url).await?;
                let owned: i64 =
                    sqlx::query_scalar("SELECT count(*) FROM partition_progress WHERE owner <> ''")
                        .fetch_one(&mut connection)
                        .await?;
                anyhow::ensure!(owned == 4, "{owned} partitions have an owner");
                Ok(())
            })
            .await?;
        Ok(stage)
    }

    /// Whether the plan has this kind.
    pub fn has(&self, kind: Kind) -> bool {
        self.plan.faults.iter().any(|fault| fault.kind == kind)
    }

    /// Removes database and topics.
    pub async fn clear(&self) -> anyhow::Result<()> {
        self.admin_sql(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.database)).await?;
        self.admin_sql(&format!("DROP TABLESPACE IF EXISTS {TABLESPACE}")).await?;
        for topic in [&self.topic, &self.dlq_topic] {
            // It may not be there.
            let _ = self.admin().delete(topic).await;
        }
        Ok(())
    }

    /// Of the broker, past the proxies.
    pub fn admin(&self) -> Admin {
        Admin::at(self.scene.stack.bootstrap_servers())
    }

    /// A connection past the proxies.
    pub async fn connect(&self) -> anyhow::Result<PgConnection> {
        Ok(PgConnection::connect(&self.database_url).await?)
    }

    async fn admin_sql(&self, statement: &str) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(self.scene.stack.database_url()).await?;
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await?;
        connection.close().await?;
        Ok(())
    }

    fn command(&self, program: &str, servers: &str) -> Command {
        let mut command = self.scene.programs.command(program);
        command
            .env("KAFKA_BOOTSTRAP_SERVERS", servers)
            .env("ORDERS_TOPIC", &self.topic)
            .env("ORDERS_DLQ_TOPIC", &self.dlq_topic)
            .env("CONSUMER_GROUP", &self.group)
            .env("FAILPOINTS_SEEN", self.folder.join("points"));
        command
    }

    /// `order-consumer`, past the proxies.
    pub fn auditor(&self) -> Command {
        let mut command = self.command("order-consumer", self.scene.stack.bootstrap_servers());
        command.env("DATABASE_URL", &self.database_url);
        command
    }

    /// Starts a consumer behind the proxies.
    pub fn start_consumer(&self, env: &[(&str, &str)]) -> anyhow::Result<Program> {
        let name = format!("consumer-{}", self.names.fetch_add(1, SeqCst));
        let servers = format!("127.0.0.1:{}", self.scene.proxy(Link::ConsumerToBroker).port());
        let mut command = self.command("order-consumer", &servers);
        command
            .env("DATABASE_URL", self.scene.through_proxy(&self.database_url))
            .args(["run", "-o", "json", "--listen", "127.0.0.1:0", "--retry-backoff", "200ms"])
            .args(["--batch-size", &self.plan.batch_size.to_string()])
            .args(["--concurrency", &self.plan.concurrency.to_string()])
            .args(["-X", &format!("session.timeout.ms={SESSION_TIMEOUT_MS}")])
            .args(["-X", "heartbeat.interval.ms=500"])
            .envs(env.iter().copied());
        if self.has(Kind::ClockStepped) {
            command
                .env("LD_PRELOAD", self.scene.programs.stepped_clock())
                .env("STEPPED_CLOCK", &self.clock);
        }
        Program::start(command, &self.folder, &name)
    }

    /// The clock of the consumers is so many seconds off from now on.
    pub fn step_clock(&self, seconds: i64) -> anyhow::Result<()> {
        // In place: a process that runs has it mapped.
        let mut clock =
            OpenOptions::new().write(true).create(true).truncate(false).open(&self.clock)?;
        Ok(clock.write_all(&seconds.to_ne_bytes())?)
    }

    /// Starts a load behind the proxies; the auditor is told what of it was acknowledged.
    pub fn start_load(&self, messages: u64, env: &[(&str, &str)]) -> anyhow::Result<Program> {
        let number = self.names.fetch_add(1, SeqCst);
        let (name, manifest) =
            (format!("load-{number}"), self.folder.join(format!("load-{number}.ndjson")));
        let servers = format!("127.0.0.1:{}", self.scene.proxy(Link::ProducerToBroker).port());
        let Load { rate, customers, duplicates, poison, lifecycle, .. } = self.plan.load;
        let seed = self.plan.seed.wrapping_mul(1_000).wrapping_add(number as u64);
        let mut command = self.command("order-producer", &servers);
        command.args(["load", "--manifest"]).arg(&manifest).envs(env.iter().copied());
        for (flag, value) in [
            ("--orders", messages),
            ("--rate", rate),
            ("--customers", customers),
            ("--duplicates", duplicates),
            ("--poison", poison),
            ("--lifecycle", lifecycle),
            ("--seed", seed),
        ] {
            command.args([flag, &value.to_string()]);
        }
        self.manifests.lock().unwrap_or_else(PoisonError::into_inner).push(manifest);
        Program::start(command, &self.folder, &name)
    }

    /// All manifests as one. A killed load may have left half a line.
    pub fn manifest(&self) -> anyhow::Result<PathBuf> {
        let mut whole = String::new();
        for file in self.manifests.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let complete = text.rfind('\n').map_or(0, |at| at + 1);
            whole.push_str(&text[..complete]);
        }
        let manifest = self.folder.join("manifest.ndjson");
        std::fs::write(&manifest, whole)?;
        Ok(manifest)
    }

    /// The named points that any process came to.
    pub fn points(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.join("points")).unwrap_or_default();
        let points: std::collections::BTreeSet<&str> = text.lines().collect();
        points.into_iter().map(str::to_owned).collect()
    }

    /// Something that may not be. It is never taken back.
    pub fn violated(&self, what: String) {
        self.timeline.note(format!("VIOLATION: {what}"));
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    /// All that may not be and was.
    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A program has ended, or is still there: its memory counts.
    pub fn note_memory(&self, kib: u64) {
        self.peak_kib.fetch_max(kib, SeqCst);
    }

    /// The most resident memory of any program.
    pub fn peak_kib(&self) -> u64 {
        self.peak_kib.load(SeqCst)
    }

    /// A consumer is asked to stop: it has to end well, and to say what it did.
    pub async fn stop(&self, consumer: Program, must_end_well: bool) -> anyhow::Result<()> {
        let (name, log) = (consumer.name.clone(), consumer.last_lines());
        consumer.signal(rustix::process::Signal::TERM);
        match consumer.ended(LIMIT).await {
            Ok(Ended { status, stdout, peak_kib }) => {
                self.note_memory(peak_kib);
                let summary = serde_json::from_str::<serde_json::Value>(&stdout);
                let is_whole = summary.is_ok_and(|summary| summary["applied"].is_number());
                if must_end_well && !(status.success() && is_whole) {
                    self.violated(format!("{name} ended with {status}, said {stdout:?}: {log}"));
                }
            }
            Err(error) => self.violated(format!("{error}: {log}")),
        }
        Ok(())
    }

    /// Tries until it works: another fault may be in the way.
    pub async fn patiently<T>(
        &self,
        what: &str,
        attempt: impl AsyncFn() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + LIMIT;
        loop {
            match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) if Instant::now() > deadline => {
                    return Err(error).with_context(|| format!("in vain: {what}"));
                }
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// A fault stands that may have to be there before the load begins.
    pub fn has_begun(&self) {
        self.standing.send_modify(|missing| *missing = missing.saturating_sub(1));
    }

    /// A fault is over.
    pub fn healed(&self) {
        let mut healing = self.healing.lock().unwrap_or_else(PoisonError::into_inner);
        healing.under_way -= 1;
        healing.last = Instant::now();
    }

    /// Whether the last fault was over so long ago.
    fn has_been_well_for(&self, time: Duration) -> bool {
        let healing = self.healing.lock().unwrap_or_else(PoisonError::into_inner);
        healing.under_way == 0 && healing.last.elapsed() > time
    }

    /// Waits until the database is past all that is in the log now. `None` if it takes too long.
    pub async fn caught_up(&self) -> anyhow::Result<Option<Duration>> {
        let begun = Instant::now();
        let ends = self
            .patiently("ends of the log", async || self.admin().ends(&self.topic).await)
            .await?;
        let mut why = String::new();
        let late =
            |(partition, end): (i32, &i64)| Late { partition, end: *end, at: 0, since: begun };
        let mut late: Vec<Late> = (0..).zip(&ends).map(late).collect();
        loop {
            match self.progress().await {
                Ok(progress) => {
                    why.clear();
                    late.retain_mut(|late| {
                        let next = progress.get(&late.partition).copied().unwrap_or(0);
                        if next != late.at {
                            (late.at, late.since) = (next, Instant::now());
                        }
                        next < late.end
                    });
                    if late.is_empty() {
                        return Ok(Some(begun.elapsed()));
                    }
                }
                Err(error) => why = format!("; {error}"),
            }
            let stand_still = late.iter().any(|late| late.since.elapsed() > STANDS_STILL);
            if self.has_been_well_for(LIMIT) && stand_still || self.has_been_well_for(5 * LIMIT) {
                break;
            }
            tokio::time::sleep(POLL).await;
        }
        let late = late.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        self.violated(format!("the lag is not zero in time: {late}{why}"));
        Ok(None)
    }

    async fn progress(&self) -> anyhow::Result<BTreeMap<i32, i64>> {
        let mut connection = tokio::time::timeout(LIMIT / 6, self.connect()).await??;
        let rows: Vec<(i32, i64)> =
            sqlx::query_as("SELECT partition, next_offset FROM partition_progress")
                .fetch_all(&mut connection)
                .await?;
        connection.close().await?;
        Ok(rows.into_iter().collect())
    }
}
