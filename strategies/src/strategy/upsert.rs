//! An upsert by order id. The order row is the same however often it is written; the running total is
//! not: adding is no upsert.

use crate::effect;
use crate::stream::Order;
use crate::worker::{Strategy, Worker};
use sqlx::Connection as _;

pub(crate) struct Upsert;

impl Strategy for Upsert {
    const NAME: &'static str = "upsert";
    const WHAT: &'static str = "upserts the order row by its id, and adds to the total";
    const DDL: &'static str = "ALTER TABLE orders ADD PRIMARY KEY (order_id)";
    const STEPS: &'static [&'static str] = &["after_row", "after_total", "after_commit"];

    async fn open(_: &mut Worker) -> anyhow::Result<Self> {
        Ok(Self)
    }

    async fn process(&mut self, worker: &mut Worker, order: &Order) -> anyhow::Result<()> {
        let mut transaction = worker.db.begin().await?;
        sqlx::query(
            r"
            INSERT INTO orders (order_id, customer_id, number, amount_cents)
            VALUES ($1, $2, $3, $4)
                ON CONFLICT (order_id) DO UPDATE
               SET number = excluded.number, amount_cents = excluded.amount_cents
            ",
        )
        .bind(order.body.order_id)
        .bind(&order.body.customer_id)
        .bind(order.body.number)
        .bind(order.body.amount_cents)
        .execute(&mut *transaction)
        .await?;
        worker.steps.at("after_row").await;
        effect::add_to_total(&mut transaction, order).await?;
        worker.steps.at("after_total").await;
        transaction.commit().await?;
        worker.steps.at("after_commit").await;
        worker.done(order)
    }
}
