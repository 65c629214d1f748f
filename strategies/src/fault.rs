//! What is done to a strategy.

use clap::ValueEnum;
use serde::Serialize;

/// In the order of the table's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fault {
    /// Nothing; throughput and latency are measured here
    None,
    /// The producer sends some messages twice under one id, at once and again at the end
    Duplicates,
    /// A kill at each step in turn, and redelivery
    Crash,
    /// At each step in turn a consumer freezes, another takes over, and the first wakes up
    Frozen,
    /// A second consumer joins between two commits of the offset
    Rebalance,
    /// A consumer is paused until its lock is taken from it
    LockExpiry,
    /// One record of garbage
    Poison,
}

impl Fault {
    pub(crate) const ALL: [Self; 7] = [
        Self::None,
        Self::Duplicates,
        Self::Crash,
        Self::Frozen,
        Self::Rebalance,
        Self::LockExpiry,
        Self::Poison,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Duplicates => "duplicates",
            Self::Crash => "crash",
            Self::Frozen => "frozen",
            Self::Rebalance => "rebalance",
            Self::LockExpiry => "lock-expiry",
            Self::Poison => "poison",
        }
    }
}
