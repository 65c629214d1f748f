//! Reads topics with a plain client.

use std::time::Duration;

use order_events::RecordView;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};

const TIMEOUT: Duration = Duration::from_mins(1);

/// A record as it lies in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
}

impl Record {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(n, _)| n == name)?;
        std::str::from_utf8(value).ok()
    }

    pub(crate) fn view(&self) -> RecordView<'_> {
        RecordView {
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: &self.headers,
        }
    }
}

fn shared() -> &'static str {
    &local_stack::shared().bootstrap_servers
}

fn client(servers: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", "order-producer-tests")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "false")
        .create()
        .unwrap()
}

fn partitions_seen_by(client: &BaseConsumer, topic: &str) -> Option<usize> {
    let metadata = client.fetch_metadata(Some(topic), TIMEOUT).unwrap();
    let found = metadata.topics().iter().find(|t| t.name() == topic && t.error().is_none())?;
    Some(found.partitions().len()).filter(|count| *count > 0)
}

fn ends_seen_by(client: &BaseConsumer, topic: &str) -> Vec<i64> {
    let partitions = partitions_seen_by(client, topic).unwrap_or(0);
    (0..i32::try_from(partitions).unwrap())
        .map(|partition| end_seen_by(client, topic, partition))
        .collect()
}

fn end_seen_by(client: &BaseConsumer, topic: &str, partition: i32) -> i64 {
    let mut end = None;
    // A topic that is just being made has no leader for a moment.
    crate::eventually("a leader tells where its partition ends", || {
        end = client.fetch_watermarks(topic, partition, TIMEOUT).ok().map(|(_, end)| end);
        end.is_some()
    });
    end.unwrap()
}

/// How many partitions the topic has, `None` if there is none.
pub(crate) fn partitions(topic: &str) -> Option<usize> {
    partitions_seen_by(&client(shared()), topic)
}

/// How many records the topic has.
pub(crate) fn count(topic: &str) -> i64 {
    ends_seen_by(&client(shared()), topic).iter().sum()
}

/// What a reader wants of transactions.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Isolation {
    /// Nothing of those that are open or aborted, and nothing behind one that is open.
    Committed,
    /// Everything.
    Uncommitted,
}

/// How many records such a reader sees.
pub(crate) fn count_seen(servers: &str, topic: &str, isolation: Isolation) -> usize {
    seen(servers, topic, isolation).len()
}

/// What such a reader sees, by partition and offset. Nothing if there is no such topic.
pub(crate) fn seen(servers: &str, topic: &str, isolation: Isolation) -> Vec<Record> {
    let level = match isolation {
        Isolation::Committed => "read_committed",
        Isolation::Uncommitted => "read_uncommitted",
    };
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", "order-producer-tests")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", level)
        .create()
        .unwrap();
    let partitions = partitions_seen_by(&consumer, topic).unwrap_or(0);
    let mut assignment = TopicPartitionList::new();
    for partition in 0..i32::try_from(partitions).unwrap() {
        assignment.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let (mut records, mut ended) = (Vec::new(), std::collections::BTreeSet::new());
    while ended.len() < partitions {
        match consumer.poll(TIMEOUT).expect("a record or an end within a minute") {
            Ok(message) => records.push(record_of(&message)),
            Err(KafkaError::PartitionEOF(partition)) => {
                ended.insert(partition);
            }
            Err(error) => panic!("{error}"),
        }
    }
    records.sort_by_key(|record: &Record| (record.partition, record.offset));
    records
}

fn record_of(message: &BorrowedMessage<'_>) -> Record {
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    Record {
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers
            .map(|h| (h.key.to_owned(), h.value.unwrap_or_default().to_vec()))
            .collect(),
    }
}

/// All records, by partition and offset.
pub(crate) fn read(topic: &str) -> Vec<Record> {
    read_from(shared(), topic)
}

/// Likewise, from a broker of the test's own.
pub(crate) fn read_from(servers: &str, topic: &str) -> Vec<Record> {
    let consumer = client(servers);
    let ends = ends_seen_by(&consumer, topic);
    let mut assignment = TopicPartitionList::new();
    for partition in 0..i32::try_from(ends.len()).unwrap() {
        assignment.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let expected = usize::try_from(ends.iter().sum::<i64>()).unwrap();
    let mut records = Vec::new();
    while records.len() < expected {
        let message = consumer.poll(TIMEOUT).expect("a record within a minute").unwrap();
        records.push(record_of(&message));
    }
    records.sort_by_key(|record| (record.partition, record.offset));
    records
}
