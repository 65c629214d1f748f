//! The outbox relay: publishes rows and removes them after the broker's acknowledgement.
//!
//! Nothing goes out behind an unacknowledged row of its topic and key: the next one goes when the one
//! before it is acknowledged. On any failure but one that is mended in the table a new producer starts
//! again from there.
//!
//! Kafka refuses a request as a whole. Rows that were refused together are therefore not judged; they
//! go out again one to a request, as does everything for a while.

mod flow;
mod producer;
mod reader;
mod spans;
mod table;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::mpsc::unbounded_channel;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::producer::{Flight, Producer, Sent};
use self::reader::Reader;
use self::table::{Table, within};
use crate::health::Health;
use crate::kafka::publisher::{DeliveryError, Publisher, PublisherOptions};
use crate::kafka::settings::KafkaSettings;
use crate::store::connect::{connect, session_sql};
use crate::store::outbox::OutboxRow;

/// How long one that could not reach Kafka leaves the lease to others. They ask for it each second, and
/// whoever has it keeps it; where nobody else is, this one goes on.
const STAND_BACK: Duration = Duration::from_secs(3);
const CONNECTED_WITHIN: Duration = Duration::from_secs(10);
/// After a turn of so long a failure is the first one.
const FORGIVEN_AFTER: Duration = Duration::from_mins(1);
const IDLE: Duration = Duration::from_millis(100);
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

    /// What one look tells of, at most. While rows go alone, most reads have a look of their own.
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
            let (begun, mut stand_back, mut is_refused) = (Instant::now(), false, false);
            match self.turn(&cancel, alone_until).await {
                Ok(()) => {
                    failures = 0;
                    alone_until = None;
                    continue;
                }
                Err(RelayError::LeaseLost) => {}
                Err(RelayError::Refused | RelayError::RefusedTogether) => is_refused = true,
                Err(error) => {
                    // One that has worked for long begins anew.
                    failures = if begun.elapsed() > FORGIVEN_AFTER { 1 } else { failures + 1 };
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
            if is_refused {
                alone_until = Some(Instant::now() + ALONE_FOR);
            }
        }
    }

    /// One lease and one producer, for as long as nothing goes wrong; until `alone_until` each
    /// row by itself.
    async fn turn(
        &self,
        cancel: &CancellationToken,
        alone_until: Option<Instant>,
    ) -> Result<(), RelayError> {
        let mut connection = within(CONNECTED_WITHIN, self.connect()).await?;
        let ended = self.work(&mut connection, cancel, alone_until).await;
        // The producer is gone by now. Another process may reach Kafka where this one does not.
        if matches!(ended, Ok(()) | Err(RelayError::Kafka(_))) {
            let given = table::give_lease_back(&mut connection, &self.holder).await;
            // Of two failures the first is told.
            return ended.and(given);
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
        let mut reader = Reader::new(self);
        let is_over =
            || cancel.is_cancelled() || alone_until.is_some_and(|until| Instant::now() >= until);
        while !is_over() {
            if !table.take_lease().await? {
                reader.rests();
                self.health.clear("outbox");
                sleep(cancel, Duration::from_secs(1)).await;
                continue;
            }
            let rows = table.read().await?;
            if rows.is_empty() {
                // Not to be found dead after hours without a word.
                reader.rests();
                self.health.clear("outbox");
                sleep(cancel, IDLE).await;
                continue;
            }
            let mut acknowledged = Vec::new();
            let published = self
                .publish(&mut table, &mut reader, &mut producer, rows, &mut acknowledged, is_over)
                .await;
            self.clear_up(&mut table, &mut acknowledged, cancel).await;
            published?;
        }
        Ok(())
    }

    /// Removes what Kafka has and could not be removed, because somebody holds a lock on one of them perhaps:
    /// otherwise all would go out again. Only on the connection on which they were read: another one may lead
    /// to a server that was set back, where other rows have these ids.
    async fn clear_up(
        &self,
        table: &mut Table<'_>,
        acknowledged: &mut Vec<i64>,
        cancel: &CancellationToken,
    ) {
        while !acknowledged.is_empty() && !cancel.is_cancelled() {
            let is_lost = matches!(table.renew_lease().await, Err(RelayError::LeaseLost));
            // They are in Kafka, whoever has the lease.
            let removed = table.remove(acknowledged).await;
            // The server has answered, and may give another answer.
            if let Err(RelayError::Database(error @ sqlx::Error::Database(_))) = removed
                && !is_lost
            {
                if self.health.set("outbox", error.to_string()) {
                    tracing::warn!("outbox relay: cannot remove what is published: {error}");
                }
                sleep(cancel, Duration::from_secs(1)).await;
            } else {
                return;
            }
        }
    }

    /// Publishes rows. While some are under way, those that Kafka has are removed, and the next ones read on
    /// a connection of their own.
    async fn publish(
        &self,
        table: &mut Table<'_>,
        reader: &mut Reader<'_>,
        producer: &mut Producer<'_>,
        rows: Vec<OutboxRow>,
        acknowledged: &mut Vec<i64>,
        is_over: impl Fn() -> bool,
    ) -> Result<(), RelayError> {
        let mut flight = Flight::new();
        let mut added = rows.len();
        flight.add(rows);
        loop {
            let (mut taken, more) = (Vec::new(), CancellationToken::new());
            // The database begins while rows are handed over.
            let (mut next, mut sent) = match table.renew_lease().await {
                Ok(()) => {
                    let ids = flight.flow.ids();
                    let may_read = reader.may_read();
                    if may_read && !is_over() {
                        taken = table.take();
                    }
                    let database = async {
                        let change = table.remove_and_look(acknowledged, added, &taken, &ids);
                        let (read, changed) = tokio::join!(reader.read(&taken), change);
                        changed?;
                        let next = match read? {
                            rows if !rows.is_empty() => Next::Rows(rows),
                            _ if may_read && taken.is_empty() && table.knows_of_some() => {
                                Next::Known
                            }
                            _ => return Ok(Next::Nothing),
                        };
                        more.cancel();
                        Ok(next)
                    };
                    tokio::join!(database, producer.send(&mut flight, &more))
                }
                // Nothing more is sent.
                Err(error) => (Err(error), Sent::Waiting),
            };
            // What is under way has its end first, whatever fails: if it were left, it would go out again in
            // the next turn, and for ever where that fails likewise.
            let mut is_answered = false;
            loop {
                producer.hear(&mut flight);
                is_answered |= !flight.acknowledged.is_empty();
                acknowledged.append(&mut flight.acknowledged);
                if next.is_err() {
                    flight.flow.close();
                }
                let is_last = next.is_err() || is_over() || !flight.failed.is_empty();
                let is_lost = matches!(next, Err(RelayError::LeaseLost));
                if is_lost
                    || !(matches!(sent, Sent::Waiting) || is_last && matches!(sent, Sent::Most))
                {
                    break;
                }
                // Nobody else is to send them too.
                let kept = match table.renew_lease().await {
                    Ok(()) => table.remove(acknowledged).await,
                    error => error,
                };
                match kept {
                    Err(error) if next.is_ok() || matches!(error, RelayError::LeaseLost) => {
                        next = Err(error);
                    }
                    _ => {
                        let more = if is_last { CancellationToken::new() } else { more.clone() };
                        sent = producer.send(&mut flight, &more).await;
                    }
                }
            }
            let is_whole = flight.failed.is_empty() && matches!(sent, Sent::All | Sent::Most);
            if is_whole && next.is_ok() && is_answered && flight.is_quick() {
                self.health.clear("outbox");
            }
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
                    table.remove(acknowledged).await?;
                    return Err(RelayError::LeaseLost);
                }
                next => {
                    // Renewed first: removing may wait for a lock once more.
                    let lease = table.renew_lease().await;
                    table.remove(acknowledged).await?;
                    lease?;
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

async fn sleep(cancel: &CancellationToken, time: Duration) {
    tokio::select! {
        () = cancel.cancelled() => {}
        () = tokio::time::sleep(time) => {}
    }
}
