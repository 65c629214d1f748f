//! A lane's turns at the retry queue of its partition.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::{Lane, Leave, RETRY_POLL, within};
use crate::batch::Batch;
use crate::failure::{FailureClass, class_of};
use crate::handler::{Decoder, Handler};
use crate::outcome::Verdict;
use crate::plan::Plan;
use crate::store::retry_queue::{self, Due};

impl<H: Handler, D: Decoder<Body = H::Body>> Lane<H, D> {
    /// Tries what is due, and finds out when to look again.
    pub(super) async fn retry_round(&mut self) -> Result<(), Leave> {
        let shared = Arc::clone(&self.shared);
        let (max_rows, max_bytes) = (shared.config.batch_size, shared.config.batch_bytes);
        let Some(connection) = &mut self.connection else { return Err(Leave::Reposition) };
        let due = match within(retry_queue::due(connection, &self.name, max_rows, max_bytes)).await
        {
            Ok(due) => due,
            Err(error) => return self.lost_sight(&error).await,
        };
        if !due.is_empty() {
            shared.totals.note_work();
            shared.totals.busy_lanes.fetch_add(1, Relaxed);
            let done = self.retry(due).await;
            shared.totals.busy_lanes.fetch_sub(1, Relaxed);
            done?;
        }
        self.look_at_retries().await
    }

    async fn retry(&mut self, due: Vec<Due>) -> Result<(), Leave> {
        let shared = Arc::clone(&self.shared);
        let attempts = due.iter().map(|due| due.attempts).collect();
        let mut plan = Plan::new(attempts, shared.config.max_attempts);
        let failing: Vec<usize> =
            (0..due.len()).filter(|index| due[*index].fails_its_batch).collect();
        plan.isolate(&failing);
        for (index, due) in due.iter().enumerate() {
            if let Some((who, last_error)) = &due.given_up {
                let last_error = last_error.as_deref().unwrap_or("it had not been tried");
                let text = format!("given up by {who}: {last_error}");
                let class = FailureClass::Retryable;
                plan.doom(index, Verdict::new(class, "given_up", text, due.attempts));
            }
        }
        let id_mode = &shared.config.message_id_from;
        let batch = Batch::from_retry_queue(due, id_mode, &shared.decoder);
        self.process(&batch, plan).await
    }

    /// Notes when the next attempt of this partition is due.
    pub(super) async fn look_at_retries(&mut self) -> Result<(), Leave> {
        let Some(connection) = &mut self.connection else { return Err(Leave::Reposition) };
        match within(retry_queue::next_due(connection, &self.name)).await {
            Ok(next_in) => {
                self.next_retry = next_in.map(|next_in| Instant::now() + next_in.min(RETRY_POLL));
                Ok(())
            }
            Err(error) => self.lost_sight(&error).await,
        }
    }

    async fn lost_sight(&mut self, error: &sqlx::Error) -> Result<(), Leave> {
        self.connection = None;
        if class_of(error) == FailureClass::Stop {
            self.shared.fail(self.label.clone(), error.to_string());
            return Err(Leave::Cancelled);
        }
        self.back_off(1, &format!("database: {error}")).await?;
        Err(Leave::Reposition)
    }
}
