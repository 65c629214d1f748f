//! Reads topics with a plain client.

use std::time::Duration;

use order_events::RecordView;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};

const TIMEOUT: Duration = Duration::from_secs(10);

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
        .map(|partition| client.fetch_watermarks(topic, partition, TIMEOUT).unwrap().1)
        .collect()
}

/// How many partitions the topic has, `None` if there is none.
pub(crate) fn partitions(topic: &str) -> Option<usize> {
    partitions_seen_by(&client(shared()), topic)
}

/// How many records the topic has.
pub(crate) fn count(topic: &str) -> i64 {
    ends_seen_by(&client(shared()), topic).iter().sum()
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
        let message = consumer.poll(TIMEOUT).expect("a record within 10 s").unwrap();
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        records.push(Record {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers
                .map(|h| (h.key.to_owned(), h.value.unwrap_or_default().to_vec()))
                .collect(),
        });
    }
    records.sort_by_key(|record| (record.partition, record.offset));
    records
}
