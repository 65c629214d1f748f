//! The race in so many code bases: look whether the message was seen, work, note that it was. Two
//! that look at the same time both see nothing, and no constraint objects.

use crate::effect;
use crate::stream::Order;
use crate::worker::{Strategy, Worker};
use sqlx::{Connection as _, PgConnection};

/// No primary key: nothing stands in the way of a second row.
pub(crate) const DDL: &str = "
CREATE TABLE processed_messages (message_id text NOT NULL);
CREATE INDEX ON processed_messages (message_id)";

pub(crate) struct CheckThenInsert;

pub(crate) async fn is_processed(db: &mut PgConnection, id: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM processed_messages WHERE message_id = $1)")
        .bind(id)
        .fetch_one(db)
        .await
}

pub(crate) async fn mark(db: &mut PgConnection, id: &str) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO processed_messages (message_id) VALUES ($1)")
        .bind(id)
        .execute(db)
        .await?;
    Ok(())
}

impl Strategy for CheckThenInsert {
    const NAME: &'static str = "check-then-insert";
    const WHAT: &'static str = "looks the id up, works, notes the id; no constraint";
    const DDL: &'static str = DDL;
    const STEPS: &'static [&'static str] = &["after_check", "after_effect", "after_commit"];

    async fn open(_: &mut Worker) -> anyhow::Result<Self> {
        Ok(Self)
    }

    async fn process(&mut self, worker: &mut Worker, order: &Order) -> anyhow::Result<()> {
        let mut transaction = worker.db.begin().await?;
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
