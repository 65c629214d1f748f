//! The second connection, on which rows are read while the first removes others.

use std::time::{Duration, Instant};

use sqlx::PgConnection;

use super::table::{RENEW_AFTER, within};
use super::{Relay, RelayError};
use crate::store::outbox::{self, OutboxRow};

/// How long rows that are under way wait for the connection.
const MADE_WITHIN: Duration = Duration::from_secs(2);
/// How long the relay then goes on with one.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// How long one that nothing is read on is kept.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// Makes its connection for the first rows that it reads.
pub(super) struct Reader<'a> {
    relay: &'a Relay,
    connection: Option<PgConnection>,
    used_at: Instant,
    /// When there was none to be had.
    refused_at: Option<Instant>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(relay: &'a Relay) -> Self {
        Self { relay, connection: None, used_at: Instant::now(), refused_at: None }
    }

    /// Whether it is worth asking. If not, the connection that holds the lease reads in its time.
    pub(super) fn may_read(&self) -> bool {
        self.refused_at.is_none_or(|at| at.elapsed() > AGAIN_AFTER)
    }

    /// There is nothing to read.
    pub(super) fn rests(&mut self) {
        if self.used_at.elapsed() > KEPT_FOR {
            self.connection = None;
        }
    }

    /// Where there is no connection to be had there are no rows.
    pub(super) async fn read(&mut self, ids: &[i64]) -> Result<Vec<OutboxRow>, RelayError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let made = match self.connection.take() {
            Some(connection) => Ok(connection),
            None => within(MADE_WITHIN, self.relay.connect()).await,
        };
        let mut connection = match made {
            Ok(connection) => connection,
            Err(error) => {
                if self.refused_at.replace(Instant::now()).is_none() {
                    tracing::warn!("outbox relay: goes on with one connection: {error}");
                }
                return Ok(Vec::new());
            }
        };
        self.refused_at = None;
        // Another relay is not to have the lease before this has an end.
        let rows = within(RENEW_AFTER, outbox::read(&mut connection, ids)).await?;
        (self.connection, self.used_at) = (Some(connection), Instant::now());
        Ok(rows)
    }
}
