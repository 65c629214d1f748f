//! A lane: the one task that works on a partition, with a connection of its own.
//!
//! ```text
//!   Positioning ──(take over, seek)──► Working ──(revoked, stop)──► gone
//!       ▲                                │
//!       └──(connection lost, fenced)─────┘
//! ```
//!
//! No database future is raced against anything: where one has to be given up, the connection is
//! dropped with it.

mod positioning;
mod recovery;
mod retries;
mod suspects;
mod turns;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use sqlx::PgConnection;
use sqlx::types::time::OffsetDateTime;
use tokio::sync::SemaphorePermit;
use tokio_util::sync::CancellationToken;

use self::positioning::application_name;
use self::recovery::{Failures, Reconnected};
use self::suspects::InWork;
use self::turns::Turns;
use crate::batch::{Batch, PieceEnd, Setting, Spans, run_empty, run_piece};
use crate::failure::FailureClass;
use crate::handler::{Decoder, Handler};
use crate::kafka::owner::Command;
use crate::kafka::queue::{PartitionQueue, Taken};
use crate::message::Record;
use crate::observe;
use crate::outcome::Verdict;
use crate::phases::Phase;
use crate::plan::{Failed, Plan};
use crate::retry::Backoff;
use crate::shared::Shared;
use crate::store::batch::{Committed, Counts, LaneName};
use crate::store::position;
use crate::suspects::Caution;

/// While something waits in the retry queue, how often it is looked at, since an operator may have
/// changed it.
const RETRY_POLL: Duration = Duration::from_secs(1);

/// How long a turn at the retry queue may take before the log has its turn, as far as it is in
/// several transactions.
const RETRY_TURN: Duration = Duration::from_millis(500);

/// How often a lane makes sure that database and log are still where it left them.
const HEARTBEAT: Duration = Duration::from_secs(5);

pub(crate) struct Lane<H, D> {
    shared: Arc<Shared<H, D>>,
    epoch: u64,
    queue: Arc<PartitionQueue>,
    /// Fires when the partition is revoked or the engine stops.
    cancel: CancellationToken,
    /// Set by the engine when offsets have become doubtful: position anew.
    disoriented: Arc<tokio::sync::Notify>,
    name: LaneName,
    application_name: String,
    /// The partition in health reasons and logs.
    label: String,
    topic_id: String,
    connection: Option<PgConnection>,
    /// `partition_progress.next_offset` as this lane left it.
    database_next: i64,
    /// A commit whose answer did not come.
    in_doubt: Option<InDoubt>,
    /// When the retry queue is to be looked at; `None` while this partition has nothing there.
    next_retry: Option<Instant>,
    /// Whose turn it is, the log's or the retry queue's.
    turns: Turns,
    /// How far this partition's messages are to be trusted.
    caution: Caution,
    /// What is due in the retry queue since before this may have ended a process.
    suspects_due_before: Option<OffsetDateTime>,
    /// Ends of the other partitions when this one was found to be new.
    wait_for: Option<Vec<(i32, i64)>>,
}

/// A commit whose answer did not come.
struct InDoubt {
    /// What it came to if it went through.
    committed: Committed,
    /// Where that shows.
    witness: Witness,
    spans: Box<Spans>,
}

enum Witness {
    /// `partition_progress.next_offset` has moved.
    Progress,
    /// This message has left the retry queue.
    Left(i64),
}

/// Why a lane leaves what it is doing.
enum Leave {
    Cancelled,
    Reposition,
}

impl<H: Handler, D: Decoder<Body = H::Body>> Lane<H, D> {
    pub(crate) fn new(
        shared: Arc<Shared<H, D>>,
        partition: i32,
        epoch: u64,
        queue: Arc<PartitionQueue>,
        cancel: CancellationToken,
        disoriented: Arc<tokio::sync::Notify>,
    ) -> Self {
        let config = &shared.config;
        let name = LaneName {
            group: config.group.clone(),
            topic: config.topic.clone(),
            partition,
            owner: format!("{}-{epoch}", shared.process),
        };
        let label = format!("{}[{partition}]", config.topic);
        let application_name = application_name(&name);
        Self {
            shared,
            epoch,
            queue,
            cancel,
            disoriented,
            name,
            application_name,
            label,
            topic_id: String::new(),
            connection: None,
            database_next: 0,
            in_doubt: None,
            next_retry: None,
            turns: Turns::new(),
            caution: Caution::Trusting,
            suspects_due_before: None,
            wait_for: None,
        }
    }

    /// Works until the partition is revoked or the engine stops.
    pub(crate) async fn run(mut self) {
        loop {
            let left = match self.position().await {
                Ok(()) => self.work().await,
                Err(leave) => leave,
            };
            match left {
                Leave::Cancelled => break,
                Leave::Reposition => tracing::info!(partition = %self.label, "positioning anew"),
            }
        }
        self.shared.health.clear(&self.label);
        self.give_back().await;
    }

    /// Waits unless the lane is cancelled meanwhile.
    async fn sleep(&self, time: Duration) -> Result<(), Leave> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Leave::Cancelled),
            () = tokio::time::sleep(time) => Ok(()),
        }
    }

    /// Notes an infrastructure failure and waits.
    async fn back_off(&self, failures: u32, why: &str) -> Result<(), Leave> {
        if self.shared.health.set(&self.label, why) {
            tracing::warn!(partition = %self.label, failures, "waiting: {why}");
        }
        metrics::counter!("idempotent_consumer_infrastructure_failures_total").increment(1);
        self.sleep(delay(&self.shared.config.infrastructure_backoff, failures)).await
    }

    async fn work(&mut self) -> Leave {
        let mut checked = Instant::now();
        let shared = Arc::clone(&self.shared);
        loop {
            if checked.elapsed() >= HEARTBEAT {
                if let Err(leave) = self.heartbeat().await {
                    return leave;
                }
                checked = Instant::now();
            }
            if self.turns.is_the_queues()
                && self.next_retry.is_some_and(|at| at <= Instant::now())
                && let Err(leave) = self.retry_round().await
            {
                return leave;
            }
            let idle = self.next_retry.map_or(HEARTBEAT, |at| {
                at.saturating_duration_since(Instant::now()).min(HEARTBEAT)
            });
            let turn_begun = Instant::now();
            let mut lap = shared.phases.lap();
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Leave::Cancelled,
                () = self.disoriented.notified() => return Leave::Reposition,
                () = self.queue.filled() => {}
                () = tokio::time::sleep(idle) => {
                    lap.ends(Phase::Waiting);
                    self.turns.log_is_idle();
                    continue;
                }
            }
            lap.ends(Phase::Waiting);
            shared.totals.busy_lanes.fetch_add(1, Relaxed);
            let turn = self.turn(&shared).await;
            shared.totals.busy_lanes.fetch_sub(1, Relaxed);
            if let Err(leave) = turn {
                return leave;
            }
            self.turns.log_had(turn_begun.elapsed());
        }
    }

    /// Works a batch off, or advances to the partition's end. While it waits for its turn, what is
    /// to be taken stays in the queue, with a bound that all partitions share, and adds up to a
    /// larger batch.
    async fn turn(&mut self, shared: &Shared<H, D>) -> Result<(), Leave> {
        let config = &shared.config;
        let mut lap = shared.phases.lap();
        if !config.batch_linger.is_zero() && self.queue.len() < config.batch_size {
            self.sleep(config.batch_linger).await?;
        }
        let permit = tokio::select! {
            biased;
            () = self.disoriented.notified() => return Err(Leave::Reposition),
            permit = self.permit(shared) => permit?,
        };
        lap.ends(Phase::Waiting);
        match self.queue.take(config.batch_size, config.batch_bytes) {
            Some(Taken::Records(records)) => self.work_off(records, permit).await,
            Some(Taken::End(offset)) => {
                drop(permit);
                self.advance(offset).await
            }
            // The owner has forgotten what was there.
            None => Ok(()),
        }
    }

    /// Waits until one more transaction may be under way.
    async fn permit<'a>(&self, shared: &'a Shared<H, D>) -> Result<SemaphorePermit<'a>, Leave> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Leave::Cancelled),
            permit = shared.permits.acquire() => Ok(permit.expect("nobody closes it")),
        }
    }

    async fn work_off(
        &mut self,
        records: Vec<Record>,
        permit: SemaphorePermit<'_>,
    ) -> Result<(), Leave> {
        self.shared.totals.note_work();
        let newest = records.last().and_then(|record| record.timestamp_ms);
        self.apply(records, permit).await?;
        if let Some(at_ms) = newest {
            observe::has_reached(self.name.partition, at_ms);
        }
        Ok(())
    }

    /// Works a batch off, in as many transactions as it takes. `permit`: that of the first.
    /// `charged`: its one message is charged and nothing else of this process is in work, which stays
    /// so until the charge is taken back, or another lane's message could end the process in between.
    async fn process(
        &mut self,
        batch: &Batch<H::Body>,
        mut plan: Plan,
        mut permit: Option<SemaphorePermit<'_>>,
        mut charged: Option<InWork<'_>>,
    ) -> Result<(), Leave> {
        let shared = Arc::clone(&self.shared);
        let alone = charged.is_some();
        let mut failures = Failures::default();
        let started = Instant::now();
        let mut at_rest = true;
        let mut confirmed = batch.is_from_retry_queue();
        while let Some(step) = plan.next_step() {
            if self.cancel.is_cancelled() {
                return Err(Leave::Cancelled);
            }
            if batch.is_from_retry_queue() && at_rest && started.elapsed() > RETRY_TURN {
                // The rest stays due. It is the log's turn. What was found to fail is written down,
                // or its attempt would not count, however long it took.
                return Ok(());
            }
            if self.connection.is_none() {
                // It may take long, and others have a connection.
                permit = None;
                match self.reconnect().await? {
                    Reconnected::AsLeft => {}
                    Reconnected::Moved => return Err(Leave::Reposition),
                    Reconnected::Committed(committed) => {
                        at_rest = true;
                        plan.committed();
                        self.settle(&committed);
                        continue;
                    }
                }
            }
            // Whoever is alone needs none: nothing else is under way.
            let permit = match permit.take() {
                Some(permit) => Some(permit),
                None if alone => None,
                None => {
                    let mut lap = shared.phases.lap();
                    let permit = self.permit(&shared).await?;
                    lap.ends(Phase::Waiting);
                    Some(permit)
                }
            };
            let in_work = if let Some(in_work) = charged.take() {
                in_work
            } else {
                let in_work = self.in_work(alone, &shared.alone).await?;
                if alone {
                    self.charge_again(batch).await?;
                }
                in_work
            };
            let Some(mut connection) = self.connection.take() else { continue };
            let begun = Instant::now();
            let ended = {
                let _permit = permit;
                let offset = batch.offset(step.range.start);
                let _watched = shared.watchdog.watch(self.name.partition, offset);
                let setting = Setting {
                    handler: &shared.handler,
                    lane: &self.name,
                    topic_id: &self.topic_id,
                    database_next: self.database_next,
                    confirmation: (!confirmed).then(|| shared.identity.as_of_now()),
                    effects_outside: shared.config.effects_outside,
                    dlq_topic: &shared.config.dlq_topic,
                    begin_sql: &shared.begin_sql,
                    claiming: &shared.claiming,
                    phases: &shared.phases,
                    retry_delay: &|attempts| delay(&shared.config.retry_backoff, attempts),
                    handler_timeout: shared.config.handler_timeout,
                    check_dead_letters: &|counts| {
                        shared.totals.check(counts, shared.config.max_dead_letter_ratio)
                    },
                };
                let limit = shared.config.transaction_timeout();
                let piece = run_piece(&mut connection, &setting, batch, &plan, step.range.clone());
                tokio::time::timeout(limit, piece).await
            };
            let Ok(ended) = ended else {
                self.discharge(in_work).await;
                // The server has gone silent. What it made of the transaction, it will tell.
                self.back_off(1, "database: no answer").await?;
                continue;
            };
            match ended {
                Ok(PieceEnd::Committed(committed)) => {
                    drop(in_work);
                    self.connection = Some(connection);
                    confirmed = true;
                    at_rest = true;
                    plan.committed();
                    failures = Failures::default();
                    self.turns.committed(begun.elapsed());
                    metrics::histogram!("idempotent_consumer_transaction_seconds")
                        .record(begun.elapsed().as_secs_f64());
                    metrics::histogram!("idempotent_consumer_transaction_messages")
                        .record(step.range.len() as f64);
                    self.settle(&committed);
                }
                Ok(PieceEnd::Retry(later)) => {
                    observe::failed_transaction(FailureClass::Retryable);
                    self.connection = rolled_back(connection).await;
                    self.discharge(in_work).await;
                    self.turns.failed();
                    at_rest = false;
                    failures = Failures::default();
                    for (index, reason) in &later {
                        tracing::debug!(
                            partition = %self.label, offset = batch.offset(*index),
                            id = %batch.id(*index), attempt = plan.attempts(*index) + 1,
                            "to be tried again later: {reason}"
                        );
                    }
                    plan.retry(later, |Failed { attempts, is_last }, reason| {
                        let (code, text) = if is_last {
                            let text = format!("given up after {attempts} attempts: {reason}");
                            ("retries_exhausted", text)
                        } else {
                            ("retry", reason.to_owned())
                        };
                        Verdict::new(FailureClass::Retryable, code, text, attempts)
                    });
                }
                Err(error) => {
                    if error.keeps_connection() {
                        self.connection = rolled_back(connection).await;
                    }
                    self.discharge(in_work).await;
                    self.turns.failed();
                    at_rest = false;
                    let first = batch.queue_no(step.range.start);
                    self.fail(error, first, &mut plan, &mut failures).await?;
                }
            }
        }
        if !batch.is_from_retry_queue() {
            self.turns.reach = plan.reach();
        }
        Ok(())
    }

    /// After a commit: the lane's own mark, the totals, and Kafka's offset last of all.
    fn settle(&mut self, committed: &Committed) {
        self.database_next = committed.database_next;
        let Counts { duplicates, deferred, .. } = committed.counts;
        self.shared.totals.add(committed.counts);
        observe::outcomes(committed.counts);
        if duplicates > 0 {
            tracing::debug!(partition = %self.label, duplicates, "duplicates");
        }
        if deferred > 0 {
            let soon = Instant::now() + self.shared.config.retry_backoff.base.min(RETRY_POLL);
            self.next_retry = Some(self.next_retry.map_or(soon, |at| at.min(soon)));
        }
        self.shared.health.clear(&self.label);
        if let Some(next_offset) = committed.next_offset {
            self.store(next_offset);
        }
    }

    /// Kafka may know how far this partition is.
    fn store(&self, next_offset: i64) {
        let (partition, epoch) = (self.name.partition, self.epoch);
        self.shared.tell_owner(Command::Store { partition, epoch, next_offset });
    }

    /// No record is left below `offset`: both databases are told, or a lag would stay for ever.
    async fn advance(&mut self, offset: i64) -> Result<(), Leave> {
        match self.shared.identity.as_of_now().await {
            Ok(topic_id) if topic_id.as_ref() == Some(&self.topic_id) => {}
            Ok(_) => return Err(Leave::Reposition),
            Err(why) => {
                self.back_off(1, &format!("kafka: {why}")).await?;
                return Err(Leave::Reposition);
            }
        }
        let Some(mut connection) = self.connection.take() else { return Err(Leave::Reposition) };
        let limit = Duration::from_secs(30);
        let empty = run_empty(
            &mut connection,
            &self.name,
            &self.shared.begin_sql,
            Some(self.database_next),
            Some(offset),
        );
        match tokio::time::timeout(limit, empty).await {
            Ok(Ok(committed)) => {
                self.connection = Some(connection);
                self.database_next = committed.database_next;
                self.caution = Caution::Trusting;
                self.store(offset);
                Ok(())
            }
            // Nothing is at stake: begin anew.
            Ok(Err(error)) => {
                self.back_off(1, &format!("database: {error}")).await?;
                Err(Leave::Reposition)
            }
            Err(_) => Err(Leave::Reposition),
        }
    }

    /// Makes sure that database and log are where the lane left them: a database that was set back,
    /// or failed over to a replica that lagged, has to be caught up from Kafka also if nothing new
    /// arrives.
    async fn heartbeat(&mut self) -> Result<(), Leave> {
        let Some(mut connection) = self.connection.take() else { return Err(Leave::Reposition) };
        let look = position::look(&mut connection, &self.name);
        match tokio::time::timeout(Duration::from_secs(10), look).await {
            Ok(Ok(Some((owner, next_offset))))
                if owner == self.name.owner && next_offset == self.database_next =>
            {
                self.connection = Some(connection);
            }
            _ => return Err(Leave::Reposition),
        }
        // A topic that was deleted and created anew keeps its name and loses its id.
        match self.facts(self.name.partition).await {
            Ok(Some(facts)) if facts.topic_id != self.topic_id => Err(Leave::Reposition),
            Ok(Some(facts)) if facts.log_end < self.database_next => Err(Leave::Reposition),
            _ => Ok(()),
        }
    }
}

/// A short question to the database; a server that is silent for 10 s counts as lost.
async fn within<T>(asked: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    match tokio::time::timeout(Duration::from_secs(10), asked).await {
        Ok(answer) => answer,
        Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

/// Ends a transaction that was given up, before anything is waited for: its locks stand in the way
/// of others. `None` if the connection does not answer, or is in a transaction after all.
async fn rolled_back(mut connection: PgConnection) -> Option<PgConnection> {
    // The client library sends its queued ROLLBACK before the next thing it is asked. It queues none
    // if the statements that open a transaction failed, also when BEGIN itself had not. A session in
    // a failed transaction answers a ping, but no query.
    let query = sqlx::raw_sql("SELECT").execute(&mut connection);
    match tokio::time::timeout(Duration::from_secs(5), query).await {
        Ok(Ok(_)) => Some(connection),
        _ => None,
    }
}

fn delay(backoff: &Backoff, failures: u32) -> Duration {
    backoff.delay(failures, rand::rng().random::<f64>())
}
