//! What every strategy runs on: a member of a consumer group that has a connection of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use idempotent_consumer::nodelay;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};
use sqlx::{Connection as _, PgConnection};

use crate::place::Place;
use crate::steps::{BETWEEN, READ, Steps};
use crate::stream::{self, Order, PARTITIONS, Poison};

/// Kafka's offset is committed behind so many messages, or when there is nothing to do.
pub(crate) const COMMIT_EVERY: u64 = 10;
/// A record on which a worker fails so often holds it for ever.
const STUCK_AFTER: u32 = 10;
/// No record for so long: there is nothing to do.
const IDLE: Duration = Duration::from_millis(5);

/// What a strategy has besides Kafka and PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Besides {
    Nothing,
    /// A lock in Redis.
    Redis,
    /// Its effect is that of a service behind HTTP.
    Service,
    /// Its effect is a topic, and it is judged by that.
    OutputTopic,
}

/// A way to consume. One value is one consumer.
pub(crate) trait Strategy: Sized + Send + 'static {
    const NAME: &'static str;
    /// In one sentence.
    const WHAT: &'static str;
    /// Added to the tables that all have.
    const DDL: &'static str = "";
    /// Names given to [`Steps::at`], in their order.
    const STEPS: &'static [&'static str];
    /// Those of them at which it holds a lock that can be taken from it.
    const UNDER_LOCK: &'static [&'static str] = &[];
    /// Those of them, and [`READ`], from which it cannot go on once it is out of its group, though
    /// its session and its lock are its own.
    const NEEDS_GROUP: &'static [&'static str] = &[];

    const BESIDES: Besides = Besides::Nothing;

    /// Connects to whatever it needs besides.
    fn open(worker: &mut Worker) -> impl Future<Output = anyhow::Result<Self>> + Send;

    /// Partitions have been assigned to it anew.
    fn assigned(
        &mut self,
        _worker: &mut Worker,
    ) -> impl Future<Output = anyhow::Result<()>> + Send {
        async { Ok(()) }
    }

    /// Works on one message.
    fn process(
        &mut self,
        worker: &mut Worker,
        order: &Order,
    ) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// There is nothing to do for now.
    fn idle(&mut self, _worker: &mut Worker) -> impl Future<Output = anyhow::Result<()>> + Send {
        async { Ok(()) }
    }

    /// A record that cannot be read. False: it is to be read again.
    fn poison(
        &mut self,
        worker: &mut Worker,
        poison: &Poison,
    ) -> impl Future<Output = anyhow::Result<bool>> + Send {
        async { worker.dead_letter(poison).await.map(|()| true) }
    }
}

/// Who a worker is.
#[derive(Clone, Debug)]
pub(crate) struct Role {
    /// Known by it to Kafka and PostgreSQL.
    pub(crate) name: String,
    /// A worker that takes the place of another one has its number.
    pub(crate) slot: u32,
    /// How long a lock outside of the database lives.
    pub(crate) lock_ttl: Duration,
    /// After which time PostgreSQL ends a session that does nothing in its transaction.
    pub(crate) idle_timeout: Option<Duration>,
}

/// What a strategy works with.
pub(crate) struct Worker {
    pub(crate) db: PgConnection,
    pub(crate) steps: Steps,
    pub(crate) place: Arc<Place>,
    pub(crate) role: Role,
    pub(crate) consumer: Arc<BaseConsumer<Watch>>,
    pub(crate) counts: Counts,
    /// Next offset by partition, not committed yet.
    done: BTreeMap<i32, i64>,
    uncommitted: u64,
}

/// What it did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Transactions tried again.
    pub(crate) retries: u64,
    /// Requests to Kafka and to Redis that were waited for.
    pub(crate) requests: u64,
    /// Messages worked on.
    pub(crate) messages: u64,
}

/// How a worker ended. As long as this lives, it is a member of its group.
pub(crate) struct Finished {
    pub(crate) worker: Worker,
    /// It fails on one record for ever.
    pub(crate) is_stuck: bool,
    /// From the first message to the end of the last.
    pub(crate) busy: Duration,
}

/// Notes what Kafka tells a consumer.
#[derive(Default)]
pub(crate) struct Watch {
    pub(crate) assignments: AtomicU64,
    /// Somebody has ended its membership while it was frozen.
    pub(crate) is_evicted: AtomicBool,
    revocations: AtomicU64,
    /// It waits for a lock that PostgreSQL knows nothing of.
    pub(crate) waits: AtomicBool,
}

impl ClientContext for Watch {
    // What goes wrong shows in what the calls return.
    fn log(&self, _: rdkafka::config::RDKafkaLogLevel, _: &str, _: &str) {}
    fn error(&self, _: KafkaError, _: &str) {}
}

impl ConsumerContext for Watch {
    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(_) => self.assignments.fetch_add(1, SeqCst),
            Rebalance::Revoke(_) | Rebalance::Error(_) => self.revocations.fetch_add(1, SeqCst),
        };
    }
}

impl Worker {
    /// Joins the group.
    pub(crate) async fn join(place: &Arc<Place>, role: Role, steps: Steps) -> anyhow::Result<Self> {
        let options = place.database.clone().application_name(&role.name);
        let mut db = PgConnection::connect_with(&options).await.context("no database")?;
        nodelay::set_on_connections(&options);
        if let Some(timeout) = role.idle_timeout {
            sqlx::query("SELECT set_config('idle_in_transaction_session_timeout', $1, false)")
                .bind(timeout.as_millis().to_string())
                .execute(&mut db)
                .await?;
        }
        let consumer: BaseConsumer<Watch> = ClientConfig::new()
            .set("bootstrap.servers", &place.servers)
            .set("group.id", &place.group)
            .set("client.id", &role.name)
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("enable.partition.eof", "true")
            .set("partition.assignment.strategy", "range")
            .set("heartbeat.interval.ms", "200")
            .set("isolation.level", "read_committed")
            // A seek waits for the answer that is under way.
            .set("fetch.wait.max.ms", "50")
            .create_with_context(Watch::default())
            .context("no consumer")?;
        consumer.subscribe(&[&place.topic])?;
        Ok(Self {
            db,
            steps,
            place: Arc::clone(place),
            role,
            consumer: Arc::new(consumer),
            counts: Counts::default(),
            done: BTreeMap::new(),
            uncommitted: 0,
        })
    }

    /// The message is done with; its offset is committed with the next ones.
    pub(crate) fn done(&mut self, order: &Order) -> anyhow::Result<()> {
        self.done_at(order.partition, order.offset)
    }

    /// The message is done with, and whoever calls takes care of its offset.
    pub(crate) fn note_done(&mut self, order: &Order) {
        self.done.insert(order.partition, order.offset + 1);
    }

    fn done_at(&mut self, partition: i32, offset: i64) -> anyhow::Result<()> {
        self.done.insert(partition, offset + 1);
        self.uncommitted += 1;
        if self.uncommitted >= COMMIT_EVERY { self.commit() } else { Ok(()) }
    }

    /// Commits the offset behind the message at once.
    pub(crate) fn commit_now(&mut self, order: &Order) -> anyhow::Result<()> {
        self.done.insert(order.partition, order.offset + 1);
        self.commit()
    }

    fn commit(&mut self) -> anyhow::Result<()> {
        let offsets = self.take_done()?;
        if offsets.count() == 0 {
            return Ok(());
        }
        self.counts.requests += 1;
        let commit = || self.consumer.commit(&offsets, CommitMode::Sync);
        tokio::task::block_in_place(commit).context("Kafka did not take the offset")
    }

    /// What is done and not committed; from now on it is the caller's.
    pub(crate) fn take_done(&mut self) -> anyhow::Result<TopicPartitionList> {
        let mut offsets = TopicPartitionList::new();
        for (partition, next) in std::mem::take(&mut self.done) {
            offsets.add_partition_offset(&self.place.topic, partition, Offset::Offset(next))?;
        }
        self.uncommitted = 0;
        Ok(offsets)
    }

    /// Puts a record aside, once.
    pub(crate) async fn dead_letter(&mut self, poison: &Poison) -> anyhow::Result<()> {
        sqlx::query(
            r#"
            INSERT INTO dead_letters (partition, "offset", value) VALUES ($1, $2, $3)
                ON CONFLICT DO NOTHING
            "#,
        )
        .bind(poison.partition)
        .bind(poison.offset)
        .bind(&poison.value)
        .execute(&mut self.db)
        .await?;
        self.done_at(poison.partition, poison.offset)
    }

    /// Goes to an offset of a partition that is assigned.
    pub(crate) async fn seek(&self, partition: i32, offset: i64) -> anyhow::Result<()> {
        for _ in 0..100 {
            let seek = || {
                let to = Offset::Offset(offset);
                self.consumer.seek(&self.place.topic, partition, to, Duration::from_secs(5))
            };
            match tokio::task::block_in_place(seek) {
                Ok(()) => return Ok(()),
                // Just assigned: the client has not begun to read it yet.
                Err(KafkaError::Seek(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => return Err(error.into()),
            }
        }
        bail!("partition {partition} never let itself be set to {offset}")
    }
}

/// A consumer in the hand of the harness.
pub(crate) fn evict(consumer: &BaseConsumer<Watch>) -> anyhow::Result<()> {
    consumer.context().is_evicted.store(true, SeqCst);
    let before = consumer.context().revocations.load(SeqCst);
    consumer.unsubscribe();
    let deadline = Instant::now() + Duration::from_secs(20);
    while consumer.context().revocations.load(SeqCst) == before {
        // Records that it still has are nobody's: the frozen one never asks for more.
        let _ = consumer.poll(Duration::from_millis(5));
        anyhow::ensure!(Instant::now() < deadline, "the frozen consumer never left its group");
    }
    Ok(())
}

/// Until when a worker works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// The end of each partition that it has.
    End,
    /// It is aborted.
    Aborted,
}

/// Consumes.
pub(crate) async fn run<S: Strategy>(mut worker: Worker, until: Until) -> anyhow::Result<Finished> {
    let mut strategy = S::open(&mut worker).await?;
    let consumer = Arc::clone(&worker.consumer);
    let watch = Arc::clone(consumer.context());
    let mut seen_assignments = 0;
    let mut at_end = BTreeSet::new();
    let mut waits_for_rebalance = false;
    let (mut begun, mut last) = (None, Instant::now());
    let mut attempts = BTreeMap::new();
    loop {
        let polled = consumer.poll(Duration::ZERO).map(|polled| match polled {
            Ok(message) => Ok(stream::read(&message)),
            Err(error) => Err(error),
        });
        let assignments = watch.assignments.load(SeqCst);
        if assignments != seen_assignments {
            seen_assignments = assignments;
            waits_for_rebalance = false;
            at_end.clear();
            // It begins again from what is committed.
            (worker.done, worker.uncommitted) = (BTreeMap::new(), 0);
            strategy.assigned(&mut worker).await?;
        }
        let record = match polled {
            Some(Ok(record)) => record,
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                at_end.insert(partition);
                continue;
            }
            // Brokers that come and go; what is final comes from the calls.
            Some(Err(_)) => continue,
            None if watch.is_evicted.load(SeqCst) => {
                return Ok(Finished { worker, is_stuck: false, busy: Duration::ZERO });
            }
            None => {
                if seen_assignments > 0 && last.elapsed() > IDLE && !waits_for_rebalance {
                    strategy.idle(&mut worker).await?;
                    worker.commit()?;
                    let mine = consumer.assignment()?.count();
                    if until == Until::End && at_end.len() >= mine.max(1) {
                        let busy = begun.map_or(Duration::ZERO, |begun| last - begun);
                        return Ok(Finished { worker, is_stuck: false, busy });
                    }
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
        };
        if waits_for_rebalance {
            // All is about to be assigned anew, and read again.
            continue;
        }
        begun.get_or_insert_with(Instant::now);
        worker.steps.next_message();
        worker.counts.messages += 1;
        worker.steps.at(READ).await;
        match record {
            Ok(order) => strategy.process(&mut worker, &order).await?,
            Err(poison) => {
                if !strategy.poison(&mut worker, &poison).await? {
                    let times = attempts.entry((poison.partition, poison.offset)).or_insert(0);
                    *times += 1;
                    if *times >= STUCK_AFTER {
                        return Ok(Finished { worker, is_stuck: true, busy: Duration::ZERO });
                    }
                    worker.seek(poison.partition, poison.offset).await?;
                }
            }
        }
        last = Instant::now();
        if watch.is_evicted.load(SeqCst) {
            return Ok(Finished { worker, is_stuck: false, busy: Duration::ZERO });
        }
        waits_for_rebalance = worker.steps.at(BETWEEN).await;
        debug_assert!(at_end.len() <= PARTITIONS as usize);
    }
}
