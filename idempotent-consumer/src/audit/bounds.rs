//! What Kafka says before any record is read.

use crate::kafka::admin::AdminError;
use crate::kafka::facts::Facts;
use crate::kafka::settings::KafkaSettings;

use super::log::PATIENCE;

/// A topic's id and the first and next offset of each partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Bounds {
    pub(super) topic_id: String,
    pub(super) partitions: Vec<(i64, i64)>,
}

/// `None` if the topic does not exist.
pub(super) async fn of(
    settings: &KafkaSettings,
    group: &str,
    topic: &str,
) -> Result<Option<Bounds>, AdminError> {
    let topic = topic.to_owned();
    ask(settings, group, move |facts| {
        let Some(count) = facts.topics.partitions(&topic)? else { return Ok(None) };
        let Some(topic_id) = facts.topics.id(&topic)? else { return Ok(None) };
        let partitions = numbers(count).map(|partition| facts.topics.watermarks(&topic, partition));
        Ok(Some(Bounds { topic_id, partitions: partitions.collect::<Result<_, _>>()? }))
    })
    .await
}

/// What the group has committed, by partition.
pub(super) async fn committed(
    settings: &KafkaSettings,
    group: &str,
    topic: &str,
    partitions: usize,
) -> Result<Vec<Option<i64>>, AdminError> {
    let topic = topic.to_owned();
    ask(settings, group, move |facts| {
        numbers(partitions).map(|partition| facts.committed(&topic, partition)).collect()
    })
    .await
}

/// The numbers of so many partitions.
pub(super) fn numbers(count: usize) -> impl Iterator<Item = i32> {
    (0..).take(count)
}

async fn ask<T: Send + 'static>(
    settings: &KafkaSettings,
    group: &str,
    question: impl FnOnce(&Facts) -> Result<T, AdminError> + Send + 'static,
) -> Result<T, AdminError> {
    let (settings, group) = (settings.clone(), group.to_owned());
    match tokio::task::spawn_blocking(move || question(&Facts::new(&settings, &group, PATIENCE)?))
        .await
    {
        Ok(answer) => answer,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
