//! Settings of an engine.

use std::time::Duration;

use crate::identity::IdMode;
use crate::kafka::settings::KafkaSettings;
use crate::retry::Backoff;

/// What an engine needs to know. [`EngineConfig::new`] gives defaults for the rest.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Brokers and client properties.
    pub kafka: KafkaSettings,
    /// The topic to consume.
    pub topic: String,
    /// Where copies of dead letters go.
    pub dlq_topic: String,
    /// Topics that the handler publishes to, to be made sure of as of the others.
    pub publishes_to: Vec<String>,
    /// Kafka's consumer group, and the scope of the claims.
    pub group: String,
    /// Where a message's id comes from. The first run records it, another one is refused.
    pub message_id_from: IdMode,
    /// Partitions of topics that have to be created.
    pub partitions: usize,
    /// Create missing topics; refuse to start otherwise.
    pub create_topics: bool,
    /// Transactions under way at once in this process, one a partition at most.
    pub concurrency: usize,
    /// Messages in a transaction, at most.
    pub batch_size: usize,
    /// Bytes of records in a transaction, at most; a larger record goes alone.
    pub batch_bytes: usize,
    /// How long a batch that is not full waits for more. Zero: never.
    pub batch_linger: Duration,
    /// Bytes of records waiting in this process, near enough.
    pub buffer_bytes: usize,
    /// How often a message is tried before it is dead-lettered.
    pub max_attempts: u32,
    /// How often a message that is worked on alone may end the process before it is dead-lettered.
    pub max_crashes: u32,
    /// Waits between attempts of one message.
    pub retry_backoff: Backoff,
    /// Waits while database or broker are in trouble.
    pub infrastructure_backoff: Backoff,
    /// Whether the handler does anything that no rollback takes back, such as sending a mail. It is
    /// then called only once the brokers have said that the topic is still the one of these records,
    /// which is asked beside its work otherwise: while they are away, each try would do it again.
    pub effects_outside: bool,
    /// How long a handler may take for a batch. Below the statement and idle timeouts.
    pub handler_timeout: Duration,
    /// When a batch that is still in work counts as one that blocks its thread, which nothing but
    /// the end of the process ends: it is aborted. `None`: 15 s after every other limit has passed.
    pub stuck_timeout: Option<Duration>,
    /// How long a statement may wait for a lock.
    pub lock_timeout: Duration,
    /// Share of messages dead-lettered, of the last thousand or so, above which the engine stops
    /// and dead-letters nothing more: a bad deployment, not bad messages.
    pub max_dead_letter_ratio: Option<f64>,
    /// Claims older than this may be purged, and messages older than this that have none are
    /// dead-lettered. `None` leaves the database's recorded window as it is: without one, claims
    /// are kept for ever.
    pub dedup_window: Option<Duration>,
    /// End by itself once there has been nothing to do for so long.
    pub exit_when_idle: Option<Duration>,
    /// How long a stop waits for open transactions.
    pub shutdown_timeout: Duration,
}

impl EngineConfig {
    /// Defaults for a topic and a group; the dead letter topic is the topic's name with `.dlq`.
    pub fn new(kafka: KafkaSettings, topic: impl Into<String>, group: impl Into<String>) -> Self {
        let topic = topic.into();
        Self {
            kafka,
            dlq_topic: format!("{topic}.dlq"),
            publishes_to: Vec::new(),
            topic,
            group: group.into(),
            message_id_from: IdMode::default(),
            partitions: 6,
            create_topics: true,
            concurrency: 4,
            batch_size: 1000,
            batch_bytes: 4 * 1024 * 1024,
            batch_linger: Duration::ZERO,
            buffer_bytes: 30 * 1024 * 1024,
            max_attempts: 5,
            max_crashes: 3,
            retry_backoff: Backoff { base: Duration::from_secs(1), cap: Duration::from_mins(5) },
            infrastructure_backoff: Backoff {
                base: Duration::from_millis(100),
                cap: Duration::from_secs(5),
            },
            effects_outside: false,
            handler_timeout: Duration::from_secs(20),
            stuck_timeout: None,
            lock_timeout: Duration::from_secs(5),
            max_dead_letter_ratio: None,
            dedup_window: None,
            exit_when_idle: None,
            shutdown_timeout: Duration::from_secs(30),
        }
    }

    /// How long a transaction may take altogether.
    pub(crate) fn transaction_timeout(&self) -> Duration {
        self.handler_timeout * 2 + Duration::from_secs(30)
    }

    pub(crate) fn limits(&self) -> crate::store::connect::TransactionLimits {
        crate::store::connect::TransactionLimits {
            lock: self.lock_timeout,
            // Above the handler's own limit, so that the engine notices first and knows which
            // message it was.
            statement: self.handler_timeout + Duration::from_secs(5),
            idle: self.handler_timeout + Duration::from_secs(10),
        }
    }
}
