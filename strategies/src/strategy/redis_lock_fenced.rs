//! The safe use of a lock that expires: each holder has a token that is greater than those before,
//! and the database refuses one that is not. The row of the fence is locked until the commit, and the
//! check comes behind it: it is the database that makes it safe, the lock only saves work.

use super::check_then_insert::{is_processed, mark};
use crate::effect;
use crate::redis_server::Locks;
use crate::stream::Order;
use crate::worker::{Besides, Strategy, Worker};
use sqlx::{Connection as _, PgConnection};

pub(crate) struct RedisLockFenced(Locks);

impl Strategy for RedisLockFenced {
    const NAME: &'static str = "redis-lock-fenced";
    const WHAT: &'static str = "redis-lock with a fencing token that PostgreSQL checks";
    const DDL: &'static str = "
        CREATE TABLE processed_messages (message_id text NOT NULL);
        CREATE INDEX ON processed_messages (message_id);
        CREATE TABLE fences (message_id text PRIMARY KEY, token bigint NOT NULL)";
    const BESIDES: Besides = Besides::Redis;
    const STEPS: &'static [&'static str] =
        &["after_lock", "after_fence", "after_effect", "after_commit", "after_release"];
    const UNDER_LOCK: &'static [&'static str] = &["after_lock", "after_fence", "after_effect"];

    async fn open(worker: &mut Worker) -> anyhow::Result<Self> {
        Ok(Self(Locks::connect(worker).await?))
    }

    async fn process(&mut self, worker: &mut Worker, order: &Order) -> anyhow::Result<()> {
        let lock = self.0.acquire(worker, &order.message_id).await?;
        let token = self.0.next_token(worker).await?;
        worker.steps.at("after_lock").await;
        let mut transaction = worker.db.begin().await?;
        anyhow::ensure!(
            pass_fence(&mut transaction, &order.message_id, token).await?,
            "somebody has had the lock since"
        );
        worker.steps.at("after_fence").await;
        if !is_processed(&mut transaction, &order.message_id).await? {
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

/// Whether no later holder has been here.
async fn pass_fence(db: &mut PgConnection, id: &str, token: i64) -> Result<bool, sqlx::Error> {
    let passed = sqlx::query(
        r"
        INSERT INTO fences AS fence (message_id, token) VALUES ($1, $2)
            ON CONFLICT (message_id) DO UPDATE SET token = excluded.token
         WHERE fence.token < excluded.token
        ",
    )
    .bind(id)
    .bind(token)
    .execute(db)
    .await?;
    Ok(passed.rows_affected() > 0)
}
