//! The relay's side of the outbox: the lease, and which rows go next.

use std::collections::VecDeque;
use std::io::ErrorKind::TimedOut;
use std::time::{Duration, Instant};

use sqlx::PgConnection;
use tokio::time::timeout;

use super::{Pace, RelayError};
use crate::failpoint::failpoint;
use crate::store::outbox::{OutboxRow, Waiting};
use crate::store::{copies, outbox};

pub(super) const LEASE: Duration = Duration::from_secs(15);
pub(super) const RENEW_AFTER: Duration = Duration::from_secs(5);
/// A server that is gone gives no answer at all; one that is there ends a statement before.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
/// Read at a time, at most.
const BYTES: i64 = 1024 * 1024;
/// So many rows at a time were not all there are, probably.
const MANY: usize = 400;

/// What the relay changes, and what it looks for.
pub(super) struct Table<'a> {
    connection: &'a mut PgConnection,
    holder: &'a str,
    pace: Pace,
    leased_at: Option<Instant>,
    /// What looks have told of, and is not taken yet.
    waiting: VecDeque<Waiting>,
    /// Whether the last look told of as much as one can.
    may_be_more: bool,
}

impl<'a> Table<'a> {
    pub(super) fn new(connection: &'a mut PgConnection, holder: &'a str, pace: Pace) -> Self {
        let waiting = VecDeque::new();
        Self { connection, holder, pace, leased_at: None, waiting, may_be_more: false }
    }

    /// Takes the lease, or renews it where it is time to; `false` while another relay holds it.
    pub(super) async fn take_lease(&mut self) -> Result<bool, RelayError> {
        if self.leased_at.is_none_or(|at| at.elapsed() > RENEW_AFTER) {
            let (lease, asked_at) = (LEASE.as_secs_f64(), Instant::now());
            let taken = answered(outbox::take_lease(self.connection, self.holder, lease)).await?;
            if !taken || has_lapsed(self.leased_at) {
                // Another relay may have been at them.
                self.forget();
            }
            self.leased_at = taken.then_some(asked_at);
        }
        Ok(self.leased_at.is_some())
    }

    /// The same where rows are read or under way. One that has lapsed is lost, also if nobody has it now:
    /// another relay may have published them.
    pub(super) async fn renew_lease(&mut self) -> Result<(), RelayError> {
        let before = self.leased_at;
        let taken = self.take_lease().await;
        match taken {
            _ if has_lapsed(before) => Err(RelayError::LeaseLost),
            Ok(true) => Ok(()),
            Ok(false) => Err(RelayError::LeaseLost),
            Err(error) => Err(error),
        }
    }

    /// The next rows that may go out.
    pub(super) async fn read(&mut self) -> Result<Vec<OutboxRow>, RelayError> {
        if self.waiting.is_empty() {
            self.look(&[]).await?;
            self.renew_lease().await?;
        }
        let ids = self.take();
        answered(outbox::read(self.connection, &ids)).await
    }

    async fn look(&mut self, besides: &[i64]) -> Result<(), RelayError> {
        let most = self.pace.rows_of_a_look();
        let found = answered(outbox::look(self.connection, most, besides)).await?;
        self.may_be_more = i64::try_from(found.len()) == Ok(most);
        self.waiting.extend(found);
        Ok(())
    }

    /// Looks anew from here on: where rows that were taken did not go out, or another relay may have sent
    /// some, those that are known are no longer the next.
    pub(super) fn forget(&mut self) {
        self.waiting.clear();
    }

    /// Whether there are rows to take without a look.
    pub(super) fn knows_of_some(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes the next of the rows that are known, as many as are read at a time.
    pub(super) fn take(&mut self) -> Vec<i64> {
        let (mut ids, mut bytes) = (Vec::new(), 0);
        while let Some(next) = self.waiting.front() {
            bytes += next.bytes;
            if ids.len() == self.pace.rows() || (bytes > BYTES && !ids.is_empty()) {
                break;
            }
            ids.push(next.id);
            self.waiting.pop_front();
        }
        ids
    }

    /// Removes rows that Kafka has acknowledged, and forgets their ids.
    pub(super) async fn remove(&mut self, acknowledged: &mut Vec<i64>) -> Result<(), RelayError> {
        if acknowledged.is_empty() {
            return Ok(());
        }
        failpoint("relay.after_send_before_delete");
        answered(outbox::delete(self.connection, acknowledged)).await?;
        failpoint("relay.after_delete");
        metrics::counter!("idempotent_consumer_outbox_published_total")
            .increment(acknowledged.len() as u64);
        acknowledged.clear();
        Ok(())
    }

    /// The same, and looks for more in time: other than those that are `taken` and those `under_way`. Not where
    /// few are taken, and few were `added` to those under way last: then there were no more.
    pub(super) async fn remove_and_look(
        &mut self,
        acknowledged: &mut Vec<i64>,
        added: usize,
        taken: &[i64],
        under_way: &[i64],
    ) -> Result<(), RelayError> {
        self.remove(acknowledged).await?;
        let are_many = self.may_be_more || added.max(taken.len()) >= MANY;
        if are_many && self.waiting.len() < self.pace.rows() {
            self.renew_lease().await?;
            let mut besides = [taken, under_way].concat();
            besides.extend(self.waiting.iter().map(|waiting| waiting.id));
            self.look(&besides).await?;
        }
        Ok(())
    }

    /// A record that is too large goes without its value from now on.
    pub(super) async fn omit_value(&mut self, id: i64) -> Result<(), RelayError> {
        answered(outbox::omit_value(self.connection, id)).await
    }

    pub(super) async fn note_refused(&mut self, id: i64, reason: &str) -> Result<(), RelayError> {
        if answered(copies::refused(self.connection, id, reason)).await? {
            tracing::warn!(
                reason,
                "Kafka refuses a redriven record; its dead letter is open again"
            );
        } else {
            tracing::error!(id, reason, "Kafka refuses a record of the outbox");
            answered(outbox::mark_refused(self.connection, id, reason)).await?;
        }
        Ok(())
    }
}

fn has_lapsed(leased_at: Option<Instant>) -> bool {
    leased_at.is_some_and(|at| at.elapsed() > LEASE)
}

/// Gives the lease back, so that the next relay need not wait for its end.
pub(super) async fn give_lease_back(
    connection: &mut PgConnection,
    holder: &str,
) -> Result<(), RelayError> {
    answered(outbox::give_lease_back(connection, holder)).await
}

async fn answered<T>(
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, RelayError> {
    Ok(within(ANSWERED_WITHIN, answer).await?)
}

/// The answer of a server that may be gone.
pub(super) async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let is_late = || sqlx::Error::Io(std::io::Error::new(TimedOut, "no answer in time"));
    timeout(limit, answer).await.unwrap_or_else(|_| Err(is_late()))
}
