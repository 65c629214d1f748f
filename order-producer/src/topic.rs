//! The topic to write to.

use std::time::Duration;

use idempotent_consumer::KafkaSettings;
use idempotent_consumer::publish::{AdminError, Ensured, Topics};

/// Partitions of a topic that we create; adding some later moves keys.
pub(crate) const PARTITIONS: usize = 6;
/// Longest wait for an answer about the topic.
const TIMEOUT_MAX: Duration = Duration::from_secs(10);

/// Why the topic can't be written to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TopicError {
    #[error(
        "the topic {topic} does not exist; leave out --no-create-topics to have it created with {PARTITIONS} partitions, or create it yourself"
    )]
    Missing { topic: String },
    #[error(transparent)]
    Admin(#[from] AdminError),
}

impl TopicError {
    /// Whether no broker answered, so that nothing is known about the topic.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Admin(AdminError::Unreachable { .. }))
    }
}

/// Makes sure that the topic exists; an existing one is left as it is.
pub(crate) fn prepare(
    runtime: &tokio::runtime::Runtime,
    settings: &KafkaSettings,
    topic: &str,
    create: bool,
    timeout: Duration,
) -> Result<(), TopicError> {
    let topics = Topics::new(settings, timeout.min(TIMEOUT_MAX))?;
    if !create {
        return match topics.partitions(topic)? {
            Some(_) => Ok(()),
            None => Err(TopicError::Missing { topic: topic.to_owned() }),
        };
    }
    if runtime.block_on(topics.ensure(topic, PARTITIONS))? == Ensured::Created {
        crate::output::say!("created the topic {topic} with {PARTITIONS} partitions");
    }
    Ok(())
}
