//! The relay's side of the outbox: the lease, and the rows.

use std::time::{Duration, Instant};

use sqlx::PgConnection;

use super::RelayError;
use crate::failpoint::failpoint;
use crate::store::outbox::OutboxRow;
use crate::store::{copies, outbox};

pub(super) use crate::store::outbox::give_lease_back;

pub(super) const LEASE: Duration = Duration::from_secs(15);
pub(super) const RENEW_AFTER: Duration = Duration::from_secs(5);
/// Of a round, at most.
const BYTES: i64 = 1024 * 1024;

pub(super) struct Table<'a> {
    connection: &'a mut PgConnection,
    holder: &'a str,
    leased_at: Option<Instant>,
}

impl<'a> Table<'a> {
    pub(super) fn new(connection: &'a mut PgConnection, holder: &'a str) -> Self {
        Self { connection, holder, leased_at: None }
    }

    /// Takes the lease, or renews it where it is time to; `false` while another relay holds it.
    pub(super) async fn take_lease(&mut self) -> Result<bool, sqlx::Error> {
        if self.leased_at.is_none_or(|at| at.elapsed() > RENEW_AFTER) {
            let lease = LEASE.as_secs_f64();
            let taken = outbox::take_lease(self.connection, self.holder, lease).await?;
            self.leased_at = taken.then(Instant::now);
        }
        Ok(self.leased_at.is_some())
    }

    /// The same while rows are under way.
    pub(super) async fn renew_lease(&mut self) -> Result<(), RelayError> {
        if self.take_lease().await? { Ok(()) } else { Err(RelayError::LeaseLost) }
    }

    /// The next rows that may go out, so many at most, besides those.
    pub(super) async fn read(
        &mut self,
        rows: usize,
        besides: &[i64],
    ) -> Result<Vec<OutboxRow>, RelayError> {
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        Ok(outbox::select(self.connection, rows, BYTES, besides).await?)
    }

    /// Removes rows that Kafka has acknowledged, and forgets their ids.
    pub(super) async fn remove(&mut self, acknowledged: &mut Vec<i64>) -> Result<(), RelayError> {
        if acknowledged.is_empty() {
            return Ok(());
        }
        failpoint("relay.after_send_before_delete");
        outbox::delete(self.connection, acknowledged).await?;
        failpoint("relay.after_delete");
        metrics::counter!("idempotent_consumer_outbox_published_total")
            .increment(acknowledged.len() as u64);
        acknowledged.clear();
        Ok(())
    }

    /// A record that is too large goes without its value from now on.
    pub(super) async fn omit_value(&mut self, id: i64) -> Result<(), RelayError> {
        Ok(outbox::omit_value(self.connection, id).await?)
    }

    pub(super) async fn note_refused(&mut self, id: i64, reason: &str) -> Result<(), RelayError> {
        if copies::refused(self.connection, id, reason).await? {
            tracing::warn!(
                reason,
                "Kafka refuses a redriven record; its dead letter is open again"
            );
        } else {
            tracing::error!(id, reason, "Kafka refuses a record of the outbox");
            outbox::mark_refused(self.connection, id, reason).await?;
        }
        Ok(())
    }
}
