//! The kinds of fault, and one fault of a plan.

use std::fmt;

use crate::proxy::{Cut, Harm};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "`sentence` says what each is")]
pub enum Kind {
    ConsumerKilled,
    ProducerKilled,
    ConsumerFrozen,
    ConsumersComeAndGo,
    BrokerKilled,
    DatabaseKilled,
    DatabaseSetBack,
    BackendsTerminated,
    StatementsCancelled,
    TablesLocked,
    ConnectionsCut,
    ConnectionsDelayed,
    ConnectionsThrottled,
    ConnectionsHalfClosed,
    ConnectionsSilent,
    CommitCut,
    AcknowledgementCut,
    DiskFull,
    ClockStepped,
    DlqDeleted,
    DlqRefused,
    DlqTooSmall,
    CustomersRefused,
}

impl Kind {
    /// All of them. A plan draws by their places, so new ones go to the end.
    pub const ALL: [Self; 23] = [
        Self::ConsumerKilled,
        Self::ProducerKilled,
        Self::ConsumerFrozen,
        Self::ConsumersComeAndGo,
        Self::BrokerKilled,
        Self::DatabaseKilled,
        Self::DatabaseSetBack,
        Self::BackendsTerminated,
        Self::StatementsCancelled,
        Self::TablesLocked,
        Self::ConnectionsCut,
        Self::ConnectionsDelayed,
        Self::ConnectionsThrottled,
        Self::ConnectionsHalfClosed,
        Self::ConnectionsSilent,
        Self::CommitCut,
        Self::AcknowledgementCut,
        Self::DiskFull,
        Self::ClockStepped,
        Self::DlqDeleted,
        Self::DlqRefused,
        Self::DlqTooSmall,
        Self::CustomersRefused,
    ];

    /// For the command line and the results file.
    pub const fn name(self) -> &'static str {
        self.words().0
    }

    /// What it does.
    pub const fn sentence(self) -> &'static str {
        self.words().1
    }

    /// The kind of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::ConsumerKilled => {
                ("consumer-killed", "a consumer joins and dies by SIGKILL at a named point")
            }
            Self::ProducerKilled => {
                ("producer-killed", "a second load dies by SIGKILL at a named point")
            }
            Self::ConsumerFrozen => {
                ("consumer-frozen", "SIGSTOP past the session timeout, then SIGCONT")
            }
            Self::ConsumersComeAndGo => {
                ("consumers-come-and-go", "consumers join, leave and are killed at random")
            }
            Self::BrokerKilled => ("broker-killed", "SIGKILL to Kafka, and a restart"),
            Self::DatabaseKilled => ("database-killed", "SIGKILL to PostgreSQL, and a restart"),
            Self::DatabaseSetBack => {
                ("database-set-back", "PostgreSQL goes back to the state of some seconds ago")
            }
            Self::BackendsTerminated => {
                ("backends-terminated", "pg_terminate_backend on the consumers, at random")
            }
            Self::StatementsCancelled => (
                "statements-cancelled",
                "pg_cancel_backend at random: what a statement timeout is to its client",
            ),
            Self::TablesLocked => {
                ("tables-locked", "a table is locked for longer than the lock timeout")
            }
            Self::ConnectionsCut => {
                ("connections-cut", "the connections between a pair are cut, again and again")
            }
            Self::ConnectionsDelayed => ("connections-delayed", "each chunk of bytes comes late"),
            Self::ConnectionsThrottled => {
                ("connections-throttled", "a few KiB a second between a pair")
            }
            Self::ConnectionsHalfClosed => {
                ("connections-half-closed", "one direction is shut, the other stays open")
            }
            Self::ConnectionsSilent => {
                ("connections-silent", "connections stay open and nothing passes")
            }
            Self::CommitCut => {
                ("commit-cut", "cut just before COMMIT reaches PostgreSQL, or before its answer")
            }
            Self::AcknowledgementCut => (
                "acknowledgement-cut",
                "cut just before a Produce request reaches Kafka, or before its answer",
            ),
            Self::DiskFull => ("disk-full", "the database's mount has no byte left"),
            Self::ClockStepped => ("clock-stepped", "the clock of the consumers steps by an hour"),
            Self::DlqDeleted => {
                ("dlq-deleted", "the dead letter topic is deleted, and later created anew")
            }
            Self::DlqRefused => ("dlq-refused", "an ACL refuses writes to the dead letter topic"),
            Self::DlqTooSmall => {
                ("dlq-too-small", "the dead letter topic takes records of 900 bytes at most")
            }
            Self::CustomersRefused => (
                "customers-refused",
                "rows of one customer in three fail by a statement timeout: the retry queue",
            ),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A pair with a proxy in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Link {
    ConsumerToDatabase,
    ConsumerToBroker,
    ProducerToBroker,
}

/// What exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A process that was given this point dies there, the so many-th time.
    Point(&'static str, u64),
    /// A link comes to harm.
    Link(Link, Harm),
    /// So many connections are cut there.
    Cut(Cut, u32),
    /// By so many seconds.
    Seconds(i64),
    /// The kind says it all.
    Plain,
}

/// One fault of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its kind.
    pub kind: Kind,
    /// What exactly.
    pub what: What,
    /// When it comes, in milliseconds of the load. At 0 it is there before the load begins.
    pub at_ms: u64,
    /// How long it stays.
    pub for_ms: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        match self.what {
            What::Point(point, times) => write!(f, " at {point}, time {times}"),
            What::Link(link, harm) => write!(f, ", {link:?}, {harm:?}"),
            What::Cut(cut, times) => write!(f, " {cut:?}, {times} times"),
            What::Seconds(seconds) => write!(f, " by {seconds} s"),
            What::Plain => Ok(()),
        }
    }
}
