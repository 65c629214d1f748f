//! A file a strategy, to be read beside each other and copied.

mod advisory_lock;
mod check_then_insert;
mod kafka_transactions;
mod mark_before;
mod naive_offset_after;
mod naive_offset_before;
mod no_dead_letter;
mod offset_in_database;
mod redis_lock;
mod redis_lock_fenced;
mod row_lock;
mod serializable;
mod textbook_claim;
pub(crate) mod unique_claim;
mod upsert;
mod upsert_guarded;

pub(crate) use advisory_lock::AdvisoryLock;
pub(crate) use check_then_insert::CheckThenInsert;
pub(crate) use kafka_transactions::{DatabaseWrite, HttpCall, KafkaTransactions, Nothing};
pub(crate) use mark_before::MarkBefore;
pub(crate) use naive_offset_after::NaiveOffsetAfter;
pub(crate) use naive_offset_before::NaiveOffsetBefore;
pub(crate) use no_dead_letter::NoDeadLetter;
pub(crate) use offset_in_database::OffsetInDatabase;
pub(crate) use redis_lock::RedisLock;
pub(crate) use redis_lock_fenced::RedisLockFenced;
pub(crate) use row_lock::RowLock;
pub(crate) use serializable::Serializable;
pub(crate) use textbook_claim::TextbookClaim;
pub(crate) use upsert::Upsert;
pub(crate) use upsert_guarded::UpsertGuarded;
