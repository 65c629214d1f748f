//! A lane's turns at the retry queue of its partition.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::{Lane, Leave, RETRY_POLL, within};
use crate::failure::{FailureClass, class_of};
use crate::handler::{Decoder, Handler};
use crate::store::retry_queue;

impl<H: Handler, D: Decoder<Body = H::Body>> Lane<H, D> {
    /// Tries what is due, and finds out when to look again. All of it that brought no message to
    /// its end counts against the queue's next turn.
    pub(super) async fn retry_round(&mut self) -> Result<(), Leave> {
        let begun = Instant::now();
        self.turns.queue_begins();
        self.retry_due().await?;
        let config = &self.shared.config;
        self.turns.queue_had(begun.elapsed(), config.batch_size, config.retry_backoff.cap);
        Ok(())
    }

    async fn retry_due(&mut self) -> Result<(), Leave> {
        let shared = Arc::clone(&self.shared);
        let max_bytes = shared.config.batch_bytes;
        let max_rows = (self.turns.retries_together * 4).min(shared.config.batch_size);
        let Some(connection) = &mut self.connection else { return Err(Leave::Reposition) };
        let due = match within(retry_queue::due(
            connection,
            &self.name,
            max_rows,
            max_bytes,
            self.suspects_due_before,
        ))
        .await
        {
            Ok(due) => due,
            Err(error) => return self.lost_sight(&error).await,
        };
        if !due.is_empty() {
            shared.totals.note_work();
            shared.totals.busy_lanes.fetch_add(1, Relaxed);
            let done = self.apply_due(due).await;
            shared.totals.busy_lanes.fetch_sub(1, Relaxed);
            done?;
        }
        self.look_at_retries().await
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

    pub(super) async fn lost_sight(&mut self, error: &sqlx::Error) -> Result<(), Leave> {
        self.connection = None;
        if class_of(error) == FailureClass::Stop {
            self.shared.fail(self.label.clone(), error.to_string());
            return Err(Leave::Cancelled);
        }
        self.back_off(1, &format!("database: {error}")).await?;
        Err(Leave::Reposition)
    }
}
