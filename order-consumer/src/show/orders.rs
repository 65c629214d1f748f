//! The rows that events have made: orders, and their customers' totals.

use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::types::time::OffsetDateTime;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

/// A row of `orders`.
#[derive(Debug, Serialize)]
pub(super) struct OrderRow {
    pub(super) order_id: Uuid,
    pub(super) customer_id: String,
    pub(super) status: String,
    pub(super) currency: String,
    pub(super) total_cents: i64,
    pub(super) items: serde_json::Value,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) placed_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) updated_at: OffsetDateTime,
    pub(super) last_message_id: Uuid,
}

/// A row of `customer_totals`.
#[derive(Debug, Serialize)]
pub(super) struct TotalsRow {
    pub(super) customer_id: String,
    pub(super) currency: String,
    pub(super) orders: i64,
    pub(super) spent_cents: i64,
}

pub(super) async fn orders(
    connection: &mut PgConnection,
    ids: &[Uuid],
) -> Result<Vec<OrderRow>, sqlx::Error> {
    sqlx::query(
        r"
        SELECT order_id, customer_id, status, currency, total_cents, items, placed_at, updated_at,
               last_message_id
          FROM orders
         WHERE order_id = ANY($1)
         ORDER BY placed_at, order_id
        ",
    )
    .bind(ids)
    .try_map(|row: PgRow| {
        let Json(items) = row.try_get("items")?;
        Ok(OrderRow {
            order_id: row.try_get("order_id")?,
            customer_id: row.try_get("customer_id")?,
            status: row.try_get("status")?,
            currency: row.try_get("currency")?,
            total_cents: row.try_get("total_cents")?,
            items,
            placed_at: row.try_get("placed_at")?,
            updated_at: row.try_get("updated_at")?,
            last_message_id: row.try_get("last_message_id")?,
        })
    })
    .fetch_all(connection)
    .await
}

/// Of these customers, in all currencies.
pub(super) async fn totals(
    connection: &mut PgConnection,
    customer_ids: &[&str],
) -> Result<Vec<TotalsRow>, sqlx::Error> {
    sqlx::query(
        r"
        SELECT customer_id, currency, orders, spent_cents
          FROM customer_totals
         WHERE customer_id = ANY($1)
         ORDER BY customer_id, currency
        ",
    )
    .bind(customer_ids)
    .try_map(|row: PgRow| {
        Ok(TotalsRow {
            customer_id: row.try_get("customer_id")?,
            currency: row.try_get("currency")?,
            orders: row.try_get("orders")?,
            spent_cents: row.try_get("spent_cents")?,
        })
    })
    .fetch_all(connection)
    .await
}
