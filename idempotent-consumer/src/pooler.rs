//! Poolers between a program and PostgreSQL.
//!
//! One that lends a server connection for a session (PgBouncer's `pool_mode = session`) is no matter.
//! One that lends it for a transaction is refused, since what goes wrong there makes no error:
//!
//! * A statement is prepared in one round trip and run in the next. Between the two another client may
//!   prepare its own on that connection, under the same name; ours is then not what is run.
//! * Limits of a session (`SET lock_timeout`) stay behind with others and are lost to us, and so does
//!   the lock that keeps two migrations apart.
//! * Which lane of a partition is the older one is told by the age of its connection.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection, Row as _};

use crate::store::connect::connect;

/// Longest wait for the pooler to lend a second connection beside the first.
const PATIENCE: Duration = Duration::from_secs(5);

/// Poolers differ in which of two connections that come back they lend first.
const ROUNDS: u32 = 4;

/// Why the database is not used.
#[derive(Debug, thiserror::Error)]
pub enum PoolerError {
    /// Each transaction may come to another server connection.
    #[error(
        "between this program and PostgreSQL is a pooler that lends connections for a transaction, and \
         statements of other clients could be run in the place of ours; connect to PostgreSQL itself, or \
         set pool_mode = session for this database or user"
    )]
    Transactions,
    /// A second connection waits for the first one's end.
    #[error(
        "a second connection to the database got no answer within {} s while the first was in a \
         transaction; is there a pooler whose pool is too small?", PATIENCE.as_secs()
    )]
    TooSmall,
    /// The database cannot be asked.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Refuses a pooler that lends connections for a transaction. It is seen by two clients that hold a
/// transaction each and give it back in turn: the first one then finds itself on another connection.
/// Never wrong about a session of one's own; while others take connections from a pool of the other
/// kind, it may take that one for one's own, very rarely.
///
/// # Errors
/// There is such a pooler, or the database does not answer.
pub async fn check(options: &PgConnectOptions) -> Result<(), PoolerError> {
    let mut first = connect(options, "pooler check").await?;
    let mut second = connect(options, "pooler check").await?;
    for round in 0..ROUNDS {
        let before = begin(&mut first).await?;
        match tokio::time::timeout(PATIENCE, begin(&mut second)).await {
            Ok(begun) => begun?,
            Err(_) => return Err(PoolerError::TooSmall),
        };
        let order =
            if round % 2 == 0 { [&mut first, &mut second] } else { [&mut second, &mut first] };
        for connection in order {
            sqlx::raw_sql("COMMIT").execute(connection).await?;
        }
        if backend(&mut first).await? != before {
            return Err(PoolerError::Transactions);
        }
    }
    // Closing is a courtesy.
    let _ = first.close().await;
    let _ = second.close().await;
    Ok(())
}

/// Opens a transaction, and returns which server process has it.
async fn begin(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::raw_sql("BEGIN").execute(&mut *connection).await?;
    backend(connection).await
}

async fn backend(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    // Nothing is prepared: the answer could be another client's.
    let row = sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(&mut *connection).await?;
    row.try_get(0)
}
