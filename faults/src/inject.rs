//! Each kind: how it comes, and how it is healed.

mod database;
mod dlq;
mod links;
mod processes;
mod servers;

use std::time::Duration;

use crate::fault::{Fault, Kind};
use crate::random::Random;
use crate::stage::Stage;

/// Brings a fault, lets it be, and takes it away. An error means that this could not be done.
pub(crate) async fn suffer(stage: &Stage<'_>, fault: &Fault) -> anyhow::Result<()> {
    let lasts = Duration::from_millis(fault.for_ms);
    let mut random = Random::new(stage.plan.seed, 100 + fault.at_ms);
    match fault.kind {
        Kind::ConsumerKilled => processes::kill_consumer(stage, fault.what, lasts).await,
        Kind::ProducerKilled => processes::kill_producer(stage, fault.what).await,
        Kind::ConsumerFrozen => processes::freeze(stage, lasts, &mut random).await,
        Kind::ConsumersComeAndGo => processes::come_and_go(stage, lasts, &mut random).await,
        Kind::ClockStepped => processes::step_clock(stage, fault.what, lasts).await,
        Kind::BrokerKilled => servers::kill_broker(stage, lasts).await,
        Kind::DatabaseKilled => servers::kill_database(stage, lasts).await,
        Kind::DatabaseSetBack => servers::set_back(stage, lasts).await,
        Kind::DiskFull => servers::fill_disk(stage, lasts).await,
        Kind::BackendsTerminated => {
            database::strike(stage, "pg_terminate_backend(pid)", lasts, &mut random).await
        }
        Kind::StatementsCancelled => {
            database::strike(stage, "pg_cancel_backend(pid)", lasts, &mut random).await
        }
        Kind::CustomersRefused => database::refuse_customers(stage, lasts, fault.at_ms == 0).await,
        Kind::TablesLocked => database::lock(stage, lasts, &mut random).await,
        Kind::ConnectionsCut => links::cut(stage, fault.what, lasts, &mut random).await,
        Kind::ConnectionsDelayed
        | Kind::ConnectionsThrottled
        | Kind::ConnectionsHalfClosed
        | Kind::ConnectionsSilent => links::harm(stage, fault.what, lasts).await,
        Kind::CommitCut | Kind::AcknowledgementCut => {
            links::cut_exactly(stage, fault.kind, fault.what, lasts).await
        }
        Kind::DlqDeleted => dlq::delete(stage, lasts).await,
        Kind::DlqRefused => dlq::refuse(stage, lasts).await,
        Kind::DlqTooSmall => dlq::shrink(stage, lasts).await,
    }
}
