//! What a pipe reads, and from where: always from the group's committed offsets.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;
use tokio_util::sync::CancellationToken;

use super::admin::Topics;
use super::callbacks::{Callbacks, Note};
use super::pipe::TICK;
use super::raw;
use super::settings::set_default;
use crate::message::{Headers, PartitionKey, Record};
use crate::pipe::{PipeConfig, PipeError};

/// How long one question after committed offsets may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two of them: a process that died may have left its own undecided.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a log may be shorter than the group has read. A new leader may know less for a while.
const SHORT_PATIENCE: Duration = Duration::from_secs(10);
/// Not to know where to begin is normal for so long, and then said now and then.
const COMPLAIN_AFTER: Duration = Duration::from_secs(10);
const COMPLAIN_EVERY: Duration = Duration::from_mins(1);

/// By partition.
pub(super) type Offsets = BTreeMap<i32, i64>;

/// Offsets that retention took before they were read.
pub(super) struct Lost {
    pub(super) partition: i32,
    pub(super) from: i64,
    pub(super) to: i64,
}

pub(super) struct Input {
    consumer: BaseConsumer<Callbacks>,
    topics: Topics,
    topic: Arc<str>,
    group: String,
    scratch: Headers,
    state: State,
    lost: Vec<Lost>,
    /// Up to where that is known, by partition.
    lost_up_to: BTreeMap<i32, i64>,
    /// The assignment is another one since somebody looked.
    has_moved: bool,
    /// Since when some log is shorter than the group has read.
    is_short_since: Option<Instant>,
    /// Partitions that are read to their ends.
    at_end: BTreeSet<i32>,
    idle_since: Option<Instant>,
}

/// Our part of the topic. `group` names the member and the generation that it was given to.
enum State {
    /// None.
    Outside,
    /// Nothing of these partitions flows before the committed offsets are known.
    Waiting {
        partitions: Vec<i32>,
        group: Arc<ConsumerGroupMetadata>,
        next_try: Instant,
        /// When to say that it takes long.
        complain_at: Instant,
    },
    /// They are read, each from its `next` offset on.
    Reading { next: Offsets, group: Arc<ConsumerGroupMetadata>, topic_id: String },
}

impl Input {
    /// Joins the group.
    pub(super) fn join(config: &PipeConfig, topics: Topics) -> Result<Self, PipeError> {
        let mut client = config.kafka.consumer_config();
        client
            .set("group.id", &config.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            // Also: committed offsets are told only once no open transaction holds others.
            .set("isolation.level", "read_committed")
            .set("partition.assignment.strategy", "range")
            .set("group.protocol", "classic")
            .set("enable.partition.eof", "true");
        for (name, value) in [
            ("fetch.queue.backoff.ms", "10"),
            ("queued.max.messages.kbytes", "8192"),
            ("fetch.max.bytes", "4194304"),
            ("fetch.wait.max.ms", "100"),
        ] {
            set_default(&mut client, name, value);
        }
        let refuses = |error: KafkaError| PipeError::Client(error.to_string());
        let consumer = Callbacks::consumer(&mut client, &config.kafka).map_err(refuses)?;
        consumer.subscribe(&[&config.from]).map_err(refuses)?;
        Ok(Self {
            consumer,
            topics,
            topic: config.from.as_str().into(),
            group: config.group.clone(),
            scratch: Headers::new(),
            state: State::Outside,
            lost: Vec::new(),
            lost_up_to: BTreeMap::new(),
            has_moved: false,
            is_short_since: None,
            at_end: BTreeSet::new(),
            idle_since: None,
        })
    }

    /// The next records; none after a while without any.
    pub(super) fn read(
        &mut self,
        config: &PipeConfig,
        stop: &CancellationToken,
    ) -> Result<Vec<Record>, PipeError> {
        let mut batch: Vec<Record> = Vec::new();
        let mut bytes = 0;
        let mut deadline = Instant::now() + TICK;
        loop {
            if self.find_position()? {
                // What happened while that took its time is seen in a poll that may take some as well.
                deadline = Instant::now() + TICK;
            }
            let record = self.poll(deadline.saturating_duration_since(Instant::now()))?;
            if mem::take(&mut self.has_moved) {
                // Whoever has their partitions now reads them from the committed offsets.
                batch.clear();
                bytes = 0;
                deadline = Instant::now() + TICK;
            }
            let is_due = record.is_none() && Instant::now() >= deadline;
            if let Some(record) = record {
                if batch.is_empty() {
                    deadline = Instant::now() + config.batch_linger;
                }
                bytes += record.size_bytes();
                batch.push(record);
            }
            let is_full = batch.len() >= config.batch_size || bytes >= config.batch_bytes;
            if is_full || is_due || stop.is_cancelled() {
                self.note_idle(batch.is_empty());
                return Ok(batch);
            }
        }
    }

    fn note_idle(&mut self, found_nothing: bool) {
        let is_idle = found_nothing
            && matches!(&self.state, State::Reading { next, .. }
                if next.keys().all(|partition| self.at_end.contains(partition)));
        self.idle_since = is_idle.then(|| self.idle_since.unwrap_or_else(Instant::now));
    }

    /// Whether every partition of ours has been at its end for so long.
    pub(super) fn has_been_idle_for(&self, patience: Duration) -> bool {
        self.idle_since.is_some_and(|since| since.elapsed() >= patience)
    }

    /// The member and generation that what was read belongs to, and the topic's id.
    pub(super) fn generation(&self) -> Option<(&Arc<ConsumerGroupMetadata>, &str)> {
        match &self.state {
            State::Reading { group, topic_id, .. } => Some((group, topic_id)),
            State::Outside | State::Waiting { .. } => None,
        }
    }

    /// Forgets what was read; what comes next begins at the committed offsets.
    pub(super) fn rewind(&mut self) {
        self.state = match mem::replace(&mut self.state, State::Outside) {
            State::Reading { next, group, .. } => waiting(next.into_keys().collect(), group),
            state => state,
        };
    }

    /// Keeps the membership up while nothing can be read.
    pub(super) fn serve(&mut self, wait: Duration) -> Result<(), PipeError> {
        self.rewind();
        self.poll(wait).map(|_| ())
    }

    pub(super) fn take_lost(&mut self) -> Vec<Lost> {
        mem::take(&mut self.lost)
    }

    /// Leaves the group.
    pub(super) fn leave(self) {
        self.consumer.unsubscribe();
    }

    /// Polls once. What comes before the position is set is not meant for us.
    fn poll(&mut self, wait: Duration) -> Result<Option<Record>, PipeError> {
        let mut record = None;
        match self.consumer.poll(wait) {
            Some(Ok(message)) => {
                if let State::Reading { next, .. } = &mut self.state
                    && advance(next, message.partition(), message.offset())
                {
                    record = Some(raw::record_of(&self.topic, &message, &mut self.scratch));
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                self.at_end.insert(partition);
            }
            Some(Err(error)) => self.heed(&error)?,
            None => {}
        }
        while let Some(note) = self.consumer.context().take() {
            if matches!(note, Note::Assigned(_) | Note::Revoked(_)) {
                record = None;
            }
            self.note(note);
        }
        if let Some(record) = &record {
            self.at_end.remove(&record.source.partition);
        }
        Ok(record)
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Assigned(partitions) => {
                self.has_moved = true;
                let group = self.consumer.group_metadata();
                // Asked afterwards: a generation that is lost does not come back before the
                // partitions were taken back, so one that still holds is the one that was noted. An
                // offset without a generation would be taken from anybody.
                let holds = raw::is_in_group(self.consumer.client().native_ptr());
                self.state = match group.filter(|_| holds) {
                    Some(group) => waiting(partitions, Arc::new(group)),
                    None => State::Outside,
                };
            }
            Note::Revoked(_) => {
                self.has_moved = true;
                self.state = State::Outside;
            }
            Note::Statistics(_) => {}
            Note::Error(error, reason) => tracing::debug!(%error, reason, "kafka consumer"),
        }
    }

    fn heed(&mut self, error: &KafkaError) -> Result<(), PipeError> {
        use RDKafkaErrorCode as C;
        if let KafkaError::MessageConsumptionFatal(code) = error {
            return Err(PipeError::Client(code.to_string()));
        }
        match error.rdkafka_error_code() {
            Some(C::OffsetOutOfRange | C::AutoOffsetReset | C::NoOffset) => {
                self.has_moved = true;
                self.rewind();
            }
            Some(
                C::TopicAuthorizationFailed
                | C::GroupAuthorizationFailed
                | C::InconsistentGroupProtocol,
            ) => return Err(PipeError::Client(format!("group {}: {error}", self.group))),
            _ => tracing::debug!(%error, "kafka consumer"),
        }
        Ok(())
    }

    /// Sets the position, if that is to be done and can be. Returns whether the brokers were asked.
    fn find_position(&mut self) -> Result<bool, PipeError> {
        let State::Waiting { partitions, next_try, complain_at, .. } = &mut self.state else {
            return Ok(false);
        };
        if Instant::now() < *next_try {
            return Ok(false);
        }
        if Instant::now() >= *complain_at {
            *complain_at = Instant::now() + COMPLAIN_EVERY;
            tracing::warn!(
                topic = &*self.topic,
                group = self.group,
                "the brokers do not tell where to begin: is the topic there, may the group read it, \
                 and is no transaction left hanging (kafka-transactions find-hanging)? RUST_LOG=debug \
                 says what they answer"
            );
        }
        *next_try = Instant::now() + PAUSE;
        let partitions = partitions.clone();
        let Some((topic_id, starts)) = self.starts(&partitions)? else { return Ok(true) };
        // In this order: an assignment is carried out behind its call, and a resume that it overtakes is
        // dropped for outdated, without an error. The partition would stay paused for as long as it is
        // ours (https://github.com/confluentinc/librdkafka/issues/5591).
        let set = |list| self.consumer.resume(&list).and_then(|()| self.consumer.assign(&list));
        let is_set = starts.is_empty() || offsets_of(&self.topic, &starts).and_then(set).is_ok();
        if is_set
            && let State::Waiting { group, .. } = mem::replace(&mut self.state, State::Outside)
        {
            self.at_end.clear();
            self.state = State::Reading { next: starts, group, topic_id };
        }
        Ok(true)
    }

    /// The topic's id, and where each partition begins; `None` while that is not known.
    fn starts(&mut self, partitions: &[i32]) -> Result<Option<(String, Offsets)>, PipeError> {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&self.topic, *partition);
        }
        let Ok(Some(topic_id)) = self.topics.id(&self.topic) else { return Ok(None) };
        let mut starts = Offsets::new();
        if partitions.is_empty() {
            return Ok(Some((topic_id, starts)));
        }
        let committed = match self.consumer.committed_offsets(list, PATIENCE) {
            Ok(committed) => committed,
            Err(error) => {
                tracing::debug!(%error, "committed offsets");
                return Ok(None);
            }
        };
        let mut lost = Vec::new();
        for element in committed.elements() {
            let partition = element.partition();
            if let Err(error) = element.error() {
                tracing::debug!(%error, partition, "committed offset");
                return Ok(None);
            }
            let Ok((low, end)) = self.topics.watermarks(&self.topic, partition) else {
                return Ok(None);
            };
            let start = if let Offset::Offset(committed) = element.offset() {
                if committed > end {
                    return self.is_short(partition, committed, end).map(|()| None);
                }
                if committed < low {
                    lost.push(Lost { partition, from: committed, to: low });
                }
                committed.max(low)
            } else {
                tracing::warn!(
                    partition,
                    group = self.group,
                    "the group has no offset here, so it begins with the oldest record; Kafka \
                     forgets the offsets of a group that is away for offsets.retention.minutes"
                );
                low
            };
            starts.insert(partition, start);
        }
        self.is_short_since = None;
        // The same gap is found again until something behind it is committed.
        lost.retain_mut(|gap: &mut Lost| {
            let up_to = self.lost_up_to.insert(gap.partition, gap.to).unwrap_or(gap.from);
            gap.from = gap.from.max(up_to);
            gap.from < gap.to
        });
        self.lost.append(&mut lost);
        Ok(Some((topic_id, starts)))
    }

    /// A log that ends before what the group has read is another log, if it stays like that.
    fn is_short(&mut self, partition: i32, committed: i64, end: i64) -> Result<(), PipeError> {
        let since = *self.is_short_since.get_or_insert_with(Instant::now);
        if since.elapsed() < SHORT_PATIENCE {
            return Ok(());
        }
        let partition = PartitionKey { topic: Arc::clone(&self.topic), partition };
        Err(PipeError::OtherLog { partition, group: self.group.clone(), committed, end })
    }
}

fn waiting(partitions: Vec<i32>, group: Arc<ConsumerGroupMetadata>) -> State {
    let now = Instant::now();
    State::Waiting { partitions, group, next_try: now, complain_at: now + COMPLAIN_AFTER }
}

/// Offsets of a topic's partitions, as the client's calls want them. Always numbers: of
/// `Offset::Beginning` the client asks the broker, asks again if somebody resumes or takes away the
/// partition meanwhile, and goes there whatever the partition was set to since.
pub(super) fn offsets_of(topic: &str, offsets: &Offsets) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for (&partition, &offset) in offsets {
        list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    }
    Ok(list)
}

/// Whether this record is one to read, and so behind those that were. The client may go back.
fn advance(next: &mut Offsets, partition: i32, offset: i64) -> bool {
    match next.get_mut(&partition) {
        Some(next) if offset >= *next => {
            *next = offset + 1;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_reads_again_is_left_out_and_gaps_are_not() {
        let mut next = Offsets::from([(0, 85), (1, 0)]);
        let read: Vec<_> = [(0, 85), (1, 0), (0, 0), (0, 85), (0, 90), (0, 89), (2, 7), (1, 1)]
            .into_iter()
            .filter(|(partition, offset)| advance(&mut next, *partition, *offset))
            .collect();
        assert_eq!(read, [(0, 85), (1, 0), (0, 90), (1, 1)]);
    }
}
