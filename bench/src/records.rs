//! What lies in a topic.

use std::time::Duration;

use anyhow::Context as _;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

const TIMEOUT: Duration = Duration::from_secs(30);

fn consumer(servers: &str) -> anyhow::Result<BaseConsumer> {
    Ok(ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", "bench-records")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()?)
}

/// Reads a topic from its beginning to its end. Blocks.
pub(crate) fn each(
    servers: &str,
    topic: &str,
    partitions: u32,
    mut record: impl FnMut(&BorrowedMessage<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let consumer = consumer(servers)?;
    let mut all = TopicPartitionList::new();
    for partition in 0..i32::try_from(partitions)? {
        all.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&all)?;
    let mut ends = 0;
    while ends < partitions {
        match consumer.poll(TIMEOUT).context("Kafka is silent")? {
            Ok(message) => record(&message)?,
            Err(KafkaError::PartitionEOF(_)) => ends += 1,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// How many records a new topic has been given. Blocks.
pub(crate) fn count(servers: &str, topic: &str, partitions: u32) -> anyhow::Result<u64> {
    let consumer = consumer(servers)?;
    let mut count = 0;
    for partition in 0..i32::try_from(partitions)? {
        let (low, high) = consumer.fetch_watermarks(topic, partition, TIMEOUT)?;
        count += u64::try_from(high - low)?;
    }
    Ok(count)
}
