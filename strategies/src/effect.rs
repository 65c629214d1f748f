//! What an order does: a row, and more on its customer's total. Adding is not idempotent, on purpose.

use sqlx::PgConnection;

use crate::stream::Order;

/// Both, in the transaction of the caller.
pub(crate) async fn apply(db: &mut PgConnection, order: &Order) -> Result<(), sqlx::Error> {
    insert_order(db, order).await?;
    add_to_total(db, order).await
}

async fn insert_order(db: &mut PgConnection, order: &Order) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO orders (order_id, customer_id, number, amount_cents) VALUES ($1, $2, $3, $4)",
    )
    .bind(order.body.order_id)
    .bind(&order.body.customer_id)
    .bind(order.body.number)
    .bind(order.body.amount_cents)
    .execute(db)
    .await?;
    Ok(())
}

/// The customer's running total.
pub(crate) async fn add_to_total(db: &mut PgConnection, order: &Order) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE totals SET spent_cents = spent_cents + $2 WHERE customer_id = $1")
        .bind(&order.body.customer_id)
        .bind(order.body.amount_cents)
        .execute(db)
        .await?;
    Ok(())
}
