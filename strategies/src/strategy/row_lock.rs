//! A status row for each message, locked while it is worked on. The lock ends with the session, so
//! nobody keeps it beyond his transaction.

use crate::effect;
use crate::stream::Order;
use crate::worker::{Strategy, Worker};
use sqlx::Connection as _;

pub(crate) struct RowLock;

impl Strategy for RowLock {
    const NAME: &'static str = "row-lock";
    const WHAT: &'static str = "a status row for each message, SELECT … FOR UPDATE";
    const DDL: &'static str = "
        CREATE TABLE message_status (message_id text PRIMARY KEY, is_done bool NOT NULL DEFAULT false)";
    const STEPS: &'static [&'static str] = &["after_lock", "after_effect", "after_commit"];
    const UNDER_LOCK: &'static [&'static str] = &["after_lock", "after_effect"];

    async fn open(_: &mut Worker) -> anyhow::Result<Self> {
        Ok(Self)
    }

    async fn process(&mut self, worker: &mut Worker, order: &Order) -> anyhow::Result<()> {
        let mut transaction = worker.db.begin().await?;
        sqlx::query("INSERT INTO message_status (message_id) VALUES ($1) ON CONFLICT DO NOTHING")
            .bind(&order.message_id)
            .execute(&mut *transaction)
            .await?;
        let is_done: bool = sqlx::query_scalar(
            "SELECT is_done FROM message_status WHERE message_id = $1 FOR UPDATE",
        )
        .bind(&order.message_id)
        .fetch_one(&mut *transaction)
        .await?;
        worker.steps.at("after_lock").await;
        if !is_done {
            effect::apply(&mut transaction, order).await?;
            sqlx::query("UPDATE message_status SET is_done = true WHERE message_id = $1")
                .bind(&order.message_id)
                .execute(&mut *transaction)
                .await?;
        }
        worker.steps.at("after_effect").await;
        transaction.commit().await?;
        worker.steps.at("after_commit").await;
        worker.done(order)
    }
}
