//! The command line.

use std::time::Duration;

use anyhow::Context as _;
use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use idempotent_consumer::KafkaSettings;
use idempotent_consumer::cli::{KafkaArgs, LogArgs, WrongUse, parse_duration};
use idempotent_consumer::publish::PublisherOptions;
use order_events::EventKind;

use crate::interrupt::Interrupt;
use crate::session::Session;
use crate::topic::{self, TopicError};
use crate::{Exit, load, send, serve};

pub(crate) const DEFAULT_TOPIC: &str = "orders";
pub(crate) const DEFAULT_SOURCE: &str = "/order-producer";

/// Publishes order events to Kafka, each acknowledged, refused or unconfirmed
#[derive(Parser)]
#[command(
    name = "order-producer",
    version,
    after_help = "\
Every option is also a variable, shown with it. Data goes to stdout, progress and messages to
stderr. Exit codes: 0 done, 1 failed, 2 wrong use, 4 some input was refused or not confirmed."
)]
struct Cli {
    #[command(flatten)]
    log: LogArgs,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Publish an order, or events from a file
    Send(send::SendArgs),
    /// Publish that an order was paid
    Pay(send::status::StatusArgs),
    /// Publish that an order was delivered
    Fulfill(send::status::StatusArgs),
    /// Publish that an order was called off
    Cancel(send::status::StatusArgs),
    /// Publish synthetic orders, with duplicates and poison if asked for
    Load(load::LoadArgs),
    /// Accept orders over HTTP
    Serve(serve::ServeArgs),
    /// Who may use the HTTP API
    #[command(subcommand)]
    Keys(serve::keys::KeysCommand),
}

impl Command {
    /// Ends of sends are reported anyway; a server tells what it does.
    const fn default_log_filter(&self) -> &'static str {
        match self {
            Self::Serve(_) => "info,sqlx=error",
            _ => "error",
        }
    }

    /// Threads that run tasks. The other commands have one client and wait for it.
    fn workers(&self) -> usize {
        match self {
            Self::Serve(_) => std::thread::available_parallelism().map_or(1, usize::from),
            _ => 1,
        }
    }
}

/// Where events go and how their ends are shown.
#[derive(Args, Clone)]
pub struct Connection {
    /// Brokers and client properties.
    #[command(flatten)]
    pub kafka: KafkaArgs,

    /// Topic to publish to
    #[arg(long, env = "ORDERS_TOPIC", default_value = DEFAULT_TOPIC, hide_env_values = true)]
    pub topic: String,

    /// Fail if the topic is missing, rather than create it
    #[arg(
        long,
        env = "ORDER_PRODUCER_NO_CREATE_TOPICS",
        value_parser = BoolishValueParser::new(),
        hide_env_values = true
    )]
    pub no_create_topics: bool,

    /// How long an event is tried before it counts as unconfirmed
    #[arg(
        long,
        visible_alias = "timeout",
        env = "ORDER_PRODUCER_DELIVERY_TIMEOUT",
        default_value = "30s",
        value_name = "DURATION",
        value_parser = parse_timeout,
        hide_env_values = true
    )]
    pub delivery_timeout: Duration,

    /// How batches are compressed
    #[arg(
        long,
        env = "ORDER_PRODUCER_COMPRESSION",
        default_value = "lz4",
        value_name = "CODEC",
        value_parser = ["zstd", "lz4", "snappy", "gzip", "none"],
        hide_env_values = true
    )]
    pub compression: String,

    /// CloudEvents source: who sends, as a URI reference
    #[arg(
        long,
        env = "ORDER_PRODUCER_SOURCE",
        default_value = DEFAULT_SOURCE,
        value_name = "URI",
        value_parser = parse_source,
        hide_env_values = true
    )]
    pub source: String,

    /// How results are printed
    #[arg(
        short,
        long,
        env = "ORDER_PRODUCER_OUTPUT",
        default_value = "table",
        value_name = "FORMAT",
        hide_env_values = true
    )]
    pub output: Format,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "clap would print them and stretch every line of the help")]
pub enum Format {
    Table,
    Json,
    Jsonl,
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    // Zero would mean "for ever" to the client, and a send must have an end.
    match parse_duration(text)? {
        timeout if timeout < Duration::from_millis(10) => Err("must be at least 10ms".to_owned()),
        timeout if timeout > Duration::from_hours(7 * 24) => Err("must be at most 7d".to_owned()),
        timeout => Ok(timeout),
    }
}

pub(crate) fn parse_source(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 256 || !text.chars().all(|c| c.is_ascii_graphic()) {
        return Err("a source is a URI reference of 1 to 256 visible ASCII characters".to_owned());
    }
    Ok(text.to_owned())
}

/// What every command needs of the process.
pub(crate) struct App {
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) interrupt: Interrupt,
}

impl App {
    fn start(workers: usize) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers)
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let interrupt = Interrupt::listen(&runtime)?;
        Ok(Self { runtime, interrupt })
    }
}

impl Connection {
    pub(crate) fn settings(&self) -> anyhow::Result<KafkaSettings> {
        Ok(self.kafka.settings().map_err(WrongUse::from)?)
    }

    /// Makes sure of the topic.
    pub(crate) fn prepare_topic(
        &self,
        app: &App,
        settings: &KafkaSettings,
    ) -> Result<(), TopicError> {
        let create = !self.no_create_topics;
        topic::prepare(&app.runtime, settings, &self.topic, create, self.delivery_timeout)
    }

    pub(crate) fn publisher_options(&self) -> PublisherOptions {
        PublisherOptions {
            delivery_timeout: Some(self.delivery_timeout),
            compression: self.compression.clone(),
            ..PublisherOptions::default()
        }
    }

    pub(crate) fn session<T>(
        &self,
        app: &App,
        settings: &KafkaSettings,
    ) -> anyhow::Result<Session<T>> {
        self.session_with(app, settings, &self.publisher_options())
    }

    pub(crate) fn session_with<T>(
        &self,
        app: &App,
        settings: &KafkaSettings,
        options: &PublisherOptions,
    ) -> anyhow::Result<Session<T>> {
        Session::new(settings, options, &self.topic, app.interrupt.clone())
            .map_err(|error| WrongUse(error.to_string()).into())
    }
}

/// Runs the command that the process was started with.
pub fn run() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too; a closed stdout is nobody's failure.
            let _ = error.print();
            return if error.use_stderr() { Exit::WrongUse } else { Exit::Done };
        }
    };
    cli.log.start(cli.command.default_log_filter());
    let result = App::start(cli.command.workers()).and_then(|app| dispatch(&app, cli.command));
    result.unwrap_or_else(|error| {
        crate::output::say!("error: {error:#}");
        if let Some(advice) = idempotent_consumer::cli::advice(error.as_ref()) {
            crate::output::say!("{advice}");
        }
        if error.is::<WrongUse>() { Exit::WrongUse } else { Exit::Failed }
    })
}

fn dispatch(app: &App, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Send(args) => args.run(app),
        Command::Pay(args) => args.run(app, EventKind::Paid),
        Command::Fulfill(args) => args.run(app, EventKind::Fulfilled),
        Command::Cancel(args) => args.run(app, EventKind::Cancelled),
        Command::Load(args) => load::run(&args, app),
        Command::Serve(args) => args.run(app),
        Command::Keys(command) => command.run(app),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
