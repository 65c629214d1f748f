//! Requests that change nothing, each in a snapshot of its own.

use std::future::Future;

use serde::Serialize;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::cursor::Cursor;
use super::problem::Problem;
use super::store::{self, Page};
use super::truth::{OrderView, view};

/// A page of orders. The names are part of the API's contract.
#[derive(Debug, Serialize)]
pub(super) struct Orders {
    orders: Vec<OrderView>,
    /// Where the next page begins; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// Runs work on the database to its end, also when the client has gone or its time is up: a future that
/// is dropped would leave the pool a connection in the middle of something.
pub(super) async fn undisturbed<T: Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    tokio::spawn(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a request panicked");
        Err(Problem::internal())
    })
}

/// An order.
pub(super) async fn order(pool: PgPool, order_id: Uuid) -> Result<Option<OrderView>, Problem> {
    let mut connection = pool.acquire().await.map_err(|error| Problem::of_database(&error))?;
    read_order(&mut connection, order_id).await.map_err(|error| {
        connection.close_on_drop();
        Problem::of_database(&error)
    })
}

async fn read_order(
    connection: &mut PgConnection,
    order_id: Uuid,
) -> Result<Option<OrderView>, sqlx::Error> {
    let mut snapshot = store::snapshot(connection).await?;
    let mut known = store::read_orders(&mut snapshot, &[order_id]).await?;
    snapshot.commit().await?;
    let known = known.remove(&order_id).unwrap_or_default();
    Ok(view(known.accepted.as_ref(), known.applied.as_ref(), known.events))
}

/// A page of a customer's orders.
pub(super) async fn orders(pool: PgPool, page: Page) -> Result<Orders, Problem> {
    let mut connection = pool.acquire().await.map_err(|error| Problem::of_database(&error))?;
    read_page(&mut connection, &page).await.map_err(|error| {
        connection.close_on_drop();
        Problem::of_database(&error)
    })
}

async fn read_page(connection: &mut PgConnection, page: &Page) -> Result<Orders, sqlx::Error> {
    let mut snapshot = store::snapshot(connection).await?;
    let mut places = store::page(&mut snapshot, page).await?;
    let limit = usize::try_from(page.limit).unwrap_or(0);
    let has_more = places.len() > limit;
    places.truncate(limit);
    let ids: Vec<Uuid> = places.iter().map(|place| place.order_id).collect();
    let mut known = store::read_orders(&mut snapshot, &ids).await?;
    snapshot.commit().await?;
    let orders = ids
        .iter()
        .filter_map(|id| known.remove(id))
        .filter_map(|known| view(known.accepted.as_ref(), known.applied.as_ref(), known.events))
        .collect();
    let next_cursor = places.last().filter(|_| has_more).copied().map(Cursor::to_text);
    Ok(Orders { orders, next_cursor })
}
