//! Publishing in Kafka transactions: a `read_committed` reader sees all records of one, or none.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaError};
use rdkafka::producer::Producer as _;
use rdkafka::types::RDKafkaErrorCode;

use super::publisher::{
    self, Delivery, DeliveryError, Publication, PublisherOptions, ServedProducer,
};
use super::settings::{KafkaSettings, SettingsError};
use crate::failpoint::failpoint;

/// An abort waits for so long for the first answer about a record. The client may send the abort
/// before the broker knows of the transaction, and is of no use then (librdkafka issue 4849).
const SETTLE: Duration = Duration::from_secs(5);
/// How often a wait looks whether it is over.
const TICK: Duration = Duration::from_millis(20);
/// Between two attempts at a call that may be repeated.
const PAUSE: Duration = Duration::from_millis(100);

/// Who publishes, to the brokers, and how long a transaction may be open.
#[derive(Clone, Debug)]
pub struct Transactional {
    /// Whoever begins under an id ends what was left open under it, and fences whoever left it.
    pub id: String,
    /// A transaction that is open for longer is aborted by the brokers. Until then nobody reads
    /// past its first record with `read_committed`.
    pub timeout: Duration,
}

/// Why a transaction did not go on.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    /// The client refuses a setting.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// No broker answered in time. Nothing was begun.
    #[error("no transaction could be begun under {id} within {seconds} s: {reason}")]
    Unreachable {
        /// The transactional id.
        id: String,
        /// How long it was tried.
        seconds: u64,
        /// What the client said.
        reason: String,
    },
    /// The brokers allow no transaction of that length.
    #[error(
        "the brokers allow no transaction of {seconds} s; their transaction.max.timeout.ms is 15 \
         minutes by default"
    )]
    TimeoutTooLong {
        /// The length that was asked for.
        seconds: u64,
    },
    /// This publisher is of no use any more, and what it had open stays unseen: somebody else has
    /// begun under its id, or the brokers ended the transaction at its timeout.
    #[error(
        "fenced: another process works under the transactional id {id}, or a transaction was open \
         for longer than {seconds} s ({reason})"
    )]
    Fenced {
        /// The transactional id.
        id: String,
        /// The transactions' timeout.
        seconds: u64,
        /// What the client said.
        reason: String,
    },
    /// The transaction is certainly not committed, and has to be aborted.
    #[error("the transaction cannot be committed: {0}")]
    Abortable(String),
    /// The transaction is committed, or will be, or is not.
    #[error("whether the transaction was committed is not known: {0}")]
    Unknown(String),
    /// The client cannot go on. A new publisher under the same id ends what is open.
    #[error("the Kafka client cannot go on with transactions: {0}")]
    Failed(String),
}

/// A publisher all of whose records are in transactions. Every call may block: not for async code.
pub struct TransactionalPublisher {
    /// `None` only while it is dropped.
    producer: Option<Arc<ServedProducer>>,
    transactional: Transactional,
    is_open: bool,
    /// Some record of the transaction has its end.
    is_answered: Arc<AtomicBool>,
}

impl Drop for TransactionalPublisher {
    /// What is open stays unseen; the brokers abort it at its timeout, or when somebody begins under
    /// the same id.
    fn drop(&mut self) {
        if let Some(producer) = self.producer.take() {
            publisher::end(producer);
        }
    }
}

/// An open transaction. Dropped, it is aborted by the next one.
pub struct Transaction<'a> {
    publisher: &'a mut TransactionalPublisher,
}

impl TransactionalPublisher {
    /// Connects, for `patience` at most, aborts what was left open under this id, and fences whoever
    /// left it. `on_delivery` runs on the client's own thread and must not block; a record that is
    /// acknowledged is seen only if its transaction is committed.
    ///
    /// # Errors
    /// The client refuses a setting, no broker answers in time, or one refuses.
    pub fn connect(
        settings: &KafkaSettings,
        options: &PublisherOptions,
        transactional: Transactional,
        patience: Duration,
        on_delivery: impl Fn(Delivery) + Send + Sync + 'static,
    ) -> Result<Self, TransactionError> {
        // A record cannot be under way for longer than its transaction.
        let within = options.delivery_timeout.map_or(transactional.timeout, |delivery_timeout| {
            delivery_timeout.min(transactional.timeout)
        });
        let options = PublisherOptions { delivery_timeout: Some(within), ..options.clone() };
        let mut config = publisher::configure(settings, &options);
        config
            .set("transactional.id", &transactional.id)
            .set("transaction.timeout.ms", transactional.timeout.as_millis().to_string());
        let is_answered = Arc::new(AtomicBool::new(false));
        let answered = Arc::clone(&is_answered);
        let producer = publisher::create(&config, settings, move |delivery| {
            answered.store(true, Relaxed);
            on_delivery(delivery);
        })?;
        let producer = Some(Arc::new(producer));
        let this = Self { producer, transactional, is_open: false, is_answered };
        this.introduce(patience)?;
        Ok(this)
    }

    fn introduce(&self, patience: Duration) -> Result<(), TransactionError> {
        let deadline = Instant::now() + patience;
        loop {
            let error = match self.producer().init_transactions(left_until(deadline)) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if error.rdkafka_error_code() == Some(RDKafkaErrorCode::InvalidTransactionTimeout) {
                return Err(TransactionError::TimeoutTooLong { seconds: self.timeout_seconds() });
            }
            if !is(&error, RDKafkaError::is_retriable) {
                return Err(self.meaning(&error));
            }
            if Instant::now() >= deadline {
                return Err(TransactionError::Unreachable {
                    id: self.transactional.id.clone(),
                    seconds: patience.as_secs(),
                    reason: error.to_string(),
                });
            }
            thread::sleep(PAUSE);
        }
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// The publisher is of no use any more.
    pub fn begin(&mut self) -> Result<Transaction<'_>, TransactionError> {
        if self.is_open {
            self.abort()?;
        }
        self.producer().begin_transaction().map_err(|error| self.meaning(&error))?;
        self.is_open = true;
        self.is_answered.store(false, Relaxed);
        Ok(Transaction { publisher: self })
    }

    fn producer(&self) -> &Arc<ServedProducer> {
        self.producer.as_ref().expect("it is there until this is dropped")
    }

    fn timeout_seconds(&self) -> u64 {
        self.transactional.timeout.as_secs()
    }

    fn abort(&mut self) -> Result<(), TransactionError> {
        // Whatever it comes to.
        let _ = self.flush(SETTLE, || self.is_answered.load(Relaxed));
        let deadline = Instant::now() + self.transactional.timeout;
        loop {
            match self.producer().abort_transaction(left_until(deadline)) {
                Ok(()) => {
                    self.is_open = false;
                    return Ok(());
                }
                Err(error)
                    if is(&error, RDKafkaError::is_retriable) && Instant::now() < deadline =>
                {
                    thread::sleep(PAUSE);
                }
                Err(error) => return Err(self.meaning(&error)),
            }
        }
    }

    /// Waits until every record has its end, for `timeout` at most, or until it is over for another
    /// reason.
    fn flush(&self, timeout: Duration, is_over: impl Fn() -> bool) -> Result<(), KafkaError> {
        let deadline = Instant::now() + timeout;
        loop {
            let flushed = self.producer().flush(TICK);
            if flushed.is_ok() || is_over() || Instant::now() >= deadline {
                return flushed;
            }
        }
    }

    /// What an error means before a commit was asked for.
    fn meaning(&self, error: &KafkaError) -> TransactionError {
        let fatal = self.producer().client().fatal_error();
        let reason = fatal.as_ref().map_or_else(|| error.to_string(), |(_, reason)| reason.clone());
        let code = fatal.as_ref().map(|(code, _)| *code).or(error.rdkafka_error_code());
        if code == Some(RDKafkaErrorCode::Fenced) {
            return TransactionError::Fenced {
                id: self.transactional.id.clone(),
                seconds: self.timeout_seconds(),
                reason,
            };
        }
        if fatal.is_none() && is(error, RDKafkaError::txn_requires_abort) {
            return TransactionError::Abortable(reason);
        }
        TransactionError::Failed(reason)
    }
}

impl Transaction<'_> {
    /// Hands a record over; `Ok(false)` if the queue is full.
    ///
    /// # Errors
    /// The client refuses the record at once; no delivery will follow.
    pub fn try_send(&self, record: &Publication<'_>, token: u64) -> Result<bool, DeliveryError> {
        publisher::try_send(self.publisher.producer(), record, token)
    }

    /// Waits until every record handed over has its end, which is no longer than the transaction
    /// may take. Once one of them has failed, the others get theirs only by an abort: `has_failed`
    /// tells so.
    ///
    /// # Errors
    /// Some have none.
    pub fn flush(&self, has_failed: impl Fn() -> bool) -> Result<(), TransactionError> {
        let timeout = self.publisher.transactional.timeout + SETTLE;
        let flushed = self.publisher.flush(timeout, has_failed);
        flushed.map_err(|error| TransactionError::Abortable(error.to_string()))
    }

    /// Makes the group's offsets part of the transaction. They are refused if the member that
    /// `group` tells of is not in that generation of its group any more.
    ///
    /// The client may wait for ever for a coordinator that it has forgotten, whatever its timeout (see
    /// `rebootstrap`): it is left alone with that then, and is of no use any more.
    pub(super) fn send_offsets(
        &self,
        offsets: TopicPartitionList,
        group: &Arc<ConsumerGroupMetadata>,
    ) -> Result<(), TransactionError> {
        let publisher = &*self.publisher;
        let timeout = publisher.transactional.timeout;
        let (producer, group) = (Arc::clone(publisher.producer()), Arc::clone(group));
        let (answer, answered) = mpsc::channel();
        let asking = move || {
            // Nobody listens if it came too late.
            let _ = answer.send(producer.send_offsets_to_transaction(&offsets, &group, timeout));
        };
        thread::Builder::new()
            .spawn(asking)
            .map_err(|error| TransactionError::Failed(error.to_string()))?;
        let patience = timeout + SETTLE;
        let sent = receive(&answered, patience).ok_or_else(|| {
            let seconds = patience.as_secs();
            TransactionError::Failed(format!("no answer about its offsets within {seconds} s"))
        })?;
        sent.map_err(|error| {
            match publisher.meaning(&error) {
                // It was not in time. What became of it is of no interest after an abort.
                TransactionError::Failed(reason) if is(&error, RDKafkaError::is_retriable) => {
                    TransactionError::Abortable(reason)
                }
                meaning => meaning,
            }
        })
    }

    /// Commits. Waits for the end of every record first.
    ///
    /// # Errors
    /// [`TransactionError::Abortable`]: it is certainly not committed, and was aborted. Anything
    /// else: it may be committed.
    pub fn commit(self) -> Result<(), TransactionError> {
        let committed = self.try_commit();
        match &committed {
            Ok(()) => self.publisher.is_open = false,
            Err(TransactionError::Abortable(_)) => {
                // The client says so of errors behind the request as well; that it is aborted is the
                // proof.
                match self.publisher.abort() {
                    Ok(()) => {}
                    // Not to be begun anew under the same id: that would fence whoever has it now.
                    Err(error @ TransactionError::Fenced { .. }) => return Err(error),
                    Err(error) => return Err(TransactionError::Unknown(error.to_string())),
                }
            }
            Err(_) => {}
        }
        committed
    }

    fn try_commit(&self) -> Result<(), TransactionError> {
        // Beforehand, since what fails here is known not to be committed.
        self.flush(|| false)?;
        failpoint("transaction.before_commit");
        let mut deadline = Instant::now() + self.publisher.transactional.timeout;
        // A process that was frozen for longer gives the brokers time to say that it is fenced.
        let mut grace = Some(SETTLE);
        let error = loop {
            let error = match self.publisher.producer().commit_transaction(left_until(deadline)) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if !is(&error, RDKafkaError::is_retriable) {
                break error;
            }
            if Instant::now() >= deadline {
                let Some(grace) = grace.take() else { break error };
                deadline = Instant::now() + grace;
            }
            thread::sleep(PAUSE);
        };
        match self.publisher.meaning(&error) {
            error @ (TransactionError::Abortable(_) | TransactionError::Fenced { .. }) => {
                Err(error)
            }
            error => Err(TransactionError::Unknown(error.to_string())),
        }
    }

    /// Aborts: none of its records is ever seen by a `read_committed` reader.
    ///
    /// # Errors
    /// The brokers could not be told. They abort it by themselves at its timeout.
    pub fn abort(self) -> Result<(), TransactionError> {
        self.publisher.abort()
    }
}

/// The client would wait for ever, whatever its documentation says of the transaction's timeout.
fn left_until(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(PAUSE)
}

/// Waits for so long as far as the process is awake. One that was frozen has to hear that it is fenced,
/// or it would begin anew and fence whoever works in its place.
fn receive<T>(answered: &mpsc::Receiver<T>, patience: Duration) -> Option<T> {
    let mut waited = Duration::ZERO;
    while waited < patience {
        match answered.recv_timeout(PAUSE) {
            Err(mpsc::RecvTimeoutError::Timeout) => waited += PAUSE,
            ended => return ended.ok(),
        }
    }
    None
}

fn is(error: &KafkaError, what: impl Fn(&RDKafkaError) -> bool) -> bool {
    matches!(error, KafkaError::Transaction(error) if what(error))
}
