//! The effects of order events: `orders` and `customer_totals`.
//!
//! A batch takes four [statements] at most, whatever its size: read the orders it names, insert the
//! new ones, update the changed ones, add to the totals. What happens in between is a pure
//! function over the events in their order.
//!
//! A batch of some size is first taken for what it nearly always is: orders that are placed in it
//! are new. Those are not read, and go in by COPY. If one of them was there, nothing is written,
//! and the batch is done again with all of them read.
//!
//! An event that changes an order's status may be told to others: a record of it goes through the
//! outbox, in the same transaction. One that changes the content only (`order.amended`), or nothing
//! (the same order placed again), is not told.

mod statements;

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use idempotent_consumer::copy::Optimism;
use idempotent_consumer::{Answer, Context, Handler, HandlerError, Headers, Message, Outgoing};
use order_events::{Cents, Item, OrderContent, OrderEvent, OrderNotification, Rejection, Status};
use serde::{Serialize, Serializer};
use sqlx::types::time::OffsetDateTime;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use self::statements::{add_totals, copy_orders, insert_orders, read_orders, update_orders};

/// Applies order events.
#[derive(Debug, Default)]
pub struct OrderHandler {
    optimism: Optimism,
    notifications_topic: Option<String>,
}

impl OrderHandler {
    /// One that publishes a notification to this topic for each change of an order's status.
    pub fn notifying(topic: impl Into<String>) -> Self {
        Self { notifications_topic: Some(topic.into()), ..Self::default() }
    }

    async fn apply(
        &self,
        connection: &mut PgConnection,
        batch: &[&Message<OrderEvent>],
    ) -> Result<(Vec<Answer>, Vec<Outgoing>), HandlerError> {
        let topic = self.notifications_topic.as_deref();
        if self.optimism.is_due(batch.len()) {
            let mut attempt = connection.begin().await?;
            let known = read_orders(&mut attempt, not_placed_here(batch)).await?;
            let (effects, answers) = Effects::of(known, batch, topic);
            let inserted = copy_orders(&mut attempt, &effects.changed(Change::Inserted)).await?;
            if self.optimism.learns(inserted) {
                effects.write_changes(&mut attempt).await?;
                attempt.commit().await?;
                return Ok((answers, effects.notifications));
            }
            // Its locks as well, or orders would not be locked in their order any more.
            attempt.rollback().await?;
        }
        let ids = batch.iter().map(|message| message.body.order_id()).collect();
        let (effects, answers) = Effects::of(read_orders(connection, ids).await?, batch, topic);
        insert_orders(connection, &effects.changed(Change::Inserted)).await?;
        effects.write_changes(connection).await?;
        Ok((answers, effects.notifications))
    }
}

impl Handler for OrderHandler {
    type Body = OrderEvent;

    async fn handle(
        &self,
        context: &mut Context<'_>,
        batch: &[&Message<OrderEvent>],
    ) -> Result<Vec<Answer>, HandlerError> {
        let (answers, notifications) = self.apply(context.connection(), batch).await?;
        for notification in notifications {
            context.publish(notification);
        }
        Ok(answers)
    }

    fn subject(&self, event: &OrderEvent) -> Option<String> {
        Some(event.order_id().to_string())
    }
}

/// The orders of a batch whose first event in it is not that they are placed.
fn not_placed_here(batch: &[&Message<OrderEvent>]) -> Vec<Uuid> {
    let is_placed = |event: &OrderEvent| matches!(event, OrderEvent::Placed(_));
    // As in most batches.
    if batch.iter().all(|message| is_placed(&message.body)) {
        return Vec::new();
    }
    let mut met = HashSet::with_capacity(batch.len());
    batch
        .iter()
        .map(|message| &message.body)
        .filter(|event| met.insert(event.order_id()) && !is_placed(event))
        .map(OrderEvent::order_id)
        .collect()
}

/// An order as the batch leaves it.
#[derive(Clone, Debug, PartialEq)]
struct Order<'b> {
    customer_id: Cow<'b, str>,
    status: Status,
    currency: Cow<'b, str>,
    total_cents: i64,
    items: Items<'b>,
    placed_at: OffsetDateTime,
    last_message_id: Uuid,
    change: Change,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    None,
    Updated,
    Inserted,
}

/// The items of an event, or as the column has them.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
enum Items<'b> {
    Said(Lines<'b>),
    Stored(serde_json::Value),
}

/// The items of an event, each written as a [`Line`].
#[derive(Clone, Copy, Debug, PartialEq)]
struct Lines<'b>(&'b [Item]);

impl Serialize for Lines<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Line::from))
    }
}

/// An item as the column has it.
#[derive(Serialize)]
struct Line<'b> {
    sku: &'b str,
    quantity: u32,
    unit_price_cents: i64,
}

impl<'b> From<&'b Item> for Line<'b> {
    fn from(item: &'b Item) -> Self {
        let unit_price_cents = item.unit_price().get();
        Self { sku: item.sku().as_str(), quantity: item.quantity(), unit_price_cents }
    }
}

/// The items as the column holds them.
pub(crate) fn items_of(content: &OrderContent) -> serde_json::Value {
    serde_json::json!(Lines(content.items()))
}

/// What a batch does, before it is written.
#[derive(Debug, Default)]
struct Effects<'b> {
    /// A list, since a hash table of what is so large costs more.
    orders: Vec<(Uuid, Order<'b>)>,
    /// Where in it each of them is.
    places: HashMap<Uuid, usize>,
    totals: Totals<'b>,
    /// What is to be told of its events, in their order.
    notifications: Vec<Outgoing>,
}

/// Orders and cents to add, by customer and currency.
type Totals<'b> = HashMap<(Cow<'b, str>, Cow<'b, str>), (i64, i64)>;

impl<'b> Effects<'b> {
    /// What a batch does to these orders, what there is to tell on this topic, and the answer to each
    /// of its events.
    fn of(
        orders: Vec<(Uuid, Order<'b>)>,
        batch: &[&'b Message<OrderEvent>],
        topic: Option<&str>,
    ) -> (Self, Vec<Answer>) {
        let mut effects = Self::default();
        let room = orders.len() + batch.len();
        effects.orders.reserve(room);
        effects.places.reserve(room);
        for (id, order) in orders {
            effects.put(id, order);
        }
        let answers = batch
            .iter()
            .map(|message| match effects.apply(&message.body, message.id.0) {
                Ok(has_moved) => {
                    if has_moved && let Some(topic) = topic {
                        effects.tell(topic, message);
                    }
                    Answer::Applied
                }
                Err(rejection) => Answer::rejected(rejection.code(), rejection.to_string()),
            })
            .collect();
        (effects, answers)
    }

    /// Notes what to tell of an event that was just applied.
    fn tell(&mut self, topic: &str, message: &Message<OrderEvent>) {
        let Some(order) = self.order(&message.body.order_id()) else { return };
        let notification = OrderNotification {
            order_id: message.body.order_id(),
            status: order.status,
            customer_id: message.body.customer_id().clone(),
            total: Cents::new(order.total_cents),
            currency: order.currency.clone().into_owned(),
            message_id: message.id.0,
        };
        self.notifications.push(outgoing(topic, &notification, message));
    }

    /// Applies an event. `true`: the order's status is another one now.
    fn apply(&mut self, event: &'b OrderEvent, message_id: Uuid) -> Result<bool, Rejection> {
        let current = self.order(&event.order_id());
        if current.is_some_and(|order| order.customer_id != event.customer_id().as_str()) {
            return Err(Rejection::CustomerMismatch);
        }
        if let (Some(order), OrderEvent::Placed(content)) = (current, event)
            && order.has(content)
        {
            return Ok(false);
        }
        let status = Status::apply(current.map(|order| order.status), event.kind())?;
        let has_moved = current.map(|order| order.status) != Some(status);
        let before = current.cloned();
        let change = match &before {
            Some(Order { change: Change::None | Change::Updated, .. }) => Change::Updated,
            None | Some(Order { change: Change::Inserted, .. }) => Change::Inserted,
        };
        let after = match (event.content(), &before) {
            (Some(content), _) => Order::of(content, status, message_id, change),
            (None, Some(before)) => {
                Order { status, last_message_id: message_id, change, ..before.clone() }
            }
            (None, None) => return Err(Rejection::OrderNotFound),
        };
        if let Some(before) = before.filter(Order::counts) {
            self.add_to_total(&before, -1);
        }
        if after.counts() {
            self.add_to_total(&after, 1);
        }
        self.put(event.order_id(), after);
        Ok(has_moved)
    }

    fn order(&self, id: &Uuid) -> Option<&Order<'b>> {
        self.places.get(id).map(|at| &self.orders[*at].1)
    }

    fn put(&mut self, id: Uuid, order: Order<'b>) {
        match self.places.entry(id) {
            Entry::Occupied(place) => self.orders[*place.get()].1 = order,
            Entry::Vacant(place) => {
                place.insert(self.orders.len());
                self.orders.push((id, order));
            }
        }
    }

    fn add_to_total(&mut self, order: &Order<'b>, sign: i64) {
        let key = (order.customer_id.clone(), order.currency.clone());
        let total = self.totals.entry(key).or_default();
        total.0 += sign;
        // Bounded: a batch has some thousand orders of 10^14 cents at most each.
        total.1 = total.1.saturating_add(sign * order.total_cents);
    }

    /// The orders with this change, sorted.
    fn changed(&self, change: Change) -> Vec<(Uuid, &Order<'b>)> {
        let mut orders: Vec<(Uuid, &Order<'b>)> = self
            .orders
            .iter()
            .filter(|(_, order)| order.change == change)
            .map(|(id, order)| (*id, order))
            .collect();
        orders.sort_unstable_by_key(|(id, _)| *id);
        orders
    }

    /// Writes everything but the new orders.
    async fn write_changes(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        update_orders(connection, &self.changed(Change::Updated)).await?;
        add_totals(connection, &self.totals).await
    }
}

impl<'b> Order<'b> {
    fn of(content: &'b OrderContent, status: Status, message_id: Uuid, change: Change) -> Self {
        Self {
            customer_id: content.customer_id().as_str().into(),
            status,
            currency: content.currency().as_str().into(),
            total_cents: content.total().get(),
            items: Items::Said(Lines(content.items())),
            placed_at: content.placed_at(),
            last_message_id: message_id,
            change,
        }
    }

    /// Whether it is in its customer's total.
    fn counts(&self) -> bool {
        self.status != Status::Cancelled
    }

    fn has(&self, content: &OrderContent) -> bool {
        self.currency == content.currency().as_str()
            && self.total_cents == content.total().get()
            && stored_micros(self.placed_at) == stored_micros(content.placed_at())
            && match &self.items {
                Items::Said(lines) => *lines == Lines(content.items()),
                Items::Stored(items) => *items == items_of(content),
            }
    }
}

/// The record of a notification; when the event happened, and in which trace, is carried on.
fn outgoing(
    topic: &str,
    notification: &OrderNotification,
    event: &Message<OrderEvent>,
) -> Outgoing {
    /// Both have their form, which is shorter. Other text must not make a record too large to send.
    const LONGEST: usize = 256;
    let record = notification.encode("/order-consumer");
    let mut headers: Headers = record.headers.into_iter().collect();
    let given = |name| event.record.headers.get(name).filter(|value| value.len() <= LONGEST);
    if let Some(time) = given("ce_time") {
        headers.push("ce_time", Some(time));
    }
    let trace = event.trace().map(|trace| trace.to_string());
    if let Some(trace) = trace.as_ref().map(String::as_bytes).or_else(|| given("traceparent")) {
        headers.push("traceparent", Some(trace));
    }
    Outgoing {
        topic: topic.to_owned(),
        partition: None,
        key: Some(record.key),
        value: Some(record.value),
        headers,
    }
}

/// Microseconds since 2000, all that the database keeps of a time.
pub(crate) fn stored_micros(time: OffsetDateTime) -> i128 {
    const POSTGRES_EPOCH: OffsetDateTime = time::macros::datetime!(2000-01-01 00:00 UTC);
    (time - POSTGRES_EPOCH).whole_microseconds()
}

#[cfg(test)]
mod tests {
    use super::*;
    use order_events::{Cents, Currency, CustomerId, Item, Sku, StatusChange};

    fn content(order: u128, currency: &str, quantity: i64) -> OrderContent {
        OrderContent::new(
            Uuid::from_u128(order),
            CustomerId::new("c-1").unwrap(),
            Currency::new(currency).unwrap(),
            vec![Item::new(Sku::new("TEA-1").unwrap(), quantity, Cents::new(450)).unwrap()],
            time::macros::datetime!(2026-01-03 10:00 UTC),
        )
        .unwrap()
    }

    fn change(order: u128, customer: &str) -> StatusChange {
        StatusChange {
            order_id: Uuid::from_u128(order),
            customer_id: CustomerId::new(customer).unwrap(),
            reason: None,
        }
    }

    fn total(effects: &Effects<'_>, currency: &str) -> (i64, i64) {
        effects.totals.get(&("c-1".into(), currency.into())).copied().unwrap_or_default()
    }

    #[test]
    fn totals_follow_an_order_through_amendment_and_cancellation() {
        let events = [
            OrderEvent::Placed(content(1, "EUR", 2)),
            OrderEvent::Amended(content(1, "EUR", 3)),
            OrderEvent::Amended(content(1, "USD", 1)),
            OrderEvent::Cancelled(change(1, "c-1")),
        ];
        let mut effects = Effects::default();
        for event in &events[..3] {
            effects.apply(event, Uuid::nil()).unwrap();
        }
        assert_eq!(total(&effects, "EUR"), (0, 0));
        assert_eq!(total(&effects, "USD"), (1, 450));
        effects.apply(&events[3], Uuid::nil()).unwrap();
        assert_eq!(total(&effects, "USD"), (0, 0));
    }

    #[test]
    fn an_equal_order_placed_again_has_no_effect_and_another_content_is_rejected() {
        let [placed, again, other] =
            [2, 2, 3].map(|quantity| OrderEvent::Placed(content(1, "EUR", quantity)));
        let mut effects = Effects::default();
        effects.apply(&placed, Uuid::nil()).unwrap();
        effects.apply(&again, Uuid::from_u128(7)).unwrap();
        assert_eq!(total(&effects, "EUR"), (1, 900));
        let order = effects.order(&Uuid::from_u128(1)).unwrap();
        assert_eq!(order.last_message_id, Uuid::nil());
        assert_eq!(effects.apply(&other, Uuid::nil()), Err(Rejection::OrderExists));
    }

    #[test]
    fn an_event_that_names_another_customer_is_rejected() {
        let placed = OrderEvent::Placed(content(1, "EUR", 2));
        let paid = OrderEvent::Paid(change(1, "c-2"));
        let mut effects = Effects::default();
        effects.apply(&placed, Uuid::nil()).unwrap();
        assert_eq!(effects.apply(&paid, Uuid::nil()), Err(Rejection::CustomerMismatch));
    }
}
