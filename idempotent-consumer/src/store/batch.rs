//! The transaction of a batch, as types: a claim before any effect, progress before the commit,
//! and a commit before the offset. Each step gives the next.

use sqlx::{Connection, PgConnection, Postgres, Row, Transaction};
use uuid::Uuid;

use super::dead_letters::{self, NewDeadLetter};
use super::outbox;
use crate::handler::{Context, Outgoing};
use crate::message::{Fingerprint, MessageId};
use crate::outcome::{Candidate, Claim, ClaimResult};

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
    xact: String,
    now_ms: i64,
}

impl<'c> Opened<'c> {
    /// Begins, and locks the partition's row. `batch_seq` is drawn behind the lock, so within a
    /// partition it rises in the order of commit.
    pub(crate) async fn begin(
        connection: &'c mut PgConnection,
        lane: &LaneName,
        begin_sql: &str,
    ) -> Result<Self, BatchError> {
        let begin = sqlx::AssertSqlSafe(begin_sql.to_owned());
        let mut transaction = connection.begin_with(begin).await?;
        let row = sqlx::query(
            r"
            WITH locked AS MATERIALIZED (
                SELECT owner
                  FROM partition_progress
                 WHERE consumer_group = $1 AND topic = $2 AND partition = $3
                   FOR UPDATE
            )
            SELECT owner, nextval('batch_seq') AS batch_seq, pg_current_xact_id()::text AS xact,
                   (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms
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
        Ok(Self { transaction, lane: lane.clone(), batch_seq, xact, now_ms })
    }

    /// Claims ids, sorted, and reads who holds those it did not win. Two statements, never one:
    /// the snapshot of the first is older than the commit it waited for.
    pub(crate) async fn claim(
        mut self,
        claims: &[Claim],
        batch: &[Candidate],
        offsets: &[i64],
    ) -> Result<Claimed<'c>, BatchError> {
        let result = self.insert_claims(claims, batch, offsets).await?;
        Ok(Claimed { opened: self, result })
    }

    async fn insert_claims(
        &mut self,
        claims: &[Claim],
        batch: &[Candidate],
        offsets: &[i64],
    ) -> Result<ClaimResult, BatchError> {
        let ids: Vec<Uuid> = claims.iter().map(|claim| claim.id.0).collect();
        let claimed_offsets: Vec<i64> = claims.iter().map(|claim| offsets[claim.index]).collect();
        let outcomes: Vec<&str> = claims.iter().map(|claim| claim.outcome.as_str()).collect();
        let fingerprints: Vec<&[u8]> =
            claims.iter().map(|claim| &batch[claim.index].fingerprint.0[..]).collect();
        let won: Vec<Uuid> = sqlx::query_scalar(
            r#"
            INSERT INTO processed_messages
                   (message_id, "offset", batch_seq, partition, consumer_group, topic, outcome, fingerprint)
            SELECT id, "offset", $5, $6, $7, $8, outcome, fingerprint
              FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::bytea[])
                   AS claim (id, "offset", outcome, fingerprint)
                ON CONFLICT (message_id, consumer_group) DO NOTHING
         RETURNING message_id
            "#,
        )
        .bind(&ids)
        .bind(&claimed_offsets)
        .bind(&outcomes)
        .bind(&fingerprints)
        .bind(self.batch_seq)
        .bind(self.lane.partition)
        .bind(&self.lane.group)
        .bind(&self.lane.topic)
        .fetch_all(&mut *self.transaction)
        .await?;
        let won = won.into_iter().map(MessageId).collect();
        let mut result = ClaimResult { won, ..ClaimResult::default() };
        let lost: Vec<Uuid> =
            ids.into_iter().filter(|id| !result.won.contains(&MessageId(*id))).collect();
        if lost.is_empty() {
            return Ok(result);
        }
        let rows: Vec<(Uuid, Vec<u8>)> = sqlx::query_as(
            r"
            SELECT message_id, fingerprint
              FROM processed_messages
             WHERE message_id = ANY($1) AND consumer_group = $2
            ",
        )
        .bind(&lost)
        .bind(&self.lane.group)
        .fetch_all(&mut *self.transaction)
        .await?;
        for (id, fingerprint) in rows {
            if let Some(fingerprint) = Fingerprint::from_bytes(&fingerprint) {
                result.held.insert(MessageId(id), fingerprint);
            }
        }
        Ok(result)
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
}

impl<'c> Claimed<'c> {
    /// Claims the ids of conflicting messages; returns those won.
    pub(crate) async fn claim_conflicts(
        &mut self,
        claims: &[Claim],
        batch: &[Candidate],
        offsets: &[i64],
    ) -> Result<std::collections::HashSet<MessageId>, BatchError> {
        if claims.is_empty() {
            return Ok(std::collections::HashSet::new());
        }
        Ok(self.opened.insert_claims(claims, batch, offsets).await?.won)
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
    pub(crate) async fn finish(
        mut self,
        rejected: &[MessageId],
        dead: &[NewDeadLetter<'_>],
        outgoing: &[Outgoing],
        dlq_topic: &str,
        next_offset: i64,
        counts: Counts,
    ) -> Result<Finished<'c>, BatchError> {
        let Opened { transaction, lane, xact, .. } = &mut self.opened;
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
            .execute(&mut **transaction)
            .await?;
        }
        if !dead.is_empty() {
            dead_letters::insert(transaction, &lane.group, dead).await?;
            let copies: Vec<Outgoing> =
                dead.iter().map(|letter| letter.copy(&lane.group, dlq_topic)).collect();
            outbox::insert(transaction, &copies, true).await?;
        }
        if !outgoing.is_empty() {
            outbox::insert(transaction, outgoing, false).await?;
        }
        let progress = sqlx::query(
            r"
            UPDATE partition_progress
               SET next_offset = GREATEST(next_offset, $6),
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
        .bind(next_offset)
        .bind(counts.applied)
        .bind(counts.duplicates)
        .bind(counts.dead_lettered)
        .bind(counts.skipped)
        .fetch_optional(&mut **transaction)
        .await?;
        let Some(progress) = progress else { return Err(BatchError::TransactionEnded) };
        let database_next = progress.try_get("next_offset")?;
        Ok(Finished { transaction: self.opened.transaction, next_offset, database_next, counts })
    }
}

/// A transaction with everything in it but its commit.
pub(crate) struct Finished<'c> {
    transaction: Transaction<'c, Postgres>,
    next_offset: i64,
    /// `partition_progress.next_offset` once this commits.
    pub database_next: i64,
    counts: Counts,
}

impl Finished<'_> {
    /// Commits. An error here leaves the outcome unknown; the database knows it.
    pub(crate) async fn commit(self) -> Result<Committed, BatchError> {
        self.transaction.commit().await?;
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
    /// The offset behind the last message of the transaction.
    pub next_offset: i64,
    /// `partition_progress.next_offset`; higher while older records are read again.
    pub database_next: i64,
    /// What the messages came to.
    pub counts: Counts,
}
