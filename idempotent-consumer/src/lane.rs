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

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use self::positioning::application_name;
use crate::batch::{Batch, PieceEnd, PieceError, Setting, run_empty, run_piece};
use crate::failure::FailureClass;
use crate::handler::{Decoder, Handler};
use crate::kafka::owner::Command;
use crate::kafka::queue::{PartitionQueue, Taken};
use crate::message::Record;
use crate::outcome::Verdict;
use crate::plan::Plan;
use crate::retry::Backoff;
use crate::shared::Shared;
use crate::store::batch::{BatchError, Committed, Counts, LaneName};
use crate::store::position;

/// How often an idle lane makes sure that the database is still where it left it.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// After so many failures of one batch while others commit, the batch is to blame.
const BLAME_AFTER_FAILURES: u32 = 5;
/// So many commits of others count as "others commit".
const BLAME_AFTER_COMMITS: u64 = 5;

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
    /// A commit whose answer did not come: where progress stands if it went through.
    in_doubt: Option<Committed>,
    /// Ends of the other partitions when this one was found to be new.
    wait_for: Option<Vec<(i32, i64)>>,
}

/// Why a lane leaves what it is doing.
enum Leave {
    Cancelled,
    Reposition,
}

/// What a new connection found.
enum Reconnected {
    /// Nothing has changed behind the lane's back.
    AsLeft,
    /// The commit in doubt went through.
    Committed(Committed),
    Moved,
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
        if let Some(connection) = self.connection.take() {
            let _ = sqlx::Connection::close(connection).await;
        }
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
        let (max_records, max_bytes) =
            (self.shared.config.batch_size, self.shared.config.batch_bytes);
        loop {
            let taken = tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Leave::Cancelled,
                () = self.disoriented.notified() => return Leave::Reposition,
                taken = self.queue.take(max_records, max_bytes) => Some(taken),
                () = tokio::time::sleep(HEARTBEAT) => None,
            };
            let left = match taken {
                Some(Taken::Records(records)) => self.work_off(records).await,
                Some(Taken::End(offset)) => self.advance(offset).await,
                None => self.heartbeat().await,
            };
            if let Err(leave) = left {
                return leave;
            }
        }
    }

    async fn work_off(&mut self, records: Vec<Record>) -> Result<(), Leave> {
        let shared = Arc::clone(&self.shared);
        shared.totals.note_work();
        shared.totals.busy_lanes.fetch_add(1, Relaxed);
        let done = match self.linger(records).await {
            Ok(records) => self.process(records).await,
            Err(leave) => Err(leave),
        };
        shared.totals.busy_lanes.fetch_sub(1, Relaxed);
        done
    }

    /// Waits for more if the batch is not full and the configuration says so.
    async fn linger(&mut self, mut records: Vec<Record>) -> Result<Vec<Record>, Leave> {
        let config = &self.shared.config;
        if !config.batch_linger.is_zero() && records.len() < config.batch_size {
            self.sleep(config.batch_linger).await?;
            self.queue.top_up(&mut records, config.batch_size, config.batch_bytes);
        }
        Ok(records)
    }

    /// Works a batch off, in as many transactions as it takes.
    async fn process(&mut self, records: Vec<Record>) -> Result<(), Leave> {
        let shared = Arc::clone(&self.shared);
        let batch = Batch::decode(records, &self.topic_id, &shared.decoder);
        let mut plan = Plan::new(batch.len(), shared.config.max_attempts);
        let mut failures = Failures::default();
        while let Some(step) = plan.next_step() {
            if self.cancel.is_cancelled() {
                return Err(Leave::Cancelled);
            }
            if step.failed_attempts > 0 && failures.count == 0 {
                self.sleep(delay(&shared.config.retry_backoff, step.failed_attempts)).await?;
            }
            if self.connection.is_none() {
                match self.reconnect(&mut failures).await? {
                    Reconnected::AsLeft => {}
                    Reconnected::Moved => return Err(Leave::Reposition),
                    Reconnected::Committed(committed) => {
                        plan.committed();
                        self.settle(&committed);
                        continue;
                    }
                }
            }
            let Some(mut connection) = self.connection.take() else { continue };
            let begun = Instant::now();
            let ended = {
                let _permit = shared.permits.acquire().await;
                let setting = Setting {
                    handler: &shared.handler,
                    lane: &self.name,
                    dlq_topic: &shared.config.dlq_topic,
                    begin_sql: &shared.begin_sql,
                    handler_timeout: shared.config.handler_timeout,
                    check_dead_letters: &|counts| {
                        shared.totals.check(counts, shared.config.max_dead_letter_ratio)
                    },
                };
                let limit = shared.config.handler_timeout * 2 + Duration::from_secs(30);
                let piece = run_piece(&mut connection, &setting, &batch, &plan, step.range.clone());
                tokio::time::timeout(limit, piece).await
            };
            let Ok(ended) = ended else {
                // The server has gone silent. What it made of the transaction, it will tell.
                failures.note(&shared.totals);
                self.back_off(failures.count, "database: no answer").await?;
                continue;
            };
            match ended {
                Ok(PieceEnd::Committed(committed)) => {
                    self.connection = Some(connection);
                    plan.committed();
                    failures = Failures::default();
                    metrics::histogram!("idempotent_consumer_transaction_seconds")
                        .record(begun.elapsed().as_secs_f64());
                    metrics::histogram!("idempotent_consumer_transaction_messages")
                        .record(step.range.len() as f64);
                    self.settle(&committed);
                }
                Ok(PieceEnd::Retry { index, reason }) => {
                    self.connection = rolled_back(connection).await;
                    failures = Failures::default();
                    tracing::warn!(
                        partition = %self.label, offset = batch.offset(index), id = %batch.id(index),
                        attempt = plan.attempts(index) + 1, "to be retried: {reason}"
                    );
                    plan.retry(index, |attempts| {
                        let text = format!("given up after {attempts} attempts: {reason}");
                        Verdict::new(FailureClass::Retryable, "retries_exhausted", text, attempts)
                    });
                }
                Err(error) => {
                    if error.keeps_connection() {
                        self.connection = rolled_back(connection).await;
                    }
                    self.fail(error, &mut plan, &mut failures).await?;
                }
            }
        }
        Ok(())
    }

    /// Decides what a failed transaction means for its messages.
    async fn fail(
        &mut self,
        error: PieceError,
        plan: &mut Plan,
        failures: &mut Failures,
    ) -> Result<(), Leave> {
        if matches!(error, PieceError::Batch(BatchError::Fenced)) {
            // Either the partition is ours and we take it back, or Kafka is about to tell.
            self.back_off(4, &error.to_string()).await?;
            return Err(Leave::Reposition);
        }
        let class = error.class();
        let text = error.to_string();
        let code = error.code();
        // A commit that failed for certain leaves nothing in doubt.
        if let PieceError::Commit { next_offset, database_next, counts, .. } = error
            && class == FailureClass::Infrastructure
            && database_next > self.database_next
        {
            self.in_doubt = Some(Committed { next_offset, database_next, counts });
        }
        match class {
            FailureClass::Stop => {
                self.shared.fail(self.label.clone(), text);
                Err(Leave::Cancelled)
            }
            FailureClass::Infrastructure => {
                failures.note(&self.shared.totals);
                if self.connection.is_some() && failures.belong_to_the_batch(&self.shared.totals) {
                    tracing::warn!(
                        partition = %self.label,
                        "others commit and this batch does not, so it is bisected: {text}"
                    );
                    plan.failed(false, |attempts| {
                        Verdict::new(FailureClass::Retryable, code, text, attempts)
                    });
                    *failures = Failures::default();
                    return Ok(());
                }
                self.back_off(failures.count, &format!("database: {text}")).await
            }
            FailureClass::Permanent | FailureClass::Retryable => {
                tracing::debug!(partition = %self.label, "a transaction failed: {text}");
                *failures = Failures::default();
                plan.failed(class == FailureClass::Permanent, |attempts| {
                    Verdict::new(class, code, text, attempts)
                });
                Ok(())
            }
        }
    }

    /// A new connection in the middle of a batch: is the database where this lane left it?
    async fn reconnect(&mut self, failures: &mut Failures) -> Result<Reconnected, Leave> {
        loop {
            if self.cancel.is_cancelled() {
                return Err(Leave::Cancelled);
            }
            match self.take_over().await {
                Ok(Some(progress)) if progress.topic_id == self.topic_id => {
                    let in_doubt = self.in_doubt.take();
                    if progress.next_offset == self.database_next {
                        self.shared.health.clear(&self.label);
                        return Ok(Reconnected::AsLeft);
                    }
                    return Ok(match in_doubt {
                        Some(committed) if progress.next_offset == committed.database_next => {
                            self.shared.health.clear(&self.label);
                            Reconnected::Committed(committed)
                        }
                        _ => Reconnected::Moved,
                    });
                }
                Ok(_) => return Ok(Reconnected::Moved),
                Err(error) => {
                    failures.note(&self.shared.totals);
                    self.back_off(failures.count, &format!("database: {error}")).await?;
                }
            }
        }
    }

    /// After a commit: the lane's own mark, the totals, and Kafka's offset last of all.
    fn settle(&mut self, committed: &Committed) {
        self.database_next = committed.database_next;
        let Counts { applied, duplicates, dead_lettered, skipped } = committed.counts;
        self.shared.totals.add(committed.counts);
        for (outcome, count) in [
            ("applied", applied),
            ("duplicate", duplicates),
            ("dead_lettered", dead_lettered),
            ("skipped", skipped),
        ] {
            metrics::counter!("idempotent_consumer_messages_total", "outcome" => outcome)
                .increment(u64::try_from(count).unwrap_or(0));
        }
        if duplicates > 0 {
            tracing::debug!(partition = %self.label, duplicates, "duplicates");
        }
        self.shared.health.clear(&self.label);
        self.shared.tell_owner(Command::Store {
            partition: self.name.partition,
            epoch: self.epoch,
            next_offset: committed.next_offset,
        });
    }

    /// No record is left below `offset`: both databases are told, or a lag would stay for ever.
    async fn advance(&mut self, offset: i64) -> Result<(), Leave> {
        let Some(mut connection) = self.connection.take() else { return Err(Leave::Reposition) };
        let limit = Duration::from_secs(30);
        let empty = run_empty(&mut connection, &self.name, &self.shared.begin_sql, offset);
        match tokio::time::timeout(limit, empty).await {
            Ok(Ok(committed)) => {
                self.connection = Some(connection);
                self.database_next = committed.database_next;
                self.shared.tell_owner(Command::Store {
                    partition: self.name.partition,
                    epoch: self.epoch,
                    next_offset: offset,
                });
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

    /// An idle lane makes sure that the database is where it left it: one that was set back, or
    /// failed over to a replica that lagged, has to be caught up from Kafka also if nothing new
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

/// Ends a transaction that was given up, before anything is waited for: its locks stand in the way
/// of others. `None` if the connection does not answer.
async fn rolled_back(mut connection: PgConnection) -> Option<PgConnection> {
    // The client library sends its queued ROLLBACK before the next thing it is asked.
    let ping = sqlx::Connection::ping(&mut connection);
    match tokio::time::timeout(Duration::from_secs(5), ping).await {
        Ok(Ok(())) => Some(connection),
        _ => None,
    }
}

/// Failures of one batch, and what the other lanes did meanwhile.
#[derive(Default)]
struct Failures {
    count: u32,
    commits_before: u64,
}

impl Failures {
    fn note(&mut self, totals: &crate::shared::Totals) {
        if self.count == 0 {
            self.commits_before = totals.commits.load(Relaxed);
        }
        self.count += 1;
    }

    fn belong_to_the_batch(&self, totals: &crate::shared::Totals) -> bool {
        self.count >= BLAME_AFTER_FAILURES
            && totals.commits.load(Relaxed) - self.commits_before >= BLAME_AFTER_COMMITS
    }
}

fn delay(backoff: &Backoff, failures: u32) -> Duration {
    backoff.delay(failures, rand::rng().random::<f64>())
}
