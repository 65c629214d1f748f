//! Exactly-once effects in PostgreSQL for messages from Kafka.

pub mod audit;
pub mod accept;
mod batch;
#[cfg(feature = "cli")]
pub mod cli;
mod config;
mod engine;
pub mod failure;
pub mod handler;
mod health;
pub mod identity;
mod kafka;
mod lane;
mod message;
pub mod outcome;
pub mod plan;
mod relay;
mod retry;
mod shared;
mod start;
mod store;

/// Publishing records with a known end, and the topics they go to.
pub mod publish {
    pub use crate::kafka::admin::{AdminError, Ensured, Topics};
    pub use crate::kafka::publisher::{
        Acknowledged, Delivery, DeliveryError, Publication, Publisher, PublisherOptions,
    };
}

pub use config::EngineConfig;
pub use engine::{Engine, EngineError, Summary};
pub use handler::{
    Answer, Context, Decoded, Decoder, Handler, HandlerError, Json, Message, MessageHandler,
    OneByOne, Outgoing, Poison,
};
pub use health::Health;
pub use kafka::settings::{KafkaSettings, SettingsError};
pub use message::{Fingerprint, Headers, MessageId, PartitionKey, Record};
pub use retry::Backoff;
pub use store::migrate;
