//! The life of an order as a pure function.

use std::fmt;

use crate::event::EventKind;

/// Where an order stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// It came in and may still be amended.
    Placed,
    /// It was paid.
    Paid,
    /// It was delivered; nothing follows.
    Fulfilled,
    /// It was called off; nothing follows.
    Cancelled,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Placed, Self::Paid, Self::Fulfilled, Self::Cancelled];

    /// The name as stored, such as `placed`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Placed => "placed",
            Self::Paid => "paid",
            Self::Fulfilled => "fulfilled",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// Where an order stands after an event, given where it stood (`None`: no such order).
    ///
    /// `order.placed` for an order that exists is rejected here. That the same content placed
    /// again is applied without effect needs the stored content, so the caller compares first.
    pub fn apply(current: Option<Self>, event: EventKind) -> Result<Self, Rejection> {
        match (current, event) {
            (None, EventKind::Placed) | (Some(Self::Placed), EventKind::Amended) => {
                Ok(Self::Placed)
            }
            (Some(_), EventKind::Placed) => Err(Rejection::OrderExists),
            (None, _) => Err(Rejection::OrderNotFound),
            (Some(Self::Placed), EventKind::Paid) => Ok(Self::Paid),
            (Some(Self::Paid), EventKind::Fulfilled) => Ok(Self::Fulfilled),
            (Some(Self::Placed | Self::Paid), EventKind::Cancelled) => Ok(Self::Cancelled),
            (Some(status), event) => Err(Rejection::WrongStatus { status, event }),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a valid event is not applied to the order it names. Final: it becomes a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// `order.placed` for an order that exists with other content.
    #[error(
        "the order exists with other content; change it with order.amended, or use a new order_id"
    )]
    OrderExists,
    /// Any other event for an order that does not exist.
    #[error("the order does not exist; its order.placed has to come before")]
    OrderNotFound,
    /// The order stands where this event can't follow.
    #[error("the order is {status}, which {event} can't follow")]
    WrongStatus {
        /// Where the order stands.
        status: Status,
        /// What came.
        event: EventKind,
    },
    /// The event names another customer than its order's.
    #[error("the order belongs to another customer than the event names")]
    CustomerMismatch,
}

impl Rejection {
    /// The stable machine code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::OrderExists => "order_exists",
            Self::OrderNotFound => "order_not_found",
            Self::WrongStatus { .. } => "wrong_status",
            Self::CustomerMismatch => "customer_mismatch",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_status_and_event_has_the_outcome_of_the_table() {
        use EventKind as E;
        use Status as S;
        let allowed = [
            (None, E::Placed, S::Placed),
            (Some(S::Placed), E::Amended, S::Placed),
            (Some(S::Placed), E::Paid, S::Paid),
            (Some(S::Paid), E::Fulfilled, S::Fulfilled),
            (Some(S::Placed), E::Cancelled, S::Cancelled),
            (Some(S::Paid), E::Cancelled, S::Cancelled),
        ];
        for current in std::iter::once(None).chain(S::ALL.map(Some)) {
            for event in E::ALL {
                let expected = allowed.iter().find(|(c, e, _)| (*c, *e) == (current, event));
                let got = Status::apply(current, event);
                assert_eq!(got.ok(), expected.map(|(_, _, next)| *next), "{current:?} {event}");
            }
        }
    }

    #[test]
    fn a_rejection_says_whether_the_order_exists_is_missing_or_stands_elsewhere() {
        let code = |current, event| Status::apply(current, event).unwrap_err().code();
        assert_eq!(code(Some(Status::Paid), EventKind::Placed), "order_exists");
        assert_eq!(code(None, EventKind::Paid), "order_not_found");
        assert_eq!(code(Some(Status::Fulfilled), EventKind::Cancelled), "wrong_status");
    }

    #[test]
    fn the_names_of_statuses_round_trip() {
        for status in Status::ALL {
            assert_eq!(Status::from_name(status.as_str()), Some(status));
        }
        assert_eq!(Status::from_name("lost"), None);
    }
}
