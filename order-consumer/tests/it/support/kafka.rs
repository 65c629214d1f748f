//! What tests do to Kafka behind the consumer's back.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::time::Duration;

use idempotent_consumer::publish::{
    Acknowledged, Publication, Publisher, PublisherOptions, Topics,
};
use idempotent_consumer::{Headers, PartitionKey, Record};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::Place;
use super::events::Event;

const TIMEOUT: Duration = Duration::from_secs(30);

impl Place {
    pub(crate) async fn create_topic(&self, partitions: usize) {
        let topics = Topics::new(&self.settings(), TIMEOUT).unwrap();
        topics.ensure(&self.topic, partitions).await.unwrap();
    }

    /// Publishes a record with a key, a value and a timestamp of its own, in milliseconds since 1970.
    pub(crate) fn send_with_timestamp(&self, event: &Event, timestamp_ms: i64) {
        let producer: BaseProducer = self.client_config().create().unwrap();
        let record = record_of(&self.topic, event).timestamp(timestamp_ms);
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.flush(TIMEOUT).unwrap();
    }

    /// Publishes to the consumed topic; returns where each record lies.
    pub(crate) fn publish(&self, events: &[Event]) -> Vec<Acknowledged> {
        self.publish_to(&self.topic, events)
    }

    pub(crate) fn publish_to(&self, topic: &str, events: &[Event]) -> Vec<Acknowledged> {
        let (sender, ends) = mpsc::channel();
        let publisher =
            Publisher::new(&self.settings(), &PublisherOptions::default(), move |delivery| {
                sender.send((delivery.token, delivery.outcome.unwrap())).unwrap();
            })
            .unwrap();
        for (token, event) in (0..).zip(events) {
            let record = Publication {
                topic,
                partition: None,
                key: event.key.as_deref(),
                value: event.value.as_deref(),
                headers: &event.headers,
            };
            publisher.send(&record, token).unwrap();
        }
        assert!(publisher.flush(TIMEOUT));
        let mut acknowledged: Vec<_> = ends.try_iter().collect();
        acknowledged.sort_unstable_by_key(|(token, _)| *token);
        assert_eq!(acknowledged.len(), events.len());
        acknowledged.into_iter().map(|(_, at)| at).collect()
    }

    /// Publishes to partition 0 in a transaction that is committed or aborted. Either leaves a
    /// marker, so offsets have gaps.
    pub(crate) fn publish_in_transaction(&self, events: &[Event], commit: bool) {
        let producer: BaseProducer = self
            .client_config()
            .set("transactional.id", super::unique("transaction"))
            .create()
            .unwrap();
        producer.init_transactions(TIMEOUT).unwrap();
        producer.begin_transaction().unwrap();
        for event in events {
            let record = record_of(&self.topic, event).partition(0);
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(TIMEOUT).unwrap();
        if commit {
            producer.commit_transaction(TIMEOUT).unwrap();
        } else {
            producer.abort_transaction(TIMEOUT).unwrap();
        }
    }

    /// What a reader sees, with or without what belongs to open and aborted transactions.
    pub(crate) fn seen(&self, topic: &str, is_committed: bool) -> Vec<Record> {
        let level = if is_committed { "read_committed" } else { "read_uncommitted" };
        let consumer: BaseConsumer = self
            .client_config()
            .set("group.id", "nobody")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", level)
            .create()
            .unwrap();
        let partitions = self.topics().partitions(topic).unwrap().unwrap();
        let mut list = TopicPartitionList::new();
        for partition in 0..i32::try_from(partitions).unwrap() {
            list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&list).unwrap();
        let (mut records, mut ended) = (Vec::new(), BTreeSet::new());
        while ended.len() < partitions {
            match consumer.poll(TIMEOUT).expect("a record or an end within 30 s") {
                Ok(message) => records.push(read(topic, &message)),
                Err(KafkaError::PartitionEOF(partition)) => {
                    ended.insert(partition);
                }
                Err(error) => panic!("{error}"),
            }
        }
        records.sort_by_key(|record: &Record| (record.source.partition, record.offset));
        records
    }

    /// Sets the group's committed offset, as nobody should.
    pub(crate) fn commit_offset(&self, partition: i32, offset: i64) {
        let consumer: BaseConsumer =
            self.client_config().set("group.id", &self.group).create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, partition, Offset::Offset(offset)).unwrap();
        consumer.commit(&list, CommitMode::Sync).unwrap();
    }

    /// Deletes the log below `offset`, as retention would.
    pub(crate) async fn delete_records_before(&self, topic: &str, partition: i32, offset: i64) {
        let admin: AdminClient<DefaultClientContext> = self.client_config().create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
        admin.delete_records(&list, &AdminOptions::new()).await.unwrap();
    }

    pub(crate) fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.stack.bootstrap_servers);
        config
    }
}

fn read(topic: &str, message: &BorrowedMessage<'_>) -> Record {
    let mut headers = Headers::new();
    for header in message.headers().into_iter().flat_map(|all| all.iter()) {
        headers.push(header.key, header.value);
    }
    Record {
        source: PartitionKey { topic: topic.into(), partition: message.partition() },
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers,
    }
}

/// An event as this client sends it: one with a key, a value and headers that are text.
fn record_of<'a>(topic: &'a str, event: &'a Event) -> BaseRecord<'a, [u8], [u8]> {
    let mut headers = OwnedHeaders::new();
    for (name, value) in event.headers.iter() {
        let key = std::str::from_utf8(name).unwrap();
        headers = headers.insert(Header { key, value });
    }
    BaseRecord::to(topic)
        .key(event.key.as_deref().unwrap())
        .payload(event.value.as_deref().unwrap())
        .headers(headers)
}
