//! How a lane treats messages where a process has ended in its work before, see
//! [`crate::suspects`].

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgConnection;
use tokio::sync::{RwLockReadGuard, RwLockWriteGuard, SemaphorePermit};

use super::{Lane, Leave, within};
use crate::batch::Batch;
use crate::handler::{Decoder, Handler};
use crate::message::Record;
use crate::phases::Phase;
use crate::plan::Plan;
use crate::store::connect::connect;
use crate::store::position::Progress;
use crate::store::retry_queue::Due;
use crate::store::suspects;
use crate::suspects::{Caution, verdict};

/// While it lives, messages may be in work.
pub(super) enum InWork<'a> {
    /// Beside those of other lanes.
    Beside { _guard: RwLockReadGuard<'a, ()> },
    /// Nothing else is, in the whole process.
    Alone { _guard: RwLockWriteGuard<'a, ()> },
}

impl<H: Handler, D: Decoder<Body = H::Body>> Lane<H, D> {
    /// What the row says of the lane before this one.
    pub(super) fn note_how_it_was_left(&mut self, progress: &Progress, log_end: i64) {
        if progress.previous_owner == self.name.owner {
            // This lane itself, somewhere else in the log.
            return;
        }
        let Progress { clean, next_offset, handed_out, .. } = *progress;
        let behind = usize::try_from(log_end - next_offset).unwrap_or(0);
        let in_work = self.shared.config.batch_size.min(behind);
        self.caution = Caution::on_taking_over(clean, next_offset, handed_out, in_work);
        self.suspects_due_before = (!clean || handed_out > next_offset).then_some(progress.at);
        match self.caution {
            Caution::Trusting => {}
            Caution::Careful { .. } => tracing::info!(
                partition = %self.label,
                "the consumer before this one ended without giving the partition back"
            ),
            Caution::Alone { until } => tracing::warn!(
                partition = %self.label, from = next_offset, until,
                "a consumer ended while it worked on these messages, and one before it had ended as \
                 well: they are tried one at a time"
            ),
        }
    }

    /// Waits until messages may go into work.
    pub(super) async fn in_work<'a>(
        &self,
        alone: bool,
        lock: &'a tokio::sync::RwLock<()>,
    ) -> Result<InWork<'a>, Leave> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Leave::Cancelled),
            guard = lock.write(), if alone => Ok(InWork::Alone { _guard: guard }),
            guard = lock.read(), if !alone => Ok(InWork::Beside { _guard: guard }),
        }
    }

    /// Works records of the log off, as carefully as they have to be.
    pub(super) async fn apply(
        &mut self,
        mut records: Vec<Record>,
        permit: SemaphorePermit<'_>,
    ) -> Result<(), Leave> {
        match self.caution {
            Caution::Trusting => self.apply_together(records, i64::MIN, Some(permit)).await,
            Caution::Careful { .. } => {
                // Those below have their outcome; read again, they are no suspects.
                let settled = self.database_next;
                let messages =
                    records.len() - records.partition_point(|record| record.offset < settled);
                if let Some(last) = records.last() {
                    self.hand_out(last.offset + 1).await?;
                }
                self.apply_together(records, settled, Some(permit)).await?;
                self.relax(messages);
                Ok(())
            }
            Caution::Alone { until } => {
                let settled = self.database_next;
                let first = records.partition_point(|record| record.offset < settled);
                let end = records.partition_point(|record| record.offset < until).max(first);
                let behind = records.split_off(end);
                let suspects = records.split_off(first);
                self.apply_together(records, settled, Some(permit)).await?;
                for record in suspects {
                    self.apply_alone(record).await?;
                    self.relax(1);
                }
                if !behind.is_empty() {
                    self.caution = Caution::Trusting;
                }
                self.apply_together(behind, settled, None).await
            }
        }
    }

    /// So many messages are through.
    fn relax(&mut self, messages: usize) {
        self.caution = self.caution.after(messages, self.database_next);
        if self.caution == Caution::Trusting {
            tracing::info!(partition = %self.label, "no message is suspected any more");
        }
    }

    /// Those below `settled` have their outcome, and are not even decoded: one of them may have
    /// ended a process in just that.
    async fn apply_together(
        &mut self,
        records: Vec<Record>,
        settled: i64,
        permit: Option<SemaphorePermit<'_>>,
    ) -> Result<(), Leave> {
        let Some(first) = records.first().map(|record| record.offset) else { return Ok(()) };
        let shared = Arc::clone(&self.shared);
        let batch = {
            let _in_work = self.in_work(false, &shared.alone).await?;
            let _watched = shared.watchdog.watch(self.name.partition, first);
            let id_mode = &shared.config.message_id_from;
            let mut lap = shared.phases.lap();
            let decoder = &shared.decoder;
            let batch = Batch::from_log(records, settled, &self.topic_id, id_mode, decoder);
            lap.ends(Phase::Decoding);
            batch
        };
        let mut plan = Plan::new(vec![0; batch.len()], shared.config.max_attempts);
        plan.set_reach(self.turns.reach);
        plan.isolate(&batch.redriven_behind_their_message());
        self.process(&batch, plan, permit, None).await
    }

    /// A decoder may end the process as well as a handler may, so the charge comes first.
    async fn apply_alone(&mut self, record: Record) -> Result<(), Leave> {
        let shared = Arc::clone(&self.shared);
        let in_work = self.in_work(true, &shared.alone).await?;
        let batch = {
            let charges = {
                let Some(connection) = &mut self.connection else { return Err(Leave::Reposition) };
                let charge =
                    suspects::charge(connection, &self.name, &shared.process, record.offset);
                within(charge).await
            };
            let guilty = match self.charged(charges).await? {
                Some(charges) => verdict(charges, shared.config.max_crashes),
                None => return Err(Leave::Reposition),
            };
            let _watched = shared.watchdog.watch(self.name.partition, record.offset);
            let id_mode = &shared.config.message_id_from;
            if let Some(verdict) = guilty {
                tracing::warn!(partition = %self.label, offset = record.offset, "{}", verdict.text);
                Batch::doomed(record, &self.topic_id, id_mode, verdict)
            } else {
                let (records, decoder) = (vec![record], &shared.decoder);
                Batch::from_log(records, i64::MIN, &self.topic_id, id_mode, decoder)
            }
        };
        let plan = Plan::new(vec![0], shared.config.max_attempts);
        self.process(&batch, plan, None, Some(in_work)).await
    }

    /// Works messages of the retry queue off: the first alone if it is a suspect, or those up to
    /// the first suspect.
    pub(super) async fn apply_due(&mut self, mut due: Vec<Due>) -> Result<(), Leave> {
        let shared = Arc::clone(&self.shared);
        let alone = due.first().is_some_and(|due| due.is_suspect);
        due.truncate(if alone {
            1
        } else {
            due.iter().position(|due| due.is_suspect).unwrap_or(due.len())
        });
        let Some(first) = due.first().map(|due| (due.queue_no, due.record.offset)) else {
            return Ok(());
        };
        let attempts = due.iter().map(|due| due.attempts).collect();
        let mut plan = Plan::new(attempts, shared.config.max_attempts);
        plan.set_reach(self.turns.retries_together);
        let mut apart: Vec<usize> =
            (0..due.len()).filter(|index| due[*index].fails_its_batch).collect();
        let in_work = self.in_work(alone, &shared.alone).await?;
        let batch = {
            if alone {
                let Some(connection) = &mut self.connection else { return Err(Leave::Reposition) };
                let charge = suspects::charge_waiting(connection, &shared.process, first.0);
                let charges = within(charge).await;
                // One that is gone has had its outcome by somebody else's hand.
                let Some(charges) = self.charged(charges).await? else { return Ok(()) };
                if let Some(verdict) = verdict(charges, shared.config.max_crashes) {
                    tracing::warn!(partition = %self.label, offset = first.1, "{}", verdict.text);
                    due[0].doomed = Some(verdict);
                }
            }
            let _watched = shared.watchdog.watch(self.name.partition, first.1);
            Batch::from_retry_queue(due, &shared.config.message_id_from, &shared.decoder)
        };
        apart.extend(batch.redriven_behind_their_message());
        apart.sort_unstable();
        plan.isolate(&apart);
        self.process(&batch, plan, None, Some(in_work).filter(|_| alone)).await
    }

    /// The attempt has not ended the process: what it was charged with is taken back before
    /// anything else may be in work. Only a database that does not answer keeps the charge.
    pub(super) async fn discharge(&mut self, in_work: InWork<'_>) {
        if matches!(in_work, InWork::Beside { .. }) {
            return;
        }
        let kept = self.connection.take();
        let keeps = kept.is_some();
        let Some(mut connection) = self.kept_or_new(kept).await else { return };
        let discharge = suspects::discharge(&mut connection, &self.name, &self.shared.process);
        // A connection made for this has not been asked where the database is.
        self.connection = within(discharge).await.ok().filter(|()| keeps).map(|()| connection);
    }

    /// A connection for what must not wait until the lane has its own again.
    async fn kept_or_new(&self, kept: Option<PgConnection>) -> Option<PgConnection> {
        if kept.is_some() {
            return kept;
        }
        let connected = connect(&self.shared.database, &self.application_name);
        tokio::time::timeout(Duration::from_secs(3), connected).await.ok()?.ok()
    }

    /// Charges the one message of a batch again, for its next attempt.
    pub(super) async fn charge_again(&mut self, batch: &Batch<H::Body>) -> Result<(), Leave> {
        let shared = Arc::clone(&self.shared);
        let Some(connection) = &mut self.connection else { return Err(Leave::Reposition) };
        let process = &shared.process;
        let charges = if let Some(queue_no) = batch.queue_no(0) {
            within(suspects::charge_waiting(connection, process, queue_no)).await
        } else {
            within(suspects::charge(connection, &self.name, process, batch.offset(0))).await
        };
        self.charged(charges).await?.map(|_| ()).ok_or(Leave::Reposition)
    }

    async fn hand_out(&mut self, up_to: i64) -> Result<(), Leave> {
        let Some(connection) = &mut self.connection else { return Err(Leave::Reposition) };
        match within(suspects::hand_out(connection, &self.name, up_to)).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Leave::Reposition),
            Err(error) => self.lost_sight(&error).await,
        }
    }

    async fn charged(
        &mut self,
        charges: Result<Option<u32>, sqlx::Error>,
    ) -> Result<Option<u32>, Leave> {
        match charges {
            Ok(charges) => Ok(charges),
            Err(error) => {
                self.lost_sight(&error).await?;
                Err(Leave::Reposition)
            }
        }
    }

    /// The end of the lane, and not of the process: nothing that it had in work is to blame.
    pub(super) async fn give_back(&mut self) {
        let kept = self.connection.take();
        if kept.is_none() && self.topic_id.is_empty() {
            // It never owned the partition.
            return;
        }
        let Some(mut connection) = self.kept_or_new(kept).await else { return };
        let given_back = suspects::give_back(
            &mut connection,
            &self.name,
            &self.shared.process,
            self.caution.is_clean(),
            self.suspects_due_before,
            matches!(self.caution, Caution::Alone { .. }),
        );
        if let Err(error) = within(given_back).await {
            tracing::debug!(partition = %self.label, %error, "the partition could not be given back");
            return;
        }
        let _ = sqlx::Connection::close(connection).await;
    }
}
