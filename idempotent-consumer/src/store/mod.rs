//! All SQL of the engine, each statement beside its function.

pub(crate) mod batch;
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
