//! What the lanes of one engine share.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Instant;

use sqlx::postgres::PgConnectOptions;
use tokio::sync::{RwLock, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::batch::PieceError;
use crate::config::EngineConfig;
use crate::health::Health;
use crate::kafka::facts::Facts;
use crate::kafka::identity::TopicIdentity;
use crate::kafka::owner::Command;
use crate::phases::Phases;
use crate::store::batch::Counts;
use crate::store::claims::Claiming;
use crate::store::connect::BeginSql;
use crate::watchdog::Watchdog;

/// Shared by all lanes of an engine.
pub(crate) struct Shared<H, D> {
    pub config: EngineConfig,
    pub handler: H,
    pub decoder: D,
    pub database: PgConnectOptions,
    pub facts: Arc<Facts>,
    pub identity: Arc<TopicIdentity>,
    pub health: Arc<Health>,
    /// Read-locked by whoever has messages in work; write-locked by whoever has to be alone. Nobody
    /// who holds it waits for a permit, or lanes could wait for each other.
    pub alone: RwLock<()>,
    pub watchdog: Arc<Watchdog>,
    /// One for each transaction that may be under way, from before its records are taken.
    pub permits: Semaphore,
    pub commands: mpsc::Sender<Command>,
    pub begin_sql: BeginSql,
    /// Unique to this process and run.
    pub process: String,
    pub totals: Totals,
    pub claiming: Claiming,
    pub phases: Phases,
    /// Fires when the engine has to stop, with or without a reason in `failure`.
    pub stop: CancellationToken,
    pub failure: Mutex<Option<(String, String)>>,
}

impl<H, D> Shared<H, D> {
    /// Stops the engine for a reason that needs a person.
    pub(crate) fn fail(&self, partition: String, reason: String) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert((partition, reason));
        drop(failure);
        self.stop.cancel();
    }

    pub(crate) fn tell_owner(&self, command: Command) {
        // The owner is gone only when the engine is ending.
        let _ = self.commands.send(command);
    }
}

/// What this run has done so far.
#[derive(Debug)]
pub(crate) struct Totals {
    started: Instant,
    pub applied: AtomicU64,
    pub duplicates: AtomicU64,
    pub dead_lettered: AtomicU64,
    pub skipped: AtomicU64,
    pub deferred: AtomicU64,
    pub commits: AtomicU64,
    pub busy_lanes: AtomicUsize,
    /// Of the messages of this run, in microseconds since `started`; 0 is none yet.
    first_at_us: AtomicU64,
    last_at_us: AtomicU64,
    /// The recent messages and the dead letters among them, halved whenever there are many.
    recent: Mutex<(u64, u64)>,
}

/// Below so many recent messages a share of dead letters says nothing.
const RECENT_MIN: u64 = 100;
/// Above so many the older ones count half.
const RECENT_MAX: u64 = 2000;

impl Totals {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            applied: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            dead_lettered: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            deferred: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            busy_lanes: AtomicUsize::new(0),
            first_at_us: AtomicU64::new(0),
            last_at_us: AtomicU64::new(0),
            recent: Mutex::new((0, 0)),
        }
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX).max(1)
    }

    /// Records have come in.
    pub(crate) fn note_work(&self) {
        let now = self.now_us();
        let _ = self.first_at_us.compare_exchange(0, now, Relaxed, Relaxed);
        self.last_at_us.store(now, Relaxed);
    }

    pub(crate) fn add(&self, counts: Counts) {
        let add = |total: &AtomicU64, count: i64| {
            total.fetch_add(u64::try_from(count).unwrap_or(0), Relaxed);
        };
        add(&self.applied, counts.applied);
        add(&self.duplicates, counts.duplicates);
        add(&self.dead_lettered, counts.dead_lettered);
        add(&self.skipped, counts.skipped);
        add(&self.deferred, counts.deferred);
        self.commits.fetch_add(1, Relaxed);
        self.last_at_us.store(self.now_us(), Relaxed);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        *recent = sum(*recent, counts);
        if recent.0 > RECENT_MAX {
            *recent = (recent.0 / 2, recent.1 / 2);
        }
    }

    /// Whether these further dead letters would be more than `max_ratio` of the recent messages.
    pub(crate) fn check(&self, counts: Counts, max_ratio: Option<f64>) -> Result<(), PieceError> {
        let Some(max_ratio) = max_ratio else { return Ok(()) };
        if counts.dead_lettered == 0 {
            return Ok(());
        }
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, dead) = sum(*recent, counts);
        if of >= RECENT_MIN && dead as f64 > max_ratio * of as f64 {
            return Err(PieceError::TooManyDeadLetters { dead, of });
        }
        Ok(())
    }

    /// Seconds since the last record came in or was committed.
    pub(crate) fn idle_seconds(&self) -> f64 {
        (self.now_us() - self.last_at_us.load(Relaxed).min(self.now_us())) as f64 / 1e6
    }

    /// Seconds from the first record to the last commit.
    pub(crate) fn seconds(&self) -> f64 {
        let (first, last) = (self.first_at_us.load(Relaxed), self.last_at_us.load(Relaxed));
        last.saturating_sub(first) as f64 / 1e6
    }
}

fn sum(recent: (u64, u64), counts: Counts) -> (u64, u64) {
    let all = counts.applied + counts.duplicates + counts.dead_lettered + counts.skipped;
    let add = |total: u64, count: i64| total + u64::try_from(count).unwrap_or(0);
    (add(recent.0, all), add(recent.1, counts.dead_lettered))
}
