//! What was accepted joined with what has become of it.

use std::collections::HashMap;

use sqlx::postgres::PgRow;
use sqlx::types::time::OffsetDateTime;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::rows;
use crate::serve::cursor::Cursor;
use crate::serve::truth::{Accepted, Applied, Event, Fate};

/// Of an order with more events, its latest ones. The consumer applies the events of one key in their
/// order: while an earlier one has no outcome, these have none either, so nothing pending is taken for
/// settled.
const EVENTS_MAX: i64 = 20;

/// Everything that is known of an order.
#[derive(Debug, Default)]
pub(in crate::serve) struct Known {
    pub(in crate::serve) accepted: Option<Accepted>,
    pub(in crate::serve) applied: Option<Applied>,
    pub(in crate::serve) events: Vec<Event>,
}

impl Known {
    /// Whether something accepted has no outcome yet.
    pub(in crate::serve) fn is_pending(&self) -> bool {
        self.events.iter().any(|event| event.fate == Fate::Pending)
    }
}

/// Reads orders. Outcomes come before the rows they made: under READ COMMITTED each statement may see
/// more than the one before, and an outcome without its effect would be a lie.
pub(in crate::serve) async fn read_orders(
    connection: &mut PgConnection,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, Known>, sqlx::Error> {
    let mut known: HashMap<Uuid, Known> = HashMap::with_capacity(ids.len());
    for (order_id, event) in read_events(connection, ids).await? {
        known.entry(order_id).or_default().events.push(event);
    }
    let accepted = sqlx::query(
        r"
        SELECT order_id, customer_id, status, currency, total_cents, items, placed_at, version,
               created_at, updated_at
          FROM accepted_orders
         WHERE order_id = ANY($1)
        ",
    )
    .bind(ids)
    .try_map(|row: PgRow| rows::accepted(&row))
    .fetch_all(&mut *connection)
    .await?;
    for row in accepted {
        let order_id = row.standing.content.order_id();
        known.entry(order_id).or_default().accepted = Some(row);
    }
    let applied = sqlx::query(
        r"
        SELECT order_id, customer_id, status, currency, total_cents, items, placed_at, updated_at
          FROM orders
         WHERE order_id = ANY($1)
        ",
    )
    .bind(ids)
    .try_map(|row: PgRow| rows::applied(&row))
    .fetch_all(connection)
    .await?;
    for row in applied {
        let order_id = row.standing.content.order_id();
        known.entry(order_id).or_default().applied = Some(row);
    }
    Ok(known)
}

/// The latest events of orders in their order, each with its fate.
async fn read_events(
    connection: &mut PgConnection,
    ids: &[Uuid],
) -> Result<Vec<(Uuid, Event)>, sqlx::Error> {
    let mut events: Vec<(Uuid, Event)> = sqlx::query(
        r"
        SELECT event.order_id, event.event_type, event.message_id, event.accepted_at
          FROM unnest($1::uuid[]) AS wanted (order_id)
               CROSS JOIN LATERAL (
                   SELECT *
                     FROM accepted_events
                    WHERE accepted_events.order_id = wanted.order_id
                    ORDER BY version DESC
                    LIMIT $2) AS event
         ORDER BY event.order_id, event.version
        ",
    )
    .bind(ids)
    .bind(EVENTS_MAX)
    .try_map(|row: PgRow| {
        let event = Event {
            kind: row.try_get("event_type")?,
            message_id: row.try_get("message_id")?,
            accepted_at: row.try_get("accepted_at")?,
            fate: Fate::Pending,
        };
        Ok((row.try_get("order_id")?, event))
    })
    .fetch_all(&mut *connection)
    .await?;
    let ids: Vec<Uuid> = events.iter().map(|(_, event)| event.message_id).collect();
    let fates = read_fates(connection, &ids).await?;
    let purged_before: Option<OffsetDateTime> =
        sqlx::query_scalar("SELECT max(purged_before) FROM dedup_window")
            .fetch_one(connection)
            .await?;
    for (_, event) in &mut events {
        event.fate = match fates.get(&event.message_id) {
            Some(fate) => fate.clone(),
            // Its claim may be gone. What still waited then is dead-lettered, and keeps its claim.
            None if purged_before.is_some_and(|before| event.accepted_at < before) => Fate::Settled,
            None => Fate::Pending,
        };
    }
    Ok(events)
}

async fn read_fates(
    connection: &mut PgConnection,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, Fate>, sqlx::Error> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    sqlx::query(
        r"
        SELECT message_id, outcome, error_code, error_message
          FROM message_outcomes
         WHERE message_id = ANY($1)
        ",
    )
    .bind(ids)
    // Planned each time: a generic plan would lock every leaf of the claims.
    .persistent(false)
    .try_map(|row: PgRow| {
        let fate = match row.try_get("outcome")? {
            "dead_lettered" => Fate::DeadLettered {
                code: row.try_get::<Option<_>, _>("error_code")?.unwrap_or_default(),
                reason: row.try_get::<Option<_>, _>("error_message")?.unwrap_or_default(),
            },
            _ => Fate::Settled,
        };
        Ok((row.try_get("message_id")?, fate))
    })
    .fetch_all(connection)
    .await
    .map(|rows| rows.into_iter().collect())
}

/// Which page of a customer's orders.
#[derive(Debug)]
pub(in crate::serve) struct Page {
    pub(in crate::serve) customer_id: String,
    pub(in crate::serve) after: Option<Cursor>,
    pub(in crate::serve) limit: i64,
}

/// The places of a customer's accepted orders, the newest first, one more than the page has.
pub(in crate::serve) async fn page(
    connection: &mut PgConnection,
    page: &Page,
) -> Result<Vec<Cursor>, sqlx::Error> {
    sqlx::query(
        r"
        SELECT created_at, order_id
          FROM accepted_orders
         WHERE customer_id = $1
           AND ($2::timestamptz IS NULL OR (created_at, order_id) < ($2, $3))
         ORDER BY created_at DESC, order_id DESC
         LIMIT $4
        ",
    )
    .bind(&page.customer_id)
    .bind(page.after.map(|after| after.created_at))
    .bind(page.after.map(|after| after.order_id))
    .bind(page.limit + 1)
    .try_map(|row: PgRow| {
        Ok(Cursor { created_at: row.try_get("created_at")?, order_id: row.try_get("order_id")? })
    })
    .fetch_all(connection)
    .await
}
