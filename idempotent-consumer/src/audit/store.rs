//! The SQL of the audit, inside one read-only snapshot.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::postgres::PgRow;
use sqlx::{Connection, PgConnection, Postgres, Row, Transaction};
use uuid::Uuid;

use super::merge::{ClaimRow, Place};
use super::positions::{LostRange, Outcomes, ProgressRow};
use crate::message::{Fingerprint, MessageId};
use crate::outcome::Outcome;

/// Begins the snapshot that everything is judged by.
pub(super) async fn begin(
    connection: &mut PgConnection,
) -> Result<Transaction<'_, Postgres>, sqlx::Error> {
    let mut snapshot =
        connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    // Before the snapshot: a purge empties leaves for older snapshots as well.
    sqlx::query("LOCK TABLE processed_messages IN ACCESS SHARE MODE")
        .execute(&mut *snapshot)
        .await?;
    // The reader of the log may be the slower one, and the cursor is read to its end.
    sqlx::query(
        r"
        SELECT set_config('statement_timeout', '0', true),
               set_config('idle_in_transaction_session_timeout', '0', true),
               set_config('cursor_tuple_fraction', '1', true)
        ",
    )
    .execute(&mut *snapshot)
    .await?;
    Ok(snapshot)
}

/// How far the database is with each partition.
pub(super) async fn progress(
    connection: &mut PgConnection,
    group: &str,
    topic: &str,
) -> Result<Vec<ProgressRow>, sqlx::Error> {
    sqlx::query(
        r"
        SELECT partition, topic_id, next_offset, accepted_batch_seq, applied, dead_lettered,
               skipped
          FROM partition_progress
         WHERE consumer_group = $1 AND topic = $2
         ORDER BY partition
        ",
    )
    .bind(group)
    .bind(topic)
    .fetch_all(connection)
    .await?
    .into_iter()
    .map(|row| {
        Ok(ProgressRow {
            partition: row.try_get("partition")?,
            topic_id: row.try_get("topic_id")?,
            next_offset: row.try_get("next_offset")?,
            accepted_batch_seq: row.try_get("accepted_batch_seq")?,
            counted: outcomes(&row)?,
        })
    })
    .collect()
}

/// Ranges that the consumer noted as deleted before it read them.
pub(super) async fn lost_ranges(
    connection: &mut PgConnection,
    group: &str,
    topic: &str,
) -> Result<Vec<LostRange>, sqlx::Error> {
    let rows: Vec<(i32, i64, i64)> = sqlx::query_as(
        r"
        SELECT partition, from_offset, to_offset
          FROM lost_ranges
         WHERE consumer_group = $1 AND topic = $2
         ORDER BY partition, from_offset
        ",
    )
    .bind(group)
    .bind(topic)
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(partition, from_offset, to_offset)| LostRange { partition, from_offset, to_offset })
        .collect())
}

/// Claims of messages from before this moment may be gone, in milliseconds since 1970; `None` if
/// none was ever purged.
pub(super) async fn purged_before_ms(
    connection: &mut PgConnection,
) -> Result<Option<i64>, sqlx::Error> {
    let purged_before: Option<Option<i64>> = sqlx::query_scalar(
        "SELECT (extract(epoch FROM purged_before) * 1000)::bigint FROM dedup_window",
    )
    .fetch_optional(connection)
    .await?;
    Ok(purged_before.flatten())
}

/// Claims of the topic by partition, and how many the group has of other topics.
pub(super) async fn count_claims(
    connection: &mut PgConnection,
    group: &str,
    topic: &str,
) -> Result<(BTreeMap<i32, Outcomes>, i64), sqlx::Error> {
    let rows = sqlx::query(
        r"
        SELECT topic = $2 AS is_topic,
               partition,
               count(*) FILTER (WHERE outcome = 'applied') AS applied,
               count(*) FILTER (WHERE outcome = 'dead_lettered') AS dead_lettered,
               count(*) FILTER (WHERE outcome = 'skipped') AS skipped
          FROM processed_messages
         WHERE consumer_group = $1
         GROUP BY 1, 2
        ",
    )
    .bind(group)
    .bind(topic)
    .fetch_all(connection)
    .await?;
    let (mut of_topic, mut of_others) = (BTreeMap::new(), 0);
    for row in rows {
        let counted = outcomes(&row)?;
        if row.try_get("is_topic")? {
            of_topic.insert(row.try_get("partition")?, counted);
        } else {
            of_others += counted.applied + counted.dead_lettered + counted.skipped;
        }
    }
    Ok((of_topic, of_others))
}

fn outcomes(row: &PgRow) -> Result<Outcomes, sqlx::Error> {
    Ok(Outcomes {
        applied: row.try_get("applied")?,
        dead_lettered: row.try_get("dead_lettered")?,
        skipped: row.try_get("skipped")?,
    })
}

/// Opens the cursor that [`next_claims`] reads. A cursor rather than a stream of rows, so that
/// ids can be looked up in the same snapshot in between.
pub(super) async fn open_claims(
    connection: &mut PgConnection,
    group: &str,
    topic: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        r#"
        DECLARE audited_claims NO SCROLL CURSOR FOR
         SELECT message_id, "offset", batch_seq, partition, outcome, fingerprint
           FROM processed_messages
          WHERE consumer_group = $1 AND topic = $2
          ORDER BY partition, "offset", message_id
        "#,
    )
    .bind(group)
    .bind(topic)
    .execute(connection)
    .await?;
    Ok(())
}

/// The next claims by partition and offset; none at the end.
pub(super) async fn next_claims(
    connection: &mut PgConnection,
) -> Result<Vec<ClaimRow>, sqlx::Error> {
    sqlx::query("FETCH FORWARD 4096 FROM audited_claims")
        .try_map(|row: PgRow| {
            Ok(ClaimRow {
                partition: row.try_get("partition")?,
                offset: row.try_get("offset")?,
                id: MessageId(row.try_get("message_id")?),
                fingerprint: fingerprint(row.try_get("fingerprint")?),
                outcome: outcome(row.try_get("outcome")?)?,
                batch_seq: row.try_get("batch_seq")?,
            })
        })
        .fetch_all(connection)
        .await
}

/// Closes the cursor.
pub(super) async fn close_claims(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("CLOSE audited_claims").execute(connection).await?;
    Ok(())
}

/// Who holds these ids.
pub(super) async fn holders(
    connection: &mut PgConnection,
    group: &str,
    ids: &[Uuid],
) -> Result<HashMap<MessageId, Fingerprint>, sqlx::Error> {
    sqlx::query(
        r"
        SELECT message_id, fingerprint
          FROM processed_messages
         WHERE message_id = ANY($1) AND consumer_group = $2
        ",
    )
    .bind(ids)
    .bind(group)
    .try_map(|row: PgRow| {
        Ok((MessageId(row.try_get("message_id")?), fingerprint(row.try_get("fingerprint")?)))
    })
    .fetch_all(connection)
    .await
    .map(|rows| rows.into_iter().collect())
}

/// Which of these places wait in the retry queue.
pub(super) async fn waiting(
    connection: &mut PgConnection,
    group: &str,
    topic_id: &str,
    partitions: &[i32],
    offsets: &[i64],
) -> Result<HashSet<Place>, sqlx::Error> {
    let rows: Vec<(i32, i64, Uuid, Vec<u8>)> = sqlx::query_as(
        r#"
        SELECT partition, "offset", message_id, fingerprint
          FROM retry_queue
          JOIN unnest($3::integer[], $4::bigint[]) AS asked (partition, "offset")
         USING (partition, "offset")
         WHERE consumer_group = $1 AND topic_id = $2 AND NOT of_old_log
        "#,
    )
    .bind(group)
    .bind(topic_id)
    .bind(partitions)
    .bind(offsets)
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(partition, offset, id, bytes)| {
            (partition, offset, MessageId(id), fingerprint(&bytes))
        })
        .collect())
}

/// How many rows of the retry queue are from these offsets on, by partition from 0.
pub(super) async fn count_waiting(
    connection: &mut PgConnection,
    group: &str,
    topic_id: &str,
    starts: &[i64],
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        r#"
        SELECT count(*)
          FROM retry_queue
          JOIN unnest($3::bigint[]) WITH ORDINALITY AS log (start, number)
            ON retry_queue.partition = log.number - 1
         WHERE consumer_group = $1 AND topic_id = $2 AND "offset" >= log.start
           AND NOT of_old_log
        "#,
    )
    .bind(group)
    .bind(topic_id)
    .bind(starts)
    .fetch_one(connection)
    .await
}

/// How many messages below these offsets, by partition from 0, wait in the retry queue.
pub(super) async fn count_waiting_below(
    connection: &mut PgConnection,
    group: &str,
    topic: &str,
    ends: &[i64],
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        r#"
        SELECT count(*)
          FROM retry_queue
          JOIN unnest($3::bigint[]) WITH ORDINALITY AS log (log_end, number)
            ON retry_queue.partition = log.number - 1
         WHERE consumer_group = $1 AND topic = $2 AND "offset" < log.log_end
        "#,
    )
    .bind(group)
    .bind(topic)
    .bind(ends)
    .fetch_one(connection)
    .await
}

/// A fingerprint of another length is nobody's: the record at its place will say so.
pub(super) fn fingerprint(bytes: &[u8]) -> Fingerprint {
    Fingerprint::from_bytes(bytes).unwrap_or(Fingerprint([0; Fingerprint::LEN]))
}

fn outcome(word: &str) -> Result<Outcome, sqlx::Error> {
    [Outcome::Applied, Outcome::DeadLettered, Outcome::Skipped]
        .into_iter()
        .find(|outcome| outcome.as_str() == word)
        .ok_or_else(|| sqlx::Error::Decode(format!("the outcome {word:?} is not known").into()))
}
