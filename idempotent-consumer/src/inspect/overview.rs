//! How far the partitions are, and what waits for whom.

use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::retry_queue::{RetryQueueState, retry_queue};
use super::snapshot;

/// A row of `partition_progress`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartitionProgress {
    /// Which.
    pub partition: i32,
    /// Kafka's id of the topic that the offsets are of.
    pub topic_id: String,
    /// Everything below it has its outcome, or waits in the retry queue.
    pub next_offset: i64,
    /// The offset behind the messages over which a consumer may have ended, from `next_offset` on;
    /// `None` if none are suspected.
    pub suspects_end: Option<i64>,
    /// Messages applied.
    pub applied: i64,
    /// Records found to have their outcome already.
    pub duplicates: i64,
    /// Messages dead-lettered.
    pub dead_lettered: i64,
    /// Messages passed over on purpose.
    pub skipped: i64,
    /// Seconds since the last transaction; `None` before the first message.
    pub last_progress_age_seconds: Option<f64>,
    /// The lane that worked on it last; empty if none ever did. It may be gone.
    pub owner: String,
}

/// Dead letters of one state and code.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeadLetterCount {
    /// `open`, `redriven`, `discarded` or `resolved`.
    pub state: String,
    /// What the code says.
    pub error_code: String,
    /// How many.
    pub count: i64,
    /// Seconds since the oldest of them was dead-lettered.
    pub oldest_age_seconds: f64,
}

/// What waits to be published.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct OutboxState {
    /// Rows.
    pub rows: i64,
    /// Seconds since the oldest was written.
    pub oldest_age_seconds: Option<f64>,
    /// Of these, rows that Kafka refuses.
    pub refused_rows: i64,
    /// The first of the refused rows.
    pub refused: Vec<RefusedRow>,
}

/// A row of the outbox that Kafka refuses. It holds up its topic and key until it goes through.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RefusedRow {
    /// Id in the table `outbox`.
    pub id: i64,
    /// Where it is to go.
    pub topic: String,
    /// What Kafka said last.
    pub reason: String,
    /// Seconds since then.
    pub refused_age_seconds: f64,
}

/// Offsets that retention deleted before they were read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LostRange {
    /// Where.
    pub partition: i32,
    /// Kafka's id of the topic that the offsets are of.
    pub topic_id: String,
    /// The first lost offset.
    pub from_offset: i64,
    /// The offset behind the last lost one.
    pub to_offset: i64,
    /// Seconds since it was noticed.
    pub noticed_age_seconds: f64,
}

/// What the database knows, all of one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Overview {
    /// Of the topic, by number.
    pub partitions: Vec<PartitionProgress>,
    /// Of the group, the most frequent first.
    pub dead_letters: Vec<DeadLetterCount>,
    /// Of the topic.
    pub retry_queue: RetryQueueState,
    /// Of the database.
    pub outbox: OutboxState,
    /// Of the topic.
    pub lost_ranges: Vec<LostRange>,
}

/// Asks everything in one snapshot.
///
/// # Errors
/// The database does not answer, or lacks the engine's tables.
pub async fn overview(
    connection: &mut PgConnection,
    group: &str,
    topic: &str,
) -> Result<Overview, sqlx::Error> {
    let mut snapshot = snapshot(connection).await?;
    let found = Overview {
        partitions: partitions(&mut snapshot, group, topic).await?,
        dead_letters: dead_letter_counts(&mut snapshot, group).await?,
        retry_queue: retry_queue(&mut snapshot, group, topic).await?,
        outbox: outbox(&mut snapshot).await?,
        lost_ranges: lost_ranges(&mut snapshot, group, topic).await?,
    };
    snapshot.rollback().await?;
    Ok(found)
}

/// How far the database is with each partition.
///
/// # Errors
/// The database does not answer, or lacks the engine's tables.
pub async fn partitions(
    connection: &mut PgConnection,
    group: &str,
    topic: &str,
) -> Result<Vec<PartitionProgress>, sqlx::Error> {
    sqlx::query(
        r"
        SELECT partition, topic_id, next_offset, applied, duplicates, dead_lettered, skipped, owner,
               CASE WHEN handed_out > next_offset THEN handed_out END AS suspects_end,
               CASE WHEN applied + duplicates + dead_lettered + skipped > 0
                    THEN extract(epoch FROM clock_timestamp() - updated_at)::float8
               END AS last_progress_age_seconds
          FROM partition_progress
         WHERE consumer_group = $1 AND topic = $2
         ORDER BY partition
        ",
    )
    .bind(group)
    .bind(topic)
    .try_map(|row: PgRow| {
        Ok(PartitionProgress {
            partition: row.try_get("partition")?,
            topic_id: row.try_get("topic_id")?,
            next_offset: row.try_get("next_offset")?,
            suspects_end: row.try_get("suspects_end")?,
            applied: row.try_get("applied")?,
            duplicates: row.try_get("duplicates")?,
            dead_lettered: row.try_get("dead_lettered")?,
            skipped: row.try_get("skipped")?,
            last_progress_age_seconds: row.try_get("last_progress_age_seconds")?,
            owner: row.try_get("owner")?,
        })
    })
    .fetch_all(connection)
    .await
}

/// Groups and topics that the database has progress of: what to say when the one asked for has
/// none.
///
/// # Errors
/// The database does not answer, or lacks the engine's tables.
pub async fn known_consumers(
    connection: &mut PgConnection,
) -> Result<Vec<(String, String)>, sqlx::Error> {
    sqlx::query_as(
        r"
        SELECT DISTINCT consumer_group, topic
          FROM partition_progress
         ORDER BY consumer_group, topic
         LIMIT 10
        ",
    )
    .fetch_all(connection)
    .await
}

/// The group's dead letters by state and code, the most frequent first.
///
/// # Errors
/// The database does not answer, or lacks the engine's tables.
pub async fn dead_letter_counts(
    connection: &mut PgConnection,
    group: &str,
) -> Result<Vec<DeadLetterCount>, sqlx::Error> {
    sqlx::query(
        r"
        SELECT state, error_code, count(*) AS count,
               extract(epoch FROM clock_timestamp() - min(last_failed_at))::float8
                   AS oldest_age_seconds
          FROM dead_letters
         WHERE consumer_group = $1
         GROUP BY state, error_code
         ORDER BY count DESC, state, error_code
        ",
    )
    .bind(group)
    .try_map(|row: PgRow| {
        Ok(DeadLetterCount {
            state: row.try_get("state")?,
            error_code: row.try_get("error_code")?,
            count: row.try_get("count")?,
            oldest_age_seconds: row.try_get("oldest_age_seconds")?,
        })
    })
    .fetch_all(connection)
    .await
}

/// What waits to be published, without a list of the rows that Kafka refuses.
///
/// # Errors
/// The database does not answer, or lacks the engine's tables.
pub async fn outbox_counts(connection: &mut PgConnection) -> Result<OutboxState, sqlx::Error> {
    let (rows, refused_rows, oldest_age_seconds) = sqlx::query_as(
        r"
        SELECT count(*), count(refused_at),
               extract(epoch FROM clock_timestamp() - min(created_at))::float8
          FROM outbox
        ",
    )
    .fetch_one(connection)
    .await?;
    Ok(OutboxState { rows, oldest_age_seconds, refused_rows, refused: Vec::new() })
}

/// What waits to be published.
///
/// # Errors
/// The database does not answer, or lacks the engine's tables.
pub async fn outbox(connection: &mut PgConnection) -> Result<OutboxState, sqlx::Error> {
    let counts = outbox_counts(connection).await?;
    let refused = sqlx::query(
        r"
        SELECT id, topic, coalesce(refused_reason, '') AS reason,
               extract(epoch FROM clock_timestamp() - refused_at)::float8 AS refused_age_seconds
          FROM outbox
         WHERE refused_at IS NOT NULL
         ORDER BY id
         LIMIT 10
        ",
    )
    .try_map(|row: PgRow| {
        Ok(RefusedRow {
            id: row.try_get("id")?,
            topic: row.try_get("topic")?,
            reason: row.try_get("reason")?,
            refused_age_seconds: row.try_get("refused_age_seconds")?,
        })
    })
    .fetch_all(connection)
    .await?;
    Ok(OutboxState { refused, ..counts })
}

/// Offsets that the consumer noted as deleted before it read them.
///
/// # Errors
/// The database does not answer, or lacks the engine's tables.
pub async fn lost_ranges(
    connection: &mut PgConnection,
    group: &str,
    topic: &str,
) -> Result<Vec<LostRange>, sqlx::Error> {
    sqlx::query(
        r"
        SELECT partition, topic_id, from_offset, to_offset,
               extract(epoch FROM clock_timestamp() - noticed_at)::float8 AS noticed_age_seconds
          FROM lost_ranges
         WHERE consumer_group = $1 AND topic = $2
         ORDER BY partition, noticed_at, from_offset
        ",
    )
    .bind(group)
    .bind(topic)
    .try_map(|row: PgRow| {
        Ok(LostRange {
            partition: row.try_get("partition")?,
            topic_id: row.try_get("topic_id")?,
            from_offset: row.try_get("from_offset")?,
            to_offset: row.try_get("to_offset")?,
            noticed_age_seconds: row.try_get("noticed_age_seconds")?,
        })
    })
    .fetch_all(connection)
    .await
}
