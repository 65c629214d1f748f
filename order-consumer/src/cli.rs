//! The command line: what each command takes, and what its ends mean.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};
use idempotent_consumer::cli::{KafkaArgs, LogArgs};
use idempotent_consumer::{KafkaSettings, pooler};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::{accept, dlq, migrate, pipe, purge, retries, run, show, status, verify};

/// Applies order events from Kafka to PostgreSQL, each exactly once, and proves it
#[derive(Parser)]
#[command(
    name = "order-consumer",
    version,
    after_help = "\
Every option is also a variable, shown with it. Data goes to stdout, progress and logs to stderr
(RUST_LOG sets how much). Exit codes: 0 done, 1 failed, 2 wrong use, 3 verification found a
violation."
)]
struct Cli {
    #[command(flatten)]
    log: LogArgs,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Consume and apply events until stopped
    Run(run::RunArgs),
    /// Make order records of raw orders, from topic to topic in Kafka transactions; no database
    Pipe(pipe::PipeArgs),
    /// Bring the database's tables up to this version
    Migrate(migrate::MigrateArgs),
    /// How far the consumer is, and what waits: lag, dead letters, outbox
    Status(status::StatusArgs),
    /// The story of an order or a message: every event, what became of it, where and when
    Show(show::ShowArgs),
    /// Dead letters: messages that were not applied, and why
    #[command(subcommand)]
    Dlq(dlq::DlqCommand),
    /// The retry queue: messages that wait for another attempt, and those behind them
    #[command(subcommand)]
    Retries(retries::RetriesCommand),
    /// Let a stopped partition begin again, after its topic was created anew or cut short
    Accept(accept::AcceptArgs),
    /// Remove claims that are older than the dedup window
    Purge(purge::PurgeArgs),
    /// Prove that every acknowledged event has exactly one outcome
    Verify(verify::VerifyArgs),
}

impl Command {
    /// Commands that only look say themselves what they could not reach.
    fn default_log_filter(&self) -> &'static str {
        match self {
            Self::Status(_) | Self::Show(_) | Self::Dlq(_) | Self::Retries(_) => {
                "warn,sqlx=error,librdkafka=off,rdkafka=off"
            }
            Self::Run(_)
            | Self::Pipe(_)
            | Self::Migrate(_)
            | Self::Accept(_)
            | Self::Purge(_)
            | Self::Verify(_) => "info,sqlx=error",
        }
    }
}

/// The database.
#[derive(Args, Clone)]
pub struct DatabaseArgs {
    /// PostgreSQL, as postgres://user:password@host:port/database
    #[arg(
        long,
        env = "DATABASE_URL",
        default_value = "postgres://orders:orders@localhost:5432/orders",
        value_name = "URL",
        hide_env_values = true
    )]
    pub database_url: String,
}

/// The topics and the group.
#[derive(Args, Clone)]
pub struct TopicArgs {
    /// Topic to consume
    #[arg(long, env = "ORDERS_TOPIC", default_value = "orders", hide_env_values = true)]
    pub topic: String,

    /// Topic for copies of dead letters
    #[arg(long, env = "ORDERS_DLQ_TOPIC", default_value = "orders.dlq", hide_env_values = true)]
    pub dlq_topic: String,

    /// Consumer group, and scope of the claims
    #[arg(
        short,
        long,
        env = "CONSUMER_GROUP",
        default_value = "order-consumer",
        hide_env_values = true
    )]
    pub group: String,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// One JSON text
    Json,
    /// One JSON text a line
    Jsonl,
}

/// How results are printed, as an argument.
#[derive(Args, Clone, Copy)]
pub struct OutputArgs {
    /// How results are printed
    #[arg(
        short,
        long,
        env = "ORDER_CONSUMER_OUTPUT",
        default_value = "table",
        value_name = "FORMAT",
        hide_env_values = true
    )]
    pub output: Format,
}

/// A command line that parses but asks for something impossible: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}\n\nFor more information, try '--help'.")]
pub(crate) struct WrongUse(pub(crate) String);

impl DatabaseArgs {
    pub(crate) fn options(&self) -> anyhow::Result<PgConnectOptions> {
        self.database_url.parse::<PgConnectOptions>().map_err(|error| {
            // The URL holds a password, so it is not repeated.
            WrongUse(format!(
                "--database-url is not a URL of the form postgres://user:password@host:port/database: {error}"
            ))
            .into()
        })
    }

    /// A pool, once a first connection has been made.
    pub(crate) async fn pool(&self) -> anyhow::Result<PgPool> {
        let options = self.options()?.application_name("order-consumer");
        let place = format!("{}:{}", options.get_host(), options.get_port());
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(std::time::Duration::from_secs(10))
            .connect_with(options.clone())
            .await
            .with_context(|| {
                format!(
                    "no connection to PostgreSQL at {place}; is it running, and are --database-url \
                     or DATABASE_URL right?"
                )
            })?;
        Self::check_pooler(&options).await?;
        Ok(pool)
    }

    /// Refuses a pooler through which statements of others could be run in the place of ours.
    pub(crate) async fn check_pooler(options: &PgConnectOptions) -> anyhow::Result<()> {
        let place = || format!("PostgreSQL at {}:{}", options.get_host(), options.get_port());
        pooler::check(options).await.with_context(place)
    }

    /// The same, once the database is found to have this version's tables.
    pub(crate) async fn migrated_pool(&self) -> anyhow::Result<PgPool> {
        let pool = self.pool().await?;
        let missing = migrate::pending(&pool)
            .await
            .context("the database's tables do not fit this program")?;
        if !missing.is_empty() {
            anyhow::bail!(
                "the database lacks migrations ({}); run `order-consumer migrate` first",
                missing.join(", ")
            );
        }
        Ok(pool)
    }
}

impl TopicArgs {
    /// What a further command line has to repeat to mean the same place, with a space before it:
    /// whatever was given as a flag. A database's URL holds a password and is never repeated.
    pub(crate) fn options(&self, kafka: &KafkaArgs) -> String {
        let given = [
            (
                "--bootstrap-servers",
                "KAFKA_BOOTSTRAP_SERVERS",
                "localhost:9092",
                &kafka.bootstrap_servers,
            ),
            ("--topic", "ORDERS_TOPIC", "orders", &self.topic),
            ("--group", "CONSUMER_GROUP", "order-consumer", &self.group),
        ];
        let repeated = given.into_iter().filter(|(_, variable, default, value)| {
            std::env::var(variable).as_deref().unwrap_or(default) != value.as_str()
        });
        repeated.flat_map(|(flag, _, _, value)| [" ", flag, " ", value]).collect()
    }
}

/// The settings of `-b` and `-X`; a wrong one is wrong use.
pub(crate) fn kafka_settings(args: &KafkaArgs) -> anyhow::Result<KafkaSettings> {
    args.settings().map_err(|error| WrongUse(error.to_string()).into())
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
    cli.log.start(cli.command.default_log_filter());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(async {
        match cli.command {
            Command::Run(args) => run::run(args).await,
            Command::Pipe(args) => pipe::run(args).await,
            Command::Migrate(args) => migrate::run(args).await,
            Command::Status(args) => status::run(args).await,
            Command::Show(args) => show::run(args).await,
            Command::Dlq(command) => dlq::run(command).await,
            Command::Retries(command) => retries::run(command).await,
            Command::Accept(args) => accept::run(args).await,
            Command::Purge(args) => purge::run(args).await,
            Command::Verify(args) => verify::run(args).await,
        }
    });
    // A transaction or a broker that hangs must not keep a process that is done.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            if let Some(advice) = idempotent_consumer::cli::advice(error.as_ref()) {
                eprintln!("{advice}");
            }
            ExitCode::from(if error.is::<WrongUse>() { 2 } else { 1 })
        }
    }
}
