//! The verdict is tested by sabotage: what is right is damaged in one way, and that is told.

use super::*;
use crate::system::look::{EventRow, OrderRow};
use crate::system::orders::{Order, mark};

const ORDERS: u64 = 200;
/// Deaths that can have cut mails off from their commits.
const CUTS: usize = 2;

/// What there is when everything went well.
struct World {
    book: Vec<Entry>,
    tables: Tables,
    mails: Vec<Mail>,
}

impl World {
    fn right() -> Self {
        let mut world = Self { book: Vec::new(), tables: Tables::default(), mails: Vec::new() };
        for number in 0..ORDERS {
            let (order, order_id) = (Order::of(5, number), format!("id-{number}"));
            world.write(&order, &order_id);
            world.book.push(Entry { order, order_id });
        }
        world
    }

    fn write(&mut self, order: &Order, order_id: &str) {
        let (status, total) = (order.final_status(), order.final_total());
        let (id, customer, currency) =
            (order_id.to_owned(), order.customer.clone(), order.currency.to_owned());
        if status != Status::Cancelled {
            let sum = self.tables.sums.entry((customer.clone(), currency.clone())).or_default();
            *sum = (sum.0 + 1, sum.1 + total);
        }
        self.tables.orders.push(OrderRow {
            order_id: id.clone(),
            sku: Some(mark(order.number)),
            customer_id: customer.clone(),
            currency,
            status: status.to_string(),
            total_cents: total,
        });
        for event_type in order.events() {
            self.tables.events.push(EventRow {
                order_id: id.clone(),
                message_id: format!("{order_id} {event_type}"),
                event_type: (*event_type).to_owned(),
                outcome: Some("applied".to_owned()),
            });
            self.tables.claims += 1;
        }
        for (status, total_cents) in order.told() {
            if order.has_address() {
                self.mails.push(Mail {
                    message_id: format!("<{order_id} {status}>"),
                    event_id: format!("{order_id} order.{status}"),
                    order_id: id.clone(),
                    status,
                    total_cents,
                    to: format!("{customer}@example.com"),
                });
            } else {
                self.tables.undeliverable.push((id.clone(), status.to_string()));
            }
        }
    }

    fn violations(&self) -> Vec<String> {
        Verdict::of(ORDERS, &self.book, &self.tables, &self.mails, CUTS).violations
    }
}

/// Damaged in this way, exactly this is told.
#[track_caller]
fn assert_told(expected: &[&str], damage: impl FnOnce(&mut World)) {
    let mut world = World::right();
    damage(&mut world);
    let violations = world.violations();
    assert_eq!(violations.len(), expected.len(), "{violations:#?}");
    for (violation, expected) in violations.iter().zip(expected) {
        assert!(violation.starts_with(expected), "{violation}, and not {expected}");
    }
}

#[test]
fn what_is_right_is_proven_and_a_mail_that_came_again_as_it_was_is_right() {
    assert_told(&[], |_| {});
    assert_told(&[], |world| world.mails.push(world.mails[7].clone()));
}

#[test]
fn an_order_that_was_answered_and_is_absent_is_found() {
    let absent = "1 orders were answered 201 and are absent";
    assert_told(&[absent], |world| drop(world.tables.orders.remove(3)));
}

#[test]
fn an_order_that_is_there_twice_or_that_nobody_was_answered_for_is_found() {
    assert_told(&["1 orders are there more than once"], |world| {
        let order_id = "another".to_owned();
        let twin = OrderRow { order_id, ..world.tables.orders[3].clone() };
        world.tables.orders.push(twin);
    });
    let of_nobody = "1 orders are there that no client was answered for";
    for sku in [None, Some("TEA-1".to_owned()), Some(mark(ORDERS + 5))] {
        assert_told(&[of_nobody], |world| {
            let order_id = "strange".to_owned();
            let row = OrderRow { order_id, sku, ..world.tables.orders[3].clone() };
            world.tables.orders.push(row);
        });
    }
}

#[test]
fn an_order_under_another_id_than_was_answered_is_found() {
    assert_told(&["1 orders have another id than was answered"], |world| {
        world.tables.orders[3].order_id = "another".to_owned();
    });
}

#[test]
fn an_order_that_was_never_answered_is_found() {
    let world = World::right();
    let verdict = Verdict::of(ORDERS + 1, &world.book, &world.tables, &world.mails, CUTS);
    assert_eq!(verdict.violations, ["1 orders were never answered"]);
}

#[test]
fn a_cent_too_much_another_status_customer_or_currency_is_found() {
    let wrong = "1 orders are not what was asked for";
    assert_told(&[wrong], |world| world.tables.orders[3].total_cents += 1);
    assert_told(&[wrong], |world| world.tables.orders[3].status = "fulfilled".to_owned());
    assert_told(&[wrong], |world| world.tables.orders[3].customer_id = "c".to_owned());
    assert_told(&[wrong], |world| world.tables.orders[3].currency = "CHF".to_owned());
}

#[test]
fn an_order_that_counts_twice_in_a_sum_and_a_sum_of_nobody_are_found() {
    assert_told(&["1 sums of customers are wrong"], |world| {
        let sum = world.tables.sums.values_mut().next().unwrap();
        *sum = (sum.0 * 2, sum.1 * 2);
    });
    assert_told(&["1 sums of customers are wrong"], |world| {
        world.tables.sums.insert(("c".to_owned(), "EUR".to_owned()), (1, 1));
    });
}

#[test]
fn an_event_that_was_accepted_twice_never_applied_or_claimed_without_a_request_is_found() {
    assert_told(
        &["1 orders have other events than were asked for", "1 accepted events"],
        |world| {
            let twin = EventRow { outcome: None, ..world.tables.events[0].clone() };
            world.tables.events.insert(0, twin);
            world.tables.claims += 1;
        },
    );
    for outcome in [None, Some("dead_lettered".to_owned())] {
        assert_told(&["1 accepted events were not applied"], |world| {
            world.tables.events[0].outcome = outcome;
        });
    }
    let mut world = World::right();
    world.tables.claims += 1;
    let violations = world.violations();
    assert!(violations.len() == 1 && violations[0].contains("claims for"), "{violations:?}");
    assert_told(&["1 rows wait in outboxes and queues"], |world| world.tables.left_over = 1);
}

#[test]
fn a_mail_that_is_missing_or_says_something_wrong_is_found() {
    assert_told(&["1 mails are missing"], |world| drop(world.mails.remove(3)));
    let wrong = "1 mails say something wrong";
    assert_told(&[wrong], |world| world.mails[3].total_cents += 1);
    assert_told(&[wrong], |world| world.mails[3].to = "c-9999@example.com".to_owned());
    assert_told(&[wrong], |world| world.mails[3].event_id = "of nothing".to_owned());
}

#[test]
fn a_mail_that_came_again_and_cannot_be_told_is_found() {
    let unlike = "1 mails came again and are not the same";
    assert_told(&[unlike], |world| {
        let message_id = "<another>".to_owned();
        world.mails.push(Mail { message_id, ..world.mails[3].clone() });
    });
    assert_told(&[unlike], |world| {
        let total_cents = world.mails[3].total_cents + 1;
        world.mails.push(Mail { total_cents, ..world.mails[3].clone() });
    });
}

#[test]
fn more_repeats_than_the_deaths_allow_are_found() {
    let allowed = CUTS * usize::from(MAILS_AT_ONCE);
    let repeat = |count| move |world: &mut World| world.mails.extend_from_within(..count);
    assert_told(&[], repeat(allowed));
    assert_told(&["13 repeats of mails, where 2 deaths"], repeat(allowed + 1));
    let thrice = |world: &mut World| {
        for _ in 0..=CUTS {
            world.mails.push(world.mails[3].clone());
        }
    };
    assert_told(&["1 mails came again more often than anything died"], thrice);
}

#[test]
fn a_mail_of_nothing_that_happened_and_a_message_id_for_two_are_found() {
    assert_told(&["1 mails are of nothing that happened"], |world| {
        let (message_id, status) = ("<other>".to_owned(), Status::Fulfilled);
        world.mails.push(Mail { message_id, status, ..world.mails[3].clone() });
    });
    assert_told(&["1 Message-IDs are of several mails"], |world| {
        world.mails[3].message_id = world.mails[4].message_id.clone();
    });
}

#[test]
fn dead_letters_that_have_no_business_and_those_that_are_missing_are_found() {
    assert_told(&["1 dead letters of orders"], |world| {
        world.tables.dead_letters.push("wrong_status".to_owned());
    });
    assert_told(&["1 mails are dead that could be sent"], |world| {
        world.tables.dead_mails.push("retries_exhausted".to_owned());
    });
    for damage in [
        (|undeliverable| drop(undeliverable.pop())) as fn(&mut Vec<(String, String)>),
        |undeliverable| undeliverable.push(undeliverable[0].clone()),
    ] {
        let mut world = World::right();
        damage(&mut world.tables.undeliverable);
        let violations = world.violations();
        assert_eq!(violations.len(), 1, "{violations:#?}");
        assert!(violations[0].contains("mails to customers without an address"));
    }
}
