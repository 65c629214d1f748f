//! The outbox relay: publishes rows and removes them after the broker's acknowledgement.
//!
//! Nothing goes out behind an unacknowledged row of its topic and key: the next one goes when the one
//! before it is acknowledged. On any failure a new producer starts again from the table.
//!
//! Kafka refuses a request as a whole. Rows that were refused together are therefore not judged; they
//! go out again one to a request, as does everything for a while.

mod flow;
mod spans;
mod table;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::flow::Flow;
use self::spans::Sending;
use self::table::{RENEW_AFTER, Table};
use crate::failpoint::failpoint;
use crate::health::Health;
use crate::kafka::publisher::{Delivery, DeliveryError, Publication, Publisher, PublisherOptions};
use crate::kafka::settings::KafkaSettings;
use crate::store::connect::{connect, session_sql};
use crate::store::outbox::{self, OutboxRow};

/// Of a producer that gets no answer for so long another one takes the place. Kafka may be away;
/// but the client also waits by the clock of the day, and stands still where that was set back.
const STALLED_AFTER: Duration = Duration::from_secs(20);
/// The same where others of its rows have their answers: of another topic, or another partition.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(1);
/// How long one that could not reach Kafka leaves the lease to others. They ask for it each second, and
/// whoever has it keeps it; where nobody else is, this one goes on.
const STAND_BACK: Duration = Duration::from_secs(3);
const IDLE: Duration = Duration::from_millis(100);
/// How long rows that are under way wait for the second connection.
const READER_WITHIN: Duration = Duration::from_secs(2);
/// How long rows in Kafka stay in the table where others, of the same key perhaps, take their time.
const REMOVED_AFTER: Duration = Duration::from_secs(1);
/// More than these under way are not few, however few rows they are.
const FEW_BYTES: usize = 256 * 1024;
const FREED_WITHIN: Duration = Duration::from_millis(1);
/// How long one that is to stop waits for what is under way.
const SETTLED_WITHIN: Duration = Duration::from_secs(1);
/// How long after a refusal each row goes out in a request of its own. Less than the ten seconds
/// after which a refused row is tried again: one that is refused for ever slows the others half of
/// the time.
const ALONE_FOR: Duration = Duration::from_secs(5);

/// Publishes the rows of a database's outbox, whoever wrote them. Any number of relays may run, in
/// any processes: a lease row lets one at a time work.
pub struct Relay {
    pub(crate) kafka: KafkaSettings,
    pub(crate) database: PgConnectOptions,
    pub(crate) holder: String,
    pub(crate) health: Arc<Health>,
}

/// Why a turn of the relay ended early.
#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    #[error("kafka: {0}")]
    Kafka(String),
    #[error("another relay took over")]
    LeaseLost,
    /// Noted with the rows. The client would answer so again from its memory of the topic, also when
    /// the topic has been mended: the next one asks.
    #[error("kafka refuses records")]
    Refused,
    /// One of those in a request, or several; nothing is noted.
    #[error("kafka refuses a request")]
    RefusedTogether,
}

/// How many rows a request may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    Batches,
    /// So that a refusal is of this row and no other.
    Alone,
}

impl Pace {
    /// Read at a time, at most. Those that go alone take a round trip each.
    fn rows(self) -> usize {
        match self {
            Self::Batches => 2_000,
            Self::Alone => 500,
        }
    }

    /// Of those that were read, so many and no more are left.
    fn are_few(self, flow: &Flow) -> bool {
        flow.len() <= self.rows() / 4 && flow.bytes() <= FEW_BYTES
    }

    /// What one look for them tells of, at most. Behind a refusal there is one each time.
    fn rows_of_a_look(self) -> i64 {
        match self {
            Self::Batches => 10_000,
            Self::Alone => 500,
        }
    }

    fn options(self) -> PublisherOptions {
        let common = PublisherOptions { delivery_timeout: None, ..PublisherOptions::default() };
        match self {
            Self::Batches => PublisherOptions { linger: Duration::from_millis(1), ..common },
            Self::Alone => PublisherOptions { linger: Duration::ZERO, batch_records: 1, ..common },
        }
    }
}

impl Relay {
    /// A relay for an application that publishes without consuming; an
    /// [`Engine`](crate::Engine) runs its own.
    pub fn new(kafka: KafkaSettings, database: PgConnectOptions) -> Self {
        let holder = Uuid::new_v4().simple().to_string();
        Self { kafka, database, holder, health: Arc::new(Health::without_group()) }
    }

    /// Whether records go out, and if not, why.
    pub fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    /// Relays until cancelled. Errors are retried for ever, and show in health.
    pub async fn run(self, cancel: CancellationToken) {
        let mut failures: u32 = 0;
        let mut alone_until: Option<Instant> = None;
        while !cancel.is_cancelled() {
            let mut stand_back = false;
            match self.turn(&cancel, alone_until).await {
                Ok(()) => {
                    failures = 0;
                    alone_until = None;
                    continue;
                }
                Err(RelayError::LeaseLost) => {}
                Err(RelayError::Refused | RelayError::RefusedTogether) => {
                    alone_until = Some(Instant::now() + ALONE_FOR);
                }
                Err(error) => {
                    failures += 1;
                    stand_back = matches!(error, RelayError::Kafka(_));
                    if self.health.set("outbox", error.to_string()) {
                        tracing::warn!("outbox relay: {error}");
                    }
                }
            }
            let mut wait = Duration::from_millis(200) * failures.clamp(1, 25);
            if stand_back {
                wait = wait.max(STAND_BACK);
            }
            tokio::select! {
                () = cancel.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One connection and one producer, for as long as nothing goes wrong; until `alone_until` each
    /// row by itself.
    async fn turn(
        &self,
        cancel: &CancellationToken,
        alone_until: Option<Instant>,
    ) -> Result<(), RelayError> {
        let mut connection = self.connect().await?;
        let ended = self.work(&mut connection, cancel, alone_until).await;
        // The producer is gone by now. Another process may reach Kafka where this one does not.
        if matches!(ended, Ok(()) | Err(RelayError::Kafka(_))) {
            let given = table::give_lease_back(&mut connection, &self.holder).await;
            // Of two failures the first is told.
            return ended.and(given.map_err(RelayError::from));
        }
        ended
    }

    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = connect(&self.database, "idempotent-consumer relay").await?;
        // Whatever waits longer than the lease is no longer ours to decide.
        let limits = session_sql(table::LEASE / 3, table::LEASE / 2);
        // The outbox grows from nothing to very much within seconds: a plan that is kept for one that is
        // nearly empty reads all of a full one.
        let session = format!("{limits}; SET plan_cache_mode = force_custom_plan");
        sqlx::raw_sql(sqlx::AssertSqlSafe(session)).execute(&mut connection).await?;
        Ok(connection)
    }

    async fn work(
        &self,
        connection: &mut PgConnection,
        cancel: &CancellationToken,
        alone_until: Option<Instant>,
    ) -> Result<(), RelayError> {
        let pace = if alone_until.is_some() { Pace::Alone } else { Pace::Batches };
        let (sender, deliveries) = unbounded_channel();
        let publisher = Publisher::new(&self.kafka, &pace.options(), move |delivery| {
            // Nobody listens any more once this turn is over.
            let _ = sender.send(delivery);
        })
        .map_err(|error| RelayError::Kafka(error.to_string()))?;
        let mut producer = Producer { publisher, pace, deliveries, health: &self.health, cancel };
        let mut table = Table::new(connection, &self.holder, pace);
        let mut reader = None;
        let is_over =
            || cancel.is_cancelled() || alone_until.is_some_and(|until| Instant::now() >= until);
        while !is_over() {
            if !table.take_lease().await? {
                reader = None;
                self.health.clear("outbox");
                sleep(cancel, Duration::from_secs(1)).await;
                continue;
            }
            let rows = table.read().await?;
            if rows.is_empty() {
                // Not to be found dead after hours without a word.
                reader = None;
                self.health.clear("outbox");
                sleep(cancel, IDLE).await;
                continue;
            }
            self.publish(&mut table, &mut reader, &mut producer, rows, is_over).await?;
        }
        Ok(())
    }

    /// Publishes rows. While some are under way, those that Kafka has are removed, and the next ones read on
    /// a connection of their own.
    async fn publish(
        &self,
        table: &mut Table<'_>,
        reader: &mut Option<PgConnection>,
        producer: &mut Producer<'_>,
        rows: Vec<OutboxRow>,
        is_over: impl Fn() -> bool,
    ) -> Result<(), RelayError> {
        let mut flight = Flight::new();
        let mut added = rows.len();
        flight.add(rows);
        // Not removed yet.
        let mut acknowledged = Vec::new();
        loop {
            let (mut taken, more) = (Vec::new(), CancellationToken::new());
            // The database begins while rows are handed over.
            let (mut next, mut sent) = match table.renew_lease().await {
                Ok(()) => {
                    let ids = flight.flow.ids();
                    if !is_over() {
                        taken = table.take();
                    }
                    let database = async {
                        let change = table.remove_and_look(&mut acknowledged, added, &taken, &ids);
                        let (read, changed) = tokio::join!(self.read(reader, &taken), change);
                        changed?;
                        let next = match read? {
                            rows if !rows.is_empty() => Next::Rows(rows),
                            _ if taken.is_empty() && table.knows_of_some() => Next::Known,
                            _ => return Ok(Next::Nothing),
                        };
                        more.cancel();
                        Ok(next)
                    };
                    tokio::join!(database, producer.send(&mut flight, &more))
                }
                Err(error) => (Err(error), Sent::Waiting),
            };
            // What is under way has its end first, whatever fails: sent in vain it would be sent for ever.
            while !matches!(next, Err(RelayError::LeaseLost)) {
                let is_last = next.is_err() || is_over();
                if !(matches!(sent, Sent::Waiting) || is_last && matches!(sent, Sent::Most)) {
                    break;
                }
                acknowledged.append(&mut flight.acknowledged);
                // Nobody else is to send them too.
                let kept = match table.renew_lease().await {
                    Ok(()) => table.remove(&mut acknowledged).await,
                    error => error,
                };
                if let Err(error) = kept
                    && (next.is_ok() || matches!(error, RelayError::LeaseLost))
                {
                    next = Err(error);
                    continue;
                }
                let more = if is_last { CancellationToken::new() } else { more.clone() };
                sent = producer.send(&mut flight, &more).await;
            }
            producer.hear(&mut flight);
            let is_whole = flight.failed.is_empty() && matches!(sent, Sent::All | Sent::Most);
            if is_whole && next.is_ok() && !flight.acknowledged.is_empty() {
                self.health.clear("outbox");
            }
            acknowledged.append(&mut flight.acknowledged);
            // Where some are left they have to be waited for, and there are more.
            let goes_on = is_whole && (matches!(sent, Sent::Most) || !is_over());
            match next {
                Ok(Next::Rows(rows)) if goes_on => {
                    added = rows.len();
                    flight.add(rows);
                }
                Ok(Next::Known) if goes_on => added = 0,
                Err(RelayError::LeaseLost) => {
                    // They are in Kafka, whoever has the lease.
                    table.remove(&mut acknowledged).await?;
                    return Err(RelayError::LeaseLost);
                }
                next => {
                    table.remove(&mut acknowledged).await?;
                    if !is_whole || !taken.is_empty() {
                        // What was not sent has to come before what is known.
                        table.forget();
                    }
                    if is_whole {
                        return next.map(drop);
                    }
                    return conclude(table, producer.pace, flight, sent).await;
                }
            }
        }
    }

    /// Reads rows on a connection that is made for the first of them. Where there is none to be had there
    /// are no rows, and the connection that holds the lease reads them in its time.
    async fn read(
        &self,
        reader: &mut Option<PgConnection>,
        ids: &[i64],
    ) -> Result<Vec<OutboxRow>, RelayError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let made = match reader.take() {
            Some(connection) => Ok(connection),
            None => timeout(READER_WITHIN, self.connect()).await.unwrap_or_else(|_| Err(is_late())),
        };
        let mut connection = match made {
            Ok(connection) => connection,
            Err(error) => {
                tracing::warn!("outbox relay: goes on with one connection: {error}");
                return Ok(Vec::new());
            }
        };
        // Another relay is not to have the lease before this has an end.
        let read = timeout(RENEW_AFTER, outbox::read(&mut connection, ids));
        let rows = read.await.unwrap_or_else(|_| Err(is_late()))?;
        *reader = Some(connection);
        Ok(rows)
    }
}

fn is_late() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time"))
}

/// Notes what Kafka refused, and says why this turn ends.
async fn conclude(
    table: &mut Table<'_>,
    pace: Pace,
    Flight { flow, failed, .. }: Flight,
    sent: Sent,
) -> Result<(), RelayError> {
    let is_cancelled = matches!(sent, Sent::Cancelled);
    let mut unconfirmed = match sent {
        Sent::Stalled(reason) => Some(reason),
        Sent::All | Sent::Most | Sent::Waiting | Sent::Cancelled => None,
    };
    let (mut refused, mut together) = (false, false);
    for (id, error) in failed {
        match error {
            DeliveryError::Refused { reason, .. } if pace == Pace::Batches => {
                tracing::debug!(id, reason, "refused with others, will be sent by itself");
                together = true;
            }
            DeliveryError::Refused { too_large, reason } => {
                refused |= !too_large;
                if too_large && flow.row(id).is_some_and(|row| row.may_omit_value) {
                    table.omit_value(id).await?;
                } else {
                    table.note_refused(id, &reason).await?;
                }
            }
            DeliveryError::Unconfirmed(reason) => unconfirmed = Some(reason),
        }
    }
    match unconfirmed {
        _ if is_cancelled => Ok(()),
        // Also if others have no answer: what is refused would be refused again.
        _ if together => Err(RelayError::RefusedTogether),
        Some(reason) => Err(RelayError::Kafka(reason)),
        None if refused => Err(RelayError::Refused),
        None => Ok(()),
    }
}

/// What is to go out behind what is under way.
enum Next {
    Rows(Vec<OutboxRow>),
    /// There are some, not read yet.
    Known,
    Nothing,
}

/// Rows on their way.
struct Flight {
    flow: Flow,
    sending: Sending,
    /// In Kafka, and not noted elsewhere yet.
    acknowledged: Vec<i64>,
    failed: Vec<(i64, DeliveryError)>,
    /// When the last of them had its end.
    heard_at: Instant,
}

impl Flight {
    fn new() -> Self {
        Self {
            flow: Flow::default(),
            sending: Sending::default(),
            acknowledged: Vec::new(),
            failed: Vec::new(),
            heard_at: Instant::now(),
        }
    }

    fn add(&mut self, rows: Vec<OutboxRow>) {
        if self.flow.under_way() == 0 {
            // There was nothing to hear of.
            self.heard_at = Instant::now();
        }
        self.flow.add(rows);
    }

    /// A row has its end.
    fn ends(&mut self, Delivery { token, outcome }: Delivery) {
        let id = token.cast_signed();
        self.sending.ended(id, &outcome);
        self.flow.ended(id, outcome.is_ok());
        match outcome {
            Ok(_) => self.acknowledged.push(id),
            Err(error) => self.failed.push((id, error)),
        }
    }

    fn waiting(&self) -> String {
        format!("{} records are waiting for Kafka", self.flow.under_way())
    }
}

/// How far rows have come.
enum Sent {
    /// Each that may go out has its end.
    All,
    /// All but a [few](Pace::are_few), and there are more to hand over.
    Most,
    /// Not yet, but some may be, and want to be removed; and the lease wants to be renewed.
    Waiting,
    /// Kafka does not answer.
    Stalled(String),
    Cancelled,
}

/// The producer, and where it tells what became of records.
struct Producer<'a> {
    publisher: Publisher,
    pace: Pace,
    deliveries: UnboundedReceiver<Delivery>,
    health: &'a Health,
    cancel: &'a CancellationToken,
}

impl Producer<'_> {
    /// Hands rows over, and waits until each has its end, or until few have none and there are `more`, or
    /// until [`REMOVED_AFTER`] has passed.
    async fn send(&mut self, flight: &mut Flight, more: &CancellationToken) -> Sent {
        let until = tokio::time::Instant::now() + REMOVED_AFTER;
        if flight.flow.under_way_since().is_some_and(|at| at.elapsed() > FORGOTTEN_AFTER) {
            return Sent::Stalled(flight.waiting());
        }
        loop {
            if !self.cancel.is_cancelled() {
                self.hand_over(flight);
            }
            if flight.flow.is_done() {
                return Sent::All;
            }
            let are_few = flight.failed.is_empty() && self.pace.are_few(&flight.flow);
            // The client counts a record until a moment after it has told of its end.
            let has_no_room = flight.flow.under_way() == 0;
            let delivery = tokio::select! {
                () = self.cancel.cancelled() => {
                    self.settle(flight).await;
                    return Sent::Cancelled;
                }
                () = more.cancelled(), if are_few => return Sent::Most,
                delivery = self.deliveries.recv() => delivery,
                () = tokio::time::sleep(FREED_WITHIN), if has_no_room => continue,
                () = tokio::time::sleep_until(until) => None,
            };
            if let Some(delivery) = delivery {
                flight.ends(delivery);
                // Of a request all have their end at once.
                self.hear(flight);
                flight.heard_at = Instant::now();
            } else if flight.heard_at.elapsed() > STALLED_AFTER {
                return Sent::Stalled(flight.waiting());
            } else {
                if flight.heard_at.elapsed() >= RENEW_AFTER {
                    self.health.set("outbox", flight.waiting());
                }
                return Sent::Waiting;
            }
        }
    }

    /// Takes the ends that have been told.
    fn hear(&mut self, flight: &mut Flight) {
        while let Ok(delivery) = self.deliveries.try_recv() {
            flight.ends(delivery);
        }
    }

    /// Waits for the ends of what is under way, so that it need not go out again; not for long.
    async fn settle(&mut self, flight: &mut Flight) {
        let until = tokio::time::Instant::now() + SETTLED_WITHIN;
        while flight.flow.under_way() > 0
            && let Ok(Some(delivery)) = timeout_at(until, self.deliveries.recv()).await
        {
            flight.ends(delivery);
        }
    }

    /// Gives the producer what may go out and what it has room for.
    fn hand_over(&self, flight: &mut Flight) {
        let now = Instant::now();
        while let Some(row) = flight.flow.next(now) {
            failpoint("relay.before_send");
            let id = row.id;
            let record = Publication {
                topic: &row.record.topic,
                partition: row.record.partition,
                key: row.record.key.as_deref(),
                value: row.record.value.as_deref(),
                headers: &row.record.headers,
            };
            let span = spans::begun(&row.record);
            let refused = match self.publisher.try_send(&record, id.cast_unsigned()) {
                Ok(true) => {
                    flight.sending.begun(id, span);
                    continue;
                }
                // It does not even fit an empty queue.
                Ok(false) if flight.flow.under_way() == 1 && self.publisher.in_flight() == 0 => {
                    let reason = "the record is larger than the publisher's queue".to_owned();
                    DeliveryError::Refused { reason, too_large: true }
                }
                Ok(false) => {
                    flight.flow.put_back(id);
                    return;
                }
                Err(error) => error,
            };
            flight.flow.ended(id, false);
            flight.failed.push((id, refused));
        }
    }
}

async fn sleep(cancel: &CancellationToken, time: Duration) {
    tokio::select! {
        () = cancel.cancelled() => {}
        () = tokio::time::sleep(time) => {}
    }
}
