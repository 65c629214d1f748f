//! The SQL of redrive: what an operator does to dead letters, and what the consumer makes of a copy.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{Connection as _, PgConnection, Row};
use uuid::Uuid;

use super::batch::LaneName;
use super::dead_letters::NewDeadLetter;
use crate::inspect::DeadLetterState;
use crate::message::{Fingerprint, MessageId};
use crate::outcome::Outcome;

/// Which dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Those with these ids: a dlq id, also an earlier one, or a message id.
    Ids(Vec<Uuid>),
    /// Those with this code, dead-lettered within `since` and not within `until`.
    Filter {
        /// With this code only.
        code: Option<String>,
        /// Not dead-lettered longer ago than this.
        since: Option<Duration>,
        /// Dead-lettered at least so long ago.
        until: Option<Duration>,
    },
    /// All.
    All,
}

/// A dead letter that a selection means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Its id in the dead letter topic.
    pub dlq_id: Uuid,
    /// What its claim is under.
    pub message_id: Uuid,
    /// Where its record lay.
    pub topic: String,
    /// Where its record lay.
    pub partition: i32,
    /// Where its record lay.
    pub offset: i64,
    /// Why it was dead-lettered.
    pub error_code: String,
    /// Where it stands.
    pub state: DeadLetterState,
    /// How often it was redriven.
    pub redrive_count: i32,
    /// Another message has its id.
    pub is_conflict: bool,
}

/// Those that a selection means, in the order of the log: so the copies of one key keep theirs.
///
/// # Errors
/// The database does not answer, or lacks the engine's tables.
pub async fn find(
    connection: &mut PgConnection,
    group: &str,
    selection: &Selection,
) -> Result<Vec<Chosen>, sqlx::Error> {
    let (ids, code, since, until) = match selection {
        Selection::Ids(ids) => (Some(ids), None, None, None),
        Selection::Filter { code, since, until } => (None, code.as_deref(), *since, *until),
        Selection::All => (None, None, None, None),
    };
    sqlx::query(
        r#"
        SELECT dlq_id, message_id, topic, partition, "offset", error_code, state, redrive_count,
               message_id <> original_id AS is_conflict
          FROM dead_letters
         WHERE consumer_group = $1
           AND ($2::uuid[] IS NULL
                OR dlq_id = ANY($2)
                OR message_id = ANY($2)
                OR message_id IN (SELECT message_id FROM past_dead_letterings WHERE dlq_id = ANY($2))
                -- A conflict by the id it came with, unless that is another dead letter's own.
                OR original_id = ANY($2)
                   AND NOT EXISTS (
                           SELECT
                             FROM dead_letters AS own
                            WHERE own.message_id = dead_letters.original_id
                              AND own.consumer_group = $1
                       ))
           AND ($3::text IS NULL OR error_code = $3)
           AND ($4::float8 IS NULL OR last_failed_at >= clock_timestamp() - $4 * interval '1 second')
           AND ($5::float8 IS NULL OR last_failed_at < clock_timestamp() - $5 * interval '1 second')
         ORDER BY topic, partition, "offset", message_id
        "#,
    )
    .bind(group)
    .bind(ids)
    .bind(code)
    .bind(since.map(|since| since.as_secs_f64()))
    .bind(until.map(|until| until.as_secs_f64()))
    .try_map(|row: PgRow| {
        Ok(Chosen {
            dlq_id: row.try_get("dlq_id")?,
            message_id: row.try_get("message_id")?,
            topic: row.try_get("topic")?,
            partition: row.try_get("partition")?,
            offset: row.try_get("offset")?,
            error_code: row.try_get("error_code")?,
            state: state(&row)?,
            redrive_count: row.try_get("redrive_count")?,
            is_conflict: row.try_get("is_conflict")?,
        })
    })
    .fetch_all(connection)
    .await
}

/// Marks these redriven and has their copies published, in one transaction: there is no moment
/// between the two. Returns the dlq ids of those that were as `from` says; the others were changed
/// by somebody else since they were chosen.
///
/// The copy is made from the row, so it does not matter what became of the dead letter topic.
///
/// # Errors
/// As for [`find`].
pub async fn redrive(
    connection: &mut PgConnection,
    group: &str,
    dlq_ids: &[Uuid],
    from: &[DeadLetterState],
    who: &str,
) -> Result<Vec<Uuid>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    // In one order everywhere, or two who lock the same rows deadlock.
    let locked: Vec<Uuid> = sqlx::query_scalar(
        r"
        SELECT dlq_id
          FROM dead_letters
         WHERE dlq_id = ANY($1) AND consumer_group = $2 AND state = ANY($3)
           AND message_id = original_id
         ORDER BY message_id
           FOR UPDATE
        ",
    )
    .bind(dlq_ids)
    .bind(group)
    .bind(words(from))
    .fetch_all(&mut *transaction)
    .await?;
    sqlx::query(
        r#"
        WITH marked AS (
            UPDATE dead_letters
               SET state = 'redriven',
                   redrive_count = redrive_count + 1,
                   state_changed_at = clock_timestamp(),
                   state_changed_by = $2,
                   state_reason = NULL
             WHERE dlq_id = ANY($1)
         RETURNING dlq_id, consumer_group, message_id, topic, partition, "offset", key, value,
                   headers, redrive_count
        )
        INSERT INTO outbox (topic, partition, key, value, headers, redrive_of)
        SELECT topic, partition, key, value,
               (SELECT coalesce(jsonb_agg(header ORDER BY place), '[]')
                  FROM jsonb_array_elements(headers) WITH ORDINALITY AS list (header, place)
                 WHERE coalesce(lower(header ->> 'name'), '')
                       NOT IN ('dlq-message-id', 'dlq-redrive-count', 'dlq-consumer-group'))
               || jsonb_build_array(
                      jsonb_build_object('name', 'dlq-message-id', 'value', message_id::text),
                      jsonb_build_object('name', 'dlq-redrive-count', 'value', redrive_count::text),
                      jsonb_build_object('name', 'dlq-consumer-group', 'value', consumer_group)
                  ),
               dlq_id
          FROM marked
         ORDER BY topic, partition, "offset", message_id
        "#,
    )
    .bind(&locked)
    .bind(who)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(locked)
}

/// Puts these aside for good; returns the dlq ids of those that were open. Their claims stay, so
/// a repeat of the message remains a duplicate.
///
/// # Errors
/// As for [`find`].
pub async fn discard(
    connection: &mut PgConnection,
    group: &str,
    dlq_ids: &[Uuid],
    who: &str,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar(
        r"
        UPDATE dead_letters
           SET state = 'discarded',
               state_changed_at = clock_timestamp(),
               state_changed_by = $3,
               state_reason = NULL
         WHERE dlq_id IN (
                   SELECT dlq_id
                     FROM dead_letters
                    WHERE dlq_id = ANY($1) AND consumer_group = $2 AND state = 'open'
                    ORDER BY message_id
                      FOR UPDATE
               )
           AND state = 'open'
     RETURNING dlq_id
        ",
    )
    .bind(dlq_ids)
    .bind(group)
    .bind(who)
    .fetch_all(connection)
    .await
}

/// How far a redrive is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The message.
    pub message_id: Uuid,
    /// Where its dead letter stands.
    pub state: DeadLetterState,
    /// How often it was redriven.
    pub redrive_count: i32,
    /// Its last failure.
    pub error_code: String,
    /// Its last failure, for people.
    pub error_message: String,
    /// Why its copy was refused.
    pub state_reason: Option<String>,
    /// Its copy waits in the outbox.
    pub is_in_outbox: bool,
    /// Its copy waits for another attempt.
    pub is_in_retry_queue: bool,
}

/// How far these are.
///
/// # Errors
/// As for [`find`].
pub async fn standings(
    connection: &mut PgConnection,
    group: &str,
    message_ids: &[Uuid],
) -> Result<Vec<Standing>, sqlx::Error> {
    sqlx::query(
        r"
        SELECT message_id, state, redrive_count, error_code, error_message, state_reason,
               dlq_id IN (SELECT redrive_of FROM outbox WHERE redrive_of IS NOT NULL)
                   AS is_in_outbox,
               message_id IN (SELECT message_id FROM retry_queue WHERE consumer_group = $2)
                   AS is_in_retry_queue
          FROM dead_letters
         WHERE message_id = ANY($1) AND consumer_group = $2
        ",
    )
    .bind(message_ids)
    .bind(group)
    .try_map(|row: PgRow| {
        Ok(Standing {
            message_id: row.try_get("message_id")?,
            state: state(&row)?,
            redrive_count: row.try_get("redrive_count")?,
            error_code: row.try_get("error_code")?,
            error_message: row.try_get("error_message")?,
            state_reason: row.try_get("state_reason")?,
            is_in_outbox: row.try_get("is_in_outbox")?,
            is_in_retry_queue: row.try_get("is_in_retry_queue")?,
        })
    })
    .fetch_all(connection)
    .await
}

/// A dead letter that a copy may take the place of. Its row is locked.
#[derive(Debug)]
pub(crate) struct Locked {
    pub state: DeadLetterState,
    pub redrive_count: i32,
    pub fingerprint: Fingerprint,
    /// Where the original lay, and its timestamp in milliseconds since 1970.
    pub offset: i64,
    pub timestamp_ms: Option<i64>,
}

/// Locks the dead letters of these messages whose claims are of this lane's partition: only the
/// lane that made a claim replaces it.
pub(crate) async fn lock(
    connection: &mut PgConnection,
    lane: &LaneName,
    ids: &[Uuid],
) -> Result<HashMap<MessageId, Locked>, sqlx::Error> {
    let rows: Vec<(MessageId, Option<Locked>)> = sqlx::query(
        r#"
        SELECT letter.message_id, letter.state, letter.redrive_count, letter."offset",
               (extract(epoch FROM letter.record_timestamp) * 1000)::bigint AS timestamp_ms,
               claim.fingerprint
          FROM dead_letters AS letter
          JOIN processed_messages AS claim USING (message_id, consumer_group)
         WHERE letter.message_id = ANY($1) AND letter.consumer_group = $2
           AND claim.topic = $3 AND claim.partition = $4 AND claim.outcome = 'dead_lettered'
         ORDER BY letter.message_id
           FOR UPDATE OF letter
        "#,
    )
    .bind(ids)
    .bind(&lane.group)
    .bind(&lane.topic)
    .bind(lane.partition)
    .persistent(false)
    .try_map(|row: PgRow| {
        let fingerprint = Fingerprint::from_bytes(row.try_get("fingerprint")?);
        let (redrive_count, offset) = (row.try_get("redrive_count")?, row.try_get("offset")?);
        let (state, timestamp_ms) = (state(&row)?, row.try_get("timestamp_ms")?);
        let locked = fingerprint.map(|fingerprint| Locked {
            state,
            redrive_count,
            fingerprint,
            offset,
            timestamp_ms,
        });
        Ok((MessageId(row.try_get("message_id")?), locked))
    })
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().filter_map(|(id, locked)| Some((id, locked?))).collect())
}

/// A copy that has its end other than as a dead letter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replaced {
    pub id: MessageId,
    pub number: i32,
    pub outcome: Outcome,
    pub offset: i64,
    /// As for any claim: of a log that an operator has given up.
    pub of_old_log: bool,
}

/// What became of the copies in a transaction.
#[derive(Default)]
pub(crate) struct Ended<'a> {
    pub replaced: Vec<Replaced>,
    /// Dead-lettered again, each with its number.
    pub again: Vec<(NewDeadLetter<'a>, i32)>,
}

impl Ended<'_> {
    /// How many of them no longer count, or count already, as dead-lettered in the partition.
    pub(crate) fn counted_before(&self) -> i64 {
        i64::try_from(self.replaced.len() + self.again.len()).unwrap_or(i64::MAX)
    }
}

/// Replaces the claims by those of the copies, and closes the dead letters.
pub(crate) async fn replace(
    connection: &mut PgConnection,
    group: &str,
    replaced: &[Replaced],
    batch_seqs: (i64, i64),
) -> Result<(), sqlx::Error> {
    let (batch_seq, accepted_batch_seq) = batch_seqs;
    let ids: Vec<Uuid> = replaced.iter().map(|copy| copy.id.0).collect();
    sqlx::query(
        r#"
        UPDATE processed_messages
           SET outcome = copy.outcome, "offset" = copy."offset", batch_seq = copy.batch_seq
          FROM unnest($1::uuid[], $3::text[], $4::bigint[], $5::bigint[])
               AS copy (id, outcome, "offset", batch_seq)
         WHERE message_id = copy.id AND message_id = ANY($1) AND consumer_group = $2
        "#,
    )
    .bind(&ids)
    .bind(group)
    .bind(replaced.iter().map(|copy| copy.outcome.as_str()).collect::<Vec<_>>())
    .bind(replaced.iter().map(|copy| copy.offset).collect::<Vec<_>>())
    .bind(
        replaced
            .iter()
            .map(|copy| if copy.of_old_log { accepted_batch_seq } else { batch_seq })
            .collect::<Vec<_>>(),
    )
    .persistent(false)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        r"
        UPDATE dead_letters
           SET state = 'resolved',
               redrive_count = copy.number,
               state_changed_at = clock_timestamp(),
               state_reason = NULL
          FROM unnest($1::uuid[], $3::integer[]) AS copy (id, number)
         WHERE message_id = copy.id AND consumer_group = $2
        ",
    )
    .bind(&ids)
    .bind(group)
    .bind(replaced.iter().map(|copy| copy.number).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Opens dead letters again whose copies were dead-lettered: under a new dlq id and with the new
/// error; the claim and the original's place stay.
pub(crate) async fn dead_again(
    connection: &mut PgConnection,
    group: &str,
    again: &[(NewDeadLetter<'_>, i32)],
) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = again.iter().map(|(letter, _)| letter.message_id.0).collect();
    sqlx::query(
        r"
        INSERT INTO past_dead_letterings
               (dlq_id, consumer_group, message_id, error_class, error_code, error_message,
                attempts, failed_at)
        SELECT dlq_id, consumer_group, message_id, error_class, error_code, error_message,
               attempts, last_failed_at
          FROM dead_letters
         WHERE message_id = ANY($1) AND consumer_group = $2
        ",
    )
    .bind(&ids)
    .bind(group)
    .execute(&mut *connection)
    .await?;
    let verdicts = || again.iter().map(|(letter, _)| letter.verdict);
    sqlx::query(
        r"
        UPDATE dead_letters
           SET dlq_id = copy.dlq_id,
               redrive_count = copy.number,
               error_class = copy.error_class,
               error_code = copy.error_code,
               error_message = copy.error_message,
               attempts = copy.attempts,
               last_failed_at = now(),
               state = 'open',
               state_changed_at = clock_timestamp(),
               state_reason = NULL
          FROM unnest($1::uuid[], $3::uuid[], $4::integer[], $5::text[], $6::text[], $7::text[],
                      $8::integer[])
               AS copy (id, dlq_id, number, error_class, error_code, error_message, attempts)
         WHERE message_id = copy.id AND consumer_group = $2
        ",
    )
    .bind(&ids)
    .bind(group)
    .bind(again.iter().map(|(letter, _)| letter.dlq_id).collect::<Vec<_>>())
    .bind(again.iter().map(|(_, number)| *number).collect::<Vec<_>>())
    .bind(verdicts().map(|v| v.class.as_str()).collect::<Vec<_>>())
    .bind(verdicts().map(|v| v.code.as_ref()).collect::<Vec<_>>())
    .bind(verdicts().map(|v| v.text.as_str()).collect::<Vec<_>>())
    .bind(verdicts().map(|v| v.attempts.cast_signed()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Kafka refuses a row of the outbox for good. If it is a redrive, the row goes and its dead letter
/// is opened again, as if that number had never been: should an earlier try of the record be in the
/// log after all, it counts. Returns whether it was a redrive.
pub(crate) async fn refused(
    connection: &mut PgConnection,
    outbox_id: i64,
    reason: &str,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        r"
        WITH gone AS (
            DELETE FROM outbox WHERE id = $1 AND redrive_of IS NOT NULL RETURNING redrive_of
        ), opened AS (
            UPDATE dead_letters
               SET state = 'open',
                   redrive_count = redrive_count - 1,
                   state_changed_at = clock_timestamp(),
                   state_reason = 'its redrive could not be published: ' || $2
              FROM gone
             WHERE dlq_id = gone.redrive_of AND state = 'redriven'
        )
        SELECT EXISTS (SELECT FROM gone)
        ",
    )
    .bind(outbox_id)
    .bind(reason)
    .fetch_one(connection)
    .await
}

fn words(states: &[DeadLetterState]) -> Vec<&'static str> {
    states.iter().map(|state| state.as_str()).collect()
}

fn state(row: &PgRow) -> Result<DeadLetterState, sqlx::Error> {
    let word: &str = row.try_get("state")?;
    DeadLetterState::ALL
        .into_iter()
        .find(|state| state.as_str() == word)
        .ok_or_else(|| sqlx::Error::Decode(format!("the state {word:?} is not known").into()))
}
