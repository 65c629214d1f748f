//! The two servers, and how they want to be stopped.

use std::fmt;

use rustix::process::Signal;

/// Which of the two servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The broker.
    Kafka,
    /// The database.
    Postgres,
}

impl Kind {
    /// As the command line calls it, and its folder.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Kind::Kafka => "kafka",
            Kind::Postgres => "postgres",
        }
    }

    pub(crate) fn port_flag(self) -> &'static str {
        match self {
            Kind::Kafka => "--kafka-port",
            Kind::Postgres => "--postgres-port",
        }
    }

    /// For an end without farewell. PostgreSQL's own immediate shutdown, other than SIGKILL,
    /// takes its backends and shared memory along.
    pub(crate) fn signal_at_once(self) -> Signal {
        match self {
            Kind::Kafka => Signal::KILL,
            Kind::Postgres => Signal::QUIT,
        }
    }

    pub(crate) fn signal_name_at_once(self) -> &'static str {
        match self {
            Kind::Kafka => "KILL",
            Kind::Postgres => "QUIT",
        }
    }

    /// For an orderly stop that does not wait for clients.
    pub(crate) fn signal_in_order(self) -> Signal {
        match self {
            Kind::Kafka => Signal::TERM,
            Kind::Postgres => Signal::INT,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Kafka => "Kafka",
            Kind::Postgres => "PostgreSQL",
        })
    }
}
