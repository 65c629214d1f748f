//! A lane's own connection, and the settings each of its transactions begins with.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};

use crate::nodelay;

/// Bounds of transactions: of each one, set anew by what opens it, or of a session whose statements are
/// transactions of their own.
#[derive(Clone, Copy, Debug)]
pub struct TransactionLimits {
    /// Of a wait for a lock.
    pub lock: Duration,
    /// Of a statement.
    pub statement: Duration,
    /// Of an open transaction in which nothing happens.
    pub idle: Duration,
}

impl TransactionLimits {
    /// What a session begins with whose statements are transactions of their own: READ COMMITTED and
    /// durable, as with [`begin_sql`](Self::begin_sql).
    pub fn session_sql(&self) -> String {
        format!(
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;
             SET idle_in_transaction_session_timeout = {};
             SET client_connection_check_interval = 5000;
             {}",
            self.idle.as_millis(),
            session_sql(self.lock, self.statement),
        )
    }

    /// What opens a transaction: one round trip. It is READ COMMITTED and durable, whatever the
    /// database's defaults are.
    pub fn begin_sql(&self) -> String {
        format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED;
             SET LOCAL lock_timeout = {};
             SET LOCAL statement_timeout = {};
             SET LOCAL idle_in_transaction_session_timeout = {};
             SET LOCAL client_connection_check_interval = 5000;
             {}",
            self.lock.as_millis(),
            self.statement.as_millis(),
            self.idle.as_millis(),
            raise_synchronous_commit(Scope::Transaction),
        )
    }
}

/// What opens the transactions of a lane, each in one round trip.
#[derive(Debug)]
pub(crate) struct BeginSql {
    few: String,
    many: String,
}

impl BeginSql {
    /// From so many messages on, planning anew takes PostgreSQL a fifteenth more, by calculation: 0.2 ms
    /// beside 3.
    const MANY: usize = 100;

    pub(crate) fn new(limits: TransactionLimits) -> Self {
        let few = limits.begin_sql();
        let many = format!("{few} SET LOCAL plan_cache_mode = force_custom_plan;");
        Self { few, many }
    }

    /// Of a transaction for so many messages.
    ///
    /// PostgreSQL keeps a prepared statement's plan until the table is analysed again. One that was
    /// made while the table was small reads all of it, and compares each row with each element of
    /// an array: for thousands of messages, in a table that has grown since, that takes seconds. So
    /// the statements of a large batch are planned for what they are asked, those of the handler as
    /// well.
    pub(crate) fn of(&self, messages: usize) -> &str {
        if messages < Self::MANY { &self.few } else { &self.many }
    }
}

/// What a session begins with whose statements are transactions of their own.
pub(crate) fn session_sql(lock_timeout: Duration, statement_timeout: Duration) -> String {
    format!(
        "SET lock_timeout = {};
         SET statement_timeout = {};
         {}",
        lock_timeout.as_millis(),
        statement_timeout.as_millis(),
        raise_synchronous_commit(Scope::Session),
    )
}

#[derive(Clone, Copy)]
enum Scope {
    Transaction,
    Session,
}

/// Raises `synchronous_commit` to `on` where it is less, and leaves it where it is more.
fn raise_synchronous_commit(scope: Scope) -> String {
    let is_local = match scope {
        Scope::Transaction => "true",
        Scope::Session => "false",
    };
    format!(
        "SELECT set_config('synchronous_commit', 'on', {is_local})
          WHERE current_setting('synchronous_commit') IN ('off', 'local', 'remote_write');"
    )
}

/// How long a connection attempt may take.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens a connection that belongs to the caller alone. To give it up, drop it: the socket closes.
pub(crate) async fn connect(
    options: &PgConnectOptions,
    application_name: &str,
) -> Result<PgConnection, sqlx::Error> {
    let options = options.clone().application_name(application_name);
    match tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&options)).await {
        Ok(connected) => {
            nodelay::set_on_connections(&options);
            connected
        }
        Err(_) => Err(sqlx::Error::Io(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            format!("no connection within {} s", CONNECT_TIMEOUT.as_secs()),
        ))),
    }
}
