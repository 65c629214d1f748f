//! Claims: rows of `processed_messages`, as the transaction of a batch makes and reads them.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use sqlx::PgConnection;
use uuid::Uuid;

use super::batch::LaneName;
use crate::copy::{BinaryRow, Optimism, insert_new};
use crate::message::{Fingerprint, MessageId};
use crate::outcome::ClaimResult;
use crate::seen::Seen;

/// Ids of so many milliseconds are in two leaves, or in three around New Year: a leaf holds a week or
/// a year.
const NEAR_MS: u64 = 6 * 24 * 3600 * 1000;

/// What a process remembers of its claims, to take the cheapest way to the next ones.
#[derive(Debug, Default)]
pub(crate) struct Claiming {
    seen: Mutex<Seen>,
    optimism: Optimism,
}

/// A claim as `processed_messages` has it.
pub(super) struct ClaimRow<'b> {
    /// Which message of the batch claims it.
    pub index: usize,
    pub id: Uuid,
    pub offset: i64,
    pub batch_seq: i64,
    pub outcome: &'static str,
    pub fingerprint: &'b [u8],
}

/// Claims ids, sorted, and reads who holds those it did not win.
pub(super) async fn claim(
    connection: &mut PgConnection,
    lane: &LaneName,
    rows: &[ClaimRow<'_>],
    claiming: &Claiming,
) -> Result<ClaimResult, sqlx::Error> {
    let ids = rows.iter().map(|row| row.id);
    let seen = claiming.seen.lock().unwrap_or_else(PoisonError::into_inner).note(ids);
    if claiming.optimism.is_due(rows.len()) {
        let copied = copy(connection, lane, rows, &seen).await?;
        claiming.optimism.learns(copied.is_some());
        if let Some(result) = copied {
            return Ok(result);
        }
    }
    insert(connection, lane, rows).await
}

/// Claims what is probably nobody's by COPY, behind a look at the others, whose places are in
/// `seen`. `None` if somebody has claimed more than those: nothing is claimed then.
async fn copy(
    connection: &mut PgConnection,
    lane: &LaneName,
    rows: &[ClaimRow<'_>],
    seen: &[usize],
) -> Result<Option<ClaimResult>, sqlx::Error> {
    let mut result = ClaimResult::default();
    if !seen.is_empty() {
        let ids: Vec<Uuid> = seen.iter().map(|at| rows[*at].id).collect();
        result.held = holders(connection, &lane.group, &ids).await?;
    }
    let LaneName { group, topic, partition, .. } = lane;
    let is_fresh = |row: &&ClaimRow<'_>| !result.held.contains_key(&MessageId(row.id));
    let fresh: Vec<&ClaimRow<'_>> = rows.iter().filter(is_fresh).collect();
    if fresh.is_empty() {
        return Ok(Some(result));
    }
    for row in &fresh {
        result.note_won(row.index);
    }
    let into = r#"processed_messages
        (message_id, "offset", batch_seq, partition, consumer_group, topic, outcome, fingerprint)"#;
    let encode = |out: &mut BinaryRow, row: &&ClaimRow<'_>| {
        out.value(row.id)?
            .value(row.offset)?
            .value(row.batch_seq)?
            .value(partition)?
            .value(group)?
            .value(topic)?
            .value(row.outcome)?
            .value(row.fingerprint)?;
        Ok(())
    };
    Ok(insert_new(connection, into, &fresh, encode).await?.then_some(result))
}

/// Two statements, never one: the snapshot of the first is older than the commit it waited for.
pub(super) async fn insert(
    connection: &mut PgConnection,
    lane: &LaneName,
    rows: &[ClaimRow<'_>],
) -> Result<ClaimResult, sqlx::Error> {
    if rows.is_empty() {
        return Ok(ClaimResult::default());
    }
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let won: Vec<Uuid> = sqlx::query_scalar(
        r#"
        INSERT INTO processed_messages
               (message_id, "offset", batch_seq, partition, consumer_group, topic, outcome, fingerprint)
        SELECT id, "offset", batch_seq, $6, $7, $8, outcome, fingerprint
          FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::bytea[], $5::bigint[])
               AS claim (id, "offset", outcome, fingerprint, batch_seq)
            ON CONFLICT (message_id, consumer_group) DO NOTHING
     RETURNING message_id
        "#,
    )
    .bind(&ids)
    .bind(rows.iter().map(|row| row.offset).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.outcome).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.fingerprint).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.batch_seq).collect::<Vec<_>>())
    .bind(lane.partition)
    .bind(&lane.group)
    .bind(&lane.topic)
    .fetch_all(&mut *connection)
    .await?;
    let won: HashSet<Uuid> = won.into_iter().collect();
    let mut result = ClaimResult::default();
    let (ours, others): (Vec<_>, Vec<_>) = rows.iter().partition(|row| won.contains(&row.id));
    for row in ours {
        result.note_won(row.index);
    }
    if others.is_empty() {
        return Ok(result);
    }
    let lost: Vec<Uuid> = others.into_iter().map(|row| row.id).collect();
    result.held = holders(connection, &lane.group, &lost).await?;
    Ok(result)
}

/// Who holds these ids.
pub(super) async fn holders(
    connection: &mut PgConnection,
    group: &str,
    ids: &[Uuid],
) -> Result<HashMap<MessageId, Fingerprint>, sqlx::Error> {
    let (Some(first), Some(last)) = (ids.iter().min(), ids.iter().max()) else {
        return Ok(HashMap::new());
    };
    // A plan for these ids looks at, and locks, the leaves they are in and no others. PostgreSQL
    // works those out for each id of a list, which takes longer than to look them up, and at once for
    // a range. Ids of many times have no range worth naming.
    let statement = if milliseconds_of(last) - milliseconds_of(first) < NEAR_MS {
        r"
        SELECT message_id, fingerprint
          FROM processed_messages
         WHERE message_id = ANY((SELECT $1)::uuid[]) AND message_id BETWEEN $3 AND $4
           AND consumer_group = $2
        "
    } else {
        r"
        SELECT message_id, fingerprint
          FROM processed_messages
         WHERE message_id = ANY($1) AND consumer_group = $2 AND $3 <= $4
        "
    };
    let rows: Vec<(Uuid, Vec<u8>)> = sqlx::query_as(statement)
        .bind(ids)
        .bind(group)
        .bind(first)
        .bind(last)
        .persistent(false)
        .fetch_all(connection)
        .await?;
    let known = rows.into_iter().filter_map(|(id, fingerprint)| {
        Some((MessageId(id), Fingerprint::from_bytes(&fingerprint)?))
    });
    Ok(known.collect())
}

/// The time in an id of version 7, which is what ranges of ids are made of.
fn milliseconds_of(id: &Uuid) -> u64 {
    id.as_u64_pair().0 >> 16
}
