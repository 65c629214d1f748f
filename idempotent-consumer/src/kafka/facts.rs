//! What Kafka knows of a partition: the topic's id, the log's bounds, the group's offset.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::admin::{AdminError, Complaints, Topics};
use super::rebootstrap::Rebootstrap;
use super::settings::KafkaSettings;

/// Where a partition's log begins and ends, and what the group has committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartitionFacts {
    pub topic_id: String,
    pub log_start: i64,
    pub log_end: i64,
    pub committed: Option<i64>,
}

/// Asks. All calls block: use them in `spawn_blocking`.
pub(crate) struct Facts {
    pub(crate) topics: Topics,
    /// Has the group's id, so that it may ask for its offsets, and never joins.
    group: BaseConsumer<Complaints>,
    rebootstrap: Rebootstrap,
    timeout: Duration,
}

impl Facts {
    pub(crate) fn new(
        settings: &KafkaSettings,
        group: &str,
        timeout: Duration,
    ) -> Result<Self, AdminError> {
        let unusable = |reason: rdkafka::error::KafkaError| AdminError::Unreachable {
            servers: settings.bootstrap_servers().to_owned(),
            seconds: 0,
            reason: reason.to_string(),
        };
        let group = settings
            .consumer_config()
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .create_with_context(Complaints::default())
            .map_err(unusable)?;
        let rebootstrap = Rebootstrap::new(settings);
        Ok(Self { topics: Topics::new(settings, timeout)?, group, rebootstrap, timeout })
    }

    /// Everything about one partition; `Ok(None)` if the topic does not exist.
    pub(crate) fn partition(
        &self,
        topic: &str,
        partition: i32,
    ) -> Result<Option<PartitionFacts>, AdminError> {
        let Some(topic_id) = self.topics.id(topic)? else { return Ok(None) };
        let (log_start, log_end) = self.topics.watermarks(topic, partition)?;
        let committed = self.committed(topic, partition)?;
        Ok(Some(PartitionFacts { topic_id, log_start, log_end, committed }))
    }

    /// The group's committed offset.
    pub(crate) fn committed(&self, topic: &str, partition: i32) -> Result<Option<i64>, AdminError> {
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, partition);
        let answer = self.group.committed_offsets(list, self.timeout).map_err(|error| {
            self.rebootstrap.had_no_answer(self.group.client().native_ptr());
            self.topics.unreachable(&error)
        })?;
        self.rebootstrap.had_an_answer();
        Ok(answer.elements().first().and_then(|element| match element.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }))
    }
}
