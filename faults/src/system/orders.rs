//! What the clients send, made of a seed and the order's number. Pure.

use order_events::{Cents, Status};
use serde_json::{Value, json};

use crate::random::Random;

/// Customers, besides those without an address.
const CUSTOMERS: u64 = 300;
/// Of so many orders one is of a customer whose id makes no mail address.
const NO_ADDRESS_EVERY: u64 = 97;

/// What a client does with its order once it is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Course {
    Stays,
    Amended,
    Paid,
    AmendedThenPaid,
    Cancelled,
    PaidThenCancelled,
}

/// Whether a client sends what it placed again, without need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    No,
    /// On another connection, at the same time.
    AtOnce,
    /// When it has its answer.
    Later,
}

/// An order as its client wants it.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) number: u64,
    pub(super) customer: String,
    pub(super) currency: &'static str,
    items: Vec<(String, u32, i64)>,
    /// What an amendment makes the first item's quantity.
    amended_quantity: u32,
    pub(super) course: Course,
    pub(super) again: Again,
}

impl Order {
    /// The order of that number.
    pub(super) fn of(seed: u64, number: u64) -> Self {
        let mut random = Random::new(seed, 1_000 + number);
        let customer = if number % NO_ADDRESS_EVERY == NO_ADDRESS_EVERY - 1 {
            format!("nobody@{}", random.between(0, 5))
        } else {
            format!("c-{}", random.between(0, CUSTOMERS))
        };
        let quantity = |random: &mut Random| u32::try_from(random.between(1, 10)).unwrap_or(1);
        let price = |random: &mut Random| random.between(1, 100_000).cast_signed();
        let mut items = vec![(mark(number), quantity(&mut random), price(&mut random))];
        for extra in 0..random.between(0, 3) {
            items.push((format!("TEA-{extra}"), quantity(&mut random), price(&mut random)));
        }
        let course = match random.between(0, 100) {
            0..60 => Course::Stays,
            60..65 => Course::Amended,
            65..80 => Course::Paid,
            80..85 => Course::AmendedThenPaid,
            85..95 => Course::Cancelled,
            _ => Course::PaidThenCancelled,
        };
        let again = match random.between(0, 20) {
            0 => Again::AtOnce,
            1 => Again::Later,
            _ => Again::No,
        };
        let currency = random.one_of(&["EUR", "USD", "JPY"]);
        let amended_quantity = items[0].1 + 10;
        Self { number, customer, currency, items, amended_quantity, course, again }
    }

    /// The body of a request that places it.
    pub(super) fn placing(&self) -> Value {
        self.body(self.items[0].1)
    }

    /// The body of a request that amends it.
    pub(super) fn amending(&self) -> Value {
        self.body(self.amended_quantity)
    }

    fn body(&self, first_quantity: u32) -> Value {
        let quantities = std::iter::once(first_quantity).chain(self.items[1..].iter().map(|i| i.1));
        let items: Vec<Value> = self
            .items
            .iter()
            .zip(quantities)
            .map(|((sku, _, price), quantity)| {
                json!({ "sku": sku, "quantity": quantity, "unit_price_cents": price })
            })
            .collect();
        json!({ "customer_id": self.customer, "currency": self.currency, "items": items })
    }

    fn total(&self, first_quantity: u32) -> Cents {
        let rest: i64 = self.items[1..].iter().map(|(_, n, price)| i64::from(*n) * price).sum();
        Cents::new(i64::from(first_quantity) * self.items[0].2 + rest)
    }

    fn is_amended(&self) -> bool {
        matches!(self.course, Course::Amended | Course::AmendedThenPaid)
    }

    /// What it costs in the end.
    pub(super) fn final_total(&self) -> i64 {
        let first = if self.is_amended() { self.amended_quantity } else { self.items[0].1 };
        self.total(first).get()
    }

    /// Where it stands in the end.
    pub(super) fn final_status(&self) -> Status {
        match self.course {
            Course::Stays | Course::Amended => Status::Placed,
            Course::Paid | Course::AmendedThenPaid => Status::Paid,
            Course::Cancelled | Course::PaidThenCancelled => Status::Cancelled,
        }
    }

    /// The events it takes, in their order.
    pub(super) fn events(&self) -> &'static [&'static str] {
        match self.course {
            Course::Stays => &["order.placed"],
            Course::Amended => &["order.placed", "order.amended"],
            Course::Paid => &["order.placed", "order.paid"],
            Course::AmendedThenPaid => &["order.placed", "order.amended", "order.paid"],
            Course::Cancelled => &["order.placed", "order.cancelled"],
            Course::PaidThenCancelled => &["order.placed", "order.paid", "order.cancelled"],
        }
    }

    /// What its customer is told: each status, and the total then.
    pub(super) fn told(&self) -> Vec<(Status, i64)> {
        let placed = (Status::Placed, self.total(self.items[0].1).get());
        let later: &[Status] = match self.course {
            Course::Stays | Course::Amended => &[],
            Course::Paid | Course::AmendedThenPaid => &[Status::Paid],
            Course::Cancelled => &[Status::Cancelled],
            Course::PaidThenCancelled => &[Status::Paid, Status::Cancelled],
        };
        let later = later.iter().map(|status| (*status, self.final_total()));
        std::iter::once(placed).chain(later).collect()
    }

    /// Whether its customer can be written to.
    pub(super) fn has_address(&self) -> bool {
        !self.customer.contains('@')
    }
}

/// The first item's name says which order it is, whoever writes it where.
pub(super) fn mark(number: u64) -> String {
    format!("ORDER-{number}")
}

/// The number in a mark.
pub(super) fn number_of(mark: &str) -> Option<u64> {
    mark.strip_prefix("ORDER-")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_the_same_each_time_and_all_courses_occur() {
        let orders: Vec<Order> = (0..500).map(|number| Order::of(3, number)).collect();
        for order in &orders {
            let again = Order::of(3, order.number);
            assert_eq!(again.placing(), order.placing());
            assert_eq!(again.course, order.course);
            assert_eq!(
                number_of(order.placing()["items"][0]["sku"].as_str().unwrap()),
                Some(order.number)
            );
        }
        for course in [
            Course::Stays,
            Course::Amended,
            Course::Paid,
            Course::AmendedThenPaid,
            Course::Cancelled,
            Course::PaidThenCancelled,
        ] {
            assert!(orders.iter().any(|order| order.course == course), "{course:?}");
        }
        assert!(orders.iter().any(|order| !order.has_address()));
    }

    #[test]
    fn totals_are_those_of_the_bodies() {
        let sum = |body: Value| -> i64 {
            let items = body["items"].as_array().unwrap();
            let of = |item: &Value| {
                item["quantity"].as_i64().unwrap() * item["unit_price_cents"].as_i64().unwrap()
            };
            items.iter().map(of).sum()
        };
        for order in (0..200).map(|number| Order::of(4, number)) {
            let last = if order.is_amended() { order.amending() } else { order.placing() };
            assert_eq!(order.final_total(), sum(last));
            assert_eq!(order.told()[0], (Status::Placed, sum(order.placing())));
            assert_eq!(order.told().last().unwrap().0, order.final_status());
        }
    }
}
