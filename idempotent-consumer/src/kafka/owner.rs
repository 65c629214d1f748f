//! The one owner of the consumer: a thread that polls, feeds a bounded queue for each partition,
//! and never waits for a transaction.
//!
//! A partition is assigned paused. Its lane reads where to start, asks for it, and only then does
//! anything flow. Work carries the epoch of its assignment, so what belongs to an earlier one has
//! no effect.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rdkafka::Statistics;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::admin::is_about_credentials;
use super::callbacks::{Callbacks, Note};
use super::clock::ClockWatch;
use super::queue::PartitionQueue;
use super::raw;
use super::settings::{KafkaSettings, set_default};
use crate::failpoint::failpoint;
use crate::message::Headers;

/// What the owner tells the engine.
#[derive(Debug)]
pub(crate) enum Event {
    /// A partition is ours; nothing of it flows before [`Command::Start`].
    Assigned { partition: i32, epoch: u64, queue: Arc<PartitionQueue> },
    /// A partition is no longer ours.
    Revoked { partition: i32, epoch: u64 },
    /// The group has given us our share, which may be nothing.
    Rebalanced,
    /// Offsets that a lane relies on are not there any more: all lanes look again.
    Disoriented(String),
    /// The client cannot go on.
    Fatal(String),
    /// Brokers refuse to let us read, until an operator gives the client's principal the right.
    Denied { what: &'static str, why: String },
    /// Records or their end are read again, which were refused.
    Reading,
    /// The brokers are (`None`) or are not reachable.
    Brokers(Option<String>),
    /// Records that brokers hold and we have not consumed yet, by partition.
    Lag { partition: i32, records: i64 },
}

/// What the engine tells the owner.
#[derive(Debug)]
pub(crate) enum Command {
    /// Read the partition from this offset on.
    /// `started` is told once everything read before is forgotten and the position is set.
    Start { partition: i32, epoch: u64, offset: i64, started: oneshot::Sender<()> },
    /// Everything below is committed in the database; Kafka may know.
    Store { partition: i32, epoch: u64, next_offset: i64 },
    /// Leave the group and end.
    Close,
}

/// How long the owner waits for room in one queue before it pauses that partition. A pause makes
/// the client forget what it has fetched, so short waits are cheaper.
const PATIENCE: Duration = Duration::from_millis(50);
/// The same while no other partition has need of the owner.
const LONG_PATIENCE: Duration = Duration::from_millis(250);

/// Records that are read one after the other before commands are looked for again.
const IN_A_ROW: u32 = 32;

/// A seek is refused until the client has started on the partition; after so many refusals the
/// partition is assigned anew at the wanted offset.
const MAX_SEEKS: u32 = 50;

pub(crate) struct OwnerSettings {
    pub kafka: KafkaSettings,
    pub topic: String,
    pub group: String,
    pub buffer_bytes: usize,
}

/// Starts the owner's thread. It ends after [`Command::Close`], when the group has been left.
pub(crate) fn start(
    settings: OwnerSettings,
    commands: mpsc::Receiver<Command>,
    events: UnboundedSender<Event>,
) -> Result<std::thread::JoinHandle<()>, KafkaError> {
    let mut config = settings.kafka.consumer_config();
    config
        .set("group.id", &settings.group)
        .set("enable.auto.commit", "true")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("group.protocol", "classic")
        .set("enable.partition.eof", "true");
    for (name, value) in [
        ("auto.commit.interval.ms", "1000"),
        ("fetch.queue.backoff.ms", "10"),
        ("queued.max.messages.kbytes", "2048"),
        ("fetch.max.bytes", "4194304"),
        // Of a partition, as compressed: what a fetch brings is unpacked all at once, past every
        // other bound. A larger batch comes alone.
        ("fetch.message.max.bytes", "65536"),
        ("fetch.wait.max.ms", "100"),
    ] {
        set_default(&mut config, name, value);
    }
    let consumer = Callbacks::consumer(&mut config, &settings.kafka)?;
    consumer.subscribe(&[&settings.topic])?;
    let consumer = Arc::new(consumer);
    let owner = Owner {
        clock_watch: ClockWatch::start(Arc::clone(&consumer)).map_err(|e| no_thread(&e))?,
        consumer,
        scratch: Headers::new(),
        settings,
        commands,
        events,
        partitions: HashMap::new(),
        next_epoch: 1,
        closing: false,
        denied: Cell::new(false),
    };
    std::thread::Builder::new()
        .name("kafka-consumer".to_owned())
        .spawn(move || owner.run())
        .map_err(|error| no_thread(&error))
}

fn no_thread(error: &std::io::Error) -> KafkaError {
    KafkaError::ClientCreation(error.to_string())
}

struct Owner {
    consumer: Arc<BaseConsumer<Callbacks>>,
    clock_watch: ClockWatch,
    settings: OwnerSettings,
    scratch: Headers,
    commands: mpsc::Receiver<Command>,
    events: UnboundedSender<Event>,
    partitions: HashMap<i32, Assigned>,
    next_epoch: u64,
    closing: bool,
    /// Whether brokers refused records, and none was read since.
    denied: Cell<bool>,
}

struct Assigned {
    epoch: u64,
    /// The topic's name, for each record. Of this partition alone: records are made here and dropped
    /// in the lane, and counting both in one place for all partitions would cost all of them.
    topic: Arc<str>,
    queue: Arc<PartitionQueue>,
    flow: Flow,
    /// Position and log's end as the last statistics had them, to see that nothing moves.
    seen: Option<(i64, i64)>,
    /// An end of the log that was read before the latest seek.
    probe: Option<Probe>,
}

/// Finding out whether anything but transaction markers lies between our position and an end of
/// the log that is known. A new leader may know a lower end for a while, so reaching *an* end
/// proves nothing: it has to be one at or behind the known one, with no record come in meanwhile.
#[derive(Clone, Copy)]
struct Probe {
    end: i64,
    /// Our position when the client reported an end, and how many statistics agreed since.
    reached: Option<(i64, u32)>,
}

/// The client's statistics may be one interval old.
const PROBE_STATISTICS: u32 = 2;

enum Flow {
    /// Paused until the lane knows where to start.
    Waiting,
    /// The lane wants this offset; the client has refused so many seeks.
    Seeking { offset: i64, refused: u32, started: Option<oneshot::Sender<()>> },
    /// Records from this offset on are for the queue.
    Running { next: i64 },
    /// Paused because the queue is full.
    Full { next: i64 },
}

impl Owner {
    fn run(mut self) {
        while !self.closing {
            self.obey();
            self.advance();
            let mut wait = Duration::from_millis(if self.is_seeking() { 10 } else { 50 });
            for _ in 0..IN_A_ROW {
                let goes_on = match self.consumer.poll(wait) {
                    Some(Ok(message)) => {
                        self.reads();
                        let scratch = &mut self.scratch;
                        deliver(&self.consumer, &mut self.partitions, &message, scratch)
                    }
                    Some(Err(KafkaError::PartitionEOF(partition))) => {
                        self.reads();
                        self.reached_end(partition);
                        false
                    }
                    Some(Err(error)) => {
                        self.heed(&error);
                        false
                    }
                    None => false,
                };
                while let Some(note) = self.consumer.context().take() {
                    self.note(note);
                }
                if !goes_on {
                    break;
                }
                wait = Duration::ZERO;
            }
        }
        let Self { consumer, clock_watch, .. } = self;
        // It has a part in the consumer.
        drop(clock_watch);
        // Dropping the consumer commits what was stored and leaves the group.
        consumer.unsubscribe();
    }

    fn tell(&self, event: Event) {
        // The engine is gone only if the process is about to end.
        let _ = self.events.send(event);
    }

    /// What was denied is not any more.
    fn reads(&self) {
        if self.denied.take() {
            self.tell(Event::Reading);
        }
    }

    fn is_seeking(&self) -> bool {
        self.partitions.values().any(|p| matches!(p.flow, Flow::Seeking { .. }))
    }

    fn obey(&mut self) {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Start { partition, epoch, offset, started }) => {
                    let current = current(&mut self.partitions, partition, epoch);
                    if let Some(assigned) = current {
                        if matches!(assigned.flow, Flow::Running { .. }) {
                            let _ = self.consumer.pause(&list_of(&self.settings.topic, partition));
                        }
                        assigned.queue.clear();
                        assigned.probe = None;
                        assigned.flow =
                            Flow::Seeking { offset, refused: 0, started: Some(started) };
                    }
                }
                Ok(Command::Store { partition, epoch, next_offset }) => {
                    let topic = &self.settings.topic;
                    failpoint("consumer.before_store_offset");
                    if current(&mut self.partitions, partition, epoch).is_some()
                        && let Err(error) =
                            self.consumer.store_offset(topic, partition, next_offset - 1)
                    {
                        tracing::debug!(%error, partition, "offset not stored");
                    }
                    failpoint("consumer.after_store_offset");
                }
                Ok(Command::Close) | Err(mpsc::TryRecvError::Disconnected) => {
                    self.closing = true;
                    return;
                }
                Err(mpsc::TryRecvError::Empty) => return,
            }
        }
    }

    /// Seeks that are due, and queues that have room again.
    fn advance(&mut self) {
        let topic = &self.settings.topic;
        for (&partition, assigned) in &mut self.partitions {
            match &mut assigned.flow {
                Flow::Seeking { offset, refused, started } => {
                    let offset = *offset;
                    let flows = if *refused < MAX_SEEKS {
                        let timeout = Duration::from_secs(1);
                        let resumed = |()| self.consumer.resume(&list_of(topic, partition));
                        self.consumer
                            .seek(topic, partition, Offset::Offset(offset), timeout)
                            .and_then(resumed)
                    } else {
                        assign_anew(&self.consumer, topic, partition, offset)
                    };
                    match flows {
                        Ok(()) => {
                            if let Some(started) = started.take() {
                                // A lane that has ended meanwhile needs no answer.
                                let _ = started.send(());
                            }
                            assigned.flow = Flow::Running { next: offset };
                        }
                        Err(error) => {
                            tracing::debug!(%error, partition, offset, "seek refused, trying again");
                            *refused += 1;
                        }
                    }
                }
                Flow::Full { next } if assigned.queue.is_low() => {
                    let next = *next;
                    match self.consumer.resume(&list_of(topic, partition)) {
                        Ok(()) => assigned.flow = Flow::Running { next },
                        Err(error) => tracing::warn!(%error, partition, "resume"),
                    }
                }
                _ => {}
            }
        }
    }

    fn reached_end(&mut self, partition: i32) {
        if let Some(assigned) = self.partitions.get_mut(&partition)
            && let Flow::Running { next } = assigned.flow
            && let Some(probe) = &mut assigned.probe
        {
            probe.reached = Some((next, 0));
        }
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Assigned(partitions) => {
                failpoint("owner.on_assign");
                for partition in partitions {
                    let epoch = self.next_epoch;
                    self.next_epoch += 1;
                    let queue = Arc::new(PartitionQueue::new(self.settings.buffer_bytes));
                    self.partitions.insert(
                        partition,
                        Assigned {
                            epoch,
                            topic: self.settings.topic.as_str().into(),
                            queue: Arc::clone(&queue),
                            flow: Flow::Waiting,
                            seen: None,
                            probe: None,
                        },
                    );
                    self.tell(Event::Assigned { partition, epoch, queue });
                }
                self.share_memory();
                self.tell(Event::Rebalanced);
            }
            Note::Revoked(partitions) => {
                failpoint("owner.on_revoke");
                for partition in partitions {
                    if let Some(assigned) = self.partitions.remove(&partition) {
                        assigned.queue.clear();
                        self.tell(Event::Revoked { partition, epoch: assigned.epoch });
                    }
                }
                self.share_memory();
            }
            Note::Statistics(statistics) => self.read_statistics(&statistics),
            Note::Error(error, reason) => {
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown)
                    || is_about_credentials(&error)
                {
                    self.tell(Event::Brokers(Some(reason)));
                } else if is_about_connections(&error) {
                    tracing::debug!(%error, reason, "kafka consumer");
                } else {
                    tracing::info!(%error, reason, "kafka consumer");
                }
            }
        }
    }

    /// Every partition's queue has an equal share of the memory.
    fn share_memory(&self) {
        let share = self.settings.buffer_bytes / self.partitions.len().max(1);
        for assigned in self.partitions.values() {
            assigned.queue.set_limit(share);
        }
    }

    fn read_statistics(&mut self, statistics: &Statistics) {
        if statistics.brokers.values().any(|broker| broker.state == "UP") {
            self.tell(Event::Brokers(None));
        }
        let Some(topic) = statistics.topics.get(&self.settings.topic) else { return };
        for (partition, numbers) in &topic.partitions {
            let Some(assigned) = self.partitions.get_mut(partition) else { continue };
            let (Flow::Running { next } | Flow::Full { next }) = assigned.flow else { continue };
            if numbers.ls_offset < 0 {
                continue;
            }
            let records = (numbers.ls_offset - next).max(0);
            let _ = self.events.send(Event::Lag { partition: *partition, records });
            if !matches!(assigned.flow, Flow::Running { .. }) {
                assigned.seen = None;
                continue;
            }
            if assigned.settle_probe(next, numbers.eof_offset) {
                continue;
            }
            // Nothing moves, and yet this is not the end: transaction markers, which nobody ever
            // reads. The proof that there is no record is to read once more up to an end that was
            // known before.
            let seen = (next, numbers.ls_offset);
            if records > 0 && assigned.seen == Some(seen) && assigned.probe.is_none() {
                let _ = self.consumer.pause(&list_of(&self.settings.topic, *partition));
                assigned.probe = Some(Probe { end: numbers.ls_offset, reached: None });
                assigned.flow = Flow::Seeking { offset: next, refused: 0, started: None };
            }
            assigned.seen = Some(seen);
        }
    }

    fn heed(&self, error: &KafkaError) {
        use RDKafkaErrorCode as C;
        let needs = |what: &str, name: &str| {
            format!("{error}; give this client's principal the ACL Read on the {what} {name}")
        };
        match error.rdkafka_error_code() {
            Some(C::TopicAuthorizationFailed) => {
                self.denied.set(true);
                let why = needs("topic", &self.settings.topic);
                return self.tell(Event::Denied { what: "acl", why });
            }
            // In the place of the partitions that the group would have given us.
            Some(C::GroupAuthorizationFailed) => {
                let why = needs("group", &self.settings.group);
                return self.tell(Event::Denied { what: "group", why });
            }
            _ => {}
        }
        if let KafkaError::MessageConsumptionFatal(code) = error {
            self.tell(Event::Fatal(code.to_string()));
            return;
        }
        let disoriented = matches!(
            error.rdkafka_error_code(),
            Some(
                C::OffsetOutOfRange
                    | C::AutoOffsetReset
                    | C::NoOffset
                    | C::UnknownTopicOrPartition
                    | C::UnknownTopic
                    | C::UnknownPartition
            )
        );
        if disoriented {
            self.tell(Event::Disoriented(error.to_string()));
        } else if is_about_connections(error) {
            tracing::debug!(%error, "kafka consumer");
        } else {
            tracing::info!(%error, "kafka consumer");
        }
    }
}

impl Assigned {
    /// Whether its lane may be waiting for what the owner does next.
    fn needs_owner(&self) -> bool {
        match self.flow {
            Flow::Waiting | Flow::Seeking { .. } => true,
            Flow::Running { .. } | Flow::Full { .. } => self.queue.is_low(),
        }
    }

    /// Whether the probe's answer is in, and no record is left below its end.
    fn settle_probe(&mut self, next: i64, eof_offset: i64) -> bool {
        let Some(Probe { end, reached: Some((at, agreed)) }) = &mut self.probe else {
            return false;
        };
        if *at != next {
            // Records came in: there was something to read.
            self.probe = None;
            return false;
        }
        if eof_offset < *end {
            return false;
        }
        *agreed += 1;
        if *agreed < PROBE_STATISTICS {
            return false;
        }
        let end = *end;
        self.probe = None;
        self.flow = Flow::Running { next: end.max(next) };
        self.queue.reached_end(end);
        true
    }
}

/// While a broker is away the client tells this many times a second. Health tells it once.
fn is_about_connections(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as C;
    matches!(
        error.rdkafka_error_code(),
        Some(C::AllBrokersDown | C::BrokerTransportFailure | C::Resolve | C::OperationTimedOut)
    )
}

/// The partition, if it is still assigned as of this epoch.
fn current(
    partitions: &mut HashMap<i32, Assigned>,
    partition: i32,
    epoch: u64,
) -> Option<&mut Assigned> {
    partitions.get_mut(&partition).filter(|assigned| assigned.epoch == epoch)
}

/// One partition, as the client's calls want it.
fn list_of(topic: &str, partition: i32) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    list.add_partition(topic, partition);
    list
}

/// Puts a record into its lane's queue, if it is wanted, and pauses the partition if that stays full.
/// Returns whether to read on at once: nothing had to be waited for.
fn deliver(
    consumer: &BaseConsumer<Callbacks>,
    partitions: &mut HashMap<i32, Assigned>,
    message: &BorrowedMessage<'_>,
    scratch: &mut Headers,
) -> bool {
    let (partition, offset) = (message.partition(), message.offset());
    let Some(assigned) = partitions.get_mut(&partition) else { return true };
    let next = match &mut assigned.flow {
        Flow::Running { next } | Flow::Full { next } => next,
        // Fetched before the seek.
        Flow::Waiting | Flow::Seeking { .. } => return true,
    };
    if offset < *next {
        return true;
    }
    *next = offset + 1;
    let next = *next;
    if assigned.queue.push(raw::record_of(&assigned.topic, message, scratch)) {
        return true;
    }
    let queue = Arc::clone(&assigned.queue);
    let is_needed = partitions.iter().any(|(other, it)| *other != partition && it.needs_owner());
    let patience = if is_needed { PATIENCE } else { LONG_PATIENCE };
    if !queue.wait_for_room(patience)
        && let Some(assigned) = partitions.get_mut(&partition)
        && matches!(assigned.flow, Flow::Running { .. })
    {
        match consumer.pause(&list_of(&assigned.topic, partition)) {
            Ok(()) => assigned.flow = Flow::Full { next },
            Err(error) => tracing::warn!(%error, "pause"),
        }
    }
    false
}

/// The way out when the client refuses to seek: it gave up fetching the partition.
fn assign_anew(
    consumer: &BaseConsumer<Callbacks>,
    topic: &str,
    partition: i32,
    offset: i64,
) -> KafkaResult<()> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    // Behind the assignment it might get lost, see where a pipe sets its position.
    consumer.resume(&list)?;
    if let Err(error) = consumer.incremental_unassign(&list) {
        // It is out of the assignment already, by an attempt that got no further.
        tracing::debug!(%error, partition, "unassign");
    }
    consumer.incremental_assign(&list)
}
