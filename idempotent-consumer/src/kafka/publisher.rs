//! Publishing with a known end: each record is acknowledged, refused, or unconfirmed.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext, PurgeConfig};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, ClientContext, Statistics};

use super::raw;
use super::rebootstrap::{Rebootstrap, WATCH_INTERVAL_MS};
use super::settings::{KafkaSettings, SettingsError, set_default};
use crate::message::Headers;

/// A record to publish. A null key or value is not an empty one.
#[derive(Clone, Copy, Debug)]
pub struct Publication<'a> {
    /// Topic.
    pub topic: &'a str,
    /// Partition; `None` lets the key decide, as the Java client does (murmur2).
    pub partition: Option<i32>,
    /// Key.
    pub key: Option<&'a [u8]>,
    /// Value.
    pub value: Option<&'a [u8]>,
    /// Headers.
    pub headers: &'a Headers,
}

/// How a publisher works.
#[derive(Clone, Debug)]
pub struct PublisherOptions {
    /// How long a record is tried before it counts as unconfirmed; `None` is for ever.
    pub delivery_timeout: Option<Duration>,
    /// Bound of what waits in memory, in KiB.
    pub queue_kib: u32,
    /// How long a batch waits for company before it leaves.
    pub linger: Duration,
    /// `zstd`, `lz4`, `snappy`, `gzip` or `none`.
    pub compression: String,
    /// Records in one request, at most. A broker that finds one too large refuses all of them.
    pub batch_records: u32,
}

impl Default for PublisherOptions {
    fn default() -> Self {
        Self {
            delivery_timeout: Some(Duration::from_secs(30)),
            queue_kib: 32 * 1024,
            linger: Duration::from_millis(5),
            compression: "lz4".to_owned(),
            batch_records: 10_000,
        }
    }
}

/// The end of one record, told exactly once for each record handed over.
#[derive(Debug)]
pub struct Delivery {
    /// What the caller gave with the record.
    pub token: u64,
    /// Where it lies, or why that is not known.
    pub outcome: Result<Acknowledged, DeliveryError>,
}

/// Where an acknowledged record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
}

/// Why a record was not acknowledged.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DeliveryError {
    /// It is certainly not in the log, and trying again will not help.
    #[error("Kafka refused the record: {reason}")]
    Refused {
        /// What the broker or client said.
        reason: String,
        /// Whether the record is larger than the topic accepts.
        too_large: bool,
    },
    /// It is perhaps in the log.
    #[error("not confirmed by Kafka: {0}")]
    Unconfirmed(String),
}

/// An idempotent producer with acks=all. Dropping it reports everything unfinished as unconfirmed.
pub struct Publisher {
    /// `None` only while it is dropped.
    producer: Option<ServedProducer>,
}

impl Drop for Publisher {
    /// The client's end waits for its threads, and those wait by the clock of the day: for an hour
    /// if it was set back by an hour. Nobody here waits for that. But nothing more is sent once this
    /// returns: the next publisher may begin with the same records.
    fn drop(&mut self) {
        if let Some(producer) = self.producer.take() {
            end(Arc::new(producer));
        }
    }
}

/// Passes the end of each record on.
pub(super) struct Reports {
    on_delivery: Box<dyn Fn(Delivery) + Send + Sync>,
    rebootstrap: Rebootstrap,
}

impl ClientContext for Reports {
    fn stats(&self, statistics: Statistics) {
        self.rebootstrap.heed(&statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka producer");
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<u64>;

    fn delivery(&self, result: &DeliveryResult<'_>, token: Box<u64>) {
        let outcome = match result {
            Ok(message) => {
                Ok(Acknowledged { partition: message.partition(), offset: message.offset() })
            }
            Err((error, _)) => Err(classify(error)),
        };
        (self.on_delivery)(Delivery { token: *token, outcome });
    }
}

impl Publisher {
    /// Starts a producer. `on_delivery` runs on the producer's own thread and must not block.
    ///
    /// # Errors
    /// The client refuses a setting.
    pub fn new(
        settings: &KafkaSettings,
        options: &PublisherOptions,
        on_delivery: impl Fn(Delivery) + Send + Sync + 'static,
    ) -> Result<Self, SettingsError> {
        let config = configure(settings, options);
        let producer = create(&config, settings, on_delivery)?;
        Ok(Self { producer: Some(producer) })
    }

    fn producer(&self) -> &BaseProducer<Reports> {
        self.producer.as_ref().expect("it is there until this is dropped")
    }

    /// Hands a record over, waiting while the queue is full. Blocks the calling thread then.
    ///
    /// # Errors
    /// The client refuses the record at once; it is not in the log, and no delivery will follow.
    pub fn send(&self, record: &Publication<'_>, token: u64) -> Result<(), DeliveryError> {
        while !self.try_send(record, token)? {
            self.producer().poll(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Hands a record over; `Ok(false)` if the queue is full.
    ///
    /// # Errors
    /// The client refuses the record at once; it is not in the log, and no delivery will follow.
    pub fn try_send(&self, record: &Publication<'_>, token: u64) -> Result<bool, DeliveryError> {
        try_send(self.producer(), record, token)
    }

    /// Records handed over whose end is not known yet.
    pub fn in_flight(&self) -> usize {
        usize::try_from(self.producer().in_flight_count()).unwrap_or(0)
    }

    /// Waits until every record has its end, for `timeout` at most; what has none then is given
    /// up and reported as unconfirmed. Returns whether all had theirs. Blocks.
    pub fn flush(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        while self.in_flight() > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.producer().purge(PurgeConfig::default().queue().inflight());
                let _ = self.producer().flush(Duration::from_secs(1));
                return false;
            }
            let _ = self.producer().flush(left.min(Duration::from_millis(100)));
        }
        true
    }
}

/// What every publisher asks of its client.
pub(super) fn configure(settings: &KafkaSettings, options: &PublisherOptions) -> ClientConfig {
    let mut config = settings.producer_config();
    let timeout_ms = options.delivery_timeout.map_or(0, |t| t.as_millis());
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // The Java client's choice. librdkafka's own default sends the same key elsewhere.
        .set("partitioner", "murmur2_random")
        .set("statistics.interval.ms", WATCH_INTERVAL_MS)
        .set("message.timeout.ms", timeout_ms.to_string());
    for (name, value) in [
        // The broker's limit decides what is too large, not the client's guess of it.
        ("message.max.bytes", "1000000000"),
        ("queue.buffering.max.kbytes", &options.queue_kib.to_string()),
        ("queue.buffering.max.messages", "1000000"),
        ("linger.ms", &options.linger.as_millis().to_string()),
        ("compression.type", &options.compression),
    ] {
        set_default(&mut config, name, value);
    }
    let batch_records = options.batch_records.to_string();
    if options.batch_records == 1 {
        // No matter of tuning: somebody wants to know which record is refused.
        config.set("batch.num.messages", batch_records);
    } else {
        set_default(&mut config, "batch.num.messages", batch_records);
    }
    config
}

/// A client with a thread of its own, on which `on_delivery` runs.
///
/// rdkafka's `ThreadedProducer` is the same, but waits a tenth of a second at a time. `poll` asks through
/// the last millisecond of each wait without waiting: a hundredth of a processor, also where nothing is
/// sent. Longer waits are fewer.
pub(super) struct ServedProducer {
    producer: Arc<BaseProducer<Reports>>,
    is_over: Arc<AtomicBool>,
    /// `None` only while it is dropped.
    thread: Option<JoinHandle<()>>,
}

/// How long one wait of the thread lasts. The client ends so much later, at most, than it is dropped.
const ONE_WAIT: Duration = Duration::from_millis(250);

impl ServedProducer {
    fn new(producer: BaseProducer<Reports>) -> std::io::Result<Self> {
        let producer = Arc::new(producer);
        let is_over = Arc::new(AtomicBool::new(false));
        let (served, ends) = (Arc::clone(&producer), Arc::clone(&is_over));
        let serve = move || {
            while !ends.load(Relaxed) {
                served.poll(ONE_WAIT);
            }
        };
        let thread = thread::Builder::new().name("kafka-publisher".to_owned()).spawn(serve)?;
        Ok(Self { producer, is_over, thread: Some(thread) })
    }
}

impl Deref for ServedProducer {
    type Target = BaseProducer<Reports>;

    fn deref(&self) -> &BaseProducer<Reports> {
        &self.producer
    }
}

impl Drop for ServedProducer {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        // It has a part in the client, which is to end here.
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("what is to be done with the end of a record has panicked");
        }
    }
}

/// A client that is served by a thread.
pub(super) fn create(
    config: &ClientConfig,
    settings: &KafkaSettings,
    on_delivery: impl Fn(Delivery) + Send + Sync + 'static,
) -> Result<ServedProducer, SettingsError> {
    let refused =
        |reason: String| SettingsError::Refused { name: "of the producer".to_owned(), reason };
    let rebootstrap = Rebootstrap::new(settings);
    let reports = Reports { on_delivery: Box::new(on_delivery), rebootstrap };
    let producer: BaseProducer<Reports> =
        config.create_with_context(reports).map_err(|error| refused(error.to_string()))?;
    producer.context().rebootstrap.watch(producer.client().native_ptr());
    ServedProducer::new(producer).map_err(|error| refused(error.to_string()))
}

/// Hands a record over; `Ok(false)` if the queue is full.
pub(super) fn try_send(
    producer: &BaseProducer<Reports>,
    record: &Publication<'_>,
    token: u64,
) -> Result<bool, DeliveryError> {
    let mut out: BaseRecord<'_, [u8], [u8], Box<u64>> =
        BaseRecord::with_opaque_to(record.topic, Box::new(token));
    out.partition = record.partition;
    out.key = record.key;
    out.payload = record.value;
    if !record.headers.is_empty() {
        out.headers = Some(raw::to_native(record.headers));
    }
    match producer.send(out) {
        Ok(()) => Ok(true),
        Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), out)) => {
            if producer.in_flight_count() > 0 {
                return Ok(false);
            }
            // The queue is empty, so it is full only for a record that it can never hold.
            match producer.send(out) {
                Ok(()) => Ok(true),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    let reason = "larger than the client's queue".to_owned();
                    Err(DeliveryError::Refused { reason, too_large: true })
                }
                Err((error, _)) => Err(classify(&error)),
            }
        }
        Err((error, _)) => Err(classify(&error)),
    }
}

/// Gives up what is unfinished. Once this returns no record is sent any more.
pub(super) fn end(producer: Arc<ServedProducer>) {
    producer.purge(PurgeConfig::default().queue().inflight());
    // Without a thread to be had, it is waited for after all.
    let _ = thread::Builder::new().spawn(move || drop(producer));
}

/// Refused means: certainly not in the log, and no use to try again. Everything else may be there.
fn classify(error: &KafkaError) -> DeliveryError {
    use RDKafkaErrorCode as C;
    match error.rdkafka_error_code() {
        Some(
            code @ (C::MessageSizeTooLarge
            // Larger than a segment.
            | C::MessageBatchTooLarge
            | C::InvalidMessageSize
            | C::InvalidMessage
            | C::InvalidRecord
            | C::TopicAuthorizationFailed
            | C::ClusterAuthorizationFailed
            | C::InvalidArgument
            | C::InvalidTopic
            | C::UnknownTopic
            | C::UnknownPartition
            | C::InvalidRequiredAcks
            | C::PolicyViolation),
        ) => DeliveryError::Refused {
            reason: error.to_string(),
            too_large: matches!(code, C::MessageSizeTooLarge | C::MessageBatchTooLarge),
        },
        _ => DeliveryError::Unconfirmed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_sets_is_not_overwritten_unless_somebody_relies_on_it() {
        let settings = KafkaSettings::new("x:1")
            .property("queue.buffering.max.ms", "3")
            .and_then(|settings| settings.property("batch.num.messages", "7"))
            .unwrap();
        let config = configure(&settings, &PublisherOptions::default());
        // Its own name and another of the same property: which one counts would be chance.
        assert_eq!(
            (config.get("queue.buffering.max.ms"), config.get("linger.ms")),
            (Some("3"), None)
        );
        assert_eq!(config.get("batch.num.messages"), Some("7"));
        assert_eq!(config.get("compression.type"), Some("lz4"));
        let alone = PublisherOptions { batch_records: 1, ..PublisherOptions::default() };
        assert_eq!(configure(&settings, &alone).get("batch.num.messages"), Some("1"));
        assert!(KafkaSettings::new("x:1").property("delivery.timeout.ms", "1").is_err());
    }
}
