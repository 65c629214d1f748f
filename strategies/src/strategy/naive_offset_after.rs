//! At least once, and nothing else: whatever is delivered again is done again.

use crate::effect;
use crate::stream::Order;
use crate::worker::{Strategy, Worker};
use sqlx::Connection as _;

pub(crate) struct NaiveOffsetAfter;

impl Strategy for NaiveOffsetAfter {
    const NAME: &'static str = "naive-offset-after";
    const WHAT: &'static str = "works, then commits the offset";
    const STEPS: &'static [&'static str] = &["after_effect"];

    async fn open(_: &mut Worker) -> anyhow::Result<Self> {
        Ok(Self)
    }

    async fn process(&mut self, worker: &mut Worker, order: &Order) -> anyhow::Result<()> {
        let mut transaction = worker.db.begin().await?;
        effect::apply(&mut transaction, order).await?;
        transaction.commit().await?;
        worker.steps.at("after_effect").await;
        worker.done(order)
    }
}
