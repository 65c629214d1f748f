//! What is written down before messages go into work, where a process has ended in its work
//! before. Each statement is a transaction of its own, committed before the work begins.

use sqlx::types::time::OffsetDateTime;
use sqlx::{Connection, PgConnection};

use super::batch::LaneName;

/// How far records go into work. `false` if another lane owns the partition.
pub(crate) async fn hand_out(
    connection: &mut PgConnection,
    lane: &LaneName,
    up_to: i64,
) -> Result<bool, sqlx::Error> {
    let written = sqlx::query(
        r"
        UPDATE partition_progress
           SET handed_out = GREATEST(handed_out, $5)
         WHERE consumer_group = $1 AND topic = $2 AND partition = $3 AND owner = $4
        ",
    )
    .bind(&lane.group)
    .bind(&lane.topic)
    .bind(lane.partition)
    .bind(&lane.owner)
    .bind(up_to)
    .execute(connection)
    .await?;
    Ok(written.rows_affected() > 0)
}

/// Charges a record of the log with an attempt by `process`, once however often that tries.
/// Returns how many processes have begun one, or `None` if another lane owns the partition.
pub(crate) async fn charge(
    connection: &mut PgConnection,
    lane: &LaneName,
    process: &str,
    offset: i64,
) -> Result<Option<u32>, sqlx::Error> {
    let charges: Option<i32> = sqlx::query_scalar(
        r"
        UPDATE partition_progress
           SET charges = CASE
                   WHEN charged_offset IS DISTINCT FROM $5 THEN 1
                   WHEN charged_by = $6 THEN charges
                   ELSE charges + 1
               END,
               charged_offset = $5,
               charged_by = $6
         WHERE consumer_group = $1 AND topic = $2 AND partition = $3 AND owner = $4
     RETURNING charges
        ",
    )
    .bind(&lane.group)
    .bind(&lane.topic)
    .bind(lane.partition)
    .bind(&lane.owner)
    .bind(offset)
    .bind(process)
    .fetch_optional(connection)
    .await?;
    Ok(charges.map(i32::cast_unsigned))
}

/// The same for a message in the retry queue; `None` if it is not there any more.
pub(crate) async fn charge_waiting(
    connection: &mut PgConnection,
    process: &str,
    queue_no: i64,
) -> Result<Option<u32>, sqlx::Error> {
    let charges: Option<i32> = sqlx::query_scalar(
        r"
        UPDATE retry_queue
           SET charges = charges + CASE WHEN charged_by = $2 THEN 0 ELSE 1 END,
               charged_by = $2
         WHERE queue_no = $1
     RETURNING charges
        ",
    )
    .bind(queue_no)
    .bind(process)
    .fetch_optional(connection)
    .await?;
    Ok(charges.map(i32::cast_unsigned))
}

/// The lane gives its partition back: what it was charging has not ended its process.
pub(crate) async fn give_back(
    connection: &mut PgConnection,
    lane: &LaneName,
    process: &str,
    clean: bool,
    suspects_due_before: Option<OffsetDateTime>,
    keeps_suspects: bool,
) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    sqlx::query(
        r"
        UPDATE partition_progress
           SET clean = $5 AND NOT EXISTS (
                   -- As in the retry queue's `due`: those that have not been tried since.
                   SELECT
                     FROM retry_queue
                    WHERE consumer_group = $1 AND topic = $2 AND partition = $3
                      AND (next_attempt_at <= $7 OR (attempts = 0 AND queued_at <= $7))
               ),
               handed_out = CASE WHEN $6 THEN handed_out ELSE next_offset END
         WHERE consumer_group = $1 AND topic = $2 AND partition = $3 AND owner = $4
        ",
    )
    .bind(&lane.group)
    .bind(&lane.topic)
    .bind(lane.partition)
    .bind(&lane.owner)
    .bind(clean)
    .bind(keeps_suspects)
    .bind(suspects_due_before)
    .execute(&mut *transaction)
    .await?;
    discharge(&mut transaction, lane, process).await?;
    transaction.commit().await
}

/// Takes back what `process` has charged in this partition: it has outlived the attempt.
pub(crate) async fn discharge(
    connection: &mut PgConnection,
    lane: &LaneName,
    process: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        r"
        UPDATE partition_progress
           SET charges = charges - 1,
               charged_by = ''
         WHERE consumer_group = $1 AND topic = $2 AND partition = $3 AND charged_by = $4
        ",
    )
    .bind(&lane.group)
    .bind(&lane.topic)
    .bind(lane.partition)
    .bind(process)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        r"
        UPDATE retry_queue
           SET charges = charges - 1,
               charged_by = ''
         WHERE consumer_group = $1 AND topic = $2 AND partition = $3 AND charged_by = $4
           -- What the index has.
           AND charged_by <> ''
        ",
    )
    .bind(&lane.group)
    .bind(&lane.topic)
    .bind(lane.partition)
    .bind(process)
    .execute(connection)
    .await?;
    Ok(())
}
