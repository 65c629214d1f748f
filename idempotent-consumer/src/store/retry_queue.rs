//! The table `retry_queue`. Rows come and go only in transactions that hold the partition's row.

mod look_up;

use std::time::Duration;

use sqlx::types::Json;
use sqlx::types::time::OffsetDateTime;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

pub(crate) use self::look_up::{Queued, look_up};
use super::batch::LaneName;
use super::time_of;
use crate::copy::{self, BinaryRow};
use crate::deferral::KeyHash;
use crate::failure::FailureClass;
use crate::message::{Fingerprint, MessageId, PartitionKey, Record};
use crate::outcome::Verdict;

/// A failed attempt, and when the next one is due.
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    /// Its number is that of the attempts so far.
    pub verdict: &'a Verdict,
    pub next_in: Duration,
}

/// A message that joins the queue.
pub(crate) struct Joining<'a> {
    pub record: &'a Record,
    pub id: MessageId,
    pub fingerprint: Fingerprint,
    /// `None` for one that is behind another of its key.
    pub failed: Option<Attempt<'a>>,
}

/// What a transaction changes in the queue.
#[derive(Default)]
pub(crate) struct Changes<'a> {
    pub joining: Vec<Joining<'a>>,
    /// `queue_no` of those that came to an end.
    pub leaving: Vec<i64>,
    /// `queue_no` of those that failed again.
    pub failed: Vec<(i64, Attempt<'a>)>,
}

impl Changes<'_> {
    /// `now_ms` is the database's clock now, in milliseconds since 1970.
    pub(crate) async fn write(
        &self,
        connection: &mut PgConnection,
        lane: &LaneName,
        topic_id: &str,
        now_ms: i64,
    ) -> Result<(), sqlx::Error> {
        if !self.joining.is_empty() {
            self.join(connection, lane, topic_id, now_ms).await?;
        }
        if !self.failed.is_empty() {
            self.fail(connection).await?;
        }
        if !self.leaving.is_empty() {
            self.leave(connection, lane).await?;
        }
        Ok(())
    }

    async fn join(
        &self,
        connection: &mut PgConnection,
        lane: &LaneName,
        topic_id: &str,
        now_ms: i64,
    ) -> Result<(), sqlx::Error> {
        let into = r#"retry_queue
            (consumer_group, topic, topic_id, partition, "offset", message_id, fingerprint,
             record_timestamp_ms, key, key_hash, value, headers, attempts, next_attempt_at,
             first_failed_at, last_failed_at, error_class, error_code, error_message)"#;
        let encode = |row: &mut BinaryRow, joining: &Joining<'_>| {
            let Joining { record, id, fingerprint, failed } = joining;
            let verdict = failed.as_ref().map(|failed| failed.verdict);
            let failed_at = failed.as_ref().map(|_| time_of(now_ms));
            let next_at = failed
                .as_ref()
                .map(|failed| time_of(now_ms.saturating_add(milliseconds(failed.next_in))));
            let headers = serde_json::to_string(&record.headers)
                .map_err(|error| sqlx::Error::Encode(error.into()))?;
            row.value(&lane.group)?
                .value(&lane.topic)?
                .value(topic_id)?
                .value(lane.partition)?
                .value(record.offset)?
                .value(id.0)?
                .value(&fingerprint.0[..])?
                .value(record.timestamp_ms)?
                .value(record.key.as_deref())?
                .value(record.key.as_deref().map(|key| KeyHash::of(key).0))?
                .value(record.value.as_deref())?
                .value(headers)?
                .value(verdict.map_or(0, |verdict| verdict.attempts.cast_signed()))?
                .value(next_at)?
                .value(failed_at)?
                .value(failed_at)?
                .value(verdict.map(|verdict| verdict.class.as_str()))?
                .value(verdict.map(|verdict| verdict.code.as_ref()))?
                .value(verdict.map(|verdict| verdict.text.as_str()))?;
            Ok(())
        };
        copy::insert(connection, into, &self.joining, encode).await?;
        Ok(())
    }

    async fn fail(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let attempts = || self.failed.iter().map(|(_, attempt)| attempt);
        sqlx::query(
            r"
            UPDATE retry_queue
               SET attempts = failed.attempts,
                   -- This process has outlived the attempt.
                   charges = charges - CASE WHEN charged_by = '' THEN 0 ELSE 1 END,
                   charged_by = '',
                   next_attempt_at = clock_timestamp()
                       + CASE WHEN given_up_by IS NULL THEN next_in_ms ELSE 0 END
                       * interval '1 millisecond',
                   first_failed_at = coalesce(first_failed_at, clock_timestamp()),
                   last_failed_at = clock_timestamp(),
                   error_class = failed.error_class,
                   error_code = failed.error_code,
                   error_message = failed.error_message
              FROM unnest($1::bigint[], $2::integer[], $3::bigint[], $4::text[], $5::text[],
                          $6::text[])
                   AS failed (queue_no, attempts, next_in_ms, error_class, error_code,
                              error_message)
             WHERE retry_queue.queue_no = failed.queue_no
            ",
        )
        .bind(self.failed.iter().map(|(queue_no, _)| *queue_no).collect::<Vec<_>>())
        .bind(attempts().map(|a| a.verdict.attempts.cast_signed()).collect::<Vec<_>>())
        .bind(attempts().map(|a| milliseconds(a.next_in)).collect::<Vec<_>>())
        .bind(attempts().map(|a| a.verdict.class.as_str()).collect::<Vec<_>>())
        .bind(attempts().map(|a| a.verdict.code.as_ref()).collect::<Vec<_>>())
        .bind(attempts().map(|a| a.verdict.text.as_str()).collect::<Vec<_>>())
        // Planned each time: a plan for a queue that is nearly empty reads all of a full one.
        .persistent(false)
        .execute(connection)
        .await?;
        Ok(())
    }

    /// Removes rows, and has the next of each of their keys tried. Two statements: the second has
    /// to see what the first has done.
    async fn leave(
        &self,
        connection: &mut PgConnection,
        lane: &LaneName,
    ) -> Result<(), sqlx::Error> {
        let keys: Vec<Option<Uuid>> = sqlx::query_scalar(
            "DELETE FROM retry_queue WHERE queue_no = ANY($1) RETURNING key_hash",
        )
        .bind(&self.leaving)
        .persistent(false)
        .fetch_all(&mut *connection)
        .await?;
        let mut keys: Vec<Uuid> = keys.into_iter().flatten().collect();
        keys.sort_unstable();
        keys.dedup();
        sqlx::query(
            r"
            UPDATE retry_queue
               SET next_attempt_at = clock_timestamp()
              FROM unnest($4::uuid[]) AS freed (hash)
             CROSS JOIN LATERAL (
                       SELECT queue_no
                         FROM retry_queue
                        WHERE (key_hash, queue_no) > (freed.hash, 0) AND key_hash <= freed.hash
                          AND CASE WHEN consumer_group = $1 AND topic = $2 AND partition = $3
                                   THEN true END
                        ORDER BY key_hash, queue_no
                        LIMIT 1
                   ) AS head
             WHERE retry_queue.queue_no = head.queue_no
               AND retry_queue.next_attempt_at IS NULL
            ",
        )
        .bind(&lane.group)
        .bind(&lane.topic)
        .bind(lane.partition)
        .bind(&keys)
        .execute(connection)
        .await?;
        Ok(())
    }
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// A message that is due.
#[derive(Debug)]
pub(crate) struct Due {
    pub queue_no: i64,
    pub topic_id: String,
    pub record: Record,
    /// Attempts so far.
    pub attempts: u32,
    pub first_failed_at: Option<OffsetDateTime>,
    /// Its last failure was one of the whole transaction, and not an answer of the handler.
    pub fails_its_batch: bool,
    /// It is of a log that an operator has given up.
    pub of_old_log: bool,
    /// A process may have ended over it: it is to be tried alone.
    pub is_suspect: bool,
    /// It is to be dead-lettered without being looked at.
    pub doomed: Option<Verdict>,
}

/// Messages that are due. Those behind another one are found by a range of `(key_hash, queue_no)`:
/// with an equality PostgreSQL may prefer to walk all of the queue in the order of `queue_no`, in the
/// hope of meeting one of the key soon. With the partition as a plain condition it expects a single
/// row, and reads and sorts all of the key for it; what a `CASE` lets through, it cannot tell.
///
/// They come by the order of the log: of each key the oldest, and if that one has
/// never failed those behind it as well.
pub(crate) async fn due(
    connection: &mut PgConnection,
    lane: &LaneName,
    max_rows: usize,
    max_bytes: usize,
    suspects_due_before: Option<OffsetDateTime>,
) -> Result<Vec<Due>, sqlx::Error> {
    let max_rows = i64::try_from(max_rows).unwrap_or(i64::MAX);
    let rows = sqlx::query(
        r#"
        WITH head AS MATERIALIZED (
            SELECT queue_no, key_hash, attempts
              FROM retry_queue
             WHERE consumer_group = $1 AND topic = $2 AND partition = $3
               AND next_attempt_at <= statement_timestamp()
             ORDER BY next_attempt_at
             LIMIT $4
        ), wanted AS MATERIALIZED (
            SELECT queue_no
              FROM head
             UNION ALL
            SELECT behind.queue_no
              FROM head
             CROSS JOIN LATERAL (
                       SELECT queue_no
                         FROM retry_queue
                        WHERE (key_hash, queue_no) > (head.key_hash, head.queue_no)
                          AND key_hash <= head.key_hash
                          AND CASE WHEN consumer_group = $1 AND topic = $2 AND partition = $3
                                   THEN true END
                        ORDER BY key_hash, queue_no
                        LIMIT $4
                   ) AS behind
             WHERE head.attempts = 0
        ), sized AS (
            SELECT queue_no,
                   sum(coalesce(length(value), 0) + coalesce(length(key), 0)
                       + pg_column_size(headers) + 512) OVER (ORDER BY queue_no) AS up_to_here,
                   row_number() OVER (ORDER BY queue_no) AS place
              FROM wanted
              JOIN retry_queue USING (queue_no)
        )
        SELECT queue_no, topic_id, "offset", record_timestamp_ms, key, value, headers, attempts,
               first_failed_at, given_up_by, error_message,
               coalesce(error_code <> 'retry', false) AS fails_its_batch, of_old_log,
               charges > 0 OR coalesce(next_attempt_at <= $6, false)
                   -- Tried together with the one before it, or not yet.
                   OR coalesce(attempts = 0 AND queued_at <= $6, false) AS is_suspect
          FROM sized
          JOIN retry_queue USING (queue_no)
         WHERE place = 1 OR (place <= $4 AND up_to_here <= $5)
         ORDER BY queue_no
        "#,
    )
    .bind(&lane.group)
    .bind(&lane.topic)
    .bind(lane.partition)
    .bind(max_rows)
    .bind(i64::try_from(max_bytes).unwrap_or(i64::MAX))
    .bind(suspects_due_before)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let Json(headers) = row.try_get("headers")?;
            let attempts = row.try_get::<i32, _>("attempts")?.cast_unsigned();
            let given_up_by: Option<String> = row.try_get("given_up_by")?;
            let last_error: Option<String> = row.try_get("error_message")?;
            let doomed = given_up_by.map(|who| {
                let last_error = last_error.as_deref().unwrap_or("it had not been tried");
                let text = format!("given up by {who}: {last_error}");
                Verdict::new(FailureClass::Retryable, "given_up", text, attempts)
            });
            Ok(Due {
                queue_no: row.try_get("queue_no")?,
                topic_id: row.try_get("topic_id")?,
                attempts,
                first_failed_at: row.try_get("first_failed_at")?,
                fails_its_batch: row.try_get("fails_its_batch")?,
                of_old_log: row.try_get("of_old_log")?,
                is_suspect: row.try_get("is_suspect")?,
                doomed,
                record: Record {
                    source: PartitionKey {
                        topic: lane.topic.as_str().into(),
                        partition: lane.partition,
                    },
                    offset: row.try_get("offset")?,
                    timestamp_ms: row.try_get("record_timestamp_ms")?,
                    key: row.try_get("key")?,
                    value: row.try_get("value")?,
                    headers,
                },
            })
        })
        .collect()
}

/// How long until the next attempt of a partition is due; `None` if nothing waits.
pub(crate) async fn next_due(
    connection: &mut PgConnection,
    lane: &LaneName,
) -> Result<Option<Duration>, sqlx::Error> {
    let seconds: Option<f64> = sqlx::query_scalar(
        r"
        SELECT extract(epoch FROM min(next_attempt_at) - clock_timestamp())::float8
          FROM retry_queue
         WHERE consumer_group = $1 AND topic = $2 AND partition = $3
           AND next_attempt_at IS NOT NULL
        ",
    )
    .bind(&lane.group)
    .bind(&lane.topic)
    .bind(lane.partition)
    .fetch_one(connection)
    .await?;
    Ok(seconds.map(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default()))
}

/// Whether a message is still in the queue.
pub(crate) async fn contains(
    connection: &mut PgConnection,
    queue_no: i64,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM retry_queue WHERE queue_no = $1)")
        .bind(queue_no)
        .fetch_one(connection)
        .await
}

/// `(partition, offset)` of the oldest message of each partition of the topic that waits.
pub(crate) async fn oldest(
    connection: &mut PgConnection,
    lane: &LaneName,
) -> Result<Vec<(i32, i64)>, sqlx::Error> {
    sqlx::query_as(
        r#"
        SELECT partition, min("offset")
          FROM retry_queue
         WHERE consumer_group = $1 AND topic = $2
         GROUP BY partition
        "#,
    )
    .bind(&lane.group)
    .bind(&lane.topic)
    .fetch_all(connection)
    .await
}

/// Whether nothing of a topic waits.
pub(crate) async fn is_empty(
    connection: &mut PgConnection,
    group: &str,
    topic: &str,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT NOT EXISTS (SELECT FROM retry_queue WHERE consumer_group = $1 AND topic = $2)",
    )
    .bind(group)
    .bind(topic)
    .fetch_one(connection)
    .await
}
