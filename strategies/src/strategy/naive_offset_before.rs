//! At most once: the offset is committed before the work. A crash in between loses the message.

use crate::effect;
use crate::steps::READ;
use crate::stream::Order;
use crate::worker::{Strategy, Worker};
use sqlx::Connection as _;

pub(crate) struct NaiveOffsetBefore;

impl Strategy for NaiveOffsetBefore {
    const NAME: &'static str = "naive-offset-before";
    const WHAT: &'static str = "commits the offset, then works";
    const STEPS: &'static [&'static str] = &["after_offset", "after_effect"];
    const NEEDS_GROUP: &'static [&'static str] = &[READ];

    async fn open(_: &mut Worker) -> anyhow::Result<Self> {
        Ok(Self)
    }

    async fn process(&mut self, worker: &mut Worker, order: &Order) -> anyhow::Result<()> {
        worker.commit_now(order)?;
        worker.steps.at("after_offset").await;
        let mut transaction = worker.db.begin().await?;
        effect::apply(&mut transaction, order).await?;
        transaction.commit().await?;
        worker.steps.at("after_effect").await;
        Ok(())
    }
}
