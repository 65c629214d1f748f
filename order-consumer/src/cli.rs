//! The command line: what each command takes, and what its ends mean.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use idempotent_consumer::KafkaSettings;
use idempotent_consumer::cli::{self, KafkaArgs, LogArgs, WrongUse};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

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
#[command(mut_arg("database_url", |url| {
    url.required(false).default_value("postgres://orders:orders@localhost:5432/orders")
}))]
pub struct DatabaseArgs {
    #[command(flatten)]
    pub(crate) server: cli::DatabaseArgs,
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

impl DatabaseArgs {
    /// A pool, once a first connection has been made.
    pub(crate) async fn pool(&self) -> anyhow::Result<PgPool> {
        let options = self.server.options()?.application_name("order-consumer");
        let limits =
            PgPoolOptions::new().max_connections(4).acquire_timeout(Duration::from_secs(10));
        Ok(cli::pool(options, limits).await?)
    }

    /// The same, once the database is found to have this version's tables.
    pub(crate) async fn migrated_pool(&self) -> anyhow::Result<PgPool> {
        let pool = self.pool().await?;
        migrate::migrations().check(&pool, "the database").await?;
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
    Ok(args.settings().map_err(WrongUse::from)?)
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = match cli::parse::<Cli>() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    cli.log.start(cli.command.default_log_filter());
    cli::run(async {
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
    })
}
