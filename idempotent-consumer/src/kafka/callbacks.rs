//! The client's callbacks. They run inside the owner's `poll`, leave notes, and never wait.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use rdkafka::util::Timeout;
use rdkafka::{ClientConfig, Statistics};

use super::rebootstrap::{Rebootstrap, WATCH_INTERVAL_MS};
use super::settings::KafkaSettings;

/// What the callbacks leave for the owner, who looks after each `poll`.
pub(super) struct Callbacks {
    notes: Mutex<VecDeque<Note>>,
    rebootstrap: Rebootstrap,
}

/// What happened inside `poll`.
pub(super) enum Note {
    Assigned(Vec<i32>),
    Revoked(Vec<i32>),
    Statistics(Box<Statistics>),
    Error(KafkaError, String),
}

impl Callbacks {
    /// A consumer with these, whose statistics are looked at.
    pub(super) fn consumer(
        config: &mut ClientConfig,
        settings: &KafkaSettings,
    ) -> KafkaResult<BaseConsumer<Self>> {
        let callbacks = Self { notes: Mutex::default(), rebootstrap: Rebootstrap::new(settings) };
        let consumer: BaseConsumer<Self> = config
            .set("statistics.interval.ms", WATCH_INTERVAL_MS)
            .create_with_context(callbacks)?;
        consumer.context().rebootstrap.watch(consumer.client().native_ptr());
        Ok(consumer)
    }

    fn leave(&self, note: Note) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push_back(note);
    }

    pub(super) fn take(&self) -> Option<Note> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

impl ClientContext for Callbacks {
    fn stats(&self, statistics: Statistics) {
        self.rebootstrap.heed(&statistics);
        self.leave(Note::Statistics(Box::new(statistics)));
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // An end of partition comes here as well as from `poll`, and is no error.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::PartitionEOF) {
            self.leave(Note::Error(error, reason.to_owned()));
        }
    }
}

impl ConsumerContext for Callbacks {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        error: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let partitions: Vec<i32> =
            list.elements().iter().map(TopicPartitionListElem::partition).collect();
        let cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let outcome = if error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            // Any position will do: the partition is paused, and the lane seeks. Without one the
            // client would look up the group's offset and fail where there is none.
            let mut paused = TopicPartitionList::new();
            for element in list.elements() {
                let _ = paused.add_partition_offset(
                    element.topic(),
                    element.partition(),
                    Offset::Offset(0),
                );
            }
            let assigned = if cooperative {
                consumer.incremental_assign(&paused)
            } else {
                consumer.assign(&paused)
            };
            let assigned = assigned.and_then(|()| consumer.pause(&paused));
            self.leave(Note::Assigned(partitions));
            assigned
        } else {
            self.leave(Note::Revoked(partitions));
            if cooperative { consumer.incremental_unassign(list) } else { consumer.unassign() }
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "rebalance");
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            // Kafka's offset is a hint; the database knows. NoOffset means nothing new to commit.
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::NoOffset) {
                tracing::debug!(%error, "offset commit");
            }
        }
    }

    fn main_queue_min_poll_interval(&self) -> Timeout {
        Timeout::After(Duration::from_millis(100))
    }
}
