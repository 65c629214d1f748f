//! A lock in Redis around the racy check. It has to expire, or a dead holder would keep it for ever;
//! so a holder that is paused for longer goes on without it, and does not know.

use super::check_then_insert::{DDL, is_processed, mark};
use crate::effect;
use crate::redis_server::Locks;
use crate::stream::Order;
use crate::worker::{Besides, Strategy, Worker};
use sqlx::Connection as _;

pub(crate) struct RedisLock(Locks);

impl Strategy for RedisLock {
    const NAME: &'static str = "redis-lock";
    const WHAT: &'static str = "SET NX PX on the id, check, work, compare and delete";
    const DDL: &'static str = DDL;
    const BESIDES: Besides = Besides::Redis;
    const STEPS: &'static [&'static str] =
        &["after_lock", "after_check", "after_effect", "after_commit", "after_release"];
    const UNDER_LOCK: &'static [&'static str] = &["after_lock", "after_check", "after_effect"];

    async fn open(worker: &mut Worker) -> anyhow::Result<Self> {
        Ok(Self(Locks::connect(worker).await?))
    }

    async fn process(&mut self, worker: &mut Worker, order: &Order) -> anyhow::Result<()> {
        let lock = self.0.acquire(worker, &order.message_id).await?;
        worker.steps.at("after_lock").await;
        let mut transaction = worker.db.begin().await?;
        if !is_processed(&mut transaction, &order.message_id).await? {
            worker.steps.at("after_check").await;
            effect::apply(&mut transaction, order).await?;
            mark(&mut transaction, &order.message_id).await?;
            worker.steps.at("after_effect").await;
        }
        transaction.commit().await?;
        worker.steps.at("after_commit").await;
        self.0.release(worker, lock).await?;
        worker.steps.at("after_release").await;
        worker.done(order)
    }
}
