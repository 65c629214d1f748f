//! The auditor: proves from the log and one snapshot of the database that every record has
//! exactly one outcome, and says where not.
//!
//! Five invariants, each in a file of its own with a pure core:
//!
//! 1. every record that the consumer is past has exactly one outcome, and every message that a
//!    producer's manifest lists as acknowledged is in the log (`merge`, `manifest`);
//! 2. the application's tables, recomputed from the applied events, are as they should be
//!    ([`Projection`]);
//! 3. committed offset, `next_offset` and the log's end stand in this order (`positions`);
//! 4. dead letters, their claims and their copies in the topic belong together (`letters`);
//! 5. the events of one key were applied in the order of the log (`order`).
//!
//! The order of the steps makes it right while consumers work: first what Kafka knew before (the
//! committed offset, the dead letter topic's end), then the snapshot, then the ends of the logs.
//! What is missing in a later step was not there; what a later step has in addition is newer.

mod bounds;
mod dead_letters;
mod letters;
mod log;
mod manifest;
mod merge;
mod order;
mod positions;
mod projection;
mod report;
mod run;
mod store;
mod wait;

use std::path::PathBuf;
use std::time::Duration;

pub use manifest::ManifestError;
pub use projection::{Applied, History, Projection};
pub use report::{AuditReport, DEFAULT_EXAMPLES, Invariant, Tally};
pub use run::audit;

use crate::kafka::admin::AdminError;
pub use crate::kafka::log_reader::LogError;
use crate::kafka::settings::KafkaSettings;

/// What to audit.
#[derive(Clone, Debug)]
pub struct AuditConfig {
    /// How to reach Kafka.
    pub kafka: KafkaSettings,
    /// The topic that is consumed.
    pub topic: String,
    /// The topic of dead letters.
    pub dlq_topic: String,
    /// Whose effects are audited.
    pub consumer_group: String,
    /// What a producer says was acknowledged, as NDJSON.
    pub manifest: Option<PathBuf>,
    /// How long to wait for everything to be consumed and published; what is pending after that
    /// is a violation. Without it nothing pending is one.
    pub wait: Option<Duration>,
    /// Examples kept of each invariant.
    pub examples: usize,
}

/// How far an audit is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// How much of it is done.
    pub done: u64,
    /// How much there is, about; in offsets, records or rows.
    pub of: u64,
}

/// What an audit does, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Waits for the consumer.
    Waiting,
    /// Reads the log beside the claims.
    Log,
    /// Reads the dead letters.
    DeadLetters,
    /// Compares the application's tables.
    Projection,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Kafka was asked about topics.
    #[error(transparent)]
    Kafka(#[from] AdminError),
    /// A log was read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The database failed.
    #[error("the database cannot be audited: {0}")]
    Database(#[from] sqlx::Error),
    /// There is nothing to audit.
    #[error("the topic {topic} does not exist")]
    NoTopic {
        /// Its name.
        topic: String,
    },
    /// The claims are not of this group, or not of this version.
    #[error("the database holds the effects of {found}, not of {asked}")]
    OtherScope {
        /// What was asked for.
        asked: String,
        /// What the database holds.
        found: String,
    },
    /// The manifest cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}
