//! Publishes order events to Kafka, as commands.
//!
//! Every record handed to Kafka has one of three ends, told exactly once ([`session`]): it is
//! *acknowledged* with its partition and offset, *refused* (certainly not in the log), or
//! *unconfirmed* (perhaps in the log, so it is safe to send again only under the same message id;
//! the command that does so is printed). Memory is bounded by a window of unfinished records, at
//! any size of input and any speed of the broker.
//!
//! * [`send`]: events from flags ([`send::order`], [`send::status`]) or NDJSON ([`send::file`]),
//! * [`load`]: synthetic orders, with duplicates and poison, and a manifest for the auditor,
//! * [`serve`]: the same over HTTP, through an outbox in PostgreSQL,
//! * [`cli`]: the command line; `main.rs` only starts it.

pub mod cli;
mod interrupt;
pub mod load;
mod message;
mod output;
mod resend;
pub mod send;
pub mod serve;
pub mod session;
mod topic;

/// How the process ends. The numbers are part of the command line's contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything was acknowledged.
    Done,
    /// The command could not do its work; a message says why.
    Failed,
    /// The command line is wrong.
    WrongUse,
    /// Some input was refused or not confirmed, or a signal came before the end.
    Incomplete,
}

impl Exit {
    /// The exit code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::WrongUse => 2,
            Self::Incomplete => 4,
        }
    }
}
