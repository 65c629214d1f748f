//! New orders under ids of ours, for which nothing needs to be looked at: one statement for all that come
//! together.

use std::collections::HashSet;

use axum::http::StatusCode;
use idempotent_consumer::outbox::Outgoing;
use order_events::{EventKind, OrderContent};
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::KeyUse;
use crate::serve::answer::Answer;
use crate::serve::truth::{Accepted, lines};

/// The event of an order that is new.
pub(in crate::serve) const EVENT: EventKind = EventKind::Placed;
/// The status of its answer.
pub(in crate::serve) const STATUS: StatusCode = StatusCode::CREATED;

/// An order to be accepted, and what is answered then.
#[derive(Debug)]
pub(in crate::serve) struct NewOrder {
    pub(in crate::serve) key: KeyUse,
    /// In its first version.
    pub(in crate::serve) accepted: Accepted,
    pub(in crate::serve) message_id: Uuid,
    pub(in crate::serve) outgoing: Outgoing,
    pub(in crate::serve) answer: Answer,
}

impl NewOrder {
    /// Client and key.
    pub(in crate::serve) fn key(&self) -> (&str, &str) {
        (&self.key.client, &self.key.key)
    }
}

/// Takes each key with its answer, adds the order and its event, and writes the event to the outbox, as
/// [`publish`](idempotent_consumer::outbox::publish) does. A transaction by itself: the
/// message ids that it returns are committed. Of an order whose key was taken before nothing has
/// happened; it waits for a transaction that has taken one and is still open.
///
/// No two have the same key, and they are in the order of their keys, so that gateways do not wait for
/// each other in a circle.
pub(in crate::serve) async fn place(
    connection: &mut PgConnection,
    orders: &[NewOrder],
) -> Result<HashSet<Uuid>, sqlx::Error> {
    fn each<'a, T>(orders: &'a [NewOrder], of: impl Fn(&'a NewOrder) -> T) -> Vec<T> {
        orders.iter().map(of).collect()
    }
    let contents = || orders.iter().map(|order| &order.accepted.standing.content);
    let placed: Vec<Uuid> = sqlx::query_scalar(
        r"
        WITH asked AS (
            SELECT *
              FROM unnest($1::text[], $2::text[], $3::bytea[], $4::jsonb[], $5::bytea[], $6::uuid[],
                          $7::text[], $8::text[], $9::text[], $10::bigint[], $11::jsonb[],
                          $12::timestamptz[], $13::timestamptz[], $14::uuid[], $15::text[],
                          $16::bytea[], $17::bytea[], $18::jsonb[])
                AS asked (client, key, fingerprint, answer_headers, answer_body, order_id,
                          customer_id, status, currency, total_cents, items,
                          placed_at, created_at, message_id, topic,
                          record_key, record_value, record_headers)
        ), taken AS (
            INSERT INTO idempotency_keys (client, key, fingerprint, status, headers, body)
            SELECT client, key, fingerprint, $19, answer_headers, answer_body
              FROM asked
                ON CONFLICT (client, key) DO NOTHING
         RETURNING client, key
        ), ordered AS (
            INSERT INTO accepted_orders
                   (order_id, customer_id, status, currency, total_cents, items, placed_at, version,
                    created_at, updated_at)
            SELECT order_id, customer_id, status, currency, total_cents, items, placed_at, 1,
                   created_at, created_at
              FROM asked
                   JOIN taken USING (client, key)
        ), noted AS (
            INSERT INTO accepted_events (order_id, version, message_id, event_type, accepted_at)
            SELECT order_id, 1, message_id, $20, created_at
              FROM asked
                   JOIN taken USING (client, key)
        ), published AS (
            INSERT INTO outbox (topic, key, value, headers)
            SELECT topic, record_key, record_value, record_headers
              FROM asked
                   JOIN taken USING (client, key)
        )
        SELECT message_id
          FROM asked
               JOIN taken USING (client, key)
        ",
    )
    .bind(each(orders, |order| order.key.client.as_str()))
    .bind(each(orders, |order| order.key.key.as_str()))
    .bind(each(orders, |order| &order.key.fingerprint[..]))
    .bind(each(orders, |order| Json(&order.answer.headers)))
    .bind(each(orders, |order| &order.answer.body[..]))
    .bind(contents().map(OrderContent::order_id).collect::<Vec<_>>())
    .bind(contents().map(|content| content.customer_id().as_str()).collect::<Vec<_>>())
    .bind(each(orders, |order| order.accepted.standing.status.as_str()))
    .bind(contents().map(|content| content.currency().as_str()).collect::<Vec<_>>())
    .bind(contents().map(|content| content.total().get()).collect::<Vec<_>>())
    .bind(contents().map(|content| Json(lines(content))).collect::<Vec<_>>())
    .bind(contents().map(OrderContent::placed_at).collect::<Vec<_>>())
    .bind(each(orders, |order| order.accepted.created_at))
    .bind(each(orders, |order| order.message_id))
    .bind(each(orders, |order| order.outgoing.topic.as_str()))
    .bind(each(orders, |order| order.outgoing.key.as_deref()))
    .bind(each(orders, |order| order.outgoing.value.as_deref()))
    .bind(each(orders, |order| Json(&order.outgoing.headers)))
    .bind(i16::try_from(STATUS.as_u16()).unwrap_or(i16::MAX))
    .bind(EVENT.as_str())
    .fetch_all(connection)
    .await?;
    Ok(placed.into_iter().collect())
}
