//! The statements of a batch.

use std::borrow::Cow;

use idempotent_consumer::HandlerError;
use idempotent_consumer::copy::{BinaryRow, insert_new};
use idempotent_consumer::failure::FailureClass;
use order_events::Status;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::types::Json;
use sqlx::{PgConnection, Postgres, Row};
use uuid::Uuid;

use super::{Change, Items, Order, Totals};

pub(super) async fn read_orders<'b>(
    connection: &mut PgConnection,
    ids: Vec<Uuid>,
) -> Result<Vec<(Uuid, Order<'b>)>, sqlx::Error> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(
        r"
        SELECT order_id, customer_id, status, currency, total_cents, items, placed_at,
               last_message_id
          FROM orders
         WHERE order_id = ANY($1)
         ORDER BY order_id
           FOR UPDATE
        ",
    )
    .bind(&ids)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let Json(items) = row.try_get("items")?;
            let status: String = row.try_get("status")?;
            let order = Order {
                customer_id: Cow::Owned(row.try_get("customer_id")?),
                status: Status::from_name(&status)
                    .ok_or_else(|| sqlx::Error::Decode(format!("orders.status {status}").into()))?,
                currency: Cow::Owned(row.try_get("currency")?),
                total_cents: row.try_get("total_cents")?,
                items: Items::Stored(items),
                placed_at: row.try_get("placed_at")?,
                last_message_id: row.try_get("last_message_id")?,
                change: Change::None,
            };
            Ok((row.try_get("order_id")?, order))
        })
        .collect()
}

/// Inserts orders unless one of them exists. `false` if one does: nothing is inserted then.
pub(super) async fn copy_orders(
    connection: &mut PgConnection,
    orders: &[(Uuid, &Order<'_>)],
) -> Result<bool, sqlx::Error> {
    if orders.is_empty() {
        return Ok(true);
    }
    let into = "orders (order_id, customer_id, status, currency, total_cents, items, placed_at,
                        last_message_id)";
    let encode = |row: &mut BinaryRow, (id, order): &(Uuid, &Order<'_>)| {
        row.value(*id)?
            .value(&*order.customer_id)?
            .value(order.status.as_str())?
            .value(&*order.currency)?
            .value(order.total_cents)?
            .value(Json(&order.items))?
            .value(order.placed_at)?
            .value(order.last_message_id)?;
        Ok(())
    };
    insert_new(connection, into, orders, encode).await
}

pub(super) async fn insert_orders(
    connection: &mut PgConnection,
    orders: &[(Uuid, &Order<'_>)],
) -> Result<(), HandlerError> {
    if orders.is_empty() {
        return Ok(());
    }
    let inserted = with_columns(
        r"
        INSERT INTO orders
               (order_id, status, currency, total_cents, items, placed_at, last_message_id,
                customer_id)
        SELECT *
          FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::jsonb[],
                      $6::timestamptz[], $7::uuid[], $8::text[])
            ON CONFLICT (order_id) DO NOTHING
        ",
        orders,
    )
    .bind(orders.iter().map(|(_, o)| &*o.customer_id).collect::<Vec<_>>())
    .execute(connection)
    .await?
    .rows_affected();
    if inserted == orders.len() as u64 {
        return Ok(());
    }
    // Another partition's transaction has placed one of them since we looked: two customers, one
    // order id. Look again.
    Err(HandlerError::with_class(
        FailureClass::Infrastructure,
        "an order appeared while it was being placed",
    ))
}

pub(super) async fn update_orders(
    connection: &mut PgConnection,
    orders: &[(Uuid, &Order<'_>)],
) -> Result<(), sqlx::Error> {
    if orders.is_empty() {
        return Ok(());
    }
    with_columns(
        r"
        UPDATE orders
           SET status = changed.status,
               currency = changed.currency,
               total_cents = changed.total_cents,
               items = changed.items,
               placed_at = changed.placed_at,
               last_message_id = changed.last_message_id,
               updated_at = now()
          FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::jsonb[],
                      $6::timestamptz[], $7::uuid[])
               AS changed (order_id, status, currency, total_cents, items, placed_at,
                           last_message_id)
         WHERE orders.order_id = changed.order_id
        ",
        orders,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A statement whose first seven parameters are columns of these orders: the id, and what may change.
fn with_columns<'q>(
    statement: &'static str,
    orders: &'q [(Uuid, &Order<'_>)],
) -> Query<'q, Postgres, PgArguments> {
    sqlx::query(statement)
        .bind(orders.iter().map(|(id, _)| *id).collect::<Vec<_>>())
        .bind(orders.iter().map(|(_, o)| o.status.as_str()).collect::<Vec<_>>())
        .bind(orders.iter().map(|(_, o)| &*o.currency).collect::<Vec<_>>())
        .bind(orders.iter().map(|(_, o)| o.total_cents).collect::<Vec<_>>())
        .bind(orders.iter().map(|(_, o)| Json(&o.items)).collect::<Vec<_>>())
        .bind(orders.iter().map(|(_, o)| o.placed_at).collect::<Vec<_>>())
        .bind(orders.iter().map(|(_, o)| o.last_message_id).collect::<Vec<_>>())
}

/// Adds to the totals, also nothing: an order placed and cancelled leaves the same row of zeros
/// whether that was one batch or two.
pub(super) async fn add_totals(
    connection: &mut PgConnection,
    totals: &Totals<'_>,
) -> Result<(), sqlx::Error> {
    if totals.is_empty() {
        return Ok(());
    }
    // So that two transactions lock the same rows in the same order.
    let mut totals: Vec<_> = totals.iter().collect();
    totals.sort_unstable_by_key(|(customer_and_currency, _)| *customer_and_currency);
    sqlx::query(
        r"
        INSERT INTO customer_totals (customer_id, currency, orders, spent_cents)
        SELECT *
          FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[])
            ON CONFLICT (customer_id, currency) DO UPDATE
           SET orders = customer_totals.orders + excluded.orders,
               spent_cents = customer_totals.spent_cents + excluded.spent_cents
        ",
    )
    .bind(totals.iter().map(|((customer, _), _)| &**customer).collect::<Vec<_>>())
    .bind(totals.iter().map(|((_, currency), _)| &**currency).collect::<Vec<_>>())
    .bind(totals.iter().map(|(_, (orders, _))| *orders).collect::<Vec<_>>())
    .bind(totals.iter().map(|(_, (_, cents))| *cents).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}
