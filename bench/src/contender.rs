//! Who takes part, and what one run gave.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::baseline::Kind;
use crate::peers::{self, Peer};
use crate::stage::{Ids, Shape, Stage};
use crate::usage::Usage;
use crate::{ceiling, consumer, disturbed};

/// Who takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// The rows of the consumer, by COPY into two tables with their primary keys.
    Copy { connections: u32 },
    /// The consumer.
    Consumer { shape: Shape, concurrency: u32, processes: u32 },
    /// The consumer, with claims in the table before.
    Grown(Grown),
    /// The consumer, with settings of PostgreSQL; `None`: as it comes.
    Tuned { settings: Option<String> },
    /// What people write by hand.
    Baseline { kind: Kind, workers: u32 },
    /// The consumer, to the end of the log, perhaps with one customer in ten refused.
    Disturbed { refused: bool },
    /// What a user would pick instead.
    Peer(Peer),
}

/// What the consumer meets when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grown {
    /// So many claims are in the table.
    pub(crate) claims: u64,
    pub(crate) ids: Ids,
    /// Nothing of them is in memory.
    pub(crate) cold: bool,
    /// PostgreSQL's, such as `shared_buffers=4GB,max_wal_size=8GB`; `None`: as they come.
    pub(crate) settings: Option<String>,
}

impl Grown {
    fn name(&self) -> String {
        let claims = match self.claims {
            0 => "no claims before".to_owned(),
            claims => format!("{claims} claims before"),
        };
        let cold = if self.cold { ", cold" } else { "" };
        let set = self.settings.as_ref().map(|settings| format!(", {settings}"));
        claims + cold + &set.unwrap_or_default()
    }
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    /// Records.
    pub(crate) events: u64,
    /// From the first to the last.
    pub(crate) seconds: f64,
    /// What it took.
    pub(crate) usage: Usage,
    /// Where the lanes of a consumer spent their time.
    pub(crate) lane_seconds: BTreeMap<String, f64>,
}

impl Run {
    pub(crate) fn rate(&self) -> f64 {
        self.events as f64 / self.seconds
    }
}

impl Contender {
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Copy { connections: 1 } => "COPY, 1 connection".to_owned(),
            Self::Copy { connections } => format!("COPY, {connections} connections"),
            Self::Consumer { shape, concurrency, processes } => {
                let parts = [
                    (shape.partitions != Shape::default().partitions)
                        .then(|| format!("{} partition", shape.partitions)),
                    (shape.duplicates > 0).then(|| format!("{} % duplicates", shape.duplicates)),
                    (shape.poison > 0).then(|| format!("{} % poison", shape.poison)),
                    (*concurrency != 4).then(|| format!("concurrency {concurrency}")),
                    (*processes > 1).then(|| format!("{processes} processes")),
                ];
                let name = std::iter::once("consumer".to_owned());
                name.chain(parts.into_iter().flatten()).collect::<Vec<_>>().join(", ")
            }
            Self::Grown(grown) => grown.name(),
            Self::Tuned { settings: None } => "PostgreSQL as it comes".to_owned(),
            Self::Tuned { settings: Some(settings) } => settings.clone(),
            Self::Baseline { kind: Kind::Read, .. } => "only reading".to_owned(),
            Self::Baseline { kind: Kind::OneByOne, workers: 1 } => {
                "one message a transaction".to_owned()
            }
            Self::Baseline { kind: Kind::OneByOne, workers } => {
                format!("one message a transaction, {workers} workers")
            }
            Self::Disturbed { refused: false } => "undisturbed".to_owned(),
            Self::Disturbed { refused: true } => "one customer in ten refused".to_owned(),
            Self::Peer(peer) => peer.name.clone(),
        }
    }

    /// Whether it is a ceiling: the best of these is what others are compared with.
    pub(crate) fn is_ceiling(&self) -> bool {
        matches!(
            self,
            Self::Copy { .. }
                | Self::Disturbed { refused: false }
                | Self::Grown(Grown { claims: 0, .. })
                | Self::Tuned { settings: None }
        )
    }

    pub(crate) async fn run(&self, stage: &Stage) -> anyhow::Result<Run> {
        match self {
            Self::Copy { connections } => ceiling::run(stage, *connections).await,
            Self::Consumer { shape, concurrency, processes } => {
                consumer::run(stage, *shape, *concurrency, *processes).await
            }
            Self::Grown(grown) => consumer::grown(stage, grown).await,
            Self::Tuned { settings } => consumer::tuned(stage, settings.as_deref()).await,
            Self::Baseline { kind, workers } => consumer::baseline(stage, *kind, *workers).await,
            Self::Disturbed { refused } => disturbed::run(stage, *refused).await,
            Self::Peer(peer) => peers::run(stage, peer).await,
        }
    }
}
