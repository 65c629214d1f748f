//! The racy check, made safe by the isolation level: of two transactions that would both have seen
//! nothing, PostgreSQL refuses one, which begins again and sees the other's row.

use std::time::Duration;

use super::check_then_insert::{DDL, is_processed, mark};
use crate::effect;
use crate::stream::Order;
use crate::worker::{Strategy, Worker};
use sqlx::Connection as _;

const MAX_ATTEMPTS: u32 = 50;

pub(crate) struct Serializable;

impl Strategy for Serializable {
    const NAME: &'static str = "serializable";
    const WHAT: &'static str = "check-then-insert as SERIALIZABLE, again on 40001";
    const DDL: &'static str = DDL;
    const STEPS: &'static [&'static str] = &["after_check", "after_effect", "after_commit"];

    async fn open(_: &mut Worker) -> anyhow::Result<Self> {
        Ok(Self)
    }

    async fn process(&mut self, worker: &mut Worker, order: &Order) -> anyhow::Result<()> {
        let mut attempts = 1;
        while let Err(error) = attempt_once(worker, order).await {
            anyhow::ensure!(attempts < MAX_ATTEMPTS && may_be_tried_again(&error), error);
            // Whoever it met may not be through yet; one that is always refused gets its turn.
            tokio::time::sleep(Duration::from_millis(1 << attempts.min(6))).await;
            attempts += 1;
            worker.counts.retries += 1;
        }
        worker.steps.at("after_commit").await;
        worker.done(order)
    }
}

async fn attempt_once(worker: &mut Worker, order: &Order) -> Result<(), sqlx::Error> {
    let mut transaction = worker.db.begin_with("BEGIN ISOLATION LEVEL SERIALIZABLE").await?;
    if !is_processed(&mut transaction, &order.message_id).await? {
        worker.steps.at("after_check").await;
        effect::apply(&mut transaction, order).await?;
        mark(&mut transaction, &order.message_id).await?;
        worker.steps.at("after_effect").await;
    }
    // This, too, may be refused.
    transaction.commit().await
}

/// A serialization failure or a deadlock.
fn may_be_tried_again(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    matches!(code.as_deref(), Some("40001" | "40P01"))
}
