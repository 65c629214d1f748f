//! Reading stretches of a log as a bystander: no group is joined and no offset committed.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use uuid::Uuid;

use super::raw;
use super::settings::KafkaSettings;
use crate::message::{Headers, PartitionKey, Record};

/// Why a log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// No broker answered.
    #[error("nothing came from Kafka at {servers} for {seconds} s while {doing}: {reason}")]
    Silent {
        /// Brokers, as configured.
        servers: String,
        /// How long it was waited for.
        seconds: u64,
        /// What was being done.
        doing: String,
        /// What the client said last.
        reason: String,
    },
    /// Retention deleted what was about to be read.
    #[error("the beginning of {source_partition} was deleted while it was read; run it again")]
    Deleted {
        /// Where.
        source_partition: PartitionKey,
    },
    /// The client or a broker refused.
    #[error("Kafka refused {doing}: {reason}")]
    Refused {
        /// What was being done.
        doing: String,
        /// What was said.
        reason: String,
    },
}

/// Part of a partition's log: from `start` up to and without `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) partition: i32,
    pub(crate) start: i64,
    pub(crate) end: i64,
}

/// Errors come from `poll` as well, and there the end of a partition is none.
struct Quiet;

impl ClientContext for Quiet {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "log reader");
    }
}

impl ConsumerContext for Quiet {}

/// A reader of one topic. All calls block: from async code use `spawn_blocking`.
pub(crate) struct LogReader {
    consumer: BaseConsumer<Quiet>,
    servers: String,
    topic: Arc<str>,
    patience: Duration,
}

impl LogReader {
    /// `patience` is how long it waits for any sign of the broker.
    pub(crate) fn new(
        settings: &KafkaSettings,
        topic: &str,
        patience: Duration,
    ) -> Result<Self, LogError> {
        let mut config = settings.consumer_config();
        config
            // `assign` asks for a group, though nobody ever hears of this one.
            .set("group.id", format!("log-reader-{}", Uuid::new_v4()))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            // A log may end with transaction markers, so the last message does not show the end.
            .set("enable.partition.eof", "true")
            // What waits in memory, whatever the size of records.
            .set("queued.max.messages.kbytes", "16384")
            .set("queued.min.messages", "20000")
            .set("fetch.queue.backoff.ms", "5")
            // A fetch that waits at one partition's end holds up the first of the next partition.
            .set("fetch.wait.max.ms", "20");
        let consumer =
            config.create_with_context(Quiet).map_err(|error: KafkaError| LogError::Refused {
                doing: "the settings of the log reader".to_owned(),
                reason: error.to_string(),
            })?;
        Ok(Self {
            consumer,
            servers: settings.bootstrap_servers().to_owned(),
            topic: topic.into(),
            patience,
        })
    }

    /// Hands each committed record of the stretch to `each`, in order, until it breaks off.
    pub(crate) fn read(
        &self,
        stretch: &Stretch,
        mut each: impl FnMut(Record) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, LogError> {
        if stretch.start >= stretch.end {
            return Ok(ControlFlow::Continue(()));
        }
        self.assign(stretch)?;
        let mut heard = Instant::now();
        let mut scratch = Headers::new();
        let mut reason = "no answer".to_owned();
        loop {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    if message.partition() != stretch.partition {
                        continue;
                    }
                    if message.offset() >= stretch.end {
                        return Ok(ControlFlow::Continue(()));
                    }
                    if each(raw::record_of(&self.topic, &message, &mut scratch)).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                // The last stable offset: whatever was below `end` has been read or is a marker.
                Some(Err(KafkaError::PartitionEOF(partition)))
                    if partition == stretch.partition =>
                {
                    return Ok(ControlFlow::Continue(()));
                }
                Some(Err(error)) => {
                    self.check(&error, stretch)?;
                    reason = error.to_string();
                }
                None => {}
            }
            if heard.elapsed() > self.patience {
                return Err(LogError::Silent {
                    servers: self.servers.clone(),
                    seconds: self.patience.as_secs(),
                    doing: format!("reading {}", self.source(stretch.partition)),
                    reason,
                });
            }
        }
    }

    fn assign(&self, stretch: &Stretch) -> Result<(), LogError> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, stretch.partition, Offset::Offset(stretch.start))
            .and_then(|()| self.consumer.assign(&list))
            .map_err(|error| LogError::Refused {
                doing: format!("to read {}", self.source(stretch.partition)),
                reason: error.to_string(),
            })
    }

    /// An error that no waiting mends.
    fn check(&self, error: &KafkaError, stretch: &Stretch) -> Result<(), LogError> {
        use RDKafkaErrorCode as C;
        match error.rdkafka_error_code() {
            Some(C::AutoOffsetReset | C::OffsetOutOfRange) => {
                Err(LogError::Deleted { source_partition: self.source(stretch.partition) })
            }
            Some(
                C::TopicAuthorizationFailed
                | C::UnknownTopicOrPartition
                | C::UnknownTopic
                | C::UnknownPartition
                | C::Authentication
                | C::SaslAuthenticationFailed,
            ) => Err(LogError::Refused {
                doing: format!("to read {}", self.source(stretch.partition)),
                reason: error.to_string(),
            }),
            _ => Ok(()),
        }
    }

    fn source(&self, partition: i32) -> PartitionKey {
        PartitionKey { topic: Arc::clone(&self.topic), partition }
    }
}
