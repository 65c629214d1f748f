//! Topics: are they there, with how many partitions, and making the missing ones.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;

use super::raw;
use super::rebootstrap::Rebootstrap;
use super::settings::KafkaSettings;
use crate::window::Retention;

/// Why a question about topics had no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// No broker answered.
    #[error(
        "no answer from Kafka at {servers} within {seconds} s: {reason}; is it running, and reachable from here?"
    )]
    Unreachable {
        /// Brokers, as configured.
        servers: String,
        /// How long it was tried.
        seconds: u64,
        /// What the client said.
        reason: String,
    },
    /// Brokers are there and turn this client away.
    #[error(
        "Kafka at {servers} turns this client away: {reason}; look at security.protocol, sasl.mechanism, \
         sasl.username, sasl.password and ssl.ca.location, and whether the broker's certificate has \
         expired"
    )]
    TurnedAway {
        /// Brokers, as configured.
        servers: String,
        /// What the client or the broker said.
        reason: String,
    },
    /// The client's principal may not even know whether the topic exists.
    #[error(
        "Kafka does not let this client see the topic {topic}: {reason}; give its principal an ACL for it \
         (Read where it reads, Write where it publishes)"
    )]
    Denied {
        /// The topic.
        topic: String,
        /// What the broker said.
        reason: String,
    },
    /// A broker refused.
    #[error("Kafka refused to create the topic {topic}: {reason}")]
    CreateRefused {
        /// The topic.
        topic: String,
        /// What the broker said.
        reason: String,
    },
    /// A topic's configuration could not be read.
    #[error("cannot read how long the topic {topic} keeps records: {reason}")]
    NoConfig {
        /// The topic.
        topic: String,
        /// What the broker said, or what is missing.
        reason: String,
    },
}

/// What [`Topics::ensure`] found or did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ensured {
    /// The topic was there, with so many partitions.
    Existed(usize),
    /// It was created.
    Created,
}

/// Why brokers turned the client away last. The client itself goes on trying, and tells whoever asks
/// it something of a timeout only.
///
/// What else it has to say, of each attempt, is for who looks for it: the errors of the calls tell the
/// outcome.
#[derive(Default)]
pub(super) struct Complaints {
    last: Mutex<Option<String>>,
}

impl Complaints {
    fn take(&self) -> Option<String> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientContext for Complaints {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, text: &str) {
        tracing::debug!(facility, text, "kafka client");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka client");
        if is_about_credentials(&error) {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
        }
    }
}

impl ConsumerContext for Complaints {}

impl ProducerContext for Complaints {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

/// Whether a broker does not believe the client, or the client the broker.
pub(super) fn is_about_credentials(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as C;
    matches!(
        error.rdkafka_error_code(),
        Some(C::Authentication | C::SaslAuthenticationFailed | C::SSL)
    )
}

/// Whether a partition has no leader for the moment, or another one than the client knows.
fn is_about_leadership(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as C;
    matches!(
        error.rdkafka_error_code(),
        Some(
            C::NotLeaderForPartition
                | C::LeaderNotAvailable
                | C::FencedLeaderEpoch
                | C::UnknownLeaderEpoch
                | C::OffsetNotAvailable
        )
    )
}

/// Between two questions for a partition that has no leader.
const LEADERLESS_PAUSE: Duration = Duration::from_millis(100);

/// Asks about topics. All calls block: from async code use `spawn_blocking`.
pub struct Topics {
    settings: KafkaSettings,
    // A producer handle has no group and costs no connection until it is asked something.
    client: BaseProducer<Complaints>,
    rebootstrap: Rebootstrap,
    timeout: Duration,
}

impl Topics {
    /// A client for `settings`; each call waits for `timeout` at most.
    ///
    /// # Errors
    /// The client refuses the settings.
    pub fn new(settings: &KafkaSettings, timeout: Duration) -> Result<Self, AdminError> {
        let unusable = |error: KafkaError| AdminError::Unreachable {
            servers: settings.bootstrap_servers().to_owned(),
            seconds: 0,
            reason: error.to_string(),
        };
        let config = settings.producer_config();
        let client = config.create_with_context(Complaints::default()).map_err(unusable)?;
        let rebootstrap = Rebootstrap::new(settings);
        Ok(Self { settings: settings.clone(), client, rebootstrap, timeout })
    }

    /// How many partitions the topic has; `None` if it does not exist.
    ///
    /// # Errors
    /// No broker answers in time.
    pub fn partitions(&self, topic: &str) -> Result<Option<usize>, AdminError> {
        let metadata = self
            .client
            .client()
            .fetch_metadata(Some(topic), self.timeout)
            .map_err(|e| self.unreachable(&e))?;
        self.answered();
        let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else {
            return Ok(None);
        };
        match found.error().map(RDKafkaErrorCode::from) {
            None => Ok(Some(found.partitions().len()).filter(|count| *count > 0)),
            Some(code @ RDKafkaErrorCode::TopicAuthorizationFailed) => {
                Err(AdminError::Denied { topic: topic.to_owned(), reason: code.to_string() })
            }
            Some(_) => Ok(None),
        }
    }

    /// The id that Kafka gave this topic when it was created; `None` if it does not exist.
    ///
    /// # Errors
    /// No broker answers in time.
    pub fn id(&self, topic: &str) -> Result<Option<String>, AdminError> {
        let timeout_ms = i32::try_from(self.timeout.as_millis()).unwrap_or(i32::MAX);
        let id = raw::topic_id(self.client.client().native_ptr(), topic, timeout_ms)
            .map_err(|reason| self.no_answer(reason))?;
        self.answered();
        Ok(id)
    }

    /// First and next offset of a partition's log, as a `read_committed` reader sees its end.
    ///
    /// # Errors
    /// No broker answers in time.
    pub fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64), AdminError> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.client.client().fetch_watermarks(topic, partition, left) {
                // The client asks whom it takes for the leader, and gives up when it is none.
                Err(error) if is_about_leadership(&error) && left > LEADERLESS_PAUSE => {
                    tracing::debug!(%error, topic, partition, "asking for the ends of the log again");
                    std::thread::sleep(LEADERLESS_PAUSE);
                }
                asked => return asked.map_err(|error| self.unreachable(&error)),
            }
        }
    }

    /// Makes sure of a topic; without `create` it is only looked for. `false`: it is missing.
    ///
    /// # Errors
    /// No broker answers in time, or one refuses.
    pub async fn prepare(
        &self,
        topic: &str,
        partitions: usize,
        create: bool,
    ) -> Result<bool, AdminError> {
        if !create {
            return Ok(self.partitions(topic)?.is_some());
        }
        if self.ensure(topic, partitions).await? == Ensured::Created {
            tracing::info!(topic, partitions, "topic created");
        }
        Ok(true)
    }

    /// Creates the topic if it is missing: `partitions`, replication min(3, brokers),
    /// `min.insync.replicas` 2 from three brokers on. An existing topic is left as it is.
    ///
    /// # Errors
    /// No broker answers in time, or one refuses.
    pub async fn ensure(&self, topic: &str, partitions: usize) -> Result<Ensured, AdminError> {
        if let Some(count) = self.partitions(topic)? {
            return Ok(Ensured::Existed(count));
        }
        let brokers = self
            .client
            .client()
            .fetch_metadata(None, self.timeout)
            .map_err(|e| self.unreachable(&e))?
            .brokers()
            .len();
        let replication = i32::try_from(brokers.clamp(1, 3)).unwrap_or(1);
        let partitions = i32::try_from(partitions).unwrap_or(i32::MAX);
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(replication));
        if brokers >= 3 {
            new = new.set("min.insync.replicas", "2");
        }
        let options = AdminOptions::new()
            .request_timeout(Some(self.timeout))
            .operation_timeout(Some(self.timeout));
        let results = self
            .admin()?
            .create_topics([&new], &options)
            .await
            .map_err(|e| self.unreachable(&e))?;
        match results.into_iter().next() {
            // Another process was quicker, with the same intent.
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {
                Ok(Ensured::Existed(self.appears(topic).await?))
            }
            Some(Err((_, code))) => {
                Err(AdminError::CreateRefused { topic: topic.to_owned(), reason: code.to_string() })
            }
            _ => {
                self.appears(topic).await?;
                Ok(Ensured::Created)
            }
        }
    }

    /// How long the topic keeps its records.
    ///
    /// # Errors
    /// No broker answers in time, or it does not say.
    pub async fn retention(&self, topic: &str) -> Result<Retention, AdminError> {
        let no_config = |reason: String| AdminError::NoConfig { topic: topic.to_owned(), reason };
        let options = AdminOptions::new().request_timeout(Some(self.timeout));
        let described = self
            .admin()?
            .describe_configs([&ResourceSpecifier::Topic(topic)], &options)
            .await
            .map_err(|e| self.unreachable(&e))?;
        let config = match described.into_iter().next() {
            Some(Ok(config)) => config,
            Some(Err(code)) => return Err(no_config(code.to_string())),
            None => return Err(no_config("no answer".to_owned())),
        };
        let value = |name: &str| {
            let entry = config.entries.iter().find(|entry| entry.name == name);
            let value = entry.and_then(|entry| entry.value.clone());
            value.ok_or_else(|| {
                no_config(format!(
                    "the broker does not tell {name}; is there such a topic, and may this client \
                     see its configuration?"
                ))
            })
        };
        let number = |name: &str| {
            let text = value(name)?;
            text.parse::<i64>().map_err(|_| no_config(format!("{name} is {text:?}")))
        };
        Ok(Retention {
            topic: topic.to_owned(),
            cleanup_policy: value("cleanup.policy")?,
            retention_ms: number("retention.ms")?,
            segment_ms: number("segment.ms")?,
        })
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>, AdminError> {
        self.settings.producer_config().create().map_err(|e| self.unreachable(&e))
    }

    /// Waits until a topic that the controller has just created is known to the brokers, which hear
    /// of it later: on a busy machine by seconds. Returns its partitions.
    async fn appears(&self, topic: &str) -> Result<usize, AdminError> {
        let deadline = Instant::now() + self.timeout;
        loop {
            if let Some(count) = self.partitions(topic)?
                && self.id(topic)?.is_some()
            {
                return Ok(count);
            }
            if Instant::now() >= deadline {
                return Err(
                    self.no_answer(format!("the topic {topic} was created, and does not appear"))
                );
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub(crate) fn unreachable(&self, error: &KafkaError) -> AdminError {
        self.no_answer(error.to_string())
    }

    /// What was said before counts no more.
    fn answered(&self) {
        self.rebootstrap.had_an_answer();
        self.client.poll(Duration::ZERO);
        self.client.client().context().take();
    }

    fn no_answer(&self, reason: String) -> AdminError {
        // Only this has the client tell.
        self.client.poll(Duration::from_millis(10));
        if let Some(reason) = self.client.client().context().take() {
            let servers = self.settings.bootstrap_servers().to_owned();
            return AdminError::TurnedAway { servers, reason };
        }
        self.rebootstrap.had_no_answer(self.client.client().native_ptr());
        AdminError::Unreachable {
            servers: self.settings.bootstrap_servers().to_owned(),
            seconds: self.timeout.as_secs(),
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;

    #[test]
    fn a_partition_that_changes_its_leader_is_asked_again_for_as_long_as_a_call_may_take() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("orders", 1, 1).unwrap();
        let settings = KafkaSettings::new(cluster.bootstrap_servers());
        let moves = |times| {
            let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION;
            cluster.request_errors(RDKafkaApiKey::ListOffsets, &vec![error; times]);
        };
        moves(5);
        let patient = Topics::new(&settings, Duration::from_secs(30)).unwrap();
        assert_eq!(patient.watermarks("orders", 0).unwrap(), (0, 0));
        moves(1000);
        let hasty = Topics::new(&settings, Duration::from_millis(500)).unwrap();
        let error = hasty.watermarks("orders", 0).unwrap_err().to_string();
        assert!(error.contains("no answer from Kafka"), "{error}");
    }
}
