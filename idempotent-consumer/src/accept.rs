//! Partitions that stopped because their log is not the one the database knows, and the way on:
//! they begin again at the log's start, and whatever has its claim is a duplicate.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgConnection;

use crate::kafka::admin::AdminError;
use crate::kafka::facts::Facts;
use crate::kafka::settings::KafkaSettings;
use crate::start::{Start, start_of, without_log};
use crate::store::position;

/// A partition whose progress does not fit its log.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct StoppedPartition {
    /// Which.
    pub partition: i32,
    /// Why, for people.
    pub reason: String,
    /// The log's first offset: where it would begin again.
    pub log_start: i64,
    /// The offset behind the log's last record.
    pub log_end: i64,
    topic_id: String,
}

/// Why the question had no answer.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// Kafka cannot be reached.
    #[error(transparent)]
    Kafka(#[from] AdminError),
    /// PostgreSQL cannot be reached.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// There is nothing to compare with.
    #[error("the topic {0} does not exist")]
    TopicMissing(String),
}

/// Finds the partitions that wait for an operator.
///
/// # Errors
/// Kafka or PostgreSQL does not answer, or the topic does not exist.
pub async fn find(
    kafka: &KafkaSettings,
    connection: &mut PgConnection,
    group: &str,
    topic: &str,
    timeout: Duration,
) -> Result<Vec<StoppedPartition>, AcceptError> {
    let progress = position::all(connection, group, topic).await?;
    let facts = Arc::new(Facts::new(kafka, group, timeout)?);
    let name = topic.to_owned();
    let asked = Arc::clone(&facts);
    let count = blocking(move || asked.topics.partitions(&name)).await?;
    let missing = || AcceptError::TopicMissing(topic.to_owned());
    let count = count.ok_or_else(missing)?;
    let (asked, name) = (Arc::clone(&facts), topic.to_owned());
    let current = blocking(move || asked.topics.id(&name)).await?.ok_or_else(missing)?;
    let mut stopped = Vec::new();
    for (partition, topic_id, next_offset) in progress {
        if usize::try_from(partition).is_ok_and(|partition| partition >= count) {
            // Should the topic get it again, it begins at 0.
            stopped.extend(without_log(&topic_id, next_offset, &current).map(|reason| {
                let topic_id = current.clone();
                StoppedPartition { partition, reason, log_start: 0, log_end: 0, topic_id }
            }));
            continue;
        }
        let (asked, name) = (Arc::clone(&facts), topic.to_owned());
        let known = blocking(move || asked.partition(&name, partition)).await?;
        let known = known.ok_or_else(missing)?;
        if let Start::Stopped(reason) = start_of(&topic_id, next_offset, &known) {
            stopped.push(StoppedPartition {
                partition,
                reason,
                log_start: known.log_start,
                log_end: known.log_end,
                topic_id: known.topic_id,
            });
        }
    }
    Ok(stopped)
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(
    ask: impl FnOnce() -> Result<T, AdminError> + Send + 'static,
) -> Result<T, AcceptError> {
    match tokio::task::spawn_blocking(ask).await {
        Ok(answer) => Ok(answer?),
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

/// Accepts one of them. `false` if the partition has no progress any more.
///
/// # Errors
/// PostgreSQL does not answer.
pub async fn accept(
    connection: &mut PgConnection,
    group: &str,
    topic: &str,
    stopped: &StoppedPartition,
) -> Result<bool, sqlx::Error> {
    let before = position::accept(
        connection,
        group,
        topic,
        stopped.partition,
        &stopped.topic_id,
        stopped.log_start,
    )
    .await?;
    Ok(before.is_some())
}
