//! Invariant 4, the walk: dead letter topic, outbox and the table `dead_letters`.

use std::collections::HashMap;

use futures_util::TryStreamExt as _;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::types::time::OffsetDateTime;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::letters::{
    Copies, Letter, LetterClaim, Original, Redrive, check_copies, dlq_id_of, group_of,
};
use super::log::LogStream;
use super::report::Invariant;
use super::store;
use crate::message::{Headers, PartitionKey, Record};

/// Bytes of originals that one look-up brings into memory, about.
const LOOK_UP_BYTES: usize = 4 * 1024 * 1024;
const LOOK_UP_COPIES: usize = 512;

/// The dead letter topic as it was before the snapshot and as it is read now.
pub(super) struct Topic {
    /// Ends of its partitions before the snapshot was taken.
    pub(super) ends_before: Vec<i64>,
    /// Starts of its partitions now.
    pub(super) starts: Vec<i64>,
}

impl Topic {
    /// Whether the row of this copy must be in the snapshot.
    fn is_before_snapshot(&self, copy: &Record) -> bool {
        usize::try_from(copy.source.partition)
            .ok()
            .and_then(|at| self.ends_before.get(at))
            .is_some_and(|end| copy.offset < *end)
    }
}

/// Reads the topic to its end and compares each copy of this group with its row.
pub(super) async fn read_topic(
    connection: &mut PgConnection,
    group: &str,
    topic: &Topic,
    mut log: LogStream<Record>,
    copies: &mut Copies,
    findings: &mut Invariant,
) -> Result<(), super::AuditError> {
    // Of a partition that lost its beginning, everything before its first record may be gone.
    let mut first_ms: Vec<Option<i64>> =
        topic.starts.iter().map(|start| (*start == 0).then_some(i64::MIN)).collect();
    let (mut waiting, mut bytes) = (Vec::new(), 0);
    while let Some(batch) = log.next().await? {
        for copy in batch {
            if let Some(first) =
                usize::try_from(copy.source.partition).ok().and_then(|at| first_ms.get_mut(at))
            {
                first.get_or_insert(copy.timestamp_ms.unwrap_or(i64::MAX));
            }
            if group_of(&copy) != Some(group) {
                continue;
            }
            findings.checked += 1;
            let Some(dlq_id) = dlq_id_of(&copy) else {
                findings.violation(|| {
                    format!("{} offset {}: a dead letter without dlq-id", copy.source, copy.offset)
                });
                continue;
            };
            copies.published.insert(dlq_id);
            bytes += copy.size_bytes();
            waiting.push((dlq_id, copy));
            if waiting.len() >= LOOK_UP_COPIES || bytes >= LOOK_UP_BYTES {
                let originals = originals(connection, group, &waiting).await?;
                check_copies(&waiting, &originals, |copy| topic.is_before_snapshot(copy), findings);
                waiting.clear();
                bytes = 0;
            }
        }
    }
    let originals = originals(connection, group, &waiting).await?;
    check_copies(&waiting, &originals, |copy| topic.is_before_snapshot(copy), findings);
    copies.gone_before_ms = first_ms
        .into_iter()
        .map(|first| first.unwrap_or(i64::MAX))
        .max()
        .filter(|ms| *ms > i64::MIN);
    Ok(())
}

async fn originals(
    connection: &mut PgConnection,
    group: &str,
    copies: &[(Uuid, Record)],
) -> Result<HashMap<Uuid, Original>, sqlx::Error> {
    let ids: Vec<Uuid> = copies.iter().map(|(id, _)| *id).collect();
    sqlx::query(
        r"
        SELECT dlq_id, key, value, headers
          FROM dead_letters
         WHERE dlq_id = ANY($1) AND consumer_group = $2
         UNION ALL
        SELECT past.dlq_id, key, value, headers
          FROM past_dead_letterings AS past
          JOIN dead_letters USING (message_id, consumer_group)
         WHERE past.dlq_id = ANY($1) AND consumer_group = $2
        ",
    )
    .bind(&ids)
    .bind(group)
    .try_map(|row: PgRow| {
        Ok((
            row.try_get("dlq_id")?,
            Original {
                key: row.try_get("key")?,
                value: row.try_get("value")?,
                headers: headers(&row)?,
            },
        ))
    })
    .fetch_all(connection)
    .await
    .map(|rows| rows.into_iter().collect())
}

/// Walks the outbox: it is to be empty or moving. Returns how many rows it has.
pub(super) async fn read_outbox(
    connection: &mut PgConnection,
    awaited: Option<OffsetDateTime>,
    copies: &mut Copies,
    findings: &mut Invariant,
) -> Result<u64, sqlx::Error> {
    let mut rows = sqlx::query(
        r"
        SELECT id, topic, refused_reason,
               coalesce(created_at < $1, false) AS is_awaited,
               (SELECT header ->> 'value'
                  FROM jsonb_array_elements(headers) WITH ORDINALITY AS list (header, place)
                 WHERE lower(header ->> 'name') = 'dlq-id'
                 ORDER BY place DESC
                 LIMIT 1) AS dlq_id
          FROM outbox
         ORDER BY id
        ",
    )
    .bind(awaited)
    .fetch(connection);
    let mut count = 0;
    while let Some(row) = rows.try_next().await? {
        count += 1;
        findings.checked += 1;
        let (id, topic): (i64, &str) = (row.try_get("id")?, row.try_get("topic")?);
        if let Some(dlq_id) =
            row.try_get::<Option<&str>, _>("dlq_id")?.and_then(|text| Uuid::try_parse(text).ok())
        {
            copies.queued.insert(dlq_id);
        }
        if let Some(reason) = row.try_get::<Option<&str>, _>("refused_reason")? {
            findings.violation(|| format!("outbox row {id}: {topic} refuses the record: {reason}"));
        } else if row.try_get("is_awaited")? {
            findings.violation(|| {
                format!("outbox row {id} was not published to {topic} in the time given")
            });
        }
    }
    Ok(count)
}

/// Walks the table against claims and copies. Returns how many rows could not be proved.
pub(super) async fn read_table(
    connection: &mut PgConnection,
    group: &str,
    awaited: Option<OffsetDateTime>,
    copies: &Copies,
    findings: &mut Invariant,
) -> Result<u64, sqlx::Error> {
    let mut rows = sqlx::query(
        r#"
        SELECT letter.redrive_count,
               coalesce(letter.state_changed_at < $2, false) AS is_awaited,
               letter.state = 'redriven'
               AND (EXISTS (SELECT FROM outbox WHERE redrive_of = letter.dlq_id)
                    OR EXISTS (
                           SELECT
                             FROM retry_queue
                            WHERE retry_queue.message_id = letter.message_id
                              AND retry_queue.consumer_group = letter.consumer_group
                       )) AS is_waiting,
               letter.dlq_id, letter.message_id, letter.topic, letter.partition, letter."offset",
               letter.key, letter.value, letter.headers, letter.state, letter.last_failed_at,
               claim.outcome, claim.fingerprint, claim.topic AS claim_topic,
               claim.partition AS claim_partition, claim."offset" AS claim_offset
          FROM dead_letters AS letter
          LEFT JOIN processed_messages AS claim USING (message_id, consumer_group)
         WHERE letter.consumer_group = $1
        "#,
    )
    .bind(group)
    .bind(awaited)
    .fetch(connection);
    let mut not_provable = 0;
    while let Some(row) = rows.try_next().await? {
        not_provable += u64::from(letter(&row)?.check(copies, findings));
    }
    Ok(not_provable)
}

/// Walks earlier dead-letterings of redriven messages: each has its copy, too. Returns how many could
/// not be proved.
pub(super) async fn read_past(
    connection: &mut PgConnection,
    group: &str,
    copies: &Copies,
    findings: &mut Invariant,
) -> Result<u64, sqlx::Error> {
    let mut rows = sqlx::query_as::<_, (Uuid, Uuid, OffsetDateTime)>(
        "SELECT dlq_id, message_id, failed_at FROM past_dead_letterings WHERE consumer_group = $1",
    )
    .bind(group)
    .fetch(connection);
    let mut not_provable = 0;
    while let Some((dlq_id, message_id, failed_at)) = rows.try_next().await? {
        findings.checked += 1;
        if copies.published.contains(&dlq_id) || copies.queued.contains(&dlq_id) {
            continue;
        }
        if copies.gone_before_ms.is_some_and(|gone| milliseconds(failed_at) < gone) {
            not_provable += 1;
            continue;
        }
        findings.violation(|| {
            format!(
                "the earlier dead letter {dlq_id} (message {message_id}) has no copy in the dead \
                 letter topic and none in the outbox"
            )
        });
    }
    Ok(not_provable)
}

fn milliseconds(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

/// Claims that say dead-lettered, without a row that has the record.
pub(super) async fn check_claims(
    connection: &mut PgConnection,
    group: &str,
    findings: &mut Invariant,
) -> Result<(), sqlx::Error> {
    let mut rows = sqlx::query_as::<_, (Uuid, String, i32, i64)>(
        r#"
        SELECT claim.message_id, claim.topic, claim.partition, claim."offset"
          FROM processed_messages AS claim
         WHERE claim.consumer_group = $1
           AND claim.outcome = 'dead_lettered'
           AND NOT EXISTS (
                   SELECT FROM dead_letters AS letter
                    WHERE letter.message_id = claim.message_id
                      AND letter.consumer_group = claim.consumer_group
               )
        "#,
    )
    .bind(group)
    .fetch(connection);
    while let Some((id, topic, partition, offset)) = rows.try_next().await? {
        findings.violation(|| {
            format!(
                "{topic}[{partition}] offset {offset}: message {id} is claimed as dead-lettered, \
                 but has no row in dead_letters"
            )
        });
    }
    Ok(())
}

fn letter(row: &PgRow) -> Result<Letter, sqlx::Error> {
    let failed_at: OffsetDateTime = row.try_get("last_failed_at")?;
    let claim = match row.try_get::<Option<String>, _>("outcome")? {
        None => None,
        Some(outcome) => Some(LetterClaim {
            outcome,
            fingerprint: store::fingerprint(row.try_get("fingerprint")?),
            source: PartitionKey {
                topic: row.try_get("claim_topic")?,
                partition: row.try_get("claim_partition")?,
            },
            offset: row.try_get("claim_offset")?,
        }),
    };
    Ok(Letter {
        dlq_id: row.try_get("dlq_id")?,
        message_id: row.try_get("message_id")?,
        is_resolved: row.try_get::<&str, _>("state")? == "resolved",
        redrive: match row.try_get::<&str, _>("state")? {
            "redriven" => Some(Redrive {
                number: row.try_get("redrive_count")?,
                is_waiting: row.try_get("is_waiting")?,
                is_awaited: row.try_get("is_awaited")?,
            }),
            _ => None,
        },
        failed_at_ms: milliseconds(failed_at),
        record: Record {
            source: PartitionKey {
                topic: row.try_get("topic")?,
                partition: row.try_get("partition")?,
            },
            offset: row.try_get("offset")?,
            timestamp_ms: None,
            key: row.try_get("key")?,
            value: row.try_get("value")?,
            headers: headers(row)?,
        },
        claim,
    })
}

fn headers(row: &PgRow) -> Result<Headers, sqlx::Error> {
    let Json(list) = row.try_get::<Json<serde_json::Value>, _>("headers")?;
    // An altered list that is none compares as empty, and so as different.
    Ok(serde_json::from_value(list).unwrap_or_default())
}
