//! What is read in the database, all of it past the programs.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use order_events::OrderNotification;
use sqlx::{Connection as _, PgConnection};

/// Within which a question is answered, or the database is away.
const LIMIT: Duration = Duration::from_secs(10);

/// An order as it stands in the table.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(super) struct OrderRow {
    pub(super) order_id: String,
    /// The first item's.
    pub(super) sku: Option<String>,
    pub(super) customer_id: String,
    pub(super) currency: String,
    pub(super) status: String,
    pub(super) total_cents: i64,
}

/// An event that the gateway accepted, and its outcome.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(super) struct EventRow {
    pub(super) order_id: String,
    pub(super) message_id: String,
    pub(super) event_type: String,
    pub(super) outcome: Option<String>,
}

/// Everything that the verdict is about, but for the mails.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    pub(super) orders: Vec<OrderRow>,
    /// Orders and cents by customer and currency; nothing where both are zero.
    pub(super) sums: BTreeMap<(String, String), (i64, i64)>,
    /// In the order of acceptance within an order.
    pub(super) events: Vec<EventRow>,
    /// Claims of the orders' consumer.
    pub(super) claims: i64,
    pub(super) dead_letters: Vec<String>,
    /// Order and status of mails to nobody.
    pub(super) undeliverable: Vec<(String, String)>,
    /// Other dead letters of the notifier.
    pub(super) dead_mails: Vec<String>,
    /// Rows in outboxes and retry queues.
    pub(super) left_over: i64,
}

/// Connects, or says within bounded time that it cannot.
pub(super) async fn connect(url: &str) -> anyhow::Result<PgConnection> {
    Ok(tokio::time::timeout(LIMIT, PgConnection::connect(url)).await??)
}

/// Seconds since the epoch up to which everything accepted has its outcome, and up to which its
/// customer has been told.
pub(super) async fn settled_until(
    connection: &mut PgConnection,
    from: f64,
) -> anyhow::Result<(f64, f64)> {
    let asked = sqlx::query_as(
        r"
        WITH event AS (
            SELECT event.order_id,
                   event.accepted_at,
                   replace(event.event_type, 'order.', '') AS status,
                   accepted.customer_id,
                   claim.message_id IS NOT NULL AS has_outcome
              FROM accepted_events AS event
                   JOIN accepted_orders AS accepted USING (order_id)
                   LEFT JOIN processed_messages AS claim USING (message_id)
             WHERE event.accepted_at >= to_timestamp($1)
        )
        SELECT extract(epoch FROM coalesce(min(accepted_at) FILTER (WHERE NOT has_outcome),
                                           now()))::float8,
               extract(epoch FROM coalesce(min(accepted_at) FILTER (
                           WHERE customer_id NOT LIKE '%@%'
                             AND status <> 'amended'
                             AND NOT EXISTS (
                                 SELECT FROM notifications.notifications_sent AS sent
                                  WHERE sent.order_id = event.order_id
                                    AND sent.status = event.status)), now()))::float8
          FROM event
        ",
    )
    .bind(from)
    .fetch_one(connection);
    Ok(tokio::time::timeout(LIMIT, asked).await??)
}

/// The database's clock, as seconds since the epoch.
pub(super) async fn now(connection: &mut PgConnection) -> anyhow::Result<f64> {
    let asked = sqlx::query_scalar("SELECT extract(epoch FROM clock_timestamp())::float8")
        .fetch_one(connection);
    Ok(tokio::time::timeout(LIMIT, asked).await??)
}

/// Rows that wait in the outbox.
pub(super) async fn outbox(connection: &mut PgConnection) -> anyhow::Result<i64> {
    let asked = sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(connection);
    Ok(tokio::time::timeout(LIMIT, asked).await??)
}

/// Notifications that have an outcome, and rows that wait in outboxes and retry queues.
pub(super) async fn notified(connection: &mut PgConnection) -> anyhow::Result<(i64, i64)> {
    let asked = sqlx::query_as(
        r"
        SELECT (SELECT count(*) FROM notifications.processed_messages),
               (SELECT count(*) FROM outbox) + (SELECT count(*) FROM retry_queue)
               + (SELECT count(*) FROM notifications.outbox)
               + (SELECT count(*) FROM notifications.retry_queue)
        ",
    )
    .fetch_one(connection);
    Ok(tokio::time::timeout(LIMIT, asked).await??)
}

/// All that is there in the end.
pub(super) async fn tables(connection: &mut PgConnection) -> anyhow::Result<Tables> {
    let orders = sqlx::query_as(
        r"
        SELECT order_id::text, items->0->>'sku' AS sku, customer_id, currency, status, total_cents
          FROM orders
        ",
    )
    .fetch_all(&mut *connection)
    .await?;
    let sums: Vec<(String, String, i64, i64)> = sqlx::query_as(
        r"
        SELECT customer_id, currency, orders, spent_cents
          FROM customer_totals
         WHERE orders <> 0 OR spent_cents <> 0
        ",
    )
    .fetch_all(&mut *connection)
    .await?;
    let events = sqlx::query_as(
        r"
        SELECT event.order_id::text, event.message_id::text, event.event_type, claim.outcome
          FROM accepted_events AS event
               LEFT JOIN processed_messages AS claim USING (message_id)
         ORDER BY event.order_id, event.version
        ",
    )
    .fetch_all(&mut *connection)
    .await?;
    let dead_letters = sqlx::query_scalar(
        "SELECT message_id || ': ' || error_code || ', ' || error_message FROM dead_letters",
    )
    .fetch_all(&mut *connection)
    .await?;
    let dead_mails: Vec<(String, Option<Vec<u8>>)> =
        sqlx::query_as("SELECT error_code, value FROM notifications.dead_letters")
            .fetch_all(&mut *connection)
            .await?;
    let (mut undeliverable, mut others) = (Vec::new(), Vec::new());
    for (code, value) in dead_mails {
        let told = OrderNotification::decode(value.as_deref()).context("a dead notification")?;
        let what = (told.order_id.to_string(), told.status.to_string());
        if code == "invalid_recipient" {
            undeliverable.push(what);
        } else {
            others.push(format!("{code}: {} of order {}", what.1, what.0));
        }
    }
    let claims = sqlx::query_scalar("SELECT count(*) FROM processed_messages")
        .fetch_one(&mut *connection)
        .await?;
    let (_, left_over) = notified(connection).await?;
    Ok(Tables {
        orders,
        sums: sums
            .into_iter()
            .map(|(customer, currency, orders, cents)| ((customer, currency), (orders, cents)))
            .collect(),
        events,
        claims,
        dead_letters,
        undeliverable,
        dead_mails: others,
        left_over,
    })
}
