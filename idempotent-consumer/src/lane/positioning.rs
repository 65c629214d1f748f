//! Where a lane begins: becoming the partition's owner, and asking Kafka and the database.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Lane, Leave};
use crate::failpoint::failpoint;
use crate::handler::{Decoder, Handler};
use crate::kafka::facts::PartitionFacts;
use crate::kafka::owner::Command;
use crate::start::{Start, start_of};
use crate::store::batch::LaneName;
use crate::store::connect::{connect, session_sql};
use crate::store::position::{self, Progress};
use crate::store::retry_queue;

/// How often a stopped partition looks whether an operator has accepted it.
const RECHECK: Duration = Duration::from_secs(2);

impl<H: Handler, D: Decoder<Body = H::Body>> Lane<H, D> {
    /// Finds out where to begin, and has the owner begin there.
    pub(super) async fn position(&mut self) -> Result<(), Leave> {
        self.in_doubt = None;
        let mut failures = 0;
        loop {
            if self.cancel.is_cancelled() {
                return Err(Leave::Cancelled);
            }
            match self.try_position().await {
                Ok(Ok(offset)) => {
                    let (started, has_started) = oneshot::channel();
                    self.shared.tell_owner(Command::Start {
                        partition: self.name.partition,
                        epoch: self.epoch,
                        offset,
                        started,
                    });
                    tokio::select! {
                        biased;
                        () = self.cancel.cancelled() => return Err(Leave::Cancelled),
                        // An owner that drops the answer has revoked the partition, and the
                        // cancellation is on its way.
                        _ = has_started => {}
                    }
                    tracing::info!(
                        partition = %self.label, offset, next_offset = self.database_next, "started"
                    );
                    self.shared.health.clear(&self.label);
                    // What the lane before this one has left waiting.
                    self.next_retry = Some(Instant::now());
                    return Ok(());
                }
                Ok(Err(stopped)) => {
                    failures = 0;
                    if self.shared.health.set(&self.label, stopped.as_str()) {
                        tracing::error!(partition = %self.label, "stopped: {stopped}");
                    }
                    self.sleep(RECHECK).await?;
                }
                Err(why) => {
                    failures += 1;
                    self.connection = None;
                    self.back_off(failures, &why).await?;
                }
            }
        }
    }

    /// One attempt: `Ok(Err(…))` if an operator or time has to decide, `Err` if trying again helps.
    async fn try_position(&mut self) -> Result<Result<i64, String>, String> {
        let Some(mut facts) = self.facts(self.name.partition).await? else {
            return Err(format!("the topic {} does not exist", self.name.topic));
        };
        let Some(progress) = self.take_over().await.map_err(|e| format!("database: {e}"))? else {
            return self.wait_until_drained(&facts).await;
        };
        self.note_how_it_was_left(&progress, facts.log_end);
        if progress.next_offset > facts.log_end {
            // The lane before us may have gone on while we waited for it.
            if let Some(now) = self.facts(self.name.partition).await? {
                facts = now;
            }
        }
        let (offset, lost) = match start_of(&progress.topic_id, progress.next_offset, &facts) {
            Start::At { offset, lost } => (offset, lost),
            Start::Stopped(reason) => return Ok(Err(reason)),
        };
        self.topic_id = progress.topic_id;
        self.database_next = progress.next_offset;
        if let Some((from, to)) = lost {
            tracing::error!(
                partition = %self.label, from, to,
                "records were deleted by retention before they were read; noted in lost_ranges"
            );
            if let Some(connection) = &mut self.connection {
                position::record_lost(connection, &self.name, &self.topic_id, from, to)
                    .await
                    .map_err(|e| format!("database: {e}"))?;
            }
            self.database_next = to;
        }
        Ok(Ok(offset))
    }

    pub(super) async fn facts(&self, partition: i32) -> Result<Option<PartitionFacts>, String> {
        let facts = Arc::clone(&self.shared.facts);
        let topic = self.name.topic.clone();
        tokio::task::spawn_blocking(move || facts.partition(&topic, partition))
            .await
            .map_err(|e| e.to_string())?
            .map_err(|e| e.to_string())
    }

    /// A partition without a row was added after the group had begun. A key that moved to it may
    /// have older messages elsewhere, so it waits until those partitions have been drained to
    /// their ends as of now.
    async fn wait_until_drained(
        &mut self,
        facts: &PartitionFacts,
    ) -> Result<Result<i64, String>, String> {
        let Some(mut connection) = self.connection.take() else { return Err("database".into()) };
        let known = position::all(&mut connection, &self.name.group, &self.name.topic)
            .await
            .map_err(|e| format!("database: {e}"))?;
        if self.wait_for.is_none() {
            let mut ends = Vec::new();
            for (partition, _, _) in &known {
                if let Some(other) = self.facts(*partition).await? {
                    ends.push((*partition, other.log_end));
                }
            }
            self.wait_for = Some(ends);
        }
        let ends = self.wait_for.as_deref().unwrap_or_default();
        let waiting = retry_queue::oldest(&mut connection, &self.name)
            .await
            .map_err(|e| format!("database: {e}"))?;
        let behind = ends.iter().find(|(partition, end)| {
            known.iter().any(|(other, _, next)| other == partition && next < end)
                || waiting.iter().any(|(other, oldest)| other == partition && oldest < end)
        });
        if let Some((partition, end)) = behind {
            self.connection = Some(connection);
            return Ok(Err(format!(
                "a new partition, waiting until partition {partition} has been worked off to offset {end}"
            )));
        }
        position::add(&mut connection, &self.name, &facts.topic_id, facts.log_start)
            .await
            .map_err(|e| format!("database: {e}"))?;
        self.connection = Some(connection);
        Err("a new partition, beginning".to_owned())
    }

    /// Opens a connection if there is none, and becomes the partition's owner.
    pub(super) async fn take_over(&mut self) -> Result<Option<Progress>, sqlx::Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.shared.database, &self.application_name).await?,
        };
        let lock_timeout = self.shared.config.lock_timeout;
        let limit = lock_timeout * 3 + Duration::from_secs(10);
        let blocked = sqlx::query_scalar::<_, i32>("SELECT pg_backend_pid()");
        let attempt = async {
            sqlx::raw_sql(sqlx::AssertSqlSafe(session_sql(lock_timeout, limit)))
                .execute(&mut connection)
                .await?;
            failpoint("consumer.before_take_over");
            match position::take_over(&mut connection, &self.name).await {
                Err(error) if crate::failure::sqlstate(&error).as_deref() == Some("55P03") => {
                    // Somebody holds the row: perhaps a lane that was frozen in a transaction.
                    let pid = blocked.fetch_one(&mut connection).await?;
                    let (progress, ()) = tokio::join!(
                        position::take_over(&mut connection, &self.name),
                        self.end_older_lanes(pid)
                    );
                    progress
                }
                progress => progress,
            }
        };
        let progress = tokio::time::timeout(limit, attempt).await;
        match progress {
            Ok(Ok(progress)) => {
                self.connection = Some(connection);
                failpoint("consumer.after_take_over");
                Ok(progress)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
        }
    }

    /// Ends connections of older lanes of this partition that stand in the way of `pid`.
    async fn end_older_lanes(&self, pid: i32) {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let ended = async {
            let mut connection = connect(&self.shared.database, "idempotent-consumer").await?;
            position::end_older_lanes(&mut connection, pid, &self.application_name).await
        };
        match ended.await {
            Ok(0) => {}
            Ok(count) => {
                tracing::warn!(partition = %self.label, count, "ended a frozen lane of this partition");
            }
            Err(error) => {
                tracing::warn!(partition = %self.label, %error, "looking for a frozen lane");
            }
        }
    }
}

/// The same for every lane of this group and partition, in whatever process, and for no other:
/// a frozen one is found by it. PostgreSQL cuts names at 63 bytes.
pub(super) fn application_name(lane: &LaneName) -> String {
    let digest = crate::identity::fingerprint(Some(&lane.group), Some(lane.topic.as_bytes()), None);
    let short = u64::from_be_bytes([
        digest.0[1],
        digest.0[2],
        digest.0[3],
        digest.0[4],
        digest.0[5],
        digest.0[6],
        digest.0[7],
        digest.0[8],
    ]);
    format!("idempotent-consumer lane {short:016x} {}", lane.partition)
}
