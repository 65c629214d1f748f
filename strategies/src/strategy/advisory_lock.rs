//! A lock on the id for the length of the transaction, and under it the check. Whoever comes second
//! waits, and then sees the row. Two ids with one hash only wait for each other.

use super::check_then_insert::{DDL, is_processed, mark};
use crate::effect;
use crate::stream::Order;
use crate::worker::{Strategy, Worker};
use sqlx::Connection as _;

pub(crate) struct AdvisoryLock;

impl Strategy for AdvisoryLock {
    const NAME: &'static str = "advisory-lock";
    const WHAT: &'static str = "pg_advisory_xact_lock on the id, then a check";
    const DDL: &'static str = DDL;
    const STEPS: &'static [&'static str] =
        &["after_lock", "after_check", "after_effect", "after_commit"];
    const UNDER_LOCK: &'static [&'static str] = &["after_lock", "after_check", "after_effect"];

    async fn open(_: &mut Worker) -> anyhow::Result<Self> {
        Ok(Self)
    }

    async fn process(&mut self, worker: &mut Worker, order: &Order) -> anyhow::Result<()> {
        let mut transaction = worker.db.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
            .bind(&order.message_id)
            .execute(&mut *transaction)
            .await?;
        worker.steps.at("after_lock").await;
        // A statement of its own: its snapshot is younger than the lock.
        if !is_processed(&mut transaction, &order.message_id).await? {
            worker.steps.at("after_check").await;
            effect::apply(&mut transaction, order).await?;
            mark(&mut transaction, &order.message_id).await?;
            worker.steps.at("after_effect").await;
        }
        transaction.commit().await?;
        worker.steps.at("after_commit").await;
        worker.done(order)
    }
}
