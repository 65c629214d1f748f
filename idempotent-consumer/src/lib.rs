//! Exactly-once effects in PostgreSQL for messages from Kafka.

#[cfg(feature = "cli")]
pub mod cli;
pub mod failure;
pub mod identity;
mod kafka;
pub mod handler;
mod message;
pub mod outcome;
pub mod plan;
mod retry;

/// Publishing records with a known end, and the topics they go to.
pub mod publish {
    pub use crate::kafka::admin::{AdminError, Ensured, Topics};
    pub use crate::kafka::publisher::{
        Acknowledged, Delivery, DeliveryError, Publication, Publisher, PublisherOptions,
    };
}

pub use kafka::settings::{KafkaSettings, SettingsError};
pub use message::{Fingerprint, Headers, MessageId, PartitionKey, Record};
pub use retry::Backoff;
