//! A topic's log from start to end, as a bystander.

use std::ops::ControlFlow;
use std::time::Duration;

use serde::Serialize;

use crate::identity::{IdMode, Identity, identify};
use crate::kafka::admin::{AdminError, Topics};
use crate::kafka::log_reader::{LogError, LogReader, Stretch};
use crate::kafka::settings::KafkaSettings;
use crate::message::Record;

/// How far a scan is.
#[derive(Clone, Copy, Debug)]
pub struct ScanProgress {
    /// Offsets that are behind it.
    pub done: u64,
    /// Offsets there are, records or not.
    pub of: u64,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ScannedTopic {
    /// The id that Kafka gave the topic when it was created.
    pub topic_id: String,
    /// Records.
    pub records: u64,
    /// By number.
    pub partitions: Vec<ScannedPartition>,
}

/// Which part of a partition was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ScannedPartition {
    /// Which.
    pub partition: i32,
    /// From the log's first offset …
    pub from_offset: i64,
    /// … up to and without its end as of the scan's beginning.
    pub to_offset: i64,
}

/// Why a log was not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// Kafka was asked about the topic.
    #[error(transparent)]
    Kafka(#[from] AdminError),
    /// The log was read.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Records between two reports of progress.
const REPORT_RECORDS: u64 = 500;

/// Shows every committed record of the topic to `visit` with its identity, partition after
/// partition, until it breaks off. Joins no group and commits nothing; keeps no record.
/// [`id_mode`](super::id_mode) is that of a database's claims.
///
/// `Ok(None)` if the topic does not exist. Blocks: from async code use `spawn_blocking`.
///
/// # Errors
/// Kafka is silent for longer than `patience`, or refuses.
pub fn scan_log(
    settings: &KafkaSettings,
    topic: &str,
    id_mode: &IdMode,
    patience: Duration,
    mut visit: impl FnMut(Record, Identity) -> ControlFlow<()>,
    mut progress: impl FnMut(ScanProgress),
) -> Result<Option<ScannedTopic>, ScanError> {
    let topics = Topics::new(settings, patience)?;
    let (Some(count), Some(topic_id)) = (topics.partitions(topic)?, topics.id(topic)?) else {
        return Ok(None);
    };
    let stretches = (0..)
        .take(count)
        .map(|partition| {
            let (start, end) = topics.watermarks(topic, partition)?;
            Ok(Stretch { partition, start, end })
        })
        .collect::<Result<Vec<_>, AdminError>>()?;
    let length = |stretch: &Stretch| stretch.end.abs_diff(stretch.start);
    let of = stretches.iter().map(length).sum();
    let reader = LogReader::new(settings, topic, patience)?;
    let (mut records, mut before) = (0, 0);
    for stretch in &stretches {
        let flow = reader.read(stretch, |record| {
            records += 1;
            if records % REPORT_RECORDS == 0 {
                progress(ScanProgress { done: before + record.offset.abs_diff(stretch.start), of });
            }
            let identity = identify(&record, &topic_id, id_mode);
            visit(record, identity)
        })?;
        if flow.is_break() {
            break;
        }
        before += length(stretch);
    }
    let partitions = stretches.iter().map(|stretch| ScannedPartition {
        partition: stretch.partition,
        from_offset: stretch.start,
        to_offset: stretch.end,
    });
    Ok(Some(ScannedTopic { topic_id, records, partitions: partitions.collect() }))
}
