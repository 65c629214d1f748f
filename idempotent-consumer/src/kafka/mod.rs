//! Everything that talks to Kafka. No type of the client library leaves this module.

pub(crate) mod admin;
mod callbacks;
mod clock;
pub(crate) mod facts;
pub(crate) mod identity;
pub(crate) mod log_reader;
pub(crate) mod owner;
pub(crate) mod pipe;
mod pipe_input;
pub(crate) mod publisher;
pub(crate) mod queue;
pub(crate) mod raw;
mod rebootstrap;
pub(crate) mod settings;
pub(crate) mod transaction;
