//! All SQL of the engine, each statement beside its function.

pub(crate) mod batch;
pub(crate) mod claims;
pub(crate) mod connect;
pub(crate) mod copies;
pub(crate) mod dead_letters;
pub mod migrate;
pub(crate) mod outbox;
pub(crate) mod position;
pub(crate) mod redrive;
pub(crate) mod retention;
pub(crate) mod retry_queue;
pub(crate) mod scope;
pub(crate) mod suspects;

use sqlx::types::time::{OffsetDateTime, PrimitiveDateTime};

/// The time so many milliseconds after the beginning of 1970.
fn time_of(ms: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
        .unwrap_or_else(|_| PrimitiveDateTime::MAX.assume_utc())
}
