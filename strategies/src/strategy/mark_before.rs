//! A claim in a transaction of its own, before the work. After a crash in between the message counts
//! as processed, and nobody has done it.

use super::textbook_claim::{self, claim};
use crate::effect;
use crate::stream::Order;
use crate::worker::{Strategy, Worker};
use sqlx::Connection as _;

pub(crate) struct MarkBefore;

impl Strategy for MarkBefore {
    const NAME: &'static str = "mark-before";
    const WHAT: &'static str = "commits the claim, then works";
    const DDL: &'static str = textbook_claim::DDL;
    const STEPS: &'static [&'static str] = &["after_mark", "after_effect"];

    async fn open(_: &mut Worker) -> anyhow::Result<Self> {
        Ok(Self)
    }

    async fn process(&mut self, worker: &mut Worker, order: &Order) -> anyhow::Result<()> {
        if claim(&mut worker.db, &order.message_id).await? {
            worker.steps.at("after_mark").await;
            let mut transaction = worker.db.begin().await?;
            effect::apply(&mut transaction, order).await?;
            transaction.commit().await?;
            worker.steps.at("after_effect").await;
        }
        worker.done(order)
    }
}
