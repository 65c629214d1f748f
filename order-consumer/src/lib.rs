//! The order consumer: the effects of order events as a handler, and a command line around the
//! engine. The engine itself is the library `idempotent_consumer`.

mod accept;
pub mod cli;
mod decoder;
mod dlq;
mod handler;
mod migrate;
mod order_facts;
mod order_projection;
mod output;
mod pipe;
mod purge;
mod retries;
mod run;
mod show;
mod status;
pub mod verify;

pub use decoder::{OrderDecoder, UnknownType};
pub use handler::OrderHandler;
pub use order_projection::OrderProjection;
