//! Dead letters: lists of them, and one with its whole record.

use futures_util::TryStreamExt as _;
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::types::time::OffsetDateTime;
use sqlx::{PgConnection, Row};
use std::ops::ControlFlow;
use std::time::Duration;
use uuid::Uuid;

use super::json;
use crate::identity::id_from_text;
use crate::message::{Headers, MessageId};

/// Where a dead letter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadLetterState {
    /// Nobody has dealt with it.
    Open,
    /// It was published again.
    Redriven,
    /// Somebody decided that it is not needed.
    Discarded,
    /// It was dealt with.
    Resolved,
}

impl DeadLetterState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Open, Self::Redriven, Self::Discarded, Self::Resolved];

    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Redriven => "redriven",
            Self::Discarded => "discarded",
            Self::Resolved => "resolved",
        }
    }
}

/// A dead letter without its record's value and headers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeadLetterSummary {
    /// Unique for each dead-lettering.
    pub dlq_id: Uuid,
    /// The id that its claim is under.
    pub message_id: MessageId,
    /// The id it came with; another one than `message_id` for an `id_conflict` only.
    pub original_id: MessageId,
    /// Its CloudEvents type.
    pub event_type: Option<String>,
    /// Where it lay in Kafka.
    pub topic: String,
    /// Where it lay in Kafka.
    pub partition: i32,
    /// Where it lay in Kafka.
    pub offset: i64,
    /// The record's key.
    #[serde(flatten, serialize_with = "json::key")]
    pub key: Option<Vec<u8>>,
    /// Class of the failure.
    pub error_class: String,
    /// Stable code of the failure.
    pub error_code: String,
    /// For people.
    pub error_message: String,
    /// How often the handler was tried.
    pub attempts: i32,
    /// The first failure.
    #[serde(with = "time::serde::rfc3339")]
    pub first_failed_at: OffsetDateTime,
    /// The failure that it was dead-lettered for.
    #[serde(with = "time::serde::rfc3339")]
    pub last_failed_at: OffsetDateTime,
    /// Seconds since then.
    pub age_seconds: f64,
    /// Where it stands.
    pub state: DeadLetterState,
    /// How often it was published again.
    pub redrive_count: i32,
}

/// A dead letter with everything that is known of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeadLetter {
    /// What lists show.
    #[serde(flatten)]
    pub summary: DeadLetterSummary,
    /// The record's timestamp.
    #[serde(with = "time::serde::rfc3339::option")]
    pub record_timestamp: Option<OffsetDateTime>,
    /// The record's headers.
    pub headers: Headers,
    /// The record's value, byte for byte.
    #[serde(flatten, serialize_with = "json::value")]
    pub value: Option<Vec<u8>>,
    /// When its state last changed.
    #[serde(with = "time::serde::rfc3339::option")]
    pub state_changed_at: Option<OffsetDateTime>,
    /// By whom it was redriven or discarded.
    pub state_changed_by: Option<String>,
    /// Why it is in this state, where that is not plain: its redrive could not be published.
    pub state_reason: Option<String>,
}

/// Which dead letters to list. The default is all.
#[derive(Clone, Debug, Default)]
pub struct DeadLetterFilter {
    /// With this code only.
    pub code: Option<String>,
    /// In this state only.
    pub state: Option<DeadLetterState>,
    /// Not dead-lettered longer ago than this.
    pub since: Option<Duration>,
    /// So many at most.
    pub limit: Option<u32>,
}

/// Hands the group's dead letters to `each`, the newest first, until it breaks off. They come one
/// by one, so any number takes no memory.
///
/// # Errors
/// The database does not answer, or lacks the engine's tables.
pub async fn list_dead_letters(
    connection: &mut PgConnection,
    group: &str,
    filter: &DeadLetterFilter,
    mut each: impl FnMut(DeadLetterSummary) -> ControlFlow<()>,
) -> Result<(), sqlx::Error> {
    let mut rows = sqlx::query(
        r#"
        SELECT dlq_id, message_id, original_id, event_type, topic, partition, "offset", key,
               error_class, error_code, error_message, attempts, first_failed_at, last_failed_at,
               extract(epoch FROM clock_timestamp() - last_failed_at)::float8 AS age_seconds,
               state, redrive_count
          FROM dead_letters
         WHERE consumer_group = $1
           AND ($2::text IS NULL OR error_code = $2)
           AND ($3::text IS NULL OR state = $3)
           AND ($4::float8 IS NULL OR last_failed_at >= clock_timestamp() - $4 * interval '1 second')
         ORDER BY last_failed_at DESC, partition DESC, "offset" DESC
         LIMIT $5
        "#,
    )
    .bind(group)
    .bind(filter.code.as_deref())
    .bind(filter.state.map(DeadLetterState::as_str))
    .bind(filter.since.map(|since| since.as_secs_f64()))
    .bind(filter.limit.map(i64::from))
    .fetch(connection);
    while let Some(row) = rows.try_next().await? {
        if each(summary(&row)?).is_break() {
            break;
        }
    }
    Ok(())
}

/// The group's dead letters that have this id as dlq id (also an earlier one), message id or original id, the best match
/// first: a message has one of its own at most, and one for each conflicting message with its id.
///
/// # Errors
/// The database does not answer, or lacks the engine's tables.
pub async fn dead_letter(
    connection: &mut PgConnection,
    group: &str,
    id: Uuid,
) -> Result<Vec<DeadLetter>, sqlx::Error> {
    sqlx::query(
        r#"
        SELECT dlq_id, message_id, original_id, event_type, topic, partition, "offset", key,
               error_class, error_code, error_message, attempts, first_failed_at, last_failed_at,
               extract(epoch FROM clock_timestamp() - last_failed_at)::float8 AS age_seconds,
               state, redrive_count,
               record_timestamp, headers, value, state_changed_at, state_changed_by, state_reason
          FROM dead_letters
         WHERE consumer_group = $1
           AND (dlq_id = $2 OR message_id = $2 OR original_id = $2
                OR message_id IN (SELECT message_id FROM past_dead_letterings WHERE dlq_id = $2))
         ORDER BY dlq_id = $2 DESC, message_id = $2 DESC, last_failed_at, partition, "offset"
         LIMIT 20
        "#,
    )
    .bind(group)
    .bind(id)
    .try_map(|row: PgRow| whole(&row))
    .fetch_all(connection)
    .await
}

/// The group's dead letters whose producer gave this text as their id. Reads the whole table for
/// the sources that the text may be of.
///
/// # Errors
/// The database does not answer, or lacks the engine's tables.
pub async fn dead_letters_with_producer_id(
    connection: &mut PgConnection,
    group: &str,
    id: &str,
) -> Result<Vec<DeadLetter>, sqlx::Error> {
    let sources: Vec<String> = sqlx::query_scalar(
        r"
        SELECT DISTINCT header ->> 'value'
          FROM dead_letters, jsonb_array_elements(headers) AS header
         WHERE consumer_group = $1
           AND lower(header ->> 'name') = 'ce_source' AND header ->> 'value' <> ''
         LIMIT 1000
        ",
    )
    .bind(group)
    .fetch_all(&mut *connection)
    .await?;
    let sources = std::iter::once(None).chain(sources.iter().map(|source| Some(source.as_str())));
    let ids: Vec<Uuid> = sources.map(|source| id_from_text(source, id).0).collect();
    sqlx::query(
        r#"
        SELECT dlq_id, message_id, original_id, event_type, topic, partition, "offset", key,
               error_class, error_code, error_message, attempts, first_failed_at, last_failed_at,
               extract(epoch FROM clock_timestamp() - last_failed_at)::float8 AS age_seconds,
               state, redrive_count,
               record_timestamp, headers, value, state_changed_at, state_changed_by, state_reason
          FROM dead_letters
         WHERE consumer_group = $1 AND original_id = ANY($2)
         ORDER BY last_failed_at, partition, "offset"
         LIMIT 20
        "#,
    )
    .bind(group)
    .bind(ids)
    .try_map(|row: PgRow| whole(&row))
    .fetch_all(connection)
    .await
}

/// The dead letters whose claims are under these ids.
///
/// # Errors
/// The database does not answer, or lacks the engine's tables.
pub async fn dead_letters_of_messages(
    connection: &mut PgConnection,
    group: &str,
    ids: &[MessageId],
) -> Result<Vec<DeadLetterSummary>, sqlx::Error> {
    sqlx::query(
        r#"
        SELECT dlq_id, message_id, original_id, event_type, topic, partition, "offset", key,
               error_class, error_code, error_message, attempts, first_failed_at, last_failed_at,
               extract(epoch FROM clock_timestamp() - last_failed_at)::float8 AS age_seconds,
               state, redrive_count
          FROM dead_letters
         WHERE message_id = ANY($1) AND consumer_group = $2
        "#,
    )
    .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
    .bind(group)
    .try_map(|row: PgRow| summary(&row))
    .fetch_all(connection)
    .await
}

fn summary(row: &PgRow) -> Result<DeadLetterSummary, sqlx::Error> {
    let word: &str = row.try_get("state")?;
    let state = DeadLetterState::ALL
        .into_iter()
        .find(|state| state.as_str() == word)
        .ok_or_else(|| sqlx::Error::Decode(format!("the state {word:?} is not known").into()))?;
    Ok(DeadLetterSummary {
        dlq_id: row.try_get("dlq_id")?,
        message_id: MessageId(row.try_get("message_id")?),
        original_id: MessageId(row.try_get("original_id")?),
        event_type: row.try_get("event_type")?,
        topic: row.try_get("topic")?,
        partition: row.try_get("partition")?,
        offset: row.try_get("offset")?,
        key: row.try_get("key")?,
        error_class: row.try_get("error_class")?,
        error_code: row.try_get("error_code")?,
        error_message: row.try_get("error_message")?,
        attempts: row.try_get("attempts")?,
        first_failed_at: row.try_get("first_failed_at")?,
        last_failed_at: row.try_get("last_failed_at")?,
        age_seconds: row.try_get("age_seconds")?,
        state,
        redrive_count: row.try_get("redrive_count")?,
    })
}

fn whole(row: &PgRow) -> Result<DeadLetter, sqlx::Error> {
    let Json(headers) = row.try_get("headers")?;
    Ok(DeadLetter {
        summary: summary(row)?,
        record_timestamp: row.try_get("record_timestamp")?,
        headers,
        value: row.try_get("value")?,
        state_changed_at: row.try_get("state_changed_at")?,
        state_changed_by: row.try_get("state_changed_by")?,
        state_reason: row.try_get("state_reason")?,
    })
}
