//! What the database and Kafka say, put together. Pure. The field names are part of the command
//! line's contract.

use std::collections::BTreeSet;

use idempotent_consumer::inspect::{
    DeadLetterCount, LogBounds, LostRange, NotStarting, OutboxState, Overview, PartitionProgress,
    RetryQueueState, TopicLog, not_starting,
};
use serde::Serialize;

use crate::cli::TopicArgs;

/// Everything that `status` tells.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    pub(super) topic: String,
    pub(super) consumer_group: String,
    pub(super) kafka: Kafka,
    pub(super) partitions: Vec<PartitionLine>,
    pub(super) totals: Totals,
    pub(super) retry_queue: RetryQueueState,
    pub(super) dead_letters: Vec<DeadLetterCount>,
    pub(super) outbox: OutboxState,
    pub(super) ages: Ages,
    pub(super) stopped: Vec<NotStarting>,
    pub(super) lost_ranges: Vec<LostRange>,
}

#[derive(Debug, Serialize)]
pub(super) struct Kafka {
    /// Whether a broker answered.
    pub(super) reachable: bool,
    /// `None` if that is not known.
    pub(super) topic_exists: Option<bool>,
    /// Why lags are missing.
    pub(super) problem: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct PartitionLine {
    #[serde(rename = "partition")]
    pub(super) number: i32,
    /// `None` if no consumer has begun with it.
    pub(super) next_offset: Option<i64>,
    /// Behind the messages over which a consumer may have ended, from `next_offset` on.
    pub(super) suspects_end: Option<i64>,
    pub(super) log_start: Option<i64>,
    pub(super) log_end: Option<i64>,
    pub(super) committed: Option<i64>,
    /// Offsets that wait. `None` if Kafka does not tell, or the offsets are not of this log.
    pub(super) lag: Option<i64>,
    pub(super) applied: i64,
    pub(super) duplicates: i64,
    pub(super) dead_lettered: i64,
    pub(super) skipped: i64,
    pub(super) last_progress_age_seconds: Option<f64>,
    pub(super) owner: Option<String>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Totals {
    /// Of the partitions whose lag is known; `None` if no lag is.
    pub(super) lag: Option<i64>,
    pub(super) applied: i64,
    pub(super) duplicates: i64,
    pub(super) dead_lettered: i64,
    pub(super) skipped: i64,
}

/// In seconds.
#[derive(Debug, Serialize)]
pub(super) struct Ages {
    #[serde(rename = "last_progress_seconds")]
    pub(super) last_progress: Option<f64>,
    #[serde(rename = "oldest_open_dead_letter_seconds")]
    pub(super) oldest_open_dead_letter: Option<f64>,
    #[serde(rename = "oldest_outbox_row_seconds")]
    pub(super) oldest_outbox_row: Option<f64>,
    #[serde(rename = "oldest_retry_seconds")]
    pub(super) oldest_retry: Option<f64>,
}

impl Status {
    pub(super) fn new(
        topics: &TopicArgs,
        overview: Overview,
        log: Result<Option<TopicLog>, String>,
    ) -> Self {
        let Overview { partitions: progress, retry_queue, dead_letters, outbox, lost_ranges } =
            overview;
        let has_run = !progress.is_empty();
        let kafka = match &log {
            Ok(found) => Kafka {
                reachable: true,
                topic_exists: Some(found.is_some()),
                // Before the first run this is as it should be: the consumer creates the topic.
                problem: (found.is_none() && has_run)
                    .then(|| format!("the topic {} does not exist", topics.topic)),
            },
            Err(problem) => {
                Kafka { reachable: false, topic_exists: None, problem: Some(problem.clone()) }
            }
        };
        let log = log.ok().flatten();
        let stopped = log.as_ref().map_or_else(Vec::new, |log| not_starting(&progress, log));
        let stopped_numbers: BTreeSet<i32> = stopped.iter().map(|s| s.partition).collect();
        let bounds = log.map_or_else(Vec::new, |log| log.partitions);

        let numbers: BTreeSet<i32> = (progress.iter().map(|row| row.partition))
            .chain(bounds.iter().map(|bounds| bounds.partition))
            .collect();
        let partitions: Vec<PartitionLine> = numbers
            .into_iter()
            .map(|number| {
                let row = progress.iter().find(|row| row.partition == number);
                let bounds = bounds.iter().find(|bounds| bounds.partition == number);
                partition(number, row, bounds, stopped_numbers.contains(&number))
            })
            .collect();
        let ages = Ages {
            last_progress: smallest(
                partitions.iter().filter_map(|row| row.last_progress_age_seconds),
            ),
            oldest_open_dead_letter: dead_letters
                .iter()
                .filter(|count| count.state == "open")
                .map(|count| count.oldest_age_seconds)
                .reduce(f64::max),
            oldest_outbox_row: outbox.oldest_age_seconds,
            oldest_retry: retry_queue.oldest_failure_age_seconds,
        };
        Self {
            topic: topics.topic.clone(),
            consumer_group: topics.group.clone(),
            kafka,
            totals: totals(&partitions),
            partitions,
            retry_queue,
            dead_letters,
            outbox,
            ages,
            stopped,
            lost_ranges,
        }
    }

    /// Whether a consumer of this group has ever begun with this topic.
    pub(super) fn has_run(&self) -> bool {
        self.partitions.iter().any(|row| row.next_offset.is_some())
    }
}

fn partition(
    number: i32,
    row: Option<&PartitionProgress>,
    bounds: Option<&LogBounds>,
    is_stopped: bool,
) -> PartitionLine {
    let next_offset = row.map(|row| row.next_offset);
    let lag = bounds.filter(|_| !is_stopped).map(|bounds| {
        let from = next_offset.map_or(bounds.log_start, |next| next.max(bounds.log_start));
        (bounds.log_end - from).max(0)
    });
    PartitionLine {
        number,
        next_offset,
        suspects_end: row.and_then(|row| row.suspects_end),
        log_start: bounds.map(|bounds| bounds.log_start),
        log_end: bounds.map(|bounds| bounds.log_end),
        committed: bounds.and_then(|bounds| bounds.committed),
        lag,
        applied: row.map_or(0, |row| row.applied),
        duplicates: row.map_or(0, |row| row.duplicates),
        dead_lettered: row.map_or(0, |row| row.dead_lettered),
        skipped: row.map_or(0, |row| row.skipped),
        last_progress_age_seconds: row.and_then(|row| row.last_progress_age_seconds),
        owner: row.map(|row| row.owner.clone()).filter(|owner| !owner.is_empty()),
    }
}

fn totals(partitions: &[PartitionLine]) -> Totals {
    let mut totals = Totals::default();
    for row in partitions {
        totals.lag = match (totals.lag, row.lag) {
            (Some(sum), Some(lag)) => Some(sum + lag),
            (known, other) => known.or(other),
        };
        totals.applied += row.applied;
        totals.duplicates += row.duplicates;
        totals.dead_lettered += row.dead_lettered;
        totals.skipped += row.skipped;
    }
    totals
}

fn smallest(ages: impl Iterator<Item = f64>) -> Option<f64> {
    ages.reduce(f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(partition: i32, next_offset: i64) -> PartitionProgress {
        PartitionProgress {
            partition,
            topic_id: "id".to_owned(),
            next_offset,
            suspects_end: None,
            applied: 2,
            duplicates: 1,
            dead_lettered: 0,
            skipped: 0,
            last_progress_age_seconds: Some(f64::from(partition) + 1.0),
            owner: String::new(),
        }
    }

    fn log(topic_id: &str, ends: &[i64]) -> TopicLog {
        let bounds = |(partition, end): (i32, &i64)| LogBounds {
            partition,
            log_start: 2,
            log_end: *end,
            committed: None,
        };
        TopicLog {
            topic_id: topic_id.to_owned(),
            partitions: (0..).zip(ends).map(bounds).collect(),
        }
    }

    fn status(rows: Vec<PartitionProgress>, log: Result<Option<TopicLog>, String>) -> Status {
        let topics = TopicArgs { topic: "t".into(), dlq_topic: "d".into(), group: "g".into() };
        Status::new(&topics, Overview { partitions: rows, ..Overview::default() }, log)
    }

    #[test]
    fn a_partition_that_nobody_began_with_waits_from_the_logs_start() {
        let status = status(vec![row(0, 5)], Ok(Some(log("id", &[9, 7]))));
        let lags: Vec<_> = status.partitions.iter().map(|row| row.lag).collect();
        assert_eq!(lags, [Some(4), Some(5)]);
        assert_eq!((status.totals.lag, status.totals.applied), (Some(9), 2));
        assert_eq!(status.ages.last_progress, Some(1.0));
        assert!(status.kafka.problem.is_none() && status.stopped.is_empty());
    }

    #[test]
    fn deleted_offsets_are_no_lag() {
        let status = status(vec![row(0, 0)], Ok(Some(log("id", &[9]))));
        assert_eq!(status.partitions[0].lag, Some(7));
    }

    #[test]
    fn a_stopped_partition_has_no_lag_and_a_reason() {
        let status = status(vec![row(0, 5), row(3, 5)], Ok(Some(log("other", &[9]))));
        assert!(status.stopped[0].reason.contains("created anew"), "{:?}", status.stopped);
        assert!(status.stopped[1].reason.contains("no such partition"), "{:?}", status.stopped);
        assert_eq!(status.totals.lag, None);
    }

    #[test]
    fn without_kafka_the_databases_part_is_there_and_no_lag() {
        let status = status(vec![row(0, 5)], Err("gone".to_owned()));
        assert_eq!(status.kafka.problem.as_deref(), Some("gone"));
        assert_eq!((status.partitions[0].lag, status.totals.applied), (None, 2));
    }

    #[test]
    fn a_missing_topic_is_a_problem_only_once_a_consumer_has_run() {
        assert!(status(vec![], Ok(None)).kafka.problem.is_none());
        assert!(status(vec![row(0, 0)], Ok(None)).kafka.problem.is_some());
    }
}
