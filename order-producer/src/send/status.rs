//! `pay`, `fulfill` and `cancel`.

use clap::Args;
use order_events::{CustomerId, EventKind, OrderEvent, Reason, StatusChange};
use uuid::Uuid;

use super::{Identity, publish};
use crate::Exit;
use crate::cli::{App, Connection};

/// A change of an order's status.
#[derive(Args)]
#[command(after_help = "\
Example:
  order-producer cancel 0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3 --customer c-17 --reason 'changed my mind'

An order goes placed -> paid -> fulfilled, and can be cancelled until it is fulfilled. Whether the
event applies is decided where it is consumed: it is published in any case.")]
pub struct StatusArgs {
    /// The order
    #[arg(value_name = "ORDER_ID", env = "ORDER_PRODUCER_ORDER_ID", hide_env_values = true)]
    order_id: Uuid,

    /// Customer whose order it is
    #[arg(
        long,
        value_name = "ID",
        env = "ORDER_PRODUCER_CUSTOMER",
        hide_env_values = true,
        value_parser = CustomerId::new
    )]
    customer: CustomerId,

    /// Why, in up to 1024 characters
    #[arg(
        long,
        value_name = "TEXT",
        env = "ORDER_PRODUCER_REASON",
        hide_env_values = true,
        value_parser = Reason::new
    )]
    reason: Option<Reason>,

    #[command(flatten)]
    identity: Identity,

    #[command(flatten, next_help_heading = "Kafka and output")]
    connection: Connection,
}

impl StatusArgs {
    pub(crate) fn run(&self, app: &App, kind: EventKind) -> anyhow::Result<Exit> {
        let change = StatusChange {
            order_id: self.order_id,
            customer_id: self.customer.clone(),
            reason: self.reason.clone(),
        };
        let event = match kind {
            EventKind::Fulfilled => OrderEvent::Fulfilled(change),
            EventKind::Cancelled => OrderEvent::Cancelled(change),
            EventKind::Paid | EventKind::Placed | EventKind::Amended => OrderEvent::Paid(change),
        };
        publish(app, &self.connection, &event, &self.identity)
    }
}
