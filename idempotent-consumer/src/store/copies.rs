//! What a redriven copy does to the dead letter that it is of, see [`crate::redrive`].

use std::collections::HashMap;

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::batch::LaneName;
use super::dead_letters::NewDeadLetter;
use super::redrive::state;
use crate::inspect::DeadLetterState;
use crate::message::{Fingerprint, MessageId};
use crate::outcome::Outcome;

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
/// is opened again. Returns whether it was a redrive. In the migration `0014_rights`.
pub(crate) async fn refused(
    connection: &mut PgConnection,
    outbox_id: i64,
    reason: &str,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT reopen_refused_redrive($1, $2)")
        .bind(outbox_id)
        .bind(reason)
        .fetch_one(connection)
        .await
}
