//! From topic to topic, exactly once: a stage reads records, decides what each becomes, and what
//! it publishes is committed in one Kafka transaction with the offsets of what it read.
//!
//! A reader with `read_committed` sees what became of each record once, whatever dies when. That is
//! all it does: an effect elsewhere, in a database or by a call, is no part of the transaction. It
//! stays when that is aborted, and comes again. For those there is the [`Engine`](crate::Engine).
//!
//! Nobody but the group's member commits: the offsets go out with the member's generation, and the
//! brokers refuse those of a process that was taken for dead, however late it wakes up. So the
//! transactional id need not say which partitions it is about; one for a process will do.
//!
//! ```no_run
//! use idempotent_consumer::pipe::{Pipe, PipeConfig, Stage, TooLarge};
//! use idempotent_consumer::{KafkaSettings, Outgoing, Record};
//!
//! /// Leaves out what is empty.
//! struct NotEmpty;
//!
//! impl Stage for NotEmpty {
//!     fn decide(&self, record: &Record, _topic_id: &str) -> Vec<Outgoing> {
//!         let copy = |record: &Record| Outgoing {
//!             topic: "clean".to_owned(),
//!             partition: None,
//!             key: record.key.clone(),
//!             value: record.value.clone(),
//!             headers: record.headers.clone(),
//!         };
//!         record.value.iter().map(|_| copy(record)).collect()
//!     }
//!
//!     fn decide_too_large(&self, _: &Record, _: &str, _: TooLarge<'_>) -> Vec<Outgoing> {
//!         Vec::new()
//!     }
//! }
//!
//! # async fn run() -> anyhow::Result<()> {
//! let config = PipeConfig::new(KafkaSettings::new("localhost:9092"), "raw", "cleaning");
//! let stop = tokio_util::sync::CancellationToken::new();
//! let summary = Pipe::new(config, ["clean"], NotEmpty).run(stop).await?;
//! # Ok(())
//! # }
//! ```

mod letter;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use self::letter::Letter;
use crate::handler::Outgoing;
use crate::kafka::admin::AdminError;
use crate::kafka::pipe::Worker;
use crate::kafka::settings::KafkaSettings;
use crate::kafka::transaction::TransactionError;
use crate::message::{PartitionKey, Record};

/// What a pipe does with each record. Pure: it may be asked again for the same record, and has to
/// give the same answer then.
pub trait Stage: Send + 'static {
    /// What becomes of a record; nothing at all is an answer as well. `topic_id` is the id that
    /// Kafka gave its topic, as [`id_from_position`](crate::identity::id_from_position) wants it.
    fn decide(&self, record: &Record, topic_id: &str) -> Vec<Outgoing>;

    /// What becomes of it if Kafka finds that answer too large; asked again, up to
    /// [`TooLarge::ATTEMPTS_MAX`] times, if it finds this one too large as well. Then the pipe stops.
    fn decide_too_large(
        &self,
        record: &Record,
        topic_id: &str,
        refusal: TooLarge<'_>,
    ) -> Vec<Outgoing>;
}

/// What Kafka refused for its size, and what it said.
#[derive(Clone, Copy, Debug)]
pub struct TooLarge<'a> {
    /// 1 for the answer of [`Stage::decide`], 2 for the first of [`Stage::decide_too_large`], ….
    pub attempts: u32,
    /// What Kafka said.
    pub reason: &'a str,
}

impl TooLarge<'_> {
    /// So many answers may be refused, not one more.
    pub const ATTEMPTS_MAX: u32 = 3;
}

/// What a pipe needs to know. [`PipeConfig::new`] gives defaults for the rest.
#[derive(Clone, Debug)]
pub struct PipeConfig {
    /// Brokers and client properties.
    pub kafka: KafkaSettings,
    /// The topic to read.
    pub from: String,
    /// Kafka's consumer group: the processes that share the topic's partitions. Of its own.
    pub group: String,
    /// Of this process alone. One that begins under the id of another fences it, and aborts at once
    /// what that left open.
    pub transactional_id: String,
    /// After which time the brokers abort what a killed process left open. Until then nobody reads
    /// past it with `read_committed`, and its partitions stand still.
    pub transaction_timeout: Duration,
    /// Partitions of topics that have to be created.
    pub partitions: usize,
    /// Create missing topics; refuse to start otherwise.
    pub create_topics: bool,
    /// Records in a transaction, at most.
    pub batch_size: usize,
    /// Bytes of records in a transaction, at most; a larger record goes alone.
    pub batch_bytes: usize,
    /// How long a transaction that is not full waits for more.
    pub batch_linger: Duration,
    /// End by itself once there has been nothing to do for so long.
    pub exit_when_idle: Option<Duration>,
}

impl PipeConfig {
    /// Defaults for a topic and a group; the transactional id is the group's name with a new UUID.
    pub fn new(kafka: KafkaSettings, from: impl Into<String>, group: impl Into<String>) -> Self {
        let group = group.into();
        Self {
            kafka,
            from: from.into(),
            transactional_id: format!("{group}-{}", Uuid::now_v7()),
            group,
            transaction_timeout: Duration::from_secs(10),
            partitions: 6,
            create_topics: true,
            batch_size: 1000,
            batch_bytes: 4 * 1024 * 1024,
            batch_linger: Duration::from_millis(50),
            exit_when_idle: None,
        }
    }
}

/// Why a pipe did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum PipeError {
    /// Kafka cannot be reached or refuses.
    #[error(transparent)]
    Kafka(#[from] AdminError),
    /// The client cannot be made, or cannot go on.
    #[error("the Kafka client: {0}")]
    Client(String),
    /// A topic is missing and may not be created.
    #[error("the topic {0} does not exist; create it, or let it be created with its partitions")]
    TopicMissing(String),
    /// Transactions do not work, or another process has taken over.
    #[error(transparent)]
    Transaction(#[from] TransactionError),
    /// Kafka does not take what became of a record.
    #[error("stopped at {partition} offset {offset}: Kafka refuses what became of it: {reason}")]
    Refused {
        /// Where.
        partition: PartitionKey,
        /// Which record.
        offset: i64,
        /// What Kafka said.
        reason: String,
    },
    /// The group's offset is beyond the end of the log.
    #[error(
        "{partition} ends at {end}, and the group {group} is at {committed}: the topic was created \
         anew; set the group's offsets (kafka-consumer-groups --reset-offsets --to-earliest)"
    )]
    OtherLog {
        /// Where.
        partition: PartitionKey,
        /// The group.
        group: String,
        /// Its offset.
        committed: i64,
        /// The log's end.
        end: i64,
    },
}

/// What a run has done.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct PipeSummary {
    /// Records whose transaction was committed.
    pub records: u64,
    /// From the first record to the last commit.
    pub seconds: f64,
    /// What they became, by topic.
    pub published: BTreeMap<String, u64>,
    /// Transactions that were committed.
    pub transactions: u64,
    /// Transactions that were begun and not committed; their records were read again.
    pub aborted: u64,
    /// Offsets that retention took before they were read.
    pub lost: u64,
}

/// Reads a topic, and publishes what a [`Stage`] makes of each record, exactly once.
pub struct Pipe<S> {
    config: PipeConfig,
    to: Vec<String>,
    stage: S,
}

impl<S: Stage> Pipe<S> {
    /// A pipe to these topics.
    pub fn new<T: Into<String>>(
        config: PipeConfig,
        to: impl IntoIterator<Item = T>,
        stage: S,
    ) -> Self {
        Self { config, to: to.into_iter().map(Into::into).collect(), stage }
    }

    /// Runs until `stop` fires, then commits what is under way and leaves the group. All calls that
    /// block are on a thread of its own.
    ///
    /// # Errors
    /// It cannot start, or going on would be wrong. Nothing that was not committed is seen.
    pub async fn run(self, stop: CancellationToken) -> Result<PipeSummary, PipeError> {
        let Self { config, to, stage } = self;
        let runtime = tokio::runtime::Handle::current();
        let (done, ended) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("kafka-pipe".to_owned())
            .spawn(move || {
                let ran = Worker::start(config, &to, stage, stop, &runtime).and_then(Worker::run);
                // Whoever asked is gone only if the process is about to end.
                let _ = done.send(ran);
            })
            .map_err(|error| PipeError::Client(error.to_string()))?;
        ended.await.unwrap_or_else(|_| Err(PipeError::Client("its thread panicked".to_owned())))
    }
}
