//! What Kafka knows of the topic, beside what the database knows.

use std::time::Duration;

use serde::Serialize;

use super::overview::PartitionProgress;
use crate::kafka::admin::AdminError;
use crate::kafka::facts::{Facts, PartitionFacts};
use crate::kafka::settings::KafkaSettings;
use crate::start::{Start, start_of, without_log};

/// A topic's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TopicLog {
    /// The id that Kafka gave the topic when it was created.
    pub topic_id: String,
    /// By number.
    pub partitions: Vec<LogBounds>,
}

/// Where a partition's log begins and ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogBounds {
    /// Which.
    pub partition: i32,
    /// The first offset.
    pub log_start: i64,
    /// The offset behind the last record that a `read_committed` reader sees.
    pub log_end: i64,
    /// What the group has committed.
    pub committed: Option<i64>,
}

/// Asks Kafka. `None` if the topic does not exist.
///
/// # Errors
/// No broker answers within `timeout`, a question.
pub async fn topic_log(
    settings: &KafkaSettings,
    group: &str,
    topic: &str,
    timeout: Duration,
) -> Result<Option<TopicLog>, AdminError> {
    let (settings, group, topic) = (settings.clone(), group.to_owned(), topic.to_owned());
    let asked = tokio::task::spawn_blocking(move || ask(&settings, &group, &topic, timeout)).await;
    asked.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

fn ask(
    settings: &KafkaSettings,
    group: &str,
    topic: &str,
    timeout: Duration,
) -> Result<Option<TopicLog>, AdminError> {
    let facts = Facts::new(settings, group, timeout)?;
    let (Some(count), Some(topic_id)) = (facts.topics.partitions(topic)?, facts.topics.id(topic)?)
    else {
        return Ok(None);
    };
    let bounds = (0..).take(count).map(|partition| {
        let (log_start, log_end) = facts.topics.watermarks(topic, partition)?;
        let committed = facts.committed(topic, partition)?;
        Ok(LogBounds { partition, log_start, log_end, committed })
    });
    Ok(Some(TopicLog { topic_id, partitions: bounds.collect::<Result<_, AdminError>>()? }))
}

/// A partition that does not begin, because its log is not the one the database knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotStarting {
    /// Which.
    pub partition: i32,
    /// Why, for people.
    pub reason: String,
}

/// The partitions that wait for an operator: those that [`accept::find`](crate::accept::find)
/// finds. Pure.
pub fn not_starting(progress: &[PartitionProgress], log: &TopicLog) -> Vec<NotStarting> {
    let judge = |row: &PartitionProgress| {
        let Some(bounds) = log.partitions.iter().find(|b| b.partition == row.partition) else {
            return without_log(&row.topic_id, row.next_offset, &log.topic_id);
        };
        let facts = PartitionFacts {
            topic_id: log.topic_id.clone(),
            log_start: bounds.log_start,
            log_end: bounds.log_end,
            committed: bounds.committed,
        };
        match start_of(&row.topic_id, row.next_offset, &facts) {
            Start::Stopped(reason) => Some(reason),
            Start::At { .. } => None,
        }
    };
    progress
        .iter()
        .filter_map(|row| Some(NotStarting { partition: row.partition, reason: judge(row)? }))
        .collect()
}
