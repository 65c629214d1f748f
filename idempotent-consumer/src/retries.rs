//! An operator's word on the retry queue: try it now, or give it up.
//!
//! Neither decides an outcome: the lane that owns the partition does, at the message's turn.

use sqlx::PgConnection;
use uuid::Uuid;

/// Which messages of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The message with this id.
    Id(Uuid),
    /// All with this key.
    Key(Vec<u8>),
    /// All.
    All,
}

impl Selection {
    fn id(&self) -> Option<Uuid> {
        match self {
            Self::Id(id) => Some(*id),
            _ => None,
        }
    }

    fn key(&self) -> Option<&[u8]> {
        match self {
            Self::Key(key) => Some(key),
            _ => None,
        }
    }
}

/// A message of the queue.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Chosen {
    /// Its number in the queue.
    pub queue_no: i64,
    /// What it is known by.
    pub message_id: Uuid,
    /// Whether another one of its key is before it.
    pub is_behind: bool,
}

/// Those that a selection means, in the order of the queue.
///
/// # Errors
/// The database does not answer, or lacks the engine's tables.
pub async fn find(
    connection: &mut PgConnection,
    group: &str,
    topic: &str,
    selection: &Selection,
) -> Result<Vec<Chosen>, sqlx::Error> {
    sqlx::query_as(
        r"
        SELECT queue_no, message_id, next_attempt_at IS NULL AS is_behind
          FROM retry_queue
         WHERE consumer_group = $1 AND topic = $2
           AND ($3::uuid IS NULL OR message_id = $3)
           AND ($4::bytea IS NULL OR key = $4)
         ORDER BY queue_no
        ",
    )
    .bind(group)
    .bind(topic)
    .bind(selection.id())
    .bind(selection.key())
    .fetch_all(connection)
    .await
}

/// Has the next attempt of these made at once, unless another message of their key is before them.
///
/// # Errors
/// As for [`find`].
pub async fn now(connection: &mut PgConnection, chosen: &[Chosen]) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        r"
        UPDATE retry_queue
           SET next_attempt_at = clock_timestamp()
         WHERE queue_no = ANY($1) AND next_attempt_at IS NOT NULL
        ",
    )
    .bind(numbers(chosen))
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Has these dead-lettered instead of tried, each at its turn.
///
/// # Errors
/// As for [`find`].
pub async fn give_up(
    connection: &mut PgConnection,
    chosen: &[Chosen],
    who: &str,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        r"
        UPDATE retry_queue
           SET given_up_by = $2,
               next_attempt_at = CASE WHEN next_attempt_at IS NOT NULL THEN clock_timestamp() END
         WHERE queue_no = ANY($1)
        ",
    )
    .bind(numbers(chosen))
    .bind(who)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// How many of these are still in the queue.
///
/// # Errors
/// As for [`find`].
pub async fn still_waiting(
    connection: &mut PgConnection,
    chosen: &[Chosen],
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT count(*) FROM retry_queue WHERE queue_no = ANY($1)")
        .bind(numbers(chosen))
        .fetch_one(connection)
        .await
}

fn numbers(chosen: &[Chosen]) -> Vec<i64> {
    chosen.iter().map(|message| message.queue_no).collect()
}
