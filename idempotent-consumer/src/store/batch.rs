//! The transaction of a batch, as types: a claim before any effect, progress before the commit,
//! and a commit before the offset. Each step gives the next.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use sqlx::{Connection, PgConnection, Postgres, Row, Transaction};
use uuid::Uuid;

use super::claims::{self, ClaimRow, Claiming};
use super::copies::{self, Ended, Locked};
use super::dead_letters::{self, NewDeadLetter};
use super::outbox;
use super::retry_queue::{self, Changes, Queued};
use crate::deferral::KeyHash;
use crate::failpoint::failpoint;
use crate::handler::{Context, Outgoing};
use crate::message::{Fingerprint, MessageId};
use crate::outcome::{Candidate, Claim, ClaimResult};
use crate::window::Memory;

/// Whose transaction it is.
#[derive(Clone, Debug)]
pub(crate) struct LaneName {
    pub group: String,
    pub topic: String,
    pub partition: i32,
    /// Unique to one lane of one process; the row in `partition_progress` names it.
    pub owner: String,
}

/// Why a transaction did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BatchError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// Another lane has taken the partition over. Nothing was written.
    #[error("another consumer works on this partition now")]
    Fenced,
    /// The database is not where the lane left it: it was set back, or an operator moved it.
    #[error("the database has moved")]
    Moved,
    /// The handler committed or rolled back the transaction it was given.
    #[error(
        "the handler ended the transaction it was given; leave BEGIN, COMMIT and ROLLBACK to the engine"
    )]
    TransactionEnded,
}

/// An open transaction that holds its partition's row: no other lane of this partition commits
/// before it ends.
pub(crate) struct Opened<'c> {
    transaction: Transaction<'c, Postgres>,
    lane: LaneName,
    batch_seq: i64,
    /// The last transaction before an operator accepted this log.
    accepted_batch_seq: i64,
    xact: String,
    /// The database's clock, in milliseconds since 1970, and when it was read.
    now_ms: i64,
    read_at: Instant,
    /// Whether anything of this partition is in the retry queue.
    pub has_queue: bool,
    /// What claims may be gone.
    pub memory: Memory,
}

impl<'c> Opened<'c> {
    /// Begins, and locks the partition's row. `batch_seq` is drawn behind the lock, so within a
    /// partition it rises in the order of commit. That the retry queue is looked at with a snapshot
    /// from before the lock does no harm: only a lane that owns the partition adds to it, and this
    /// one became the owner behind the last commit of any other.
    pub(crate) async fn begin(
        connection: &'c mut PgConnection,
        lane: &LaneName,
        begin_sql: &str,
        expected_next: Option<i64>,
    ) -> Result<Self, BatchError> {
        let begin = sqlx::AssertSqlSafe(begin_sql.to_owned());
        let mut transaction = connection.begin_with(begin).await?;
        let row = sqlx::query(
            r"
            WITH locked AS MATERIALIZED (
                SELECT owner, next_offset, accepted_batch_seq
                  FROM partition_progress
                 WHERE consumer_group = $1 AND topic = $2 AND partition = $3
                   FOR UPDATE
            )
            SELECT owner, accepted_batch_seq, nextval('batch_seq') AS batch_seq, pg_current_xact_id()::text AS xact,
                   (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms,
                   EXISTS (
                       SELECT
                         FROM retry_queue
                        WHERE consumer_group = $1 AND topic = $2 AND partition = $3
                          AND next_attempt_at IS NOT NULL
                   ) AS has_queue,
                   next_offset,
                   (SELECT (extract(epoch FROM GREATEST(purged_before, clock_timestamp() - kept_for))
                            * 1000)::bigint
                      FROM dedup_window) AS reaches_back_to_ms
              FROM locked
            ",
        )
        .bind(&lane.group)
        .bind(&lane.topic)
        .bind(lane.partition)
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = row else { return Err(BatchError::Fenced) };
        if row.try_get::<&str, _>("owner")? != lane.owner {
            return Err(BatchError::Fenced);
        }
        let (batch_seq, xact) = (row.try_get("batch_seq")?, row.try_get("xact")?);
        let now_ms = row.try_get("now_ms")?;
        let memory = Memory {
            reaches_back_to_ms: row.try_get("reaches_back_to_ms")?,
            next_offset: row.try_get("next_offset")?,
        };
        if expected_next.is_some_and(|expected| expected != memory.next_offset) {
            return Err(BatchError::Moved);
        }
        let has_queue = row.try_get("has_queue")?;
        let accepted_batch_seq = row.try_get("accepted_batch_seq")?;
        let lane = lane.clone();
        Ok(Self {
            transaction,
            lane,
            batch_seq,
            accepted_batch_seq,
            xact,
            now_ms,
            read_at: Instant::now(),
            has_queue,
            memory,
        })
    }

    /// The database's clock now, in milliseconds since 1970: what the handler took is not to be part
    /// of a wait.
    fn clock_ms(&self) -> i64 {
        let since = i64::try_from(self.read_at.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.now_ms.saturating_add(since)
    }

    /// What of a batch is in the retry queue, or has its key there.
    pub(crate) async fn look_up_queue(
        &mut self,
        topic_id: &str,
        keys: &[Option<KeyHash>],
        offsets: &[i64],
    ) -> Result<Queued, BatchError> {
        Ok(retry_queue::look_up(&mut self.transaction, &self.lane, topic_id, keys, offsets).await?)
    }

    /// Locks the dead letters of these messages, as far as they are of this partition.
    pub(crate) async fn lock_dead_letters(
        &mut self,
        ids: &[Uuid],
    ) -> Result<HashMap<MessageId, Locked>, BatchError> {
        Ok(copies::lock(&mut self.transaction, &self.lane, ids).await?)
    }

    /// Who holds these ids, without claiming any.
    pub(crate) async fn holders(
        &mut self,
        ids: &[Uuid],
    ) -> Result<HashMap<MessageId, Fingerprint>, BatchError> {
        Ok(claims::holders(&mut self.transaction, &self.lane.group, ids).await?)
    }

    /// Claims ids, sorted, and reads who holds those it did not win.
    pub(crate) async fn claim(
        mut self,
        claims: &[Claim],
        batch: &[Candidate],
        offsets: &[i64],
        claiming: &Claiming,
    ) -> Result<Claimed<'c>, BatchError> {
        let rows = self.rows_of(claims, batch, offsets);
        let result = claims::claim(&mut self.transaction, &self.lane, &rows, claiming).await?;
        Ok(Claimed { opened: self, result })
    }

    fn rows_of<'b>(
        &self,
        claims: &[Claim],
        batch: &'b [Candidate],
        offsets: &[i64],
    ) -> Vec<ClaimRow<'b>> {
        let row = |claim: &Claim| {
            let Candidate { fingerprint, of_old_log, .. } = &batch[claim.index];
            ClaimRow {
                index: claim.index,
                id: claim.id.0,
                offset: offsets[claim.index],
                batch_seq: if *of_old_log { self.accepted_batch_seq } else { self.batch_seq },
                outcome: claim.outcome.as_str(),
                fingerprint: &fingerprint.0,
            }
        };
        claims.iter().map(row).collect()
    }
}

/// A transaction that holds its claims.
pub(crate) struct Claimed<'c> {
    opened: Opened<'c>,
    /// What the claims came to.
    pub result: ClaimResult,
}

/// How many messages of a transaction came to which end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub applied: i64,
    pub duplicates: i64,
    pub dead_lettered: i64,
    pub skipped: i64,
    /// Put into the retry queue: no end yet.
    pub deferred: i64,
}

/// What a transaction writes besides claims and effects.
pub(crate) struct Ends<'a> {
    /// Claimed as applied, and rejected by the handler.
    pub rejected: Vec<MessageId>,
    pub dead: Vec<NewDeadLetter<'a>>,
    /// What became of redriven copies.
    pub redriven: Ended<'a>,
    pub outgoing: &'a [Outgoing],
    pub dlq_topic: &'a str,
    pub topic_id: &'a str,
    pub queue: Changes<'a>,
    /// The offset behind the last message; `None` if the messages are not read from the log.
    pub next_offset: Option<i64>,
    pub counts: Counts,
}

impl<'c> Claimed<'c> {
    /// Claims the ids of conflicting messages; returns those won.
    pub(crate) async fn claim_conflicts(
        &mut self,
        claims: &[Claim],
        batch: &[Candidate],
        offsets: &[i64],
    ) -> Result<HashSet<MessageId>, BatchError> {
        if claims.is_empty() {
            return Ok(HashSet::new());
        }
        let rows = self.opened.rows_of(claims, batch, offsets);
        let Opened { transaction, lane, .. } = &mut self.opened;
        let result = claims::insert(transaction, lane, &rows).await?;
        Ok(claims
            .iter()
            .filter(|claim| result.has_won(claim.index))
            .map(|claim| claim.id)
            .collect())
    }

    /// The database's clock when the transaction began, in milliseconds since 1970.
    pub(crate) fn now_ms(&self) -> i64 {
        self.opened.now_ms
    }

    /// What the handler works in.
    pub(crate) fn context(&mut self) -> Context<'_> {
        Context::new(&mut self.opened.transaction)
    }

    /// Writes dead letters, what is to be published, and progress.
    pub(crate) async fn finish(mut self, ends: &Ends<'_>) -> Result<Finished<'c>, BatchError> {
        let Ends { rejected, dead, outgoing, dlq_topic, topic_id, queue, counts, .. } = ends;
        let Ends { redriven, next_offset, .. } = ends;
        let clock_ms = self.opened.clock_ms();
        let Opened { transaction, lane, xact, batch_seq, accepted_batch_seq, .. } =
            &mut self.opened;
        if !rejected.is_empty() {
            let ids: Vec<Uuid> = rejected.iter().map(|id| id.0).collect();
            sqlx::query(
                r"
                UPDATE processed_messages
                   SET outcome = 'dead_lettered'
                 WHERE message_id = ANY($1) AND consumer_group = $2
                ",
            )
            .bind(&ids)
            .bind(&lane.group)
            .persistent(false)
            .execute(&mut **transaction)
            .await?;
        }
        if !dead.is_empty() {
            dead_letters::insert(transaction, &lane.group, dead).await?;
            let copies: Vec<Outgoing> =
                dead.iter().map(|letter| letter.copy(&lane.group, dlq_topic)).collect();
            outbox::insert(transaction, &copies, true).await?;
        }
        if !redriven.replaced.is_empty() {
            let batch_seqs = (*batch_seq, *accepted_batch_seq);
            copies::replace(transaction, &lane.group, &redriven.replaced, batch_seqs).await?;
        }
        if !redriven.again.is_empty() {
            copies::dead_again(transaction, &lane.group, &redriven.again).await?;
            let copies: Vec<Outgoing> =
                redriven.again.iter().map(|(it, _)| it.copy(&lane.group, dlq_topic)).collect();
            outbox::insert(transaction, &copies, true).await?;
        }
        if !outgoing.is_empty() {
            outbox::insert(transaction, outgoing, false).await?;
        }
        queue.write(transaction, lane, topic_id, clock_ms).await?;
        let progress = sqlx::query(
            r"
            UPDATE partition_progress
               SET next_offset = GREATEST(next_offset, $6),
                   handed_out = GREATEST(handed_out, $6),
                   applied = applied + $7,
                   duplicates = duplicates + $8,
                   dead_lettered = dead_lettered + $9,
                   skipped = skipped + $10,
                   updated_at = now()
             WHERE consumer_group = $1 AND topic = $2 AND partition = $3
               AND owner = $4
               AND pg_current_xact_id()::text = $5
         RETURNING next_offset
            ",
        )
        .bind(&lane.group)
        .bind(&lane.topic)
        .bind(lane.partition)
        .bind(&lane.owner)
        .bind(&*xact)
        .bind(next_offset.unwrap_or(0))
        .bind(counts.applied)
        .bind(counts.duplicates)
        // By their claims, of which a redriven message has had one from the beginning.
        .bind(counts.dead_lettered - redriven.counted_before())
        .bind(counts.skipped)
        .fetch_optional(&mut **transaction)
        .await?;
        let Some(progress) = progress else { return Err(BatchError::TransactionEnded) };
        let database_next = progress.try_get("next_offset")?;
        Ok(Finished {
            transaction: self.opened.transaction,
            next_offset: *next_offset,
            database_next,
            counts: *counts,
        })
    }
}

/// A transaction with everything in it but its commit.
pub(crate) struct Finished<'c> {
    transaction: Transaction<'c, Postgres>,
    next_offset: Option<i64>,
    /// `partition_progress.next_offset` once this commits.
    pub database_next: i64,
    counts: Counts,
}

impl Finished<'_> {
    /// Commits. An error here leaves the outcome unknown; the database knows it.
    pub(crate) async fn commit(self) -> Result<Committed, BatchError> {
        failpoint("consumer.before_commit");
        self.transaction.commit().await?;
        failpoint("consumer.after_commit");
        Ok(Committed {
            next_offset: self.next_offset,
            database_next: self.database_next,
            counts: self.counts,
        })
    }
}

/// Proof of a commit: only with it may an offset be stored.
#[derive(Debug)]
pub(crate) struct Committed {
    /// The offset behind the last message of the transaction, if it was read from the log.
    pub next_offset: Option<i64>,
    /// `partition_progress.next_offset`; higher while older records are read again.
    pub database_next: i64,
    /// What the messages came to.
    pub counts: Counts,
}
