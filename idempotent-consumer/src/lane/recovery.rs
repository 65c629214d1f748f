//! What a lane makes of a failed transaction and of a lost connection.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::{InDoubt, Lane, Leave, Witness, within};
use crate::batch::{PieceError, run_empty};
use crate::failure::{FailureClass, may_be_of_one_batch};
use crate::handler::{Decoder, Handler};
use crate::observe;
use crate::outcome::Verdict;
use crate::plan::Plan;
use crate::shared::Totals;
use crate::store::batch::{BatchError, Committed};
use crate::store::connect::connect;
use crate::store::retry_queue;

/// After so many failures of one batch while others commit, the batch is to blame.
const BLAME_AFTER_FAILURES: u32 = 5;
/// So many commits of others count as "others commit".
const BLAME_AFTER_COMMITS: u64 = 5;

/// What a new connection found.
pub(super) enum Reconnected {
    /// Nothing has changed behind the lane's back.
    AsLeft,
    /// The commit in doubt went through.
    Committed(Committed),
    Moved,
}

impl<H: Handler, D: Decoder<Body = H::Body>> Lane<H, D> {
    /// Decides what a failed transaction means for its messages. `first` is the first of them in
    /// the retry queue, if they come from there.
    pub(super) async fn fail(
        &mut self,
        error: PieceError,
        first: Option<i64>,
        plan: &mut Plan,
        failures: &mut Failures,
    ) -> Result<(), Leave> {
        if matches!(error, PieceError::Batch(BatchError::Fenced)) {
            // Either the partition is ours and we take it back, or Kafka is about to tell.
            self.back_off(4, &error.to_string()).await?;
            return Err(Leave::Reposition);
        }
        if matches!(error, PieceError::LogReplaced | PieceError::Batch(BatchError::Moved)) {
            return Err(Leave::Reposition);
        }
        if let PieceError::LogUnknown(why) = &error {
            // Kafka's trouble, and not this batch's.
            return self.back_off(1, &format!("kafka: {why}")).await;
        }
        let class = error.class();
        observe::failed_transaction(class);
        let text = error.to_string();
        // A handler may wait for something else, and names it.
        let is_handlers =
            matches!(&error, PieceError::Handler(_)) && error.database_error().is_none();
        let code = error.code();
        let suspicious = error.database_error().is_some_and(may_be_of_one_batch);
        // A commit that failed for certain leaves nothing in doubt.
        if let PieceError::Commit { next_offset, database_next, counts, spans, .. } = error
            && class == FailureClass::Infrastructure
            && (first.is_some() || database_next > self.database_next)
        {
            let committed = Committed { next_offset, database_next, counts };
            let witness = first.map_or(Witness::Progress, Witness::Left);
            self.in_doubt = Some(InDoubt { committed, witness, spans });
        }
        match class {
            FailureClass::Stop => {
                self.shared.fail(self.label.clone(), text);
                Err(Leave::Cancelled)
            }
            FailureClass::Infrastructure => {
                failures.note(&self.shared.totals);
                if self.in_doubt.is_none() && self.is_to_blame(failures, suspicious).await {
                    tracing::warn!(
                        partition = %self.label,
                        "other transactions commit and this batch does not, so it is bisected: {text}"
                    );
                    plan.failed(false, |failed| {
                        Verdict::new(FailureClass::Retryable, code, text, failed.attempts)
                    });
                    *failures = Failures::default();
                    return Ok(());
                }
                let why = if is_handlers { text } else { format!("database: {text}") };
                self.back_off(failures.count, &why).await
            }
            FailureClass::Permanent | FailureClass::Retryable => {
                tracing::debug!(partition = %self.label, "a transaction failed: {text}");
                *failures = Failures::default();
                plan.failed(class == FailureClass::Permanent, |failed| {
                    Verdict::new(class, code, text, failed.attempts)
                });
                Ok(())
            }
        }
    }

    /// Whether a failure that keeps to this batch belongs to it: transactions of other lanes
    /// commit; or, if it is the database that fails, one of this lane without any message in it.
    async fn is_to_blame(&mut self, failures: &Failures, suspicious: bool) -> bool {
        if failures.count < BLAME_AFTER_FAILURES {
            return false;
        }
        if failures.others_commit(&self.shared.totals) {
            return true;
        }
        if !suspicious {
            return false;
        }
        let (kept, name) = (self.connection.take(), self.application_name.as_str());
        let keep = kept.is_some();
        let empty = async {
            let mut connection = match kept {
                Some(connection) => connection,
                None => connect(&self.shared.database, name).await.ok()?,
            };
            let begin_sql = &self.shared.begin_sql;
            run_empty(&mut connection, &self.name, begin_sql, None, None)
                .await
                .ok()
                .map(|_| connection)
        };
        let committed = tokio::time::timeout(Duration::from_secs(30), empty).await.ok().flatten();
        let commits = committed.is_some();
        // A connection made for this has not been asked where the database is.
        self.connection = committed.filter(|_| keep);
        commits
    }

    /// A new connection in the middle of a batch: is the database where this lane left it?
    pub(super) async fn reconnect(&mut self) -> Result<Reconnected, Leave> {
        // Not the batch's: it has not even been tried.
        let mut failures = 0;
        loop {
            if self.cancel.is_cancelled() {
                return Err(Leave::Cancelled);
            }
            match self.take_over().await {
                Ok(Some(progress))
                    if progress.topic_id == self.topic_id
                        && progress.previous_owner == self.name.owner =>
                {
                    match self.resolve(progress.next_offset).await {
                        Ok(Reconnected::Moved) => return Ok(Reconnected::Moved),
                        Ok(reconnected) => {
                            self.shared.health.clear(&self.label);
                            return Ok(reconnected);
                        }
                        Err(error) => {
                            self.connection = None;
                            failures += 1;
                            self.back_off(failures, &format!("database: {error}")).await?;
                        }
                    }
                }
                Ok(_) => return Ok(Reconnected::Moved),
                Err(error) => {
                    failures += 1;
                    self.back_off(failures, &format!("database: {error}")).await?;
                }
            }
        }
    }

    /// What became of a commit in doubt, now that progress stands at `next_offset`.
    async fn resolve(&mut self, next_offset: i64) -> Result<Reconnected, sqlx::Error> {
        let Some(InDoubt { committed, witness, .. }) = &self.in_doubt else {
            let as_left = next_offset == self.database_next;
            return Ok(if as_left { Reconnected::AsLeft } else { Reconnected::Moved });
        };
        let went_through = match witness {
            Witness::Progress => next_offset == committed.database_next,
            Witness::Left(queue_no) => {
                let Some(connection) = &mut self.connection else { return Ok(Reconnected::Moved) };
                next_offset == self.database_next
                    && !within(retry_queue::contains(connection, *queue_no)).await?
            }
        };
        let in_doubt = self.in_doubt.take();
        Ok(match in_doubt {
            Some(in_doubt) if went_through => {
                in_doubt.spans.end();
                Reconnected::Committed(in_doubt.committed)
            }
            _ if next_offset == self.database_next => Reconnected::AsLeft,
            _ => Reconnected::Moved,
        })
    }
}

/// Failures of one batch, and what the other lanes did meanwhile.
#[derive(Default)]
pub(super) struct Failures {
    count: u32,
    commits_before: u64,
}

impl Failures {
    fn note(&mut self, totals: &Totals) {
        if self.count == 0 {
            self.commits_before = totals.commits.load(Relaxed);
        }
        self.count += 1;
    }

    fn others_commit(&self, totals: &Totals) -> bool {
        totals.commits.load(Relaxed) - self.commits_before >= BLAME_AFTER_COMMITS
    }
}
