//! The outbox relay: publishes rows and removes them after the broker's acknowledgement.
//!
//! Nothing goes out behind an unacknowledged row of its topic and key, so a round takes at most
//! one row of each. On any failure a new producer starts again from the table.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_util::sync::CancellationToken;

use crate::health::Health;
use crate::kafka::publisher::{Delivery, DeliveryError, Publication, Publisher, PublisherOptions};
use crate::kafka::settings::KafkaSettings;
use crate::store::connect::connect;
use crate::store::outbox::{self, OutboxRow};

const LEASE: Duration = Duration::from_secs(15);
const RENEW_AFTER: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_millis(100);
const ROWS: i64 = 500;
const BYTES: i64 = 8 * 1024 * 1024;

/// What a relay needs.
pub(crate) struct Relay {
    pub kafka: KafkaSettings,
    pub database: PgConnectOptions,
    pub holder: String,
    pub health: Arc<Health>,
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
}

impl Relay {
    /// Relays until cancelled. Errors are retried for ever, and show in health.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let mut failures: u32 = 0;
        while !cancel.is_cancelled() {
            match self.turn(&cancel).await {
                Ok(()) => failures = 0,
                Err(RelayError::LeaseLost) => {}
                Err(error) => {
                    failures += 1;
                    if self.health.set("outbox", error.to_string()) {
                        tracing::warn!("outbox relay: {error}");
                    }
                }
            }
            let wait = Duration::from_millis(200) * failures.clamp(1, 25);
            tokio::select! {
                () = cancel.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One connection and one producer, for as long as nothing goes wrong.
    async fn turn(&self, cancel: &CancellationToken) -> Result<(), RelayError> {
        let mut connection = connect(&self.database, "idempotent-consumer relay").await?;
        let (sender, mut deliveries) = unbounded_channel();
        let options = PublisherOptions {
            delivery_timeout: None,
            linger: Duration::ZERO,
            // So that a refusal is of this record and no other.
            batch_records: 1,
            ..PublisherOptions::default()
        };
        let publisher = Publisher::new(&self.kafka, &options, move |delivery| {
            // Nobody listens any more once this turn is over.
            let _ = sender.send(delivery);
        })
        .map_err(|error| RelayError::Kafka(error.to_string()))?;
        let mut leased_at: Option<Instant> = None;
        while !cancel.is_cancelled() {
            if leased_at.is_none_or(|at| at.elapsed() > RENEW_AFTER) {
                let taken =
                    outbox::take_lease(&mut connection, &self.holder, LEASE.as_secs_f64()).await?;
                leased_at = taken.then(Instant::now);
            }
            if leased_at.is_none() {
                self.health.clear("outbox");
                sleep(cancel, Duration::from_secs(1)).await;
                continue;
            }
            let rows = first_of_each_key(outbox::select(&mut connection, ROWS, BYTES).await?);
            if rows.is_empty() {
                self.health.clear("outbox");
                sleep(cancel, IDLE).await;
                continue;
            }
            self.publish(
                &mut connection,
                &publisher,
                &mut deliveries,
                rows,
                cancel,
                &mut leased_at,
            )
            .await?;
        }
        outbox::give_lease_back(&mut connection, &self.holder).await?;
        Ok(())
    }

    /// Publishes a round of rows and waits for the end of each.
    async fn publish(
        &self,
        connection: &mut PgConnection,
        publisher: &Publisher,
        deliveries: &mut UnboundedReceiver<Delivery>,
        rows: Vec<OutboxRow>,
        cancel: &CancellationToken,
        leased_at: &mut Option<Instant>,
    ) -> Result<(), RelayError> {
        let mut waiting: BTreeSet<i64> = BTreeSet::new();
        let mut ended: Vec<(i64, Result<(), DeliveryError>)> = Vec::new();
        for row in &rows {
            let record = Publication {
                topic: &row.record.topic,
                partition: row.record.partition,
                key: row.record.key.as_deref(),
                value: row.record.value.as_deref(),
                headers: &row.record.headers,
            };
            match publisher.try_send(&record, row.id.cast_unsigned()) {
                Ok(true) => {
                    waiting.insert(row.id);
                }
                // It does not even fit an empty queue.
                Ok(false) if waiting.is_empty() && publisher.in_flight() == 0 => {
                    let reason = "the record is larger than the publisher's queue".to_owned();
                    ended.push((row.id, Err(DeliveryError::Refused { reason, too_large: true })));
                }
                Ok(false) => break,
                Err(error) => ended.push((row.id, Err(error))),
            }
        }
        while !waiting.is_empty() {
            let delivery = tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                delivery = deliveries.recv() => delivery,
                () = tokio::time::sleep(RENEW_AFTER) => {
                    // The brokers are silent. Keep the lease: the rows are on their way.
                    let lease = LEASE.as_secs_f64();
                    if !outbox::take_lease(connection, &self.holder, lease).await? {
                        return Err(RelayError::LeaseLost);
                    }
                    *leased_at = Some(Instant::now());
                    let oldest = format!("{} records are waiting for Kafka", waiting.len());
                    self.health.set("outbox", oldest);
                    continue;
                }
            };
            let Some(delivery) = delivery else { break };
            let id = delivery.token.cast_signed();
            if waiting.remove(&id) {
                ended.push((id, delivery.outcome.map(|_| ())));
            }
        }
        let acknowledged: Vec<i64> =
            ended.iter().filter(|(_, outcome)| outcome.is_ok()).map(|(id, _)| *id).collect();
        outbox::delete(connection, &acknowledged).await?;
        metrics::counter!("idempotent_consumer_outbox_published_total")
            .increment(acknowledged.len() as u64);
        let mut unconfirmed = None;
        for (id, outcome) in ended {
            match outcome {
                Ok(()) => {}
                Err(DeliveryError::Refused { too_large, reason }) => {
                    let may_omit = rows.iter().any(|row| row.id == id && row.may_omit_value);
                    if too_large && may_omit {
                        outbox::omit_value(connection, id).await?;
                    } else {
                        tracing::error!(id, reason, "Kafka refuses a record of the outbox");
                        outbox::mark_refused(connection, id, &reason).await?;
                    }
                }
                Err(DeliveryError::Unconfirmed(reason)) => unconfirmed = Some(reason),
            }
        }
        match unconfirmed {
            Some(reason) => Err(RelayError::Kafka(reason)),
            None => Ok(()),
        }
    }
}

/// The first row of each topic and key. A row without a key has no order to keep.
fn first_of_each_key(rows: Vec<OutboxRow>) -> Vec<OutboxRow> {
    let mut seen: HashSet<(String, Vec<u8>)> = HashSet::new();
    rows.into_iter()
        .filter(|row| match &row.record.key {
            Some(key) => seen.insert((row.record.topic.clone(), key.clone())),
            None => true,
        })
        .collect()
}

async fn sleep(cancel: &CancellationToken, time: Duration) {
    tokio::select! {
        () = cancel.cancelled() => {}
        () = tokio::time::sleep(time) => {}
    }
}
