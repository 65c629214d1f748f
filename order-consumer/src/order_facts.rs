//! What the applied events make of one order. Pure.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use order_events::{EventKind, OrderContent, OrderEvent, Rejection, Status};
use time::OffsetDateTime;
use uuid::Uuid;

/// A customer's number in [`Customers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Customer(u32);

/// Customer ids by number: an order of a million takes four bytes of them.
#[derive(Debug, Default)]
pub(crate) struct Customers(HashMap<Box<str>, Customer>);

impl Customers {
    pub(crate) fn number_of(&mut self, id: &str) -> Customer {
        if let Some(known) = self.0.get(id) {
            return *known;
        }
        let number = u32::try_from(self.0.len())
            .expect("four thousand million ids need more memory than there is");
        self.0.insert(id.into(), Customer(number));
        Customer(number)
    }

    pub(crate) fn find(&self, id: &str) -> Option<Customer> {
        self.0.get(id).copied()
    }

    /// The id with this number. A walk, for examples only.
    pub(crate) fn id_of(&self, customer: Customer) -> &str {
        self.0.iter().find(|(_, number)| **number == customer).map_or("?", |(id, _)| id)
    }
}

/// A currency's code.
pub(crate) type Code = [u8; 3];

/// An applied event, as small as can be: there may be millions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fact {
    pub(crate) order_id: Uuid,
    pub(crate) message_id: Uuid,
    pub(crate) batch_seq: i64,
    pub(crate) offset: i64,
    pub(crate) customer: Customer,
    kind: EventKind,
    /// Of events with content only, else zero.
    content: Content,
}

/// An order's content; the items as a hash of 64 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) total_cents: i64,
    /// Microseconds since 1970, all that the database keeps.
    pub(crate) placed_at_us: i64,
    pub(crate) items: u64,
    pub(crate) currency: Code,
}

impl Fact {
    pub(crate) fn new(
        event: &OrderEvent,
        message_id: Uuid,
        batch_seq: i64,
        offset: i64,
        customers: &mut Customers,
    ) -> Self {
        Self {
            order_id: event.order_id(),
            message_id,
            batch_seq,
            offset,
            customer: customers.number_of(event.customer_id().as_str()),
            kind: event.kind(),
            content: event.content().map(Content::of).unwrap_or_default(),
        }
    }

    /// In this order the events of all orders were applied, order by order.
    pub(crate) fn place(&self) -> (Uuid, i64, i64) {
        (self.order_id, self.batch_seq, self.offset)
    }
}

impl Content {
    fn of(content: &OrderContent) -> Self {
        let items = content.items().iter();
        Self {
            total_cents: content.total().get(),
            placed_at_us: micros(content.placed_at()),
            items: hash_items(
                items.map(|i| (i.sku().as_str(), i64::from(i.quantity()), i.unit_price().get())),
            ),
            currency: code(content.currency().as_str()),
        }
    }
}

/// Items as they compare: in their order, by what each says.
pub(crate) fn hash_items<'a>(items: impl Iterator<Item = (&'a str, i64, i64)>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for item in items {
        item.hash(&mut hasher);
    }
    hasher.finish()
}

/// Microseconds since 1970.
pub(crate) fn micros(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos().div_euclid(1000)).unwrap_or(i64::MAX)
}

/// Three letters; anything else in the database's column is no code, and equals none.
pub(crate) fn code(text: &str) -> Code {
    text.as_bytes().try_into().unwrap_or_default()
}

/// An order after all of its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) customer: Customer,
    pub(crate) status: Status,
    pub(crate) content: Content,
    pub(crate) last_message_id: Uuid,
}

impl Order {
    /// What it adds to its customer's totals: orders and cents.
    pub(crate) fn counts(&self) -> Option<(Code, i64)> {
        (self.status != Status::Cancelled)
            .then_some((self.content.currency, self.content.total_cents))
    }
}

/// An applied event that cannot have been applied where it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Impossible {
    pub(crate) message_id: Uuid,
    pub(crate) kind: EventKind,
    pub(crate) why: Rejection,
}

impl fmt::Display for Impossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { message_id, kind, why } = self;
        write!(f, "{kind} (message {message_id}) was applied, but {why}")
    }
}

/// Applies the events of one order, in their order; there is at least one.
pub(crate) fn fold(facts: &[Fact]) -> Result<Order, Impossible> {
    let mut order: Option<Order> = None;
    for fact in facts {
        let impossible = |why| Impossible { message_id: fact.message_id, kind: fact.kind, why };
        if order.is_some_and(|order| order.customer != fact.customer) {
            return Err(impossible(Rejection::CustomerMismatch));
        }
        if fact.kind == EventKind::Placed
            && order.is_some_and(|order| order.content == fact.content)
        {
            continue;
        }
        let status =
            Status::apply(order.map(|order| order.status), fact.kind).map_err(impossible)?;
        let before = order.map(|order| order.content);
        order = Some(Order {
            customer: fact.customer,
            status,
            content: if fact.kind.has_content() {
                fact.content
            } else {
                before.unwrap_or_default()
            },
            last_message_id: fact.message_id,
        });
    }
    order.ok_or(Impossible {
        message_id: Uuid::nil(),
        kind: EventKind::Placed,
        why: Rejection::OrderNotFound,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use order_events::{Cents, Currency, CustomerId, Item, Sku, StatusChange};

    fn content(quantity: i64, currency: &str) -> OrderContent {
        OrderContent::new(
            Uuid::from_u128(1),
            CustomerId::new("c-1").unwrap(),
            Currency::new(currency).unwrap(),
            vec![Item::new(Sku::new("TEA-1").unwrap(), quantity, Cents::new(450)).unwrap()],
            time::macros::datetime!(2026-01-03 10:00:00.123456 UTC),
        )
        .unwrap()
    }

    fn change() -> StatusChange {
        StatusChange {
            order_id: Uuid::from_u128(1),
            customer_id: CustomerId::new("c-1").unwrap(),
            reason: None,
        }
    }

    fn folded(events: &[OrderEvent]) -> Result<Order, Impossible> {
        let mut customers = Customers::default();
        let facts: Vec<Fact> = (0..)
            .zip(events)
            .map(|(at, event)| {
                let id = Uuid::from_u128(u128::try_from(at).unwrap());
                Fact::new(event, id, at, at, &mut customers)
            })
            .collect();
        fold(&facts)
    }

    #[test]
    fn an_order_is_what_its_events_make_of_it() {
        use OrderEvent::{Amended, Cancelled, Fulfilled, Paid, Placed};
        let order =
            folded(&[Placed(content(2, "EUR")), Amended(content(3, "USD")), Paid(change())])
                .unwrap();
        assert_eq!(order.status, Status::Paid);
        assert_eq!(order.counts(), Some((*b"USD", 1350)));
        assert_eq!(order.last_message_id, Uuid::from_u128(2));
        let again = folded(&[Placed(content(2, "EUR")), Paid(change()), Placed(content(2, "EUR"))]);
        assert_eq!(again.unwrap().last_message_id, Uuid::from_u128(1), "placed again: no effect");
        let cancelled = folded(&[Placed(content(2, "EUR")), Cancelled(change())]).unwrap();
        assert_eq!(cancelled.counts(), None);
        assert!(folded(&[Placed(content(2, "EUR")), Fulfilled(change())]).is_err());
        assert!(folded(&[Paid(change())]).is_err());
    }

    #[test]
    fn items_compare_by_order_and_by_everything_they_say() {
        let hash = |items: &[(&str, i64, i64)]| hash_items(items.iter().copied());
        let one = hash(&[("a", 1, 2), ("b", 1, 2)]);
        assert_eq!(one, hash(&[("a", 1, 2), ("b", 1, 2)]));
        for other in
            [&[("b", 1, 2), ("a", 1, 2)][..], &[("a", 1, 2)], &[("a", 2, 2), ("b", 1, 2)], &[]]
        {
            assert_ne!(one, hash(other));
        }
    }

    #[test]
    fn a_million_events_fit() {
        assert!(size_of::<Fact>() <= 96, "{}", size_of::<Fact>());
    }
}
