//! The engine: wires Kafka, lanes and relay together, and runs until it is told to stop.

mod prepare;

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use sqlx::PgPool;
use sqlx::migrate::MigrateError;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Notify, RwLock, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::EngineConfig;
use crate::handler::{Decoder, Handler, Json};
use crate::health::Health;
use crate::kafka::admin::AdminError;
use crate::kafka::facts::Facts;
use crate::kafka::identity::TopicIdentity;
use crate::kafka::owner::{self, Command, Event, OwnerSettings};
use crate::lane::Lane;
use crate::observe;
use crate::phases::{LaneSeconds, Phases};
use crate::purge::PurgeError;
use crate::relay::Relay;
use crate::shared::{Shared, Totals};
use crate::store::claims::Claiming;
use crate::store::connect::BeginSql;
use crate::store::retry_queue;
use crate::watchdog::Watchdog;

/// Why an engine did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Kafka cannot be reached or refuses.
    #[error(transparent)]
    Kafka(#[from] AdminError),
    /// The consumer could not be made.
    #[error("the Kafka client refuses to start: {0}")]
    Client(String),
    /// PostgreSQL cannot be reached or refuses.
    #[error("database: {0}; is it running, and is the URL right?")]
    Database(#[from] sqlx::Error),
    /// A topic is missing and may not be created.
    #[error(
        "the topic {0} does not exist; create it, or let the consumer create it with its partitions"
    )]
    TopicMissing(String),
    /// The database cannot hold every text.
    #[error(
        "the database's encoding is {0}, and messages are UTF-8; create it with ENCODING 'UTF8'"
    )]
    Encoding(String),
    /// Migrations are missing.
    #[error("the database lacks the engine's migrations ({}); run `migrate` first", .0.join(", "))]
    SchemaMissing(Vec<String>),
    /// The database's schema is not one of this program's.
    #[error("the database's migrations do not fit this program: {0}; a newer one has been here")]
    Schema(#[from] MigrateError),
    /// The database holds another group's effects.
    #[error(
        "this database holds the effects of {recorded}, and this consumer is {given}: it would apply \
         everything again; use a database of its own, or the recorded settings"
    )]
    OtherScope {
        /// What the first run recorded.
        recorded: String,
        /// What this run was given.
        given: String,
    },
    /// The dedup window is not long enough, or that could not be told.
    #[error(transparent)]
    Window(#[from] PurgeError),
    /// Consumption stopped because going on would have been wrong: our mistake, not a message's.
    #[error("stopped at {partition}: {reason}; nothing was dead-lettered for it")]
    Stopped {
        /// Where.
        partition: String,
        /// Why.
        reason: String,
    },
}

/// What a run has done.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Summary {
    /// Messages that came to an end: applied, duplicates, dead-lettered and skipped.
    pub events: u64,
    /// From the first record to the last commit.
    pub seconds: f64,
    /// `events` / `seconds`.
    pub events_per_second: f64,
    /// Applied by the handler.
    pub applied: u64,
    /// Found to have their outcome already.
    pub duplicates: u64,
    /// Written to `dead_letters`.
    pub dead_lettered: u64,
    /// Passed over on purpose.
    pub skipped: u64,
    /// Put into the retry queue. What came out of it again has an end, and is counted there.
    pub deferred: u64,
    /// Where the lanes' time went.
    pub lane_seconds: LaneSeconds,
}

/// Consumes a topic and applies each message exactly once.
pub struct Engine<H, D> {
    config: EngineConfig,
    handler: H,
    decoder: D,
    pool: PgPool,
    health: Arc<Health>,
}

impl<H: Handler> Engine<H, Json<H::Body>>
where
    H::Body: serde::de::DeserializeOwned,
{
    /// An engine whose messages are JSON.
    pub fn new(config: EngineConfig, handler: H, pool: PgPool) -> Self {
        Self::with_decoder(config, handler, Json::default(), pool)
    }
}

impl<H: Handler, D: Decoder<Body = H::Body>> Engine<H, D> {
    /// An engine with a decoder of your own.
    pub fn with_decoder(config: EngineConfig, handler: H, decoder: D, pool: PgPool) -> Self {
        Self { config, handler, decoder, pool, health: Arc::default() }
    }

    /// Why it is or is not ready; keep it to answer `/readyz` while the engine runs.
    pub fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    /// Runs until `stop` fires, then drains what is under way and commits it.
    ///
    /// # Errors
    /// It could not start, or something made it wrong to go on. Broker and database failures after
    /// the start are waited out and show in [`health`](Self::health) only.
    pub async fn run(self, stop: CancellationToken) -> Result<Summary, EngineError> {
        let Self { config, handler, decoder, pool, health } = self;
        let timeout = Duration::from_secs(15);
        let facts = Arc::new(Facts::new(&config.kafka, &config.group, timeout)?);
        // Kafka's client blocks, and may wait for very long where the clock is set back.
        let preparing = tokio::task::spawn_blocking({
            let (config, facts, pool) = (config.clone(), Arc::clone(&facts), pool.clone());
            move || Handle::current().block_on(prepare::all(&config, &facts, &pool, timeout))
        });
        tokio::select! {
            biased;
            // Nothing is under way yet.
            () = stop.cancelled() => return Ok(summary(&Totals::new(), LaneSeconds::default())),
            prepared = preparing => {
                prepared.map_err(|error| EngineError::Client(error.to_string()))??;
            }
        }

        let (commands, commands_in) = mpsc::channel();
        let (events_out, events) = unbounded_channel();
        let thread = owner::start(
            OwnerSettings {
                kafka: config.kafka.clone(),
                topic: config.topic.clone(),
                group: config.group.clone(),
                buffer_bytes: config.buffer_bytes,
            },
            commands_in,
            events_out,
        )
        .map_err(|error| EngineError::Client(error.to_string()))?;

        let process = Uuid::new_v4().simple().to_string();
        let database = (*pool.connect_options()).clone();
        let relay_stop = CancellationToken::new();
        let relay = Relay {
            kafka: config.kafka.clone(),
            database: database.clone(),
            holder: process.clone(),
            health: Arc::clone(&health),
        };
        let relay = tokio::spawn(relay.run(relay_stop.clone()));
        let observed = observe::tables(
            database.clone(),
            config.group.clone(),
            config.topic.clone(),
            relay_stop.clone(),
        );
        tokio::spawn(observed);

        let stuck_timeout = config
            .stuck_timeout
            .unwrap_or_else(|| config.transaction_timeout() + Duration::from_secs(15));
        let watchdog = Watchdog::start(stuck_timeout)
            .map_err(|error| EngineError::Client(error.to_string()))?;
        let shared = Arc::new(Shared {
            begin_sql: BeginSql::new(config.limits()),
            identity: Arc::new(TopicIdentity::new(
                Arc::clone(&facts),
                config.topic.clone(),
                config.lock_timeout / 2,
            )),
            alone: RwLock::new(()),
            watchdog,
            permits: Semaphore::new(config.concurrency.max(1)),
            config,
            handler,
            decoder,
            database,
            facts,
            health,
            commands,
            process,
            totals: Totals::new(),
            claiming: Claiming::default(),
            phases: Phases::default(),
            stop: stop.child_token(),
            failure: Mutex::new(None),
        });
        Lanes::new(Arc::clone(&shared)).run(events, &pool).await;

        relay_stop.cancel();
        shared.tell_owner(Command::Close);
        let _ = tokio::time::timeout(Duration::from_secs(5), relay).await;
        // Leaving the group commits the offsets; a broker that is gone must not hold us here.
        let left = tokio::task::spawn_blocking(move || thread.join());
        let _ = tokio::time::timeout(Duration::from_secs(10), left).await;
        shared.health.set("group", "stopped");
        let failure = shared.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        match failure {
            Some((partition, reason)) => Err(EngineError::Stopped { partition, reason }),
            None => Ok(summary(&shared.totals, shared.phases.seconds())),
        }
    }
}

fn summary(totals: &Totals, lane_seconds: LaneSeconds) -> Summary {
    let (applied, duplicates) = (totals.applied.load(Relaxed), totals.duplicates.load(Relaxed));
    let (dead_lettered, skipped) =
        (totals.dead_lettered.load(Relaxed), totals.skipped.load(Relaxed));
    let events = applied + duplicates + dead_lettered + skipped;
    let seconds = totals.seconds();
    Summary {
        events,
        seconds,
        events_per_second: if seconds > 0.0 { events as f64 / seconds } else { 0.0 },
        applied,
        duplicates,
        dead_lettered,
        skipped,
        deferred: totals.deferred.load(Relaxed),
        lane_seconds,
    }
}

/// The lanes that are running, one for each assigned partition.
struct Lanes<H, D> {
    shared: Arc<Shared<H, D>>,
    running: HashMap<i32, Running>,
    tasks: JoinSet<()>,
    lag: HashMap<i32, i64>,
    rebalanced: bool,
    /// Since when there has been nothing to do or to publish, as far as it was asked.
    settled_since: Option<Instant>,
}

struct Running {
    epoch: u64,
    cancel: CancellationToken,
    disoriented: Arc<Notify>,
}

impl<H: Handler, D: Decoder<Body = H::Body>> Lanes<H, D> {
    fn new(shared: Arc<Shared<H, D>>) -> Self {
        Self {
            shared,
            running: HashMap::new(),
            tasks: JoinSet::new(),
            lag: HashMap::new(),
            rebalanced: false,
            settled_since: None,
        }
    }

    /// Follows the owner's events until the engine has to stop, then lets the lanes finish.
    async fn run(mut self, mut events: UnboundedReceiver<Event>, pool: &PgPool) {
        let stop = self.shared.stop.clone();
        loop {
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    if let Err(error) = ended {
                        self.shared.fail("a lane".to_owned(), format!("it panicked: {error}"));
                    }
                    continue;
                }
                event = events.recv() => event,
                () = tokio::time::sleep(Duration::from_millis(200)) => {
                    if self.is_idle(pool).await {
                        break;
                    }
                    continue;
                }
            };
            match event {
                Some(event) => self.follow(event),
                None => {
                    self.shared.fail("kafka".to_owned(), "the consumer's thread ended".to_owned());
                }
            }
        }
        for running in self.running.values() {
            running.cancel.cancel();
        }
        let drained = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(self.shared.config.shutdown_timeout, drained).await.is_err() {
            tracing::warn!("transactions were still open at the end of the shutdown timeout");
        }
    }

    fn follow(&mut self, event: Event) {
        let shared = &self.shared;
        match event {
            Event::Assigned { partition, epoch, queue } => {
                let running = Running {
                    epoch,
                    cancel: shared.stop.child_token(),
                    disoriented: Arc::default(),
                };
                let label = format!("{}[{partition}]", shared.config.topic);
                shared.health.set(&label, "finding out where to begin");
                let lane = Lane::new(
                    Arc::clone(shared),
                    partition,
                    epoch,
                    queue,
                    running.cancel.clone(),
                    Arc::clone(&running.disoriented),
                );
                self.tasks.spawn(lane.run());
                if let Some(before) = self.running.insert(partition, running) {
                    before.cancel.cancel();
                }
            }
            Event::Revoked { partition, epoch } => {
                if self.running.get(&partition).is_some_and(|running| running.epoch == epoch)
                    && let Some(running) = self.running.remove(&partition)
                {
                    running.cancel.cancel();
                }
                // Cleared by the end of the rebalance; if none comes, we are out of the group.
                shared.health.set("group", "partitions were taken back, waiting for the group");
                self.lag.remove(&partition);
                metrics::gauge!("idempotent_consumer_lag_records", "partition" => partition.to_string())
                    .set(0.0);
            }
            Event::Rebalanced => {
                self.rebalanced = true;
                shared.health.clear("group");
                metrics::counter!("idempotent_consumer_rebalances_total").increment(1);
            }
            Event::Disoriented(why) => {
                tracing::warn!("kafka: {why}; all lanes look again where they are");
                for running in self.running.values() {
                    running.disoriented.notify_one();
                }
            }
            Event::Fatal(why) => shared.fail("kafka".to_owned(), why),
            Event::Denied { what, why } => {
                if shared.health.set(what, why.as_str()) {
                    tracing::warn!("kafka: {why}");
                }
            }
            Event::Reading => {
                shared.health.clear("acl");
            }
            Event::Brokers(Some(why)) => {
                if shared.health.set("kafka", why.as_str()) {
                    tracing::warn!("kafka: {why}");
                }
            }
            Event::Brokers(None) => {
                if shared.health.clear("kafka") {
                    tracing::info!("kafka: reachable again");
                }
            }
            Event::Lag { partition, records } => {
                self.lag.insert(partition, records);
                metrics::gauge!("idempotent_consumer_lag_records", "partition" => partition.to_string())
                    .set(records as f64);
            }
        }
    }

    /// Whether `exit_when_idle` is over: every lane at its end and nothing left to publish, for so
    /// long. What was published last may be for us, and come in a moment later.
    async fn is_idle(&mut self, pool: &PgPool) -> bool {
        let Some(limit) = self.shared.config.exit_when_idle else { return false };
        let totals = &self.shared.totals;
        let quiet = self.rebalanced
            && self.shared.health.reasons().is_empty()
            && totals.busy_lanes.load(Relaxed) == 0
            && self.running.keys().all(|p| self.lag.get(p).is_some_and(|lag| *lag == 0));
        if !quiet || !self.is_settled(pool).await.unwrap_or(false) {
            self.settled_since = None;
            return false;
        }
        // Work that came and went between two looks counts too, and so does what came with this one.
        self.settled_since.get_or_insert_with(Instant::now).elapsed() >= limit
            && totals.idle_seconds() >= limit.as_secs_f64()
            && totals.busy_lanes.load(Relaxed) == 0
    }

    /// Whether nothing waits in the tables.
    async fn is_settled(&self, pool: &PgPool) -> Result<bool, sqlx::Error> {
        let mut connection = pool.acquire().await?;
        let EngineConfig { group, topic, .. } = &self.shared.config;
        let published =
            sqlx::query_scalar("SELECT NOT EXISTS (SELECT FROM outbox WHERE refused_at IS NULL)")
                .fetch_one(&mut *connection)
                .await?;
        Ok(published && retry_queue::is_empty(&mut connection, group, topic).await?)
    }
}
