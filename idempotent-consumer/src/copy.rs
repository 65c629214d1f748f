//! Rows by binary COPY, the cheapest way into a table that PostgreSQL has. It knows no
//! `ON CONFLICT`, so where rows are only probably new, the primary key judges: if it objects, a
//! savepoint makes the attempt undone and the caller takes the careful way.
//!
//! ```
//! # use idempotent_consumer::copy::{BinaryRow, Optimism, insert_new};
//! # async fn insert(connection: &mut sqlx::PgConnection, optimism: &Optimism) -> Result<(), sqlx::Error> {
//! let balances = [("a", 500_i64), ("b", 700)];
//! if optimism.is_due(balances.len()) {
//!     let into = "balances (account, cents)";
//!     let encode = |row: &mut BinaryRow, (account, cents): &(&str, i64)| {
//!         row.value(account)?.value(cents)?;
//!         Ok(())
//!     };
//!     if optimism.learns(insert_new(connection, into, &balances, encode).await?) {
//!         return Ok(());
//!     }
//! }
//! // … INSERT … ON CONFLICT …
//! # Ok(())
//! # }
//! ```

use std::sync::{Mutex, PoisonError};

use sqlx::encode::{Encode, IsNull};
use sqlx::postgres::PgArgumentBuffer;
use sqlx::{Connection as _, PgConnection, Postgres};

use crate::failpoint::failpoint;

/// SQLSTATEs of what INSERT may be able to do all the same: a table with row-level security, a view,
/// a column of another type.
const NOT_BY_COPY: [&str; 4] = ["0A000", "42809", "22P03", "22P04"];
/// What is sent at a time, in bytes: the client library copies it into a buffer that stays as large
/// as its largest.
const CHUNK: usize = 64 * 1024;
/// From so many rows on, COPY costs less than what it takes to try it.
const COPY_FROM: usize = 32;
/// Attempts that are passed over after failures in a row, at most.
const MAX_PAUSE: u32 = 64;

/// A row in PostgreSQL's binary COPY format, see
/// [its documentation](https://www.postgresql.org/docs/current/sql-copy.html).
#[derive(Debug)]
pub struct BinaryRow {
    /// What has not been sent yet: rows before this one, and this one as far as it has come.
    data: PgArgumentBuffer,
    /// Where the row begins.
    at: usize,
    columns: i16,
}

impl BinaryRow {
    fn new() -> Self {
        let mut data = PgArgumentBuffer::default();
        // The signature, no flags, no header extension.
        data.extend_from_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
        Self { data, at: 0, columns: 0 }
    }

    fn begins(&mut self) {
        self.at = self.data.len();
        self.columns = 0;
        self.data.extend_from_slice(&self.columns.to_be_bytes());
    }

    /// The row's next value. Its type has to be the column's: COPY converts nothing.
    ///
    /// # Errors
    /// The value cannot be encoded, or has 2 GiB or more.
    pub fn value<'q>(
        &mut self,
        value: impl Encode<'q, Postgres>,
    ) -> Result<&mut Self, sqlx::Error> {
        let at = self.data.len();
        self.data.extend_from_slice(&(-1_i32).to_be_bytes());
        if let IsNull::No = value.encode(&mut self.data).map_err(sqlx::Error::Encode)? {
            let size = self.data.len() - at - size_of::<i32>();
            let size = i32::try_from(size).map_err(|error| sqlx::Error::Encode(error.into()))?;
            self.data[at..at + size_of::<i32>()].copy_from_slice(&size.to_be_bytes());
        }
        self.columns = self.columns.saturating_add(1);
        Ok(self)
    }

    /// The row has all its values.
    fn ends(&mut self) {
        let (at, columns) = (self.at, self.columns);
        self.data[at..at + size_of::<i16>()].copy_from_slice(&columns.to_be_bytes());
    }
}

/// Inserts rows unless the table has one of them. `false` if it has, or takes no COPY: nothing was
/// inserted then, and the transaction goes on. `into` is the table with its columns, `encode` gives
/// a row its values in the order of the columns. Rows are encoded as they are sent, so that they are
/// never all in memory.
///
/// The connection has to be in a transaction. Not cancel-safe: drop the connection with the future.
///
/// # Errors
/// Those of the database but a violated unique constraint. The transaction is over then, as after
/// any error: a handler is to return it and write nothing more.
pub async fn insert_new<T>(
    connection: &mut PgConnection,
    into: &str,
    rows: &[T],
    encode: impl Fn(&mut BinaryRow, &T) -> Result<(), sqlx::Error>,
) -> Result<bool, sqlx::Error> {
    let mut savepoint = connection.begin().await?;
    match insert(&mut savepoint, into, rows, encode).await {
        Ok(_) => {
            savepoint.commit().await?;
            Ok(true)
        }
        Err(sqlx::Error::Database(error))
            if error.is_unique_violation()
                || error.code().is_some_and(|code| NOT_BY_COPY.contains(&&*code)) =>
        {
            savepoint.rollback().await?;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Inserts rows. Not cancel-safe: drop the connection with the future.
pub(crate) async fn insert<T>(
    connection: &mut PgConnection,
    into: &str,
    rows: &[T],
    encode: impl Fn(&mut BinaryRow, &T) -> Result<(), sqlx::Error>,
) -> Result<u64, sqlx::Error> {
    let mut copy =
        connection.copy_in_raw(&format!("COPY {into} FROM STDIN (FORMAT binary)")).await?;
    let mut out = BinaryRow::new();
    for row in rows {
        out.begins();
        if let Err(error) = encode(&mut out, row) {
            copy.abort("a value could not be encoded").await?;
            return Err(error);
        }
        out.ends();
        if out.data.len() >= CHUNK {
            let full = out.data.len() - out.data.len() % CHUNK;
            for chunk in out.data[..full].chunks(CHUNK) {
                copy.send(chunk).await?;
            }
            out.data.drain(..full);
        }
    }
    // The end of the data.
    out.data.extend_from_slice(&(-1_i16).to_be_bytes());
    copy.send(&out.data[..]).await?;
    // The server waits for the rest, with its locks, however long that takes.
    failpoint("consumer.inside_copy");
    copy.finish().await
}

/// Whether to try the cheap way first: not for a few rows; and after failures in a row, 1, 2, 4, …
/// 64 attempts are passed over.
#[derive(Debug, Default)]
pub struct Optimism {
    state: Mutex<Wary>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Wary {
    /// Attempts to pass over from now on.
    passes: u32,
    failures: u32,
}

impl Optimism {
    /// Whether to try with so many rows now.
    pub fn is_due(&self, rows: usize) -> bool {
        if rows < COPY_FROM {
            return false;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = state.passes == 0;
        state.passes = state.passes.saturating_sub(1);
        is_due
    }

    /// Learns whether an attempt succeeded, and returns that.
    pub fn learns(&self, success: bool) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = if success {
            Wary::default()
        } else {
            let passes = MAX_PAUSE.min(1 << state.failures.min(16));
            Wary { passes, failures: state.failures.saturating_add(1) }
        };
        success
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rows_are_as_the_format_has_them() {
        let mut rows = BinaryRow::new();
        rows.begins();
        rows.value("ab").unwrap().value(None::<i64>).unwrap();
        rows.ends();
        assert_eq!(
            rows.data.as_slice(),
            [&b"PGCOPY\n\xff\r\n\0"[..], &[0; 8], &[0, 2], &[0, 0, 0, 2], b"ab", &[0xff; 4]]
                .concat()
        );
    }

    proptest! {
        #[test]
        fn of_attempts_that_all_fail_few_are_made_and_one_success_forgets_them(calls in 1_usize..2000) {
            let optimism = Optimism::default();
            let tried = (0..calls).filter(|_| optimism.is_due(COPY_FROM) && !optimism.learns(false)).count();
            prop_assert!(tried <= 7 + calls / 64, "{tried} of {calls}");
            prop_assert!(tried >= 1.max(calls / 65));
            while !optimism.is_due(COPY_FROM) {}
            optimism.learns(true);
            prop_assert!(optimism.is_due(COPY_FROM));
            prop_assert!(!optimism.is_due(COPY_FROM - 1));
        }
    }
}
