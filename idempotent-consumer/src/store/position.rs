//! `partition_progress` outside of a batch: registering partitions, taking one over, accepting a
//! new beginning.

use sqlx::types::time::OffsetDateTime;
use sqlx::{Connection, PgConnection, Row};

use super::batch::LaneName;

/// How far the database says a partition is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub topic_id: String,
    pub next_offset: i64,
    /// Who owned the partition until now.
    pub previous_owner: String,
    /// The offset behind the last record that went into work.
    pub handed_out: i64,
    /// Whether the lane before gave the partition back.
    pub clean: bool,
    /// The database's clock at the taking over.
    pub at: OffsetDateTime,
}

/// Writes a row for each partition the topic has, if the group has none for this topic yet. A
/// partition without a row later on was added since.
pub(crate) async fn register(
    connection: &mut PgConnection,
    group: &str,
    topic: &str,
    topic_id: &str,
    log_starts: &[i64],
) -> Result<(), sqlx::Error> {
    let partitions: Vec<i32> = (0..).take(log_starts.len()).collect();
    let mut transaction = connection.begin().await?;
    // Two consumers that start together must not both find the table empty.
    sqlx::query("LOCK TABLE partition_progress IN SHARE ROW EXCLUSIVE MODE")
        .execute(&mut *transaction)
        .await?;
    sqlx::query(
        r"
        INSERT INTO partition_progress
               (consumer_group, topic, partition, topic_id, next_offset, handed_out, owner)
        SELECT $1, $2, partition, $3, log_start, log_start, ''
          FROM unnest($4::integer[], $5::bigint[]) AS known (partition, log_start)
         WHERE NOT EXISTS (
                   SELECT FROM partition_progress WHERE consumer_group = $1 AND topic = $2
               )
        ",
    )
    .bind(group)
    .bind(topic)
    .bind(topic_id)
    .bind(&partitions)
    .bind(log_starts)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

/// Whether the group has rows for this topic.
pub(crate) async fn is_registered(
    connection: &mut PgConnection,
    group: &str,
    topic: &str,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM partition_progress WHERE consumer_group = $1 AND topic = $2)",
    )
    .bind(group)
    .bind(topic)
    .fetch_one(connection)
    .await
}

/// Makes the lane the partition's owner, which fences any other, and reads how far it is. Waits
/// for a transaction of the partition that is still open. `None` if the partition has no row.
pub(crate) async fn take_over(
    connection: &mut PgConnection,
    lane: &LaneName,
) -> Result<Option<Progress>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let row = sqlx::query(
        r"
        SELECT owner, topic_id, next_offset, handed_out, clean, clock_timestamp() AS at
          FROM partition_progress
         WHERE consumer_group = $1 AND topic = $2 AND partition = $3
           FOR UPDATE
        ",
    )
    .bind(&lane.group)
    .bind(&lane.topic)
    .bind(lane.partition)
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(row) = row else { return Ok(None) };
    sqlx::query(
        r"
        UPDATE partition_progress
           SET owner = $4,
               clean = false
         WHERE consumer_group = $1 AND topic = $2 AND partition = $3
        ",
    )
    .bind(&lane.group)
    .bind(&lane.topic)
    .bind(lane.partition)
    .bind(&lane.owner)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(Some(Progress {
        topic_id: row.try_get("topic_id")?,
        next_offset: row.try_get("next_offset")?,
        previous_owner: row.try_get("owner")?,
        handed_out: row.try_get("handed_out")?,
        clean: row.try_get("clean")?,
        at: row.try_get("at")?,
    }))
}

/// Reads owner and progress without a lock: is the database still where the lane left it?
pub(crate) async fn look(
    connection: &mut PgConnection,
    lane: &LaneName,
) -> Result<Option<(String, i64)>, sqlx::Error> {
    sqlx::query_as(
        r"
        SELECT owner, next_offset
          FROM partition_progress
         WHERE consumer_group = $1 AND topic = $2 AND partition = $3
        ",
    )
    .bind(&lane.group)
    .bind(&lane.topic)
    .bind(lane.partition)
    .fetch_optional(connection)
    .await
}

/// Writes the row of a partition that was added after the group had begun.
pub(crate) async fn add(
    connection: &mut PgConnection,
    lane: &LaneName,
    topic_id: &str,
    log_start: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        r"
        INSERT INTO partition_progress
               (consumer_group, topic, partition, topic_id, next_offset, handed_out, owner)
        VALUES ($1, $2, $3, $4, $5, $5, $6)
            ON CONFLICT DO NOTHING
        ",
    )
    .bind(&lane.group)
    .bind(&lane.topic)
    .bind(lane.partition)
    .bind(topic_id)
    .bind(log_start)
    .bind(&lane.owner)
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes offsets that were deleted before they were read, and goes on behind them.
pub(crate) async fn record_lost(
    connection: &mut PgConnection,
    lane: &LaneName,
    topic_id: &str,
    from_offset: i64,
    to_offset: i64,
) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    sqlx::query(
        r"
        INSERT INTO lost_ranges
               (consumer_group, topic, partition, topic_id, from_offset, to_offset)
        VALUES ($1, $2, $3, $4, $5, $6)
            ON CONFLICT DO NOTHING
        ",
    )
    .bind(&lane.group)
    .bind(&lane.topic)
    .bind(lane.partition)
    .bind(topic_id)
    .bind(from_offset)
    .bind(to_offset)
    .execute(&mut *transaction)
    .await?;
    sqlx::query(
        r"
        UPDATE partition_progress
           SET next_offset = GREATEST(next_offset, $5),
               handed_out = GREATEST(handed_out, $5)
         WHERE consumer_group = $1 AND topic = $2 AND partition = $3 AND owner = $4
        ",
    )
    .bind(&lane.group)
    .bind(&lane.topic)
    .bind(lane.partition)
    .bind(&lane.owner)
    .bind(to_offset)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

/// An operator accepts the log as it is now: the partition begins again at `log_start`. Whatever
/// has its claim already is a duplicate then. Returns where it was, or `None` without a row.
pub(crate) async fn accept(
    connection: &mut PgConnection,
    group: &str,
    topic: &str,
    partition: i32,
    topic_id: &str,
    log_start: i64,
) -> Result<Option<i64>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    sqlx::query(
        r"
        UPDATE retry_queue
           SET of_old_log = true
         WHERE consumer_group = $1 AND topic = $2 AND partition = $3
        ",
    )
    .bind(group)
    .bind(topic)
    .bind(partition)
    .execute(&mut *transaction)
    .await?;
    let before = sqlx::query_scalar(
        r"
        WITH before AS MATERIALIZED (
            SELECT next_offset
              FROM partition_progress
             WHERE consumer_group = $1 AND topic = $2 AND partition = $3
               FOR UPDATE
        )
        UPDATE partition_progress
           SET topic_id = $4,
               next_offset = $5,
               handed_out = $5,
               clean = true,
               charged_offset = NULL,
               charges = 0,
               accepted_batch_seq = (SELECT last_value FROM batch_seq),
               updated_at = now()
          FROM before
         WHERE consumer_group = $1 AND topic = $2 AND partition = $3
     RETURNING before.next_offset
        ",
    )
    .bind(group)
    .bind(topic)
    .bind(partition)
    .bind(topic_id)
    .bind(log_start)
    .fetch_optional(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(before)
}

/// Ends the lanes of this partition that stand in the way of the connection `blocked_pid`: older
/// ones, by their `application_name`, and nobody else. Returns how many.
pub(crate) async fn end_older_lanes(
    connection: &mut PgConnection,
    blocked_pid: i32,
    application_name: &str,
) -> Result<usize, sqlx::Error> {
    let ended: Vec<bool> = sqlx::query_scalar(
        r"
        SELECT pg_terminate_backend(holder.pid)
          FROM pg_stat_activity AS blocked
          JOIN pg_stat_activity AS holder ON holder.pid = ANY(pg_blocking_pids(blocked.pid))
         WHERE blocked.pid = $1
           AND holder.application_name = $2
           AND holder.backend_start < blocked.backend_start
        ",
    )
    .bind(blocked_pid)
    .bind(application_name)
    .fetch_all(connection)
    .await?;
    Ok(ended.len())
}

/// `(partition, topic_id, next_offset)` of every partition of the topic that has a row.
pub(crate) async fn all(
    connection: &mut PgConnection,
    group: &str,
    topic: &str,
) -> Result<Vec<(i32, String, i64)>, sqlx::Error> {
    sqlx::query_as(
        r"
        SELECT partition, topic_id, next_offset
          FROM partition_progress
         WHERE consumer_group = $1 AND topic = $2
         ORDER BY partition
        ",
    )
    .bind(group)
    .bind(topic)
    .fetch_all(connection)
    .await
}
