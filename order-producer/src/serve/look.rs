//! Requests that change nothing, each in a snapshot of its own.

use std::future::Future;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use sqlx::{PgConnection, PgPool};
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument as _;
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

tokio::task_local! {
    /// The place that the request at work has among those under way.
    pub(super) static PLACE: Arc<OwnedSemaphorePermit>;
}

/// How long work on one connection may take. PostgreSQL ends what takes longer by itself, but not where
/// the network is gone without a word.
pub(super) const WORK_TIMEOUT: Duration = Duration::from_secs(20);

/// Runs work on the database to its end, also when the client has gone or its time is up: a future that
/// is dropped would leave the pool a connection in the middle of something. It keeps the request's
/// place until then.
pub(super) async fn undisturbed<T: Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    let place = PLACE.try_with(Arc::clone).ok();
    let work = async move {
        let _place = place;
        work.await
    };
    tokio::spawn(work.in_current_span()).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a request's work panicked");
        Err(Problem::internal())
    })
}

/// Work on a connection that does not wait for ever. Whoever gets an error closes the connection: it may
/// be in the middle of something.
pub(super) async fn in_time<T, E: From<sqlx::Error>>(
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    within(WORK_TIMEOUT, work).await
}

/// Likewise, for so long at most.
pub(super) async fn within<T, E: From<sqlx::Error>>(
    timeout: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| {
        let silent = std::io::Error::new(ErrorKind::TimedOut, "no answer in time");
        Err(sqlx::Error::Io(silent).into())
    })
}

/// Work on a connection of the pool, in time. One on which it failed goes back to nobody.
pub(super) async fn on_connection<T>(
    pool: &PgPool,
    work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
) -> Result<T, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    in_time(work(&mut connection)).await.inspect_err(|_| connection.close_on_drop())
}

/// An order.
pub(super) async fn order(pool: PgPool, order_id: Uuid) -> Result<Option<OrderView>, Problem> {
    on_connection(&pool, async |connection| read_order(connection, order_id).await)
        .await
        .map_err(|error| Problem::of_database(&error))
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
    on_connection(&pool, async |connection| read_page(connection, &page).await)
        .await
        .map_err(|error| Problem::of_database(&error))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_never_answers_is_a_database_that_is_away() {
        let never = std::future::pending::<Result<(), sqlx::Error>>();
        let error = within(Duration::from_millis(10), never).await.unwrap_err();
        assert_eq!(Problem::of_database(&error).code(), "database_unavailable");
    }
}
