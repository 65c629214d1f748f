//! What goes on beside the requests.

use std::time::Duration;

use idempotent_consumer::publish::{Ensured, Topics};
use idempotent_consumer::{KafkaSettings, inspect};
use sqlx::PgPool;
use sqlx::types::time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::health::{Backlog, Behind, Database};
use super::look::{in_time, on_connection, within};
use super::store;
use crate::topic::PARTITIONS;

/// How often the database is asked whether it is there, and how long it has for each part of the answer.
const ASK_EVERY: Duration = Duration::from_millis(500);
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How far this machine's clock may be from the database's before the log says so: the times of new
/// orders are this one's.
const CLOCK_TOLERANCE: time::Duration = time::Duration::seconds(5);
/// Looking takes at most this share of the time, however long the outbox is: it counts its rows.
const LOOK_SHARE: u32 = 20;
const FORGET_EVERY: Duration = Duration::from_mins(10);
/// Batches of old keys that leave at a time; more wait for the next one.
const FORGET_BATCHES_MAX: u32 = 1000;
const TOPIC_TIMEOUT: Duration = Duration::from_secs(10);

/// Watches the database and the outbox, and lets old keys go.
pub(super) struct Upkeep {
    pub(super) pool: PgPool,
    pub(super) behind: Behind,
    pub(super) database: Database,
    pub(super) key_retention: Duration,
}

impl Upkeep {
    pub(super) async fn run(self, stop: CancellationToken) {
        tokio::join!(self.watch(&stop), self.look_and_forget(&stop));
    }

    /// Apart from the rest, which may take its time.
    async fn watch(&self, stop: &CancellationToken) {
        let mut is_clock_off = false;
        while !stop.is_cancelled() {
            let asked = self.ask().await;
            let is_new = self.database.set_away(asked.is_err());
            match &asked {
                Err(error) if is_new => tracing::warn!(%error, "the database does not answer"),
                Ok(_) if is_new => tracing::info!("the database answers again"),
                _ => {}
            }
            if let Ok(ahead) = asked {
                metrics::gauge!("order_producer_clock_ahead_seconds").set(ahead.as_seconds_f64());
                let is_off = ahead.abs() > CLOCK_TOLERANCE;
                if is_off && !is_clock_off {
                    tracing::warn!(
                        ahead_seconds = ahead.as_seconds_f64(),
                        "this machine's clock is not the database's; new orders have its times"
                    );
                }
                is_clock_off = is_off;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(ASK_EVERY) => {}
            }
        }
    }

    /// Asks the database whether it is there, with our tables; returns how far our clock is ahead of
    /// its.
    async fn ask(&self) -> Result<time::Duration, sqlx::Error> {
        let mut connection = within(ASK_TIMEOUT, self.pool.acquire()).await?;
        let question = sqlx::query_scalar(
            "SELECT clock_timestamp() FROM (SELECT) AS one LEFT JOIN accepted_orders ON false",
        )
        .fetch_one(&mut *connection);
        let asked: Result<OffsetDateTime, _> = within(ASK_TIMEOUT, question).await;
        asked
            .map(|there| OffsetDateTime::now_utc() - there)
            .inspect_err(|_| connection.close_on_drop())
    }

    async fn look_and_forget(&self, stop: &CancellationToken) {
        let mut next_forget = tokio::time::Instant::now();
        while !stop.is_cancelled() {
            let began = tokio::time::Instant::now();
            match self.look().await {
                Ok(backlog) => self.behind.set(backlog),
                Err(error) => tracing::debug!(%error, "the outbox can't be looked at"),
            }
            let pause = LOOK_EVERY.max(began.elapsed() * LOOK_SHARE);
            if next_forget.elapsed() > Duration::ZERO {
                next_forget = tokio::time::Instant::now() + FORGET_EVERY;
                if let Err(error) = self.forget(stop).await {
                    tracing::warn!(%error, "old Idempotency-Keys stay for now");
                }
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn look(&self) -> Result<Backlog, sqlx::Error> {
        let state =
            on_connection(&self.pool, async |connection| inspect::outbox_counts(connection).await)
                .await?;
        Ok(Backlog {
            rows: state.rows,
            oldest_seconds: state.oldest_age_seconds.unwrap_or(0.0),
            refused: state.refused_rows,
        })
    }

    async fn forget(&self, stop: &CancellationToken) -> Result<(), sqlx::Error> {
        let mut connection = self.pool.acquire().await?;
        for _ in 0..FORGET_BATCHES_MAX {
            let forgotten = in_time(store::forget_keys(&mut connection, self.key_retention)).await;
            let gone = forgotten.inspect_err(|_| connection.close_on_drop())?;
            if gone == 0 || stop.is_cancelled() {
                break;
            }
            tracing::debug!(gone, "old Idempotency-Keys left");
        }
        Ok(())
    }
}

/// Creates the topic if it is missing, as soon as Kafka answers: it need not at the start.
pub(super) async fn ensure_topic(
    settings: KafkaSettings,
    topic: Option<String>,
    stop: CancellationToken,
) {
    let Some(topic) = topic else { return };
    while !stop.is_cancelled() {
        match ensure(settings.clone(), topic.clone()).await {
            Ok(created) => {
                if created == Ensured::Created {
                    tracing::info!("created the topic {topic} with {PARTITIONS} partitions");
                }
                return;
            }
            Err(error) => tracing::warn!("the topic {topic}: {error:#}"),
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(TOPIC_TIMEOUT) => {}
        }
    }
}

/// On a thread of its own: the client's questions block.
async fn ensure(settings: KafkaSettings, topic: String) -> anyhow::Result<Ensured> {
    let handle = tokio::runtime::Handle::current();
    let asked = tokio::task::spawn_blocking(move || {
        let topics = Topics::new(&settings, TOPIC_TIMEOUT)?;
        handle.block_on(topics.ensure(&topic, PARTITIONS))
    });
    Ok(asked.await??)
}
