//! The safe form of the upsert: each total knows up to which of its customer's orders it goes, and
//! refuses what is not newer. It needs a number that the producer counts up for each key, and every
//! message of a key in order: one that comes late is refused as well.

use crate::stream::Order;
use crate::worker::{Strategy, Worker};
use sqlx::Connection as _;

pub(crate) struct UpsertGuarded;

impl Strategy for UpsertGuarded {
    const NAME: &'static str = "upsert-guarded";
    const WHAT: &'static str = "upserts with a version guard on the row and on the total";
    const DDL: &'static str = "ALTER TABLE orders ADD PRIMARY KEY (order_id)";
    const STEPS: &'static [&'static str] = &["after_total", "after_row", "after_commit"];

    async fn open(_: &mut Worker) -> anyhow::Result<Self> {
        Ok(Self)
    }

    async fn process(&mut self, worker: &mut Worker, order: &Order) -> anyhow::Result<()> {
        let mut transaction = worker.db.begin().await?;
        let added = sqlx::query(
            r"
            UPDATE totals
               SET spent_cents = spent_cents + $2, version = $3
             WHERE customer_id = $1 AND version < $3
            ",
        )
        .bind(&order.body.customer_id)
        .bind(order.body.amount_cents)
        .bind(order.body.number)
        .execute(&mut *transaction)
        .await?;
        worker.steps.at("after_total").await;
        if added.rows_affected() == 0 {
            // Known, or late: then neither the total nor the row may have it.
            transaction.rollback().await?;
            return worker.done(order);
        }
        sqlx::query(
            r"
            INSERT INTO orders AS existing (order_id, customer_id, number, amount_cents)
            VALUES ($1, $2, $3, $4)
                ON CONFLICT (order_id) DO UPDATE
               SET number = excluded.number, amount_cents = excluded.amount_cents
             WHERE existing.number < excluded.number
            ",
        )
        .bind(order.body.order_id)
        .bind(&order.body.customer_id)
        .bind(order.body.number)
        .bind(order.body.amount_cents)
        .execute(&mut *transaction)
        .await?;
        worker.steps.at("after_row").await;
        transaction.commit().await?;
        worker.steps.at("after_commit").await;
        worker.done(order)
    }
}
