//! The thread of a pipe: reads a batch, publishes what becomes of it in a transaction that its
//! offsets are part of, and begins again from the committed offsets after anything else.
//!
//! The consumer is polled only between transactions, so no partition comes or goes within one. The
//! assignor is an eager one: all partitions are taken back before any is given to another, and each
//! assignment has one generation, which is noted while it is known to be ours.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::admin::Topics;
use super::pipe_input::{Input, Lost, Offsets, offsets_of};
use super::publisher::{Delivery, DeliveryError, Publication, PublisherOptions};
use super::transaction::{Transaction, TransactionError, Transactional, TransactionalPublisher};
use crate::failpoint::failpoint;
use crate::handler::Outgoing;
use crate::message::Record;
use crate::pipe::{PipeConfig, PipeError, PipeSummary, Stage, TooLarge};

/// How long brokers may take to answer at the start, and later before it is tried anew.
const PATIENCE: Duration = Duration::from_secs(10);
/// Waits after a transaction that failed.
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A client that nobody answered goes on asking for its transactional id until it has ended, and would
/// fence the next one if it were heard later than that.
const CLIENT_ENDS: Duration = Duration::from_millis(500);
/// How often the thread looks whether it is to stop.
pub(super) const TICK: Duration = Duration::from_millis(50);

pub(crate) struct Worker<S> {
    config: PipeConfig,
    stage: S,
    stop: CancellationToken,
    input: Input,
    /// `None` after one that could not go on.
    publisher: Option<TransactionalPublisher>,
    failures: Failures,
    summary: PipeSummary,
    began: Option<Instant>,
    ended: Option<Instant>,
    backoff: Duration,
}

/// What Kafka said of records that it did not take.
#[derive(Clone, Default)]
struct Failures(Arc<Mutex<Option<DeliveryError>>>);

impl Failures {
    fn lock(&self) -> MutexGuard<'_, Option<DeliveryError>> {
        // Nobody panics while holding it; and if so, an error is still one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first refusal counts, or else the first failure: many follow from one.
    fn note(&self, error: DeliveryError) {
        let mut noted = self.lock();
        if !matches!(*noted, Some(DeliveryError::Refused { .. })) {
            let is_first = noted.is_none() || matches!(error, DeliveryError::Refused { .. });
            if is_first {
                *noted = Some(error);
            }
        }
    }

    fn has_some(&self) -> bool {
        self.lock().is_some()
    }

    fn take(&self) -> Option<DeliveryError> {
        self.lock().take()
    }
}

/// Why a piece of a batch was not committed.
enum Trouble {
    /// Begin again from the committed offsets.
    Again(TransactionError),
    /// Kafka finds something too large.
    TooLarge(String),
    /// Going on would be wrong.
    Stop(PipeError),
}

impl<S: Stage> Worker<S> {
    /// Makes sure of the topics, joins the group, and fences whoever had the transactional id.
    pub(crate) fn start(
        config: PipeConfig,
        to: &[String],
        stage: S,
        stop: CancellationToken,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Self, PipeError> {
        let topics = Topics::new(&config.kafka, PATIENCE)?;
        for topic in std::iter::once(&config.from).chain(to) {
            let prepared = topics.prepare(topic, config.partitions, config.create_topics);
            if !runtime.block_on(prepared)? {
                return Err(PipeError::TopicMissing(topic.clone()));
            }
        }
        let (publisher, failures) = connect(&config)?;
        let input = Input::join(&config, topics)?;
        Ok(Self {
            config,
            stage,
            stop,
            input,
            publisher: Some(publisher),
            failures,
            summary: PipeSummary::default(),
            began: None,
            ended: None,
            backoff: BACKOFF,
        })
    }

    /// Works until it is told to stop, or there has been nothing to do for long enough.
    pub(crate) fn run(mut self) -> Result<PipeSummary, PipeError> {
        while !self.stop.is_cancelled() {
            let batch = self.input.read(&self.config, &self.stop)?;
            self.note_lost();
            if batch.is_empty() {
                let patience = self.config.exit_when_idle;
                if patience.is_some_and(|patience| self.input.has_been_idle_for(patience)) {
                    break;
                }
                continue;
            }
            failpoint("pipe.after_read");
            self.began.get_or_insert_with(Instant::now);
            match self.work_off(&batch) {
                Ok(()) => self.backoff = BACKOFF,
                Err(Trouble::Again(error)) => self.begin_again(&error)?,
                Err(Trouble::TooLarge(reason)) => return Err(PipeError::Client(reason)),
                Err(Trouble::Stop(error)) => return Err(error),
            }
        }
        if let (Some(began), Some(ended)) = (self.began, self.ended) {
            self.summary.seconds = ended.saturating_duration_since(began).as_secs_f64();
        }
        self.input.leave();
        Ok(self.summary)
    }

    /// One transaction, or, where Kafka finds something too large, several: half by half, until the
    /// record is found.
    fn work_off(&mut self, batch: &[Record]) -> Result<(), Trouble> {
        let mut pieces = vec![batch];
        while let Some(piece) = pieces.pop() {
            match self.try_publish(piece, None) {
                Err(Trouble::TooLarge(reason)) if piece.len() == 1 => self.shrink(piece, reason)?,
                Err(Trouble::TooLarge(_)) => {
                    self.summary.aborted += 1;
                    let (first, second) = piece.split_at(piece.len() / 2);
                    pieces.extend([second, first]);
                }
                ended => ended?,
            }
        }
        Ok(())
    }

    /// One record, what became of which is too large.
    fn shrink(&mut self, record: &[Record], mut reason: String) -> Result<(), Trouble> {
        for attempts in 1..=TooLarge::ATTEMPTS_MAX {
            self.summary.aborted += 1;
            let refusal = TooLarge { attempts, reason: &reason };
            match self.try_publish(record, Some(refusal)) {
                Err(Trouble::TooLarge(again)) => reason = again,
                ended => return ended,
            }
        }
        Err(Trouble::Stop(refused(&record[0], reason)))
    }

    /// The same as [`Self::publish`]. After a record that was refused the client leaves out its
    /// number, and the brokers take nothing more of it: it has to be a new one.
    fn try_publish(
        &mut self,
        records: &[Record],
        too_large: Option<TooLarge<'_>>,
    ) -> Result<(), Trouble> {
        if self.publisher.is_none() {
            self.connect().map_err(of_transaction)?;
        }
        let published = self.publish(records, too_large);
        if matches!(published, Err(Trouble::TooLarge(_))) {
            self.publisher = None;
        }
        published
    }

    fn connect(&mut self) -> Result<(), TransactionError> {
        let (publisher, failures) = connect(&self.config)?;
        self.publisher = Some(publisher);
        self.failures = failures;
        Ok(())
    }

    /// One transaction: what becomes of these records, and the offsets behind them.
    fn publish(
        &mut self,
        records: &[Record],
        too_large: Option<TooLarge<'_>>,
    ) -> Result<(), Trouble> {
        let (group, topic_id) = self.input.generation().ok_or_else(|| {
            Trouble::Again(TransactionError::Abortable("not a member of the group".to_owned()))
        })?;
        let publisher = self.publisher.as_mut().ok_or_else(no_publisher)?;
        // Of records before, whose transaction was aborted.
        self.failures.take();
        let transaction = publisher.begin().map_err(of_transaction)?;
        failpoint("pipe.after_begin");
        let mut published: BTreeMap<String, u64> = BTreeMap::new();
        for record in records {
            let all = match too_large {
                None => self.stage.decide(record, topic_id),
                Some(refusal) => self.stage.decide_too_large(record, topic_id, refusal),
            };
            for outgoing in all {
                if let Err(error) = hand_over(&transaction, &outgoing) {
                    // It may be refused only since another one failed: that one counts.
                    let _ = transaction.flush(|| self.failures.has_some());
                    let error = self.failures.take().unwrap_or(error);
                    return Err(abort(transaction, of_delivery(record, error)));
                }
                *published.entry(outgoing.topic).or_default() += 1;
            }
        }
        let offsets = match offsets_of(&self.config.from, &next_offsets(records)) {
            Ok(offsets) => offsets,
            Err(error) => {
                let stop = Trouble::Stop(PipeError::Client(error.to_string()));
                return Err(abort(transaction, stop));
            }
        };
        let flushed = transaction.flush(|| self.failures.has_some());
        if let Some(error) = self.failures.take() {
            // Which of the records it was is known if there is but one.
            return Err(abort(transaction, of_delivery(&records[0], error)));
        }
        failpoint("pipe.after_produce");
        if let Err(error) = flushed.and_then(|()| transaction.send_offsets(offsets, group)) {
            return Err(abort(transaction, of_transaction(error)));
        }
        failpoint("pipe.after_offsets");
        transaction.commit().map_err(of_transaction)?;
        failpoint("pipe.after_commit");
        self.ended = Some(Instant::now());
        self.summary.transactions += 1;
        self.summary.records += records.len() as u64;
        for (topic, count) in published {
            *self.summary.published.entry(topic).or_default() += count;
        }
        Ok(())
    }

    /// After a transaction that was not committed, or may have been: the group's offsets know.
    fn begin_again(&mut self, error: &TransactionError) -> Result<(), PipeError> {
        self.summary.aborted += 1;
        tracing::warn!(%error, "a transaction failed; going on from the committed offsets");
        self.input.rewind();
        if !matches!(error, TransactionError::Abortable(_)) {
            // Whoever begins under the id anew learns first what became of the last transaction.
            self.publisher = None;
        }
        let backoff = self.backoff;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        self.wait(backoff)?;
        while self.publisher.is_none() && !self.stop.is_cancelled() {
            self.input.serve(TICK)?;
            match self.connect() {
                Err(error @ TransactionError::Unreachable { .. }) => {
                    tracing::warn!(%error);
                    self.wait(CLIENT_ENDS)?;
                }
                connected => connected?,
            }
        }
        Ok(())
    }

    /// Waits, and stays a member of the group.
    fn wait(&mut self, time: Duration) -> Result<(), PipeError> {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.stop.is_cancelled() {
            self.input.serve(TICK)?;
        }
        Ok(())
    }

    fn note_lost(&mut self) {
        for Lost { partition, from, to } in self.input.take_lost() {
            tracing::error!(
                topic = self.config.from,
                partition,
                "retention took the records from {from} up to {to} before they were read"
            );
            self.summary.lost += u64::try_from(to - from).unwrap_or(0);
        }
    }
}

fn connect(config: &PipeConfig) -> Result<(TransactionalPublisher, Failures), TransactionError> {
    let transactional =
        Transactional { id: config.transactional_id.clone(), timeout: config.transaction_timeout };
    let failures = Failures::default();
    let noted = failures.clone();
    let on_delivery = move |delivery: Delivery| {
        if let Err(error) = delivery.outcome {
            noted.note(error);
        }
    };
    let options = PublisherOptions::default();
    TransactionalPublisher::connect(&config.kafka, &options, transactional, PATIENCE, on_delivery)
        .map(|publisher| (publisher, failures))
}

fn hand_over(transaction: &Transaction<'_>, outgoing: &Outgoing) -> Result<(), DeliveryError> {
    let publication = Publication {
        topic: &outgoing.topic,
        partition: outgoing.partition,
        key: outgoing.key.as_deref(),
        value: outgoing.value.as_deref(),
        headers: &outgoing.headers,
    };
    // The queue empties within the time that a record may be under way.
    while !transaction.try_send(&publication, 0)? {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Behind the last record of each partition.
fn next_offsets(records: &[Record]) -> Offsets {
    let mut next = Offsets::new();
    for record in records {
        next.insert(record.source.partition, record.offset + 1);
    }
    next
}

/// Aborts, which may fail without harm: nobody sees what is not committed.
fn abort(transaction: Transaction<'_>, trouble: Trouble) -> Trouble {
    let aborted = transaction.abort();
    match (trouble, aborted) {
        (trouble, Ok(())) => trouble,
        // It was taken over while it failed.
        (_, Err(error @ TransactionError::Fenced { .. })) => Trouble::Stop(error.into()),
        (Trouble::Stop(error), Err(_)) => Trouble::Stop(error),
        (_, Err(error)) => Trouble::Again(error),
    }
}

fn of_transaction(error: TransactionError) -> Trouble {
    match error {
        TransactionError::Fenced { .. } => Trouble::Stop(error.into()),
        error => Trouble::Again(error),
    }
}

fn of_delivery(record: &Record, error: DeliveryError) -> Trouble {
    match error {
        DeliveryError::Refused { reason, too_large: true } => Trouble::TooLarge(reason),
        DeliveryError::Refused { reason, .. } => Trouble::Stop(refused(record, reason)),
        DeliveryError::Unconfirmed(reason) => Trouble::Again(TransactionError::Abortable(reason)),
    }
}

fn refused(record: &Record, reason: String) -> PipeError {
    PipeError::Refused { partition: record.source.clone(), offset: record.offset, reason }
}

fn no_publisher() -> Trouble {
    Trouble::Again(TransactionError::Failed("it was given up".to_owned()))
}
