//! Databases for tests that want one of their own.

use std::future::Future;
use std::str::FromStr as _;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};

use crate::error::StackError;

/// Creates an empty database on the server of `url` and returns the new one's URL.
///
/// May be called from anywhere, also from within an async runtime, where it blocks for a tenth of
/// a second.
pub fn create_database(url: &str, name: &str) -> Result<String, StackError> {
    let statement = format!("CREATE DATABASE {}", quoted(name));
    let doing = format!("cannot create the database {name}");
    wait_for(async {
        let mut connection = PgConnectOptions::from_str(url)?.connect().await?;
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await?;
        connection.close().await
    })
    .map_err(|source| StackError::Database { doing, source })?;
    Ok(with_database(url, name))
}

/// Runs it on a thread with a runtime of its own: one runtime must not wait inside another.
fn wait_for<T: Send>(
    work: impl Future<Output = Result<T, sqlx::Error>> + Send,
) -> Result<T, sqlx::Error> {
    let run = || tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work);
    std::thread::scope(|scope| {
        let thread = scope.spawn(run);
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// The URL with another database.
fn with_database(url: &str, name: &str) -> String {
    let (address, parameters) = match url.split_once('?') {
        Some((address, parameters)) => (address, format!("?{parameters}")),
        None => (url, String::new()),
    };
    let host_from = address.find("://").map_or(0, |at| at + 3);
    let host_to = address[host_from..].find('/').map_or(address.len(), |at| host_from + at);
    format!("{}/{name}{parameters}", &address[..host_to])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_database_of_a_url_is_replaced() {
        let with = |url| with_database(url, "t1");
        assert_eq!(with("postgres://a:b@h:1/orders"), "postgres://a:b@h:1/t1");
        assert_eq!(with("postgres://a:b@h:1"), "postgres://a:b@h:1/t1");
        assert_eq!(with("postgres://h/o?sslmode=disable"), "postgres://h/t1?sslmode=disable");
    }

    #[test]
    fn a_quote_in_a_name_does_not_end_it() {
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }
}
