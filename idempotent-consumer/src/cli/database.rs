//! The database of a program, and a pool that is known to work.

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use super::WrongUse;
use crate::pooler::{self, PoolerError};

/// The database. A program that has a default for it gives it by `clap`'s `mut_arg("database_url", …)`.
#[derive(Clone, clap::Args)]
#[group(skip)] // a program's own struct around it may have the same name
pub struct DatabaseArgs {
    /// PostgreSQL, as postgres://user:password@host:port/database
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: String,
}

impl DatabaseArgs {
    /// How to connect.
    ///
    /// # Errors
    /// It is no URL. The error does not repeat it, for it may hold a password.
    pub fn options(&self) -> Result<PgConnectOptions, WrongUse> {
        self.database_url.parse().map_err(|error| {
            WrongUse(format!(
                "--database-url is not a URL of the form postgres://user:password@host:port/database: {error}"
            ))
        })
    }
}

/// Why a program has no database.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// Nobody answers there, or it refuses this user.
    #[error(
        "no connection to PostgreSQL at {place}; is it running, and are --database-url or DATABASE_URL \
         right?"
    )]
    NoConnection {
        /// Host and port.
        place: String,
        /// What was heard.
        source: sqlx::Error,
    },
    /// What answers there is a pooler that cannot be used.
    #[error("PostgreSQL at {place}")]
    Pooler {
        /// Host and port.
        place: String,
        /// Why not.
        source: PoolerError,
    },
}

/// A pool, once a first connection has been made and the [`pooler`] check has passed.
///
/// # Errors
/// The database does not answer, or is behind a pooler that cannot be used.
pub async fn pool(
    options: PgConnectOptions,
    limits: PgPoolOptions,
) -> Result<PgPool, DatabaseError> {
    let pool = limits
        .connect_with(options.clone())
        .await
        .map_err(|source| DatabaseError::NoConnection { place: place(&options), source })?;
    check_pooler(&options).await?;
    Ok(pool)
}

/// Refuses a pooler through which statements of others could be run in the place of ours.
///
/// # Errors
/// There is one, or the database does not answer.
pub async fn check_pooler(options: &PgConnectOptions) -> Result<(), DatabaseError> {
    pooler::check(options)
        .await
        .map_err(|source| DatabaseError::Pooler { place: place(options), source })
}

fn place(options: &PgConnectOptions) -> String {
    format!("{}:{}", options.get_host(), options.get_port())
}
