//! Questions on what the engine did and what waits: for a status page, or an operator's tools.
//!
//! Everything here only reads, and can be asked at any time beside working consumers. The
//! functions on the database expect the engine's migrations
//! ([`migrate::pending`](crate::migrate::pending) tells). Ages are by the database's clock.

mod claims;
mod dead_letters;
mod fate;
mod json;
mod overview;
mod retry_queue;
mod scan;
mod topic;

pub use claims::{Claim, claims};
pub use dead_letters::{
    DeadLetter, DeadLetterFilter, DeadLetterState, DeadLetterSummary, dead_letter,
    dead_letters_of_messages, dead_letters_with_producer_id, list_dead_letters,
};
pub use fate::{Fate, Sighting, fates};
pub use overview::{
    DeadLetterCount, LostRange, OutboxState, Overview, PartitionProgress, RefusedRow,
    dead_letter_counts, known_consumers, lost_ranges, outbox, outbox_counts, overview, partitions,
};
pub(crate) use retry_queue::retry_queue_counts;
pub use retry_queue::{RetryHead, RetryQueueState, Waiting, list_retry_heads, retry_queue};
pub use scan::{ScanError, ScanProgress, ScannedPartition, ScannedTopic, scan_log};
pub use topic::{LogBounds, NotStarting, TopicLog, not_starting, topic_log};

use sqlx::{Connection, PgConnection, Postgres, Transaction};

use crate::identity::IdMode;
use crate::store::scope;

/// Where the ids of the database's claims come from, as its first run recorded it; the default
/// before that.
///
/// # Errors
/// The database does not answer, lacks the engine's tables, or is a newer version's.
pub async fn id_mode(connection: &mut PgConnection) -> Result<IdMode, sqlx::Error> {
    scope::id_mode(connection).await
}

/// Begins a snapshot, so that the answers to several questions agree.
///
/// # Errors
/// The database does not answer.
pub async fn snapshot(
    connection: &mut PgConnection,
) -> Result<Transaction<'_, Postgres>, sqlx::Error> {
    connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await
}
