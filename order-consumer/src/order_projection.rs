//! `orders` and `customer_totals`, recomputed from the applied events and compared to the cent.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Display;

use futures_util::TryStreamExt as _;
use idempotent_consumer::audit::{Applied, History, Invariant, Projection};
use idempotent_consumer::{Decoded, Decoder as _};
use order_events::Status;
use serde::Deserialize;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use crate::decoder::OrderDecoder;
use crate::order_facts::{
    Code, Content, Customer, Customers, Fact, Order, code, fold, hash_items, micros,
};

/// The application's part of the audit.
///
/// Keeps the events rather than the orders they make, 96 bytes each: so it does not matter in
/// which order the partitions are read.
#[derive(Debug, Default)]
pub struct OrderProjection {
    facts: Vec<Fact>,
    customers: Customers,
    /// Applied events that are none by the contract.
    undecodable: Vec<String>,
}

impl Projection for OrderProjection {
    fn expect(&mut self, events: u64) {
        // Growing would copy, and hold both copies for a moment.
        self.facts.reserve_exact(usize::try_from(events).unwrap_or(0));
    }

    fn apply(&mut self, event: &Applied<'_>) {
        let record = event.record;
        match OrderDecoder::default().decode(record) {
            Ok(Decoded::Message(body)) => self.facts.push(Fact::new(
                &body,
                event.id.0,
                event.batch_seq,
                record.offset,
                &mut self.customers,
            )),
            Ok(Decoded::Skip) => {}
            Err(poison) => self.undecodable.push(format!(
                "{} offset {}: message {} was applied, but is no order event: {}",
                record.source, record.offset, event.id, poison.text
            )),
        }
    }

    async fn compare(
        &mut self,
        connection: &mut PgConnection,
        history: History,
        findings: &mut Invariant,
    ) -> Result<u64, sqlx::Error> {
        for text in std::mem::take(&mut self.undecodable) {
            findings.violation(|| text);
        }
        self.facts.sort_unstable_by_key(Fact::place);
        let mut books = Books { history, findings, totals: HashMap::new(), not_provable: 0 };
        books.compare_orders(connection, &self.facts, &mut self.customers).await?;
        books.compare_totals(connection, &self.customers).await?;
        Ok(books.not_provable)
    }
}

/// What the comparison adds up as it goes.
struct Books<'a> {
    history: History,
    findings: &'a mut Invariant,
    totals: HashMap<(Customer, Code), Total>,
    not_provable: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Total {
    orders: i64,
    // Wider than the column: a sum that does not fit there must not come out right by accident.
    cents: i128,
}

impl Books<'_> {
    async fn compare_orders(
        &mut self,
        connection: &mut PgConnection,
        facts: &[Fact],
        customers: &mut Customers,
    ) -> Result<(), sqlx::Error> {
        let mut found = vec![false; facts.len()];
        let mut rows = sqlx::query(
            r"
            SELECT order_id, customer_id, status, currency, total_cents, items, placed_at,
                   last_message_id
              FROM orders
            ",
        )
        .fetch(connection);
        while let Some(row) = rows.try_next().await? {
            self.findings.checked += 1;
            let order_id = row.try_get("order_id")?;
            let from = facts.partition_point(|fact| fact.order_id < order_id);
            let facts = order_at(facts, from).filter(|facts| facts[0].order_id == order_id);
            if facts.is_some() {
                found[from] = true;
            }
            self.compare_order(&OrderRow::of(order_id, &row, customers)?, facts, customers);
        }
        drop(rows);
        let mut from = 0;
        while let Some(events) = order_at(facts, from) {
            if !found[from] {
                self.missing(events);
            }
            from += events.len();
        }
        Ok(())
    }

    fn compare_order(&mut self, row: &OrderRow, facts: Option<&[Fact]>, customers: &Customers) {
        let Some(facts) = facts else {
            self.unexplained(row.order_id, || "no applied event makes this row".to_owned());
            self.add(row.order.as_ref());
            return;
        };
        match fold(facts) {
            // Events that the log no longer has, and after them one that changed nothing.
            Ok(_)
                if !self.history.complete
                    && !facts.iter().any(|f| f.message_id == row.last_message_id) =>
            {
                self.not_provable += 1;
                self.add(row.order.as_ref());
            }
            Ok(order) => {
                self.add(Some(&order));
                let differences = row.differences(&order, customers);
                if !differences.is_empty() {
                    self.findings.violation(|| {
                        format!("order {}: {}", row.order_id, differences.join("; "))
                    });
                }
            }
            Err(impossible) => {
                self.unexplained(row.order_id, || impossible.to_string());
                self.add(row.order.as_ref());
            }
        }
    }

    /// An order with events and without a row.
    fn missing(&mut self, facts: &[Fact]) {
        self.findings.checked += 1;
        let order_id = facts[0].order_id;
        match fold(facts) {
            Ok(order) => {
                self.add(Some(&order));
                self.findings.violation(|| {
                    format!("order {order_id}: its events were applied, but it has no row")
                });
            }
            Err(impossible) => self.unexplained(order_id, || impossible.to_string()),
        }
    }

    /// With all events at hand it is wrong; without those that the log lost, nobody can say.
    fn unexplained(&mut self, order_id: Uuid, what: impl FnOnce() -> String) {
        if self.history.complete {
            self.findings.violation(|| format!("order {order_id}: {}", what()));
        } else {
            self.not_provable += 1;
        }
    }

    /// Adds an order to what its customer's totals should be.
    fn add(&mut self, order: Option<&Order>) {
        if let Some(order) = order
            && let Some((currency, cents)) = order.counts()
        {
            let total = self.totals.entry((order.customer, currency)).or_default();
            total.orders += 1;
            total.cents += i128::from(cents);
        }
    }

    async fn compare_totals(
        &mut self,
        connection: &mut PgConnection,
        customers: &Customers,
    ) -> Result<(), sqlx::Error> {
        let mut rows = sqlx::query_as::<_, (String, String, i64, i64)>(
            "SELECT customer_id, currency, orders, spent_cents FROM customer_totals",
        )
        .fetch(connection);
        while let Some((customer_id, currency, orders, spent_cents)) = rows.try_next().await? {
            self.findings.checked += 1;
            let expected = customers
                .find(&customer_id)
                .and_then(|customer| self.totals.remove(&(customer, code(&currency))))
                .unwrap_or_default();
            if expected != (Total { orders, cents: spent_cents.into() }) {
                self.findings.violation(|| {
                    format!(
                        "customer {customer_id}: the total in {currency} is {orders} orders and \
                         {spent_cents} cents; the applied events make {} orders and {} cents",
                        expected.orders, expected.cents
                    )
                });
            }
        }
        for ((customer, currency), Total { orders, cents }) in self.totals.drain() {
            self.findings.checked += 1;
            self.findings.violation(|| {
                format!(
                    "customer {}: no total in {}; the applied events make {orders} orders and \
                     {cents} cents",
                    customers.id_of(customer),
                    String::from_utf8_lossy(&currency)
                )
            });
        }
        Ok(())
    }
}

/// The events of the order whose first event is at `from`.
fn order_at(facts: &[Fact], from: usize) -> Option<&[Fact]> {
    let first = facts.get(from)?;
    let count = facts[from..].iter().take_while(|fact| fact.order_id == first.order_id).count();
    Some(&facts[from..from + count])
}

/// A row of `orders`, in the terms of the recomputed one as far as it has them.
struct OrderRow {
    order_id: Uuid,
    customer_id: String,
    currency: String,
    last_message_id: Uuid,
    items_are_readable: bool,
    /// `None` if its status is none that we know.
    order: Option<Order>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredItem<'a> {
    #[serde(borrow)]
    sku: Cow<'a, str>,
    quantity: i64,
    unit_price_cents: i64,
}

impl OrderRow {
    fn of(order_id: Uuid, row: &PgRow, customers: &mut Customers) -> Result<Self, sqlx::Error> {
        let customer_id: String = row.try_get("customer_id")?;
        let currency: String = row.try_get("currency")?;
        let last_message_id = row.try_get("last_message_id")?;
        let items = row.try_get::<Json<Vec<StoredItem<'_>>>, _>("items").ok();
        let content = Content {
            total_cents: row.try_get("total_cents")?,
            placed_at_us: micros(row.try_get("placed_at")?),
            items: hash_items(items.iter().flat_map(|Json(items)| {
                items.iter().map(|item| (&*item.sku, item.quantity, item.unit_price_cents))
            })),
            currency: code(&currency),
        };
        let customer = customers.number_of(&customer_id);
        let order = Status::from_name(row.try_get("status")?).map(|status| Order {
            customer,
            status,
            content,
            last_message_id,
        });
        Ok(Self {
            order_id,
            customer_id,
            currency,
            last_message_id,
            items_are_readable: items.is_some(),
            order,
        })
    }

    fn differences(&self, expected: &Order, customers: &Customers) -> Vec<String> {
        let Some(order) = &self.order else {
            return vec!["its status is none that this version knows".to_owned()];
        };
        let mut found = Vec::new();
        let mut compare = |what: &str, is: &dyn Display, should: &dyn Display, equal: bool| {
            if !equal {
                found.push(format!("{what} is {is}, the applied events make it {should}"));
            }
        };
        let (is, should) = (&order.content, &expected.content);
        let same_customer = order.customer == expected.customer;
        if !same_customer {
            compare("customer_id", &self.customer_id, &customers.id_of(expected.customer), false);
        }
        compare("status", &order.status, &expected.status, order.status == expected.status);
        compare(
            "currency",
            &self.currency,
            &String::from_utf8_lossy(&should.currency),
            is.currency == should.currency,
        );
        compare(
            "total_cents",
            &is.total_cents,
            &should.total_cents,
            is.total_cents == should.total_cents,
        );
        compare(
            "placed_at (in microseconds since 1970)",
            &is.placed_at_us,
            &should.placed_at_us,
            is.placed_at_us == should.placed_at_us,
        );
        compare(
            "last_message_id",
            &order.last_message_id,
            &expected.last_message_id,
            order.last_message_id == expected.last_message_id,
        );
        if !self.items_are_readable || is.items != should.items {
            found.push("items are not those of the applied events".to_owned());
        }
        found
    }
}
