//! The events. What is not checked here is checked by the types they are made of.

use std::fmt;

use uuid::Uuid;

use crate::error::{EventError, excerpt};
use crate::order::OrderContent;
use crate::text::{CustomerId, Reason};

/// What happened to an order, without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// The order came in.
    Placed,
    /// Its content was replaced.
    Amended,
    /// It was paid.
    Paid,
    /// It was delivered.
    Fulfilled,
    /// It was called off.
    Cancelled,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 5] =
        [Self::Placed, Self::Amended, Self::Paid, Self::Fulfilled, Self::Cancelled];

    /// The type as the record names it, such as `order.placed`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Placed => "order.placed",
            Self::Amended => "order.amended",
            Self::Paid => "order.paid",
            Self::Fulfilled => "order.fulfilled",
            Self::Cancelled => "order.cancelled",
        }
    }

    /// The kind that a record's type names.
    pub fn from_type(name: &str) -> Result<Self, EventError> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == name)
            .ok_or_else(|| EventError::UnknownType { name: excerpt(name) })
    }

    /// Whether the event carries an order's content rather than a change of status.
    pub const fn has_content(self) -> bool {
        matches!(self, Self::Placed | Self::Amended)
    }

    /// The name and version of the payload, sent as `ce_dataschema`.
    pub const fn dataschema(self) -> &'static str {
        match self {
            Self::Placed => "urn:order-events:order.placed:1",
            Self::Amended => "urn:order-events:order.amended:1",
            Self::Paid => "urn:order-events:order.paid:1",
            Self::Fulfilled => "urn:order-events:order.fulfilled:1",
            Self::Cancelled => "urn:order-events:order.cancelled:1",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One event of one order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderEvent {
    /// `order.placed`
    Placed(OrderContent),
    /// `order.amended`: replaces the content of an order that is still placed.
    Amended(OrderContent),
    /// `order.paid`
    Paid(StatusChange),
    /// `order.fulfilled`
    Fulfilled(StatusChange),
    /// `order.cancelled`
    Cancelled(StatusChange),
}

impl OrderEvent {
    /// What happened.
    pub fn kind(&self) -> EventKind {
        match self {
            Self::Placed(_) => EventKind::Placed,
            Self::Amended(_) => EventKind::Amended,
            Self::Paid(_) => EventKind::Paid,
            Self::Fulfilled(_) => EventKind::Fulfilled,
            Self::Cancelled(_) => EventKind::Cancelled,
        }
    }

    /// The order it happened to.
    pub fn order_id(&self) -> Uuid {
        match self {
            Self::Placed(content) | Self::Amended(content) => content.order_id(),
            Self::Paid(change) | Self::Fulfilled(change) | Self::Cancelled(change) => {
                change.order_id
            }
        }
    }

    /// Whose order it is; the record's key.
    pub fn customer_id(&self) -> &CustomerId {
        match self {
            Self::Placed(content) | Self::Amended(content) => content.customer_id(),
            Self::Paid(change) | Self::Fulfilled(change) | Self::Cancelled(change) => {
                &change.customer_id
            }
        }
    }

    /// The order's content, of the events that carry it.
    pub fn content(&self) -> Option<&OrderContent> {
        match self {
            Self::Placed(content) | Self::Amended(content) => Some(content),
            Self::Paid(_) | Self::Fulfilled(_) | Self::Cancelled(_) => None,
        }
    }
}

/// A change of an order's status. Valid by the types of its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusChange {
    /// The order.
    pub order_id: Uuid,
    /// Whose order it is.
    pub customer_id: CustomerId,
    /// Why, if anybody said.
    pub reason: Option<Reason>,
}
