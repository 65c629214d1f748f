//! The command line: what each command takes, and what its ends mean.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use idempotent_consumer::cli::LogArgs;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

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
pub(crate) struct DatabaseArgs {
    /// PostgreSQL, as postgres://user:password@host:port/database
    #[arg(
        long,
        env = "DATABASE_URL",
        default_value = "postgres://orders:orders@localhost:5432/orders",
        value_name = "URL",
        hide_env_values = true
    )]
    database_url: String,

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

/// A command line that parses but asks for something impossible: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}\n\nFor more information, try '--help'.")]
pub(crate) struct WrongUse(pub(crate) String);

impl DatabaseArgs {
    pub(crate) fn create_schema_sql(&self) -> String {
        format!("CREATE SCHEMA IF NOT EXISTS {}", self.schema)
    }

    /// A pool whose sessions are in the schema, once a first connection has been made. The engine's
    /// connections take after it.
    pub(crate) async fn pool(&self) -> anyhow::Result<PgPool> {
        let options = self.database_url.parse::<PgConnectOptions>().map_err(|error| {
            // The URL holds a password, so it is not repeated.
            WrongUse(format!(
                "--database-url is not a URL of the form postgres://user:password@host:port/database: {error}"
            ))
        })?;
        let options = options
            .application_name("notification-service")
            .options([("search_path", &self.schema)]);
        let place = format!("{}:{}", options.get_host(), options.get_port());
        PgPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(10))
            .connect_with(options)
            .await
            .with_context(|| {
                format!(
                    "no connection to PostgreSQL at {place}; is it running, and are --database-url \
                     or DATABASE_URL right?"
                )
            })
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            // Nowhere to complain to if this fails.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    cli.log.start("info,sqlx=error");
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(async {
        match cli.command {
            Command::Run(args) => run::run(*args).await,
            Command::Migrate(args) => migrate::run(args).await,
        }
    });
    // A transaction, a server or a broker that hangs must not keep a process that is done.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<WrongUse>() { 2 } else { 1 })
        }
    }
}
