//! What of a batch waits already.

use std::collections::{HashMap, HashSet};

use sqlx::PgConnection;
use uuid::Uuid;

use crate::deferral::KeyHash;
use crate::message::{Fingerprint, MessageId};
use crate::store::batch::LaneName;

/// Reading so many heads costs less than looking a single key up.
const FEW: usize = 100;

/// What of a batch is in the queue, or has its key there.
#[derive(Debug, Default)]
pub(crate) struct Queued {
    pub keys: HashSet<KeyHash>,
    pub offsets: HashMap<i64, (MessageId, Fingerprint)>,
}

/// Looks up keys and offsets of a batch.
pub(crate) async fn look_up(
    connection: &mut PgConnection,
    lane: &LaneName,
    topic_id: &str,
    keys: &[Option<KeyHash>],
    offsets: &[i64],
) -> Result<Queued, sqlx::Error> {
    let Heads { blocked, are_all, last_offset } =
        heads(connection, lane, keys.len().max(FEW)).await?;
    let blocked = if are_all { blocked } else { blocked_among(connection, lane, keys).await? };
    // Only what is read again can be there already.
    let again: Vec<i64> =
        offsets.iter().copied().filter(|at| last_offset.is_some_and(|last| *at <= last)).collect();
    let mut queued =
        Queued { keys: blocked.into_iter().map(KeyHash).collect(), offsets: HashMap::new() };
    if again.is_empty() {
        return Ok(queued);
    }
    let offsets: Vec<(i64, Uuid, Vec<u8>)> = sqlx::query_as(
        r#"
        SELECT "offset", message_id, fingerprint
          FROM retry_queue
         WHERE consumer_group = $1 AND topic_id = $2 AND partition = $3 AND "offset" = ANY($4)
           AND NOT of_old_log
        "#,
    )
    .bind(&lane.group)
    .bind(topic_id)
    .bind(lane.partition)
    .bind(again)
    .fetch_all(connection)
    .await?;
    queued.offsets = offsets
        .into_iter()
        .filter_map(|(offset, id, fingerprint)| {
            Some((offset, (MessageId(id), Fingerprint::from_bytes(&fingerprint)?)))
        })
        .collect();
    Ok(queued)
}

/// The oldest of each key, and those without a key, as far as they are few.
struct Heads {
    /// Their keys.
    blocked: Vec<Uuid>,
    are_all: bool,
    /// The highest offset that any message has which waits.
    last_offset: Option<i64>,
}

async fn heads(
    connection: &mut PgConnection,
    lane: &LaneName,
    at_most: usize,
) -> Result<Heads, sqlx::Error> {
    let rows: Vec<(Option<Uuid>, Option<i64>)> = sqlx::query_as(
        r#"
        SELECT key_hash,
               (SELECT max("offset") FROM retry_queue WHERE partition = $3) AS last_offset
          FROM retry_queue
         WHERE consumer_group = $1 AND topic = $2 AND partition = $3
           -- The oldest of its key has its time; those behind have none.
           AND next_attempt_at IS NOT NULL
         LIMIT $4
        "#,
    )
    .bind(&lane.group)
    .bind(&lane.topic)
    .bind(lane.partition)
    .bind(i64::try_from(at_most).unwrap_or(i64::MAX).saturating_add(1))
    // Planned each time, since the table grows from nothing to very much within seconds.
    .persistent(false)
    .fetch_all(connection)
    .await?;
    Ok(Heads {
        are_all: rows.len() <= at_most,
        last_offset: rows.first().and_then(|(_, last_offset)| *last_offset),
        blocked: rows.into_iter().filter_map(|(hash, _)| hash).collect(),
    })
}

/// Which of these keys have a message that waits.
async fn blocked_among(
    connection: &mut PgConnection,
    lane: &LaneName,
    keys: &[Option<KeyHash>],
) -> Result<Vec<Uuid>, sqlx::Error> {
    let mut keys: Vec<KeyHash> = keys.iter().flatten().copied().collect();
    keys.sort_unstable();
    keys.dedup();
    sqlx::query_scalar(
        r"
        SELECT asked.hash
          FROM unnest($4::uuid[]) AS asked (hash)
         WHERE EXISTS (
                   SELECT
                     FROM retry_queue
                    WHERE key_hash = asked.hash AND next_attempt_at IS NOT NULL
                      -- Else it may walk all of the partition's for each.
                      AND CASE WHEN consumer_group = $1 AND topic = $2 AND partition = $3
                               THEN true END
               )
        ",
    )
    .bind(&lane.group)
    .bind(&lane.topic)
    .bind(lane.partition)
    .bind(keys.iter().map(|key| key.0).collect::<Vec<_>>())
    .persistent(false)
    .fetch_all(connection)
    .await
}
