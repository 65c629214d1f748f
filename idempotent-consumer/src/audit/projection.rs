//! What the application brings: its tables, recomputed from the events that were applied.

use std::future::Future;

use sqlx::PgConnection;

use super::report::Invariant;
use crate::message::{MessageId, Record};

/// An event with an outcome `applied`, and its place in the order of application.
#[derive(Debug)]
pub struct Applied<'a> {
    /// Id of the message.
    pub id: MessageId,
    /// The record that was applied.
    pub record: &'a Record,
    /// The transaction that applied it. Transactions of one partition have rising numbers, and
    /// within one transaction the offset decides.
    pub batch_seq: i64,
}

/// What [`Projection::compare`] is told about the events before it.
#[derive(Clone, Copy, Debug)]
pub struct History {
    /// Whether every applied event was handed to [`Projection::apply`]. If not, effects may stem
    /// from events that the log no longer has: they are to be counted as not provable.
    pub complete: bool,
}

/// Recomputes an application's tables from its applied events and compares.
pub trait Projection: Send {
    /// Told before the first event how many will come, about.
    fn expect(&mut self, events: u64) {
        let _ = events;
    }

    /// One applied event. They come by partition and offset, which is not the order in which they
    /// were applied where messages were retried or moved between partitions: go by `batch_seq`,
    /// then offset.
    fn apply(&mut self, event: &Applied<'_>);

    /// Compares with the tables as they are in the snapshot that `connection` is in, and counts
    /// in `findings`. Returns how many things could not be proved.
    fn compare(
        &mut self,
        connection: &mut PgConnection,
        history: History,
        findings: &mut Invariant,
    ) -> impl Future<Output = Result<u64, sqlx::Error>> + Send;
}

/// For an application without tables of its own, or none that it can recompute.
impl Projection for () {
    fn apply(&mut self, _event: &Applied<'_>) {}

    async fn compare(
        &mut self,
        _connection: &mut PgConnection,
        _history: History,
        findings: &mut Invariant,
    ) -> Result<u64, sqlx::Error> {
        findings.note("the application brings no projection, so its tables were not compared");
        Ok(0)
    }
}
