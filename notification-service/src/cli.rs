//! The command line: what each command takes, and what its ends mean.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Parser, Subcommand};
use idempotent_consumer::cli::{self, LogArgs};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::{migrate, run};

/// Mails customers what became of their orders
#[derive(Parser)]
#[command(
    name = "notification-service",
    version,
    after_help = "\
Every option is also a variable, shown with it. Data goes to stdout, progress and logs to stderr
(RUST_LOG sets how much). Exit codes: 0 done, 1 failed, 2 wrong use."
)]
struct Cli {
    #[command(flatten)]
    log: LogArgs,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Consume notifications and send mails until stopped
    Run(Box<run::RunArgs>),
    /// Bring the database's tables up to this version
    Migrate(migrate::MigrateArgs),
}

/// The database, and where in it.
#[derive(Args, Clone)]
#[command(mut_arg("database_url", |url| {
    url.required(false).default_value("postgres://orders:orders@localhost:5432/orders")
}))]
pub(crate) struct DatabaseArgs {
    #[command(flatten)]
    server: cli::DatabaseArgs,

    /// Schema of this service's tables; never that of the orders
    #[arg(
        long,
        env = "NOTIFICATION_SERVICE_SCHEMA",
        default_value = "notifications",
        value_parser = parse_schema,
        hide_env_values = true
    )]
    pub(crate) schema: String,
}

/// A name that SQL takes without quotes.
fn parse_schema(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let begins_well = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    if begins_well && text.len() <= 63 && text.chars().all(is_plain) && !text.starts_with("pg_") {
        Ok(text.to_owned())
    } else {
        Err("a schema's name has small letters, digits and _, 63 at most".to_owned())
    }
}

impl DatabaseArgs {
    pub(crate) fn create_schema_sql(&self) -> String {
        format!("CREATE SCHEMA IF NOT EXISTS {}", self.schema)
    }

    /// A pool whose sessions are in the schema, once a first connection has been made. The engine's
    /// connections take after it.
    pub(crate) async fn pool(&self) -> anyhow::Result<PgPool> {
        let options = self.server.options()?.application_name("notification-service");
        let limits =
            PgPoolOptions::new().max_connections(4).acquire_timeout(Duration::from_secs(10));
        let options = options.options([("search_path", &self.schema)]);
        let pool = cli::pool(options, limits).await?;
        self.check_search_path(&pool).await?;
        Ok(pool)
    }

    /// Refuses sessions that are elsewhere than they asked for: what is in the schema `public` may be the
    /// orders' claims.
    async fn check_search_path(&self, pool: &PgPool) -> anyhow::Result<()> {
        let path: String =
            sqlx::query_scalar("SELECT current_setting('search_path')").fetch_one(pool).await?;
        if path != self.schema {
            bail!(
                "sessions are in the schema {path} and not in {}, as they ask by the startup parameter \
                 `options`; is there a pooler that ignores it? Connect to PostgreSQL itself",
                self.schema
            );
        }
        Ok(())
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = match cli::parse::<Cli>() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    cli.log.start("info,sqlx=error");
    cli::run(async {
        match cli.command {
            Command::Run(args) => Box::pin(run::run(*args)).await,
            Command::Migrate(args) => migrate::run(args).await,
        }
    })
}
