//! An order as a client sees it: what was accepted, and what has become of it. Pure.

use order_events::OrderContent;
use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::decide::Standing;

/// The state of an order that has not taken effect yet.
pub(super) const ACCEPTED: &str = "accepted";
/// The state of an order that will not take effect.
pub(super) const DEAD_LETTERED: &str = "dead_lettered";

/// An order that the gateway has accepted.
#[derive(Debug, Clone)]
pub(super) struct Accepted {
    pub(super) standing: Standing,
    pub(super) version: i64,
    pub(super) created_at: OffsetDateTime,
    pub(super) updated_at: OffsetDateTime,
}

/// An order as the consumer has it.
#[derive(Debug, Clone)]
pub(super) struct Applied {
    pub(super) standing: Standing,
    pub(super) updated_at: OffsetDateTime,
}

/// An event that was accepted, and what has become of it.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) kind: String,
    pub(super) message_id: Uuid,
    pub(super) accepted_at: OffsetDateTime,
    pub(super) fate: Fate,
}

/// What has become of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing yet.
    Pending,
    /// It took effect, or is so old that its claim may have been purged.
    Settled,
    /// It will not take effect unless it is redriven.
    DeadLettered { code: String, reason: String },
}

/// What a client sees. The names are part of the API's contract.
#[derive(Debug, Serialize)]
pub(super) struct OrderView {
    order_id: Uuid,
    customer_id: String,
    /// What is the case.
    state: &'static str,
    /// What will be once everything accepted has taken effect, while something has not.
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted_state: Option<&'static str>,
    currency: String,
    total_cents: i64,
    items: Vec<Line>,
    #[serde(with = "time::serde::rfc3339")]
    placed_at: OffsetDateTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    created_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
    pending: Vec<PendingEvent>,
    dead_letters: Vec<DeadEvent>,
}

#[derive(Debug, Serialize)]
struct Line {
    sku: String,
    quantity: u32,
    unit_price_cents: i64,
}

#[derive(Debug, Serialize)]
struct PendingEvent {
    event: String,
    message_id: Uuid,
    #[serde(with = "time::serde::rfc3339")]
    accepted_at: OffsetDateTime,
}

#[derive(Debug, Serialize)]
struct DeadEvent {
    event: String,
    message_id: Uuid,
    code: String,
    reason: String,
}

/// The items as the database holds them.
pub(super) fn lines(content: &OrderContent) -> serde_json::Value {
    serde_json::json!(lines_of(content))
}

fn lines_of(content: &OrderContent) -> Vec<Line> {
    let line = |item: &order_events::Item| Line {
        sku: item.sku().as_str().to_owned(),
        quantity: item.quantity(),
        unit_price_cents: item.unit_price().get(),
    };
    content.items().iter().map(line).collect()
}

/// What a client sees of an order; `None` if there is none. Events come in their order.
pub(super) fn view(
    accepted: Option<&Accepted>,
    applied: Option<&Applied>,
    events: Vec<Event>,
) -> Option<OrderView> {
    let is_pending = events.iter().any(|event| event.fate == Fate::Pending);
    let in_effect = applied.filter(|applied| is_same_order(accepted, applied));
    let shown = match (accepted, in_effect) {
        (Some(accepted), _) if is_pending => &accepted.standing,
        (_, Some(applied)) => &applied.standing,
        (Some(accepted), None) => &accepted.standing,
        (None, None) => return None,
    };
    let is_dead = |event: &Event| matches!(event.fate, Fate::DeadLettered { .. });
    let state = match in_effect {
        Some(applied) => applied.standing.status.as_str(),
        None if !is_pending && events.last().is_some_and(is_dead) => DEAD_LETTERED,
        None => ACCEPTED,
    };
    let times = [accepted.map(|row| row.updated_at), in_effect.map(|row| row.updated_at)];
    let content = &shown.content;
    let mut view = OrderView {
        order_id: content.order_id(),
        customer_id: content.customer_id().to_string(),
        state,
        accepted_state: accepted
            .filter(|_| is_pending)
            .map(|accepted| accepted.standing.status.as_str()),
        currency: content.currency().to_string(),
        total_cents: content.total().get(),
        items: lines_of(content),
        placed_at: content.placed_at(),
        version: accepted.map(|row| row.version),
        created_at: accepted.map(|row| row.created_at),
        updated_at: times.into_iter().flatten().max()?,
        pending: Vec::new(),
        dead_letters: Vec::new(),
    };
    for Event { kind: event, message_id, accepted_at, fate } in events {
        match fate {
            Fate::Settled => {}
            Fate::Pending => view.pending.push(PendingEvent { event, message_id, accepted_at }),
            Fate::DeadLettered { code, reason } => {
                view.dead_letters.push(DeadEvent { event, message_id, code, reason });
            }
        }
    }
    Some(view)
}

/// An id may have been used by another customer's order that came by another way. That one is in
/// effect; what was accepted here is not.
pub(super) fn is_same_order(accepted: Option<&Accepted>, applied: &Applied) -> bool {
    accepted.is_none_or(|accepted| {
        accepted.standing.content.customer_id() == applied.standing.content.customer_id()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use order_events::{Cents, Currency, CustomerId, Item, Sku, Status};

    const NOW: OffsetDateTime = time::macros::datetime!(2026-01-03 10:00 UTC);

    fn standing(status: Status, customer: &str, quantity: i64) -> Standing {
        let tea = Item::new(Sku::new("TEA-1").unwrap(), quantity, Cents::new(450)).unwrap();
        let (customer, euro) = (CustomerId::new(customer), Currency::new("EUR"));
        let content =
            OrderContent::new(Uuid::nil(), customer.unwrap(), euro.unwrap(), vec![tea], NOW);
        Standing { status, content: content.unwrap() }
    }

    fn accepted(status: Status) -> Accepted {
        let standing = standing(status, "c", 1);
        Accepted { standing, version: 1, created_at: NOW, updated_at: NOW }
    }

    fn applied(status: Status, customer: &str) -> Applied {
        Applied { standing: standing(status, customer, 2), updated_at: NOW }
    }

    fn event(event: &str, fate: Fate) -> Event {
        Event { kind: event.to_owned(), message_id: Uuid::nil(), accepted_at: NOW, fate }
    }

    fn dead() -> Fate {
        Fate::DeadLettered { code: "wrong_status".to_owned(), reason: "it is paid".to_owned() }
    }

    #[test]
    fn the_state_is_what_is_the_case_and_not_what_was_asked_for() {
        let placed = accepted(Status::Placed);
        let state = |accepted: &Accepted, applied: Option<&Applied>, events: Vec<Event>| {
            view(Some(accepted), applied, events).unwrap().state
        };
        let pending = || vec![event("order.placed", Fate::Pending)];
        assert_eq!(state(&placed, None, pending()), "accepted");
        assert_eq!(state(&placed, None, vec![event("order.placed", dead())]), "dead_lettered");
        let in_effect = applied(Status::Placed, "c");
        assert_eq!(state(&placed, Some(&in_effect), Vec::new()), "placed");
        let paid = accepted(Status::Paid);
        let pay = vec![event("order.placed", Fate::Settled), event("order.paid", Fate::Pending)];
        let view = view(Some(&paid), Some(&in_effect), pay).unwrap();
        assert_eq!((view.state, view.accepted_state), ("placed", Some("paid")));
        assert_eq!(view.pending.len(), 1);
    }

    #[test]
    fn another_customers_order_under_the_id_is_not_shown_for_the_accepted_one() {
        let (placed, others) = (accepted(Status::Placed), applied(Status::Paid, "d"));
        let view = view(Some(&placed), Some(&others), vec![event("order.placed", dead())]).unwrap();
        assert_eq!((view.state, view.customer_id.as_str()), ("dead_lettered", "c"));
        assert_eq!(view.dead_letters[0].code, "wrong_status");
    }

    #[test]
    fn what_is_pending_is_shown_as_accepted_and_what_is_settled_as_applied() {
        let (placed, in_effect) = (accepted(Status::Placed), applied(Status::Placed, "c"));
        let total = |events| view(Some(&placed), Some(&in_effect), events).unwrap().total_cents;
        assert_eq!(total(vec![event("order.amended", Fate::Pending)]), 450);
        assert_eq!(total(vec![event("order.amended", Fate::Settled)]), 900);
        assert_eq!(total(vec![event("order.amended", dead())]), 900);
        assert_eq!(view(None, Some(&in_effect), Vec::new()).unwrap().total_cents, 900);
        assert!(view(None, None, Vec::new()).is_none());
    }
}
