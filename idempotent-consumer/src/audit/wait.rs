//! `--wait`: gives the consumer and the relay time to finish before the audit.

use std::time::{Duration, Instant};

use sqlx::PgConnection;
use sqlx::types::time::OffsetDateTime;

use super::bounds::{self, Bounds, numbers};
use super::{AuditConfig, AuditError, Progress, Stage, log, store};
use crate::kafka::log_reader::Stretch;

const POLL: Duration = Duration::from_millis(200);

/// What was waited for, and is a violation if it is still pending.
pub(super) struct Awaited {
    /// Ends of the log when the wait began, by partition.
    pub(super) ends: Vec<i64>,
    /// Rows of the outbox from before this time of the database's clock.
    pub(super) outbox_before: Option<OffsetDateTime>,
    /// Redrives from before this time of the database's clock.
    pub(super) redriven_before: Option<OffsetDateTime>,
}

/// Waits until everything that was in the log when it began is consumed and none of it waits for
/// another attempt, and then until what the outbox held at that moment is published and what was being
/// redriven has come to its end; `wait` at most for all.
pub(super) async fn settle(
    connection: &mut PgConnection,
    config: &AuditConfig,
    wait: Duration,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Awaited, AuditError> {
    let deadline = Instant::now() + wait;
    let Some(Bounds { partitions, .. }) =
        bounds::of(&config.kafka, &config.consumer_group, &config.topic).await?
    else {
        return Err(AuditError::NoTopic { topic: config.topic.clone() });
    };
    let ends: Vec<i64> = partitions.iter().map(|(_, end)| *end).collect();
    let began = now(connection).await?;
    let mut consumed_at = None;
    loop {
        if consumed_at.is_none() {
            let ahead = ahead(connection, config, &partitions).await?;
            let records = ahead.iter().map(|s| s.end.abs_diff(s.start)).sum();
            progress(Progress { stage: Stage::Waiting, done: 0, of: records });
            if ahead.is_empty() || !any_record(config, ahead).await? {
                let (group, topic) = (&config.consumer_group, &config.topic);
                let waiting = store::count_waiting_below(connection, group, topic, &ends).await?;
                progress(Progress { stage: Stage::Waiting, done: 0, of: waiting.unsigned_abs() });
                if waiting == 0 {
                    consumed_at = Some(now(connection).await?);
                }
            }
        }
        if let Some(consumed_at) = consumed_at {
            let rows = outbox_rows(connection, consumed_at).await?
                + redrives(connection, &config.consumer_group, began).await?;
            progress(Progress { stage: Stage::Waiting, done: 0, of: rows.unsigned_abs() });
            if rows == 0 {
                break;
            }
        }
        if Instant::now() >= deadline {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    let outbox_before = match consumed_at {
        Some(at) => Some(at),
        None => Some(now(connection).await?),
    };
    Ok(Awaited { ends, outbox_before, redriven_before: Some(began) })
}

/// What lies between the database's position and the ends.
async fn ahead(
    connection: &mut PgConnection,
    config: &AuditConfig,
    partitions: &[(i64, i64)],
) -> Result<Vec<Stretch>, sqlx::Error> {
    let rows = store::progress(connection, &config.consumer_group, &config.topic).await?;
    let stretches = numbers(partitions.len()).zip(partitions).map(|(partition, (start, end))| {
        let row = rows.iter().find(|row| row.partition == partition);
        let start = row.map_or(*start, |row| row.next_offset.max(*start));
        Stretch { partition, start, end: *end }
    });
    Ok(stretches.filter(|stretch| stretch.start < stretch.end).collect())
}

async fn any_record(config: &AuditConfig, stretches: Vec<Stretch>) -> Result<bool, AuditError> {
    let (settings, topic) = (config.kafka.clone(), config.topic.clone());
    match tokio::task::spawn_blocking(move || log::any_record(&settings, &topic, &stretches)).await
    {
        Ok(answer) => Ok(answer?),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

async fn now(connection: &mut PgConnection) -> Result<OffsetDateTime, sqlx::Error> {
    sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(connection).await
}

async fn outbox_rows(
    connection: &mut PgConnection,
    before: OffsetDateTime,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT count(*) FROM outbox WHERE created_at < $1")
        .bind(before)
        .fetch_one(connection)
        .await
}

/// How many redrives from before that time are under way.
async fn redrives(
    connection: &mut PgConnection,
    group: &str,
    before: OffsetDateTime,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        r"
        SELECT count(*)
          FROM dead_letters
         WHERE consumer_group = $1 AND state = 'redriven' AND state_changed_at < $2
        ",
    )
    .bind(group)
    .bind(before)
    .fetch_one(connection)
    .await
}
