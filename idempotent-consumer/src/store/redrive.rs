//! What an operator does to dead letters: choose, redrive, discard, ask how far they are.

use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{Connection as _, PgConnection, Row};
use uuid::Uuid;

use crate::inspect::DeadLetterState;

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
/// by somebody else since they were chosen. One that is redriven already is so again only if its
/// copy waits neither in the outbox nor in the retry queue.
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
    // A statement of its own: what a lane wrote while this waited for its lock is seen.
    let marked: Vec<Uuid> = sqlx::query_scalar(
        r#"
        WITH marked AS (
            UPDATE dead_letters
               SET state = 'redriven',
                   redrive_count = redrive_count + 1,
                   state_changed_at = clock_timestamp(),
                   state_changed_by = $2,
                   state_reason = NULL
             WHERE dlq_id = ANY($1)
               AND (state <> 'redriven'
                    OR dlq_id NOT IN (SELECT redrive_of FROM outbox WHERE redrive_of IS NOT NULL)
                       AND NOT EXISTS (
                               SELECT
                                 FROM retry_queue AS waiting
                                WHERE waiting.message_id = dead_letters.message_id
                                  AND waiting.consumer_group = dead_letters.consumer_group
                           ))
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
     RETURNING redrive_of
        "#,
    )
    .bind(&locked)
    .bind(who)
    .fetch_all(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(marked)
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

fn words(states: &[DeadLetterState]) -> Vec<&'static str> {
    states.iter().map(|state| state.as_str()).collect()
}

pub(super) fn state(row: &PgRow) -> Result<DeadLetterState, sqlx::Error> {
    let word: &str = row.try_get("state")?;
    DeadLetterState::ALL
        .into_iter()
        .find(|state| state.as_str() == word)
        .ok_or_else(|| sqlx::Error::Decode(format!("the state {word:?} is not known").into()))
}
