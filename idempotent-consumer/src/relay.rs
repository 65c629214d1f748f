//! The outbox relay: publishes rows and removes them after the broker's acknowledgement.
//!
//! Nothing goes out behind an unacknowledged row of its topic and key: within a round the next row
//! of a key goes when the one before it is acknowledged. On any failure a new producer starts again
//! from the table.
//!
//! Kafka refuses a request as a whole. Rows that were refused together are therefore not judged; they
//! go out again one to a request, as does everything for a while.

mod round;
mod spans;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::round::Round;
use self::spans::Sending;
use crate::failpoint::failpoint;
use crate::health::Health;
use crate::kafka::publisher::{Delivery, DeliveryError, Publication, Publisher, PublisherOptions};
use crate::kafka::settings::KafkaSettings;
use crate::store::connect::{connect, session_sql};
use crate::store::{copies, outbox};

const LEASE: Duration = Duration::from_secs(15);
const RENEW_AFTER: Duration = Duration::from_secs(5);
/// Of a producer that gets no answer for so long another one takes the place. Kafka may be away;
/// but the client also waits by the clock of the day, and stands still where that was set back.
const STALLED_AFTER: Duration = Duration::from_secs(20);
/// How long one that could not reach Kafka leaves the lease to others. They ask for it each second, and
/// whoever has it keeps it; where nobody else is, this one goes on.
const STAND_BACK: Duration = Duration::from_secs(3);
const IDLE: Duration = Duration::from_millis(100);
/// How long after a refusal each row goes out in a request of its own. Less than the ten seconds
/// after which a refused row is tried again: one that is refused for ever slows the others half of
/// the time.
const ALONE_FOR: Duration = Duration::from_secs(5);
const ROWS: i64 = 500;
const BYTES: i64 = 8 * 1024 * 1024;

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
        let mut connection = connect(&self.database, "idempotent-consumer relay").await?;
        // Whatever waits longer than the lease is no longer ours to decide.
        let limit = session_sql(LEASE / 3, LEASE / 2);
        sqlx::raw_sql(sqlx::AssertSqlSafe(limit)).execute(&mut connection).await?;
        let ended = self.work(&mut connection, cancel, alone_until).await;
        // The producer is gone by now. Another process may reach Kafka where this one does not.
        if matches!(ended, Ok(()) | Err(RelayError::Kafka(_))) {
            let given = outbox::give_lease_back(&mut connection, &self.holder).await;
            // Of two failures the first is told.
            return ended.and(given.map_err(RelayError::from));
        }
        ended
    }

    async fn work(
        &self,
        connection: &mut PgConnection,
        cancel: &CancellationToken,
        alone_until: Option<Instant>,
    ) -> Result<(), RelayError> {
        let pace = if alone_until.is_some() { Pace::Alone } else { Pace::Batches };
        let (sender, mut deliveries) = unbounded_channel();
        let publisher = Publisher::new(&self.kafka, &pace.options(), move |delivery| {
            // Nobody listens any more once this turn is over.
            let _ = sender.send(delivery);
        })
        .map_err(|error| RelayError::Kafka(error.to_string()))?;
        let mut leased_at: Option<Instant> = None;
        while !cancel.is_cancelled() && alone_until.is_none_or(|until| Instant::now() < until) {
            if leased_at.is_none_or(|at| at.elapsed() > RENEW_AFTER) {
                let taken =
                    outbox::take_lease(connection, &self.holder, LEASE.as_secs_f64()).await?;
                leased_at = taken.then(Instant::now);
            }
            if leased_at.is_none() {
                self.health.clear("outbox");
                sleep(cancel, Duration::from_secs(1)).await;
                continue;
            }
            let rows = outbox::select(connection, ROWS, BYTES).await?;
            if rows.is_empty() {
                self.health.clear("outbox");
                sleep(cancel, IDLE).await;
                continue;
            }
            let mut round = Round::new(rows);
            let publishing =
                Publishing { publisher: &publisher, pace, deliveries: &mut deliveries };
            self.publish(connection, publishing, &mut round, cancel, &mut leased_at).await?;
        }
        Ok(())
    }

    /// Publishes a round of rows and waits for the end of each.
    async fn publish(
        &self,
        connection: &mut PgConnection,
        publishing: Publishing<'_>,
        round: &mut Round,
        cancel: &CancellationToken,
        leased_at: &mut Option<Instant>,
    ) -> Result<(), RelayError> {
        let Publishing { publisher, pace, deliveries } = publishing;
        let mut ended: Vec<(i64, Result<(), DeliveryError>)> = Vec::new();
        let mut sending = Sending::default();
        let mut heard_at = Instant::now();
        let mut stalled = None;
        loop {
            failpoint("relay.before_send");
            hand_over(publisher, round, &mut ended, &mut sending);
            if round.under_way() == 0 {
                break;
            }
            let delivery = tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                delivery = deliveries.recv() => delivery,
                () = tokio::time::sleep(RENEW_AFTER) => {
                    let waiting = format!("{} records are waiting for Kafka", round.under_way());
                    self.health.set("outbox", waiting);
                    None
                }
            };
            if let Some(Delivery { token, outcome }) = delivery {
                let id = token.cast_signed();
                sending.ended(id, &outcome);
                round.ended(id, outcome.is_ok());
                ended.push((id, outcome.map(|_| ())));
                heard_at = Instant::now();
            } else if heard_at.elapsed() > STALLED_AFTER {
                let waiting = format!("{} records are waiting for Kafka", round.under_way());
                stalled = Some(waiting);
                break;
            }
            if leased_at.is_none_or(|at| at.elapsed() > RENEW_AFTER) {
                // The rows are on their way: nobody else should send them too.
                let lease = LEASE.as_secs_f64();
                if !outbox::take_lease(connection, &self.holder, lease).await? {
                    return Err(RelayError::LeaseLost);
                }
                *leased_at = Some(Instant::now());
            }
        }
        let acknowledged: Vec<i64> =
            ended.iter().filter(|(_, outcome)| outcome.is_ok()).map(|(id, _)| *id).collect();
        failpoint("relay.after_send_before_delete");
        outbox::delete(connection, &acknowledged).await?;
        failpoint("relay.after_delete");
        metrics::counter!("idempotent_consumer_outbox_published_total")
            .increment(acknowledged.len() as u64);
        let mut unconfirmed = stalled;
        let (mut refused, mut together) = (false, false);
        for (id, outcome) in ended {
            match outcome {
                Ok(()) => {}
                Err(DeliveryError::Refused { reason, .. }) if pace == Pace::Batches => {
                    tracing::debug!(id, reason, "refused with others, will be sent by itself");
                    together = true;
                }
                Err(DeliveryError::Refused { too_large, reason }) => {
                    let may_omit = round.row(id).is_some_and(|row| row.may_omit_value);
                    refused |= !too_large;
                    if too_large && may_omit {
                        outbox::omit_value(connection, id).await?;
                    } else if copies::refused(connection, id, &reason).await? {
                        tracing::warn!(
                            reason,
                            "Kafka refuses a redriven record; its dead letter is open again"
                        );
                    } else {
                        tracing::error!(id, reason, "Kafka refuses a record of the outbox");
                        outbox::mark_refused(connection, id, &reason).await?;
                    }
                }
                Err(DeliveryError::Unconfirmed(reason)) => unconfirmed = Some(reason),
            }
        }
        match unconfirmed {
            // Also if others have no answer: what is refused would be refused again.
            _ if together => Err(RelayError::RefusedTogether),
            Some(reason) => Err(RelayError::Kafka(reason)),
            None if refused => Err(RelayError::Refused),
            None => Ok(()),
        }
    }
}

/// The producer, and where it tells what became of records.
struct Publishing<'a> {
    publisher: &'a Publisher,
    pace: Pace,
    deliveries: &'a mut UnboundedReceiver<Delivery>,
}

/// Gives the producer what may go out and what it has room for.
fn hand_over(
    publisher: &Publisher,
    round: &mut Round,
    ended: &mut Vec<(i64, Result<(), DeliveryError>)>,
    sending: &mut Sending,
) {
    while let Some(row) = round.next() {
        let id = row.id;
        let record = Publication {
            topic: &row.record.topic,
            partition: row.record.partition,
            key: row.record.key.as_deref(),
            value: row.record.value.as_deref(),
            headers: &row.record.headers,
        };
        let span = spans::begun(&row.record);
        let refused = match publisher.try_send(&record, id.cast_unsigned()) {
            Ok(true) => {
                sending.begun(id, span);
                continue;
            }
            // It does not even fit an empty queue.
            Ok(false) if round.under_way() == 1 && publisher.in_flight() == 0 => {
                let reason = "the record is larger than the publisher's queue".to_owned();
                DeliveryError::Refused { reason, too_large: true }
            }
            Ok(false) => {
                round.put_back(id);
                return;
            }
            Err(error) => error,
        };
        round.ended(id, false);
        ended.push((id, Err(refused)));
    }
}

async fn sleep(cancel: &CancellationToken, time: Duration) {
    tokio::select! {
        () = cancel.cancelled() => {}
        () = tokio::time::sleep(time) => {}
    }
}
