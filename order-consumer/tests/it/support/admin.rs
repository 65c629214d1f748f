//! What an operator, or an accident, does to topics and groups.

use std::time::Duration;

use idempotent_consumer::publish::Topics;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};

use super::Place;
use super::poll::{eventually, until, wait};

const TIMEOUT: Duration = Duration::from_secs(30);

impl Place {
    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client_config().create().unwrap()
    }

    pub(crate) fn topics(&self) -> Topics {
        Topics::new(&self.settings(), TIMEOUT).unwrap()
    }

    pub(crate) fn create_topic_with(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for (name, value) in settings {
            topic = topic.set(name, value);
        }
        // A name that was just deleted may be taken for a moment.
        eventually(&format!("the topic {name} is created"), || {
            let done = wait(self.admin().create_topics([&topic], &AdminOptions::new())).unwrap();
            done[0].is_ok()
        });
        eventually("it is known", || {
            self.topics().partitions(name).unwrap() == usize::try_from(partitions).ok()
        });
    }

    /// Changes a setting of a topic.
    pub(crate) fn alter_topic(&self, name: &str, setting: &str, value: &str) {
        let change = AlterConfig::new(ResourceSpecifier::Topic(name)).set(setting, value);
        let done = self.admin().alter_configs([&change], &AdminOptions::new());
        for one in wait(done).unwrap() {
            one.unwrap();
        }
    }

    pub(crate) fn delete_topic(&self, name: &str) {
        let done = wait(self.admin().delete_topics(&[name], &AdminOptions::new())).unwrap();
        done.into_iter().next().unwrap().unwrap();
        eventually("it is gone", || self.topics().partitions(name).unwrap().is_none());
    }

    pub(crate) fn add_partitions(&self, total: usize) {
        let new = NewPartitions::new(&self.topic, total);
        let done = wait(self.admin().create_partitions([&new], &AdminOptions::new())).unwrap();
        done.into_iter().next().unwrap().unwrap();
        eventually("they are known", || {
            self.topics().partitions(&self.topic).unwrap() == Some(total)
        });
    }

    /// Makes Kafka forget the group, offsets included. Its members must be gone.
    pub(crate) fn delete_group(&self) {
        eventually("the group is deleted", || {
            let done = wait(self.admin().delete_groups(&[&self.group], &AdminOptions::new()));
            done.unwrap().into_iter().all(|group| group.is_ok())
        });
    }

    /// Sets what the group has committed. Its members must be gone, or about to be.
    pub(crate) fn set_committed(&self, partition: i32, offset: i64) {
        let consumer: BaseConsumer =
            self.client_config().set("group.id", &self.group).create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, partition, Offset::Offset(offset)).unwrap();
        eventually("the group takes the offset", || {
            consumer.commit(&list, CommitMode::Sync).is_ok()
        });
    }

    /// What the group has committed.
    pub(crate) fn committed(&self, partition: i32) -> Option<i64> {
        let consumer: BaseConsumer =
            self.client_config().set("group.id", &self.group).create().unwrap();
        until("the committed offset", || {
            let mut list = TopicPartitionList::new();
            list.add_partition(&self.topic, partition);
            let list = consumer.committed_offsets(list, TIMEOUT).ok()?;
            Some(match list.elements()[0].offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            })
        })
    }

    /// Where the log ends for a `read_committed` reader.
    pub(crate) fn log_end(&self, partition: i32) -> i64 {
        self.topics().watermarks(&self.topic, partition).unwrap().1
    }
}
