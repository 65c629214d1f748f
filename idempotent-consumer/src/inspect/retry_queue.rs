//! What waits for another attempt.

use std::collections::HashMap;

use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::json;
use crate::message::MessageId;

/// The retry queue of a topic.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RetryQueueState {
    /// Messages in it.
    pub messages: i64,
    /// Of these, messages that failed; the others are behind one of them with the same key.
    pub heads: i64,
    /// Seconds since the oldest of them failed first.
    pub oldest_failure_age_seconds: Option<f64>,
    /// Seconds until the next attempt of any; 0 if it is due.
    pub next_attempt_in_seconds: Option<f64>,
    /// The next heads.
    pub next: Vec<RetryHead>,
}

/// A message that failed and is tried again, with those behind it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RetryHead {
    /// What it is known by.
    pub message_id: MessageId,
    /// Where its record lies.
    pub partition: i32,
    /// Where its record lies.
    pub offset: i64,
    /// Its key.
    #[serde(flatten, serialize_with = "json::key")]
    pub key: Option<Vec<u8>>,
    /// Messages with its key that wait behind it.
    pub behind: i64,
    /// Attempts so far.
    pub attempts: i32,
    /// Seconds until the next; 0 if it is due.
    pub next_attempt_in_seconds: f64,
    /// Seconds since it failed first; `None` if it has been behind another one until now.
    pub first_failed_age_seconds: Option<f64>,
    /// Code of the last failure.
    pub error_code: Option<String>,
    /// Text of the last failure.
    pub error_message: Option<String>,
    /// The operator who wants it dead-lettered.
    pub given_up_by: Option<String>,
}

/// A record whose message waits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Waiting {
    /// Attempts so far.
    pub attempts: i32,
    /// Seconds until the next; `None` behind another message of its key.
    pub next_attempt_in_seconds: Option<f64>,
    /// Text of the last failure.
    pub error_message: Option<String>,
}

/// Counts, without heads.
///
/// # Errors
/// The database does not answer, or lacks the engine's tables.
pub(crate) async fn retry_queue_counts(
    connection: &mut PgConnection,
    group: &str,
    topic: &str,
) -> Result<RetryQueueState, sqlx::Error> {
    let row = sqlx::query(
        r"
        SELECT count(*) AS messages, count(next_attempt_at) AS heads,
               extract(epoch FROM clock_timestamp() - min(first_failed_at))::float8 AS oldest,
               extract(epoch FROM min(next_attempt_at) - clock_timestamp())::float8 AS next
          FROM retry_queue
         WHERE consumer_group = $1 AND topic = $2
        ",
    )
    .bind(group)
    .bind(topic)
    .fetch_one(connection)
    .await?;
    Ok(RetryQueueState {
        messages: row.try_get("messages")?,
        heads: row.try_get("heads")?,
        oldest_failure_age_seconds: row.try_get("oldest")?,
        next_attempt_in_seconds: row.try_get::<Option<f64>, _>("next")?.map(|next| next.max(0.0)),
        next: Vec::new(),
    })
}

/// Counts, and the next ten heads.
///
/// # Errors
/// The database does not answer, or lacks the engine's tables.
pub async fn retry_queue(
    connection: &mut PgConnection,
    group: &str,
    topic: &str,
) -> Result<RetryQueueState, sqlx::Error> {
    let counts = retry_queue_counts(connection, group, topic).await?;
    Ok(RetryQueueState { next: list_retry_heads(connection, group, topic, 10).await?, ..counts })
}

/// The heads, the next to be tried first.
///
/// # Errors
/// The database does not answer, or lacks the engine's tables.
pub async fn list_retry_heads(
    connection: &mut PgConnection,
    group: &str,
    topic: &str,
    limit: i64,
) -> Result<Vec<RetryHead>, sqlx::Error> {
    sqlx::query(
        r#"
        SELECT message_id, partition, "offset", key, attempts, error_code, error_message,
               given_up_by,
               extract(epoch FROM next_attempt_at - clock_timestamp())::float8 AS next,
               extract(epoch FROM clock_timestamp() - first_failed_at)::float8 AS age,
               (
                   SELECT count(*)
                     FROM retry_queue AS behind
                    WHERE behind.consumer_group = $1
                      AND behind.topic = $2
                      AND behind.partition = head.partition
                      AND behind.key_hash = head.key_hash
                      AND behind.queue_no > head.queue_no
               ) AS behind
          FROM retry_queue AS head
         WHERE consumer_group = $1 AND topic = $2 AND next_attempt_at IS NOT NULL
         ORDER BY next_attempt_at, queue_no
         LIMIT $3
        "#,
    )
    .bind(group)
    .bind(topic)
    .bind(limit)
    .try_map(|row: PgRow| {
        Ok(RetryHead {
            message_id: MessageId(row.try_get("message_id")?),
            partition: row.try_get("partition")?,
            offset: row.try_get("offset")?,
            key: row.try_get("key")?,
            behind: row.try_get("behind")?,
            attempts: row.try_get("attempts")?,
            next_attempt_in_seconds: row.try_get::<f64, _>("next")?.max(0.0),
            first_failed_age_seconds: row.try_get("age")?,
            error_code: row.try_get("error_code")?,
            error_message: row.try_get("error_message")?,
            given_up_by: row.try_get("given_up_by")?,
        })
    })
    .fetch_all(connection)
    .await
}

/// Those of these places that wait.
pub(super) async fn waiting(
    connection: &mut PgConnection,
    group: &str,
    topic_id: &str,
    places: &[(i32, i64)],
) -> Result<HashMap<(i32, i64), Waiting>, sqlx::Error> {
    let rows = sqlx::query(
        r#"
        SELECT partition, "offset", attempts, error_message,
               extract(epoch FROM next_attempt_at - clock_timestamp())::float8 AS next
          FROM retry_queue
          JOIN unnest($3::integer[], $4::bigint[]) AS asked (partition, "offset")
         USING (partition, "offset")
         WHERE consumer_group = $1 AND topic_id = $2
        "#,
    )
    .bind(group)
    .bind(topic_id)
    .bind(places.iter().map(|(partition, _)| *partition).collect::<Vec<_>>())
    .bind(places.iter().map(|(_, offset)| *offset).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let waiting = Waiting {
                attempts: row.try_get("attempts")?,
                next_attempt_in_seconds: row
                    .try_get::<Option<f64>, _>("next")?
                    .map(|next| next.max(0.0)),
                error_message: row.try_get("error_message")?,
            };
            Ok(((row.try_get("partition")?, row.try_get("offset")?), waiting))
        })
        .collect()
}
