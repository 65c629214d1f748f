//! What becomes of a request for an order. Pure.

use order_events::{CustomerId, OrderContent, OrderEvent, Reason, Rejection, Status, StatusChange};
use time::OffsetDateTime;
use uuid::Uuid;

use super::body::{BodyError, Draft};

/// What a client asks for.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    /// The order under the client's id is to be this.
    Put { order_id: Uuid, draft: Draft, now: OffsetDateTime },
    /// The order is paid.
    Pay { order_id: Uuid, reason: Option<Reason> },
    /// The order is called off.
    Cancel { order_id: Uuid },
}

impl Wanted {
    /// The order it is about.
    pub(super) fn order_id(&self) -> Uuid {
        match self {
            Self::Put { order_id, .. } | Self::Pay { order_id, .. } | Self::Cancel { order_id } => {
                *order_id
            }
        }
    }
}

/// An order as the next event will find it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Standing {
    pub(super) status: Status,
    pub(super) content: OrderContent,
}

/// How the next event will find an order: as accepted while something accepted has no outcome yet,
/// and as the consumer has it once everything has one. For what was dead-lettered did not happen, and
/// events may come from elsewhere.
pub(super) fn standing(
    accepted: Option<Standing>,
    is_pending: bool,
    applied: Option<Standing>,
) -> Option<Standing> {
    match accepted {
        Some(accepted) if is_pending => Some(accepted),
        _ => applied,
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Decision {
    /// Accept this event, after which the order stands so.
    Publish(OrderEvent, Standing),
    /// It is so already.
    Nothing,
    /// It can't be.
    Refuse(Rejection),
}

/// Decides on a request by the same rules as the consumer will.
pub(super) fn decide(current: Option<&Standing>, wanted: Wanted) -> Result<Decision, BodyError> {
    Ok(match wanted {
        Wanted::Put { order_id, draft, now } => {
            // A client that names no time means the one that the order has.
            let otherwise = current.map_or(now, |current| current.content.placed_at());
            put(current, draft.content(order_id, otherwise)?)
        }
        Wanted::Pay { reason, .. } => change(current, OrderEvent::Paid, reason),
        Wanted::Cancel { .. } => match current {
            Some(Standing { status: Status::Cancelled, .. }) => Decision::Nothing,
            _ => change(current, OrderEvent::Cancelled, None),
        },
    })
}

/// A new order: its event, and how it stands then.
pub(super) fn placed(content: OrderContent) -> (OrderEvent, Standing) {
    let standing = Standing { status: Status::Placed, content: content.clone() };
    (OrderEvent::Placed(content), standing)
}

fn put(current: Option<&Standing>, content: OrderContent) -> Decision {
    let Some(current) = current else {
        let (event, standing) = placed(content);
        return Decision::Publish(event, standing);
    };
    if current.content.customer_id() != content.customer_id() {
        return Decision::Refuse(Rejection::CustomerMismatch);
    }
    if current.content == content {
        return Decision::Nothing;
    }
    publish(current, OrderEvent::Amended(content.clone()), content)
}

fn change(
    current: Option<&Standing>,
    event: fn(StatusChange) -> OrderEvent,
    reason: Option<Reason>,
) -> Decision {
    let Some(current) = current else { return Decision::Refuse(Rejection::OrderNotFound) };
    let customer_id: CustomerId = current.content.customer_id().clone();
    let order_id = current.content.order_id();
    publish(current, event(StatusChange { order_id, customer_id, reason }), current.content.clone())
}

fn publish(current: &Standing, event: OrderEvent, content: OrderContent) -> Decision {
    match Status::apply(Some(current.status), event.kind()) {
        Ok(status) => Decision::Publish(event, Standing { status, content }),
        Err(rejection) => Decision::Refuse(rejection),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use order_events::{Cents, Currency, EventKind, Item, Sku};

    const NOW: OffsetDateTime = time::macros::datetime!(2026-01-03 10:00 UTC);

    fn draft(customer: &str, quantity: i64) -> Draft {
        let tea = Item::new(Sku::new("TEA-1").unwrap(), quantity, Cents::new(450)).unwrap();
        Draft {
            customer_id: CustomerId::new(customer).unwrap(),
            currency: Currency::new("EUR").unwrap(),
            items: vec![tea],
            placed_at: None,
        }
    }

    fn at(status: Status) -> Standing {
        let then = NOW - time::Duration::DAY;
        Standing { status, content: draft("c", 1).content(Uuid::nil(), then).unwrap() }
    }

    fn put(current: Option<&Standing>, draft: Draft) -> Decision {
        decide(current, Wanted::Put { order_id: Uuid::nil(), draft, now: NOW }).unwrap()
    }

    fn kind(decision: &Decision) -> Option<EventKind> {
        match decision {
            Decision::Publish(event, _) => Some(event.kind()),
            _ => None,
        }
    }

    #[test]
    fn a_put_places_amends_or_does_nothing() {
        assert_eq!(kind(&put(None, draft("c", 1))), Some(EventKind::Placed));
        for status in Status::ALL {
            assert_eq!(put(Some(&at(status)), draft("c", 1)), Decision::Nothing, "{status}");
        }
        assert_eq!(kind(&put(Some(&at(Status::Placed)), draft("c", 2))), Some(EventKind::Amended));
        for status in [Status::Paid, Status::Fulfilled, Status::Cancelled] {
            let refused = put(Some(&at(status)), draft("c", 2));
            assert!(matches!(refused, Decision::Refuse(Rejection::WrongStatus { .. })), "{status}");
        }
        let other = put(Some(&at(Status::Placed)), draft("d", 1));
        assert_eq!(other, Decision::Refuse(Rejection::CustomerMismatch));
    }

    #[test]
    fn cancelling_again_does_nothing_and_what_was_delivered_stays() {
        let cancel = |current: Option<&Standing>| {
            decide(current, Wanted::Cancel { order_id: Uuid::nil() }).unwrap()
        };
        assert_eq!(kind(&cancel(Some(&at(Status::Placed)))), Some(EventKind::Cancelled));
        assert_eq!(kind(&cancel(Some(&at(Status::Paid)))), Some(EventKind::Cancelled));
        assert_eq!(cancel(Some(&at(Status::Cancelled))), Decision::Nothing);
        assert!(matches!(cancel(Some(&at(Status::Fulfilled))), Decision::Refuse(_)));
        assert_eq!(cancel(None), Decision::Refuse(Rejection::OrderNotFound));
    }

    #[test]
    fn an_order_stands_as_accepted_until_its_events_have_their_outcomes() {
        let (accepted, applied) = (Some(at(Status::Paid)), Some(at(Status::Placed)));
        assert_eq!(standing(accepted.clone(), true, applied.clone()), accepted);
        assert_eq!(standing(accepted.clone(), false, applied.clone()), applied);
        // It was dead-lettered: it may be placed anew.
        assert_eq!(standing(accepted, false, None), None);
        // It came by another way than this gateway.
        assert_eq!(standing(None, false, applied.clone()), applied);
    }
}
