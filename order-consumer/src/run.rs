//! `run`: consume until told to stop.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;
use idempotent_consumer::cli::{
    self, KafkaArgs, SignalError, TraceArgs, WrongUse, parse_duration, parse_ratio,
};
use idempotent_consumer::identity::IdMode;
use idempotent_consumer::{Backoff, Engine, EngineConfig, Summary, probes};
use tokio_util::sync::CancellationToken;

use crate::cli::{DatabaseArgs, Format, OutputArgs, TopicArgs, kafka_settings};
use crate::decoder::{OrderDecoder, UnknownType};
use crate::handler::OrderHandler;

/// Arguments of `run`.
#[derive(Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    topics: TopicArgs,
    #[command(flatten)]
    output: OutputArgs,

    /// What a message's id comes from: ce_id, header:NAME, json:/POINTER, or position, by which
    /// each record is a message of its own. One for the life of a database
    #[arg(
        long,
        env = "ORDER_CONSUMER_MESSAGE_ID_FROM",
        default_value_t,
        value_name = "PLACE",
        hide_env_values = true
    )]
    message_id_from: IdMode,

    /// Transactions under way at once, one a partition at most
    #[arg(long, env = "ORDER_CONSUMER_CONCURRENCY", default_value_t = 4, value_parser = at_least_one, hide_env_values = true)]
    concurrency: usize,

    /// Messages in a transaction, at most
    #[arg(long, env = "ORDER_CONSUMER_BATCH_SIZE", default_value_t = 7000, value_parser = at_least_one, hide_env_values = true)]
    batch_size: usize,

    /// Bytes of records in a transaction, at most; a larger record goes alone
    #[arg(long, env = "ORDER_CONSUMER_BATCH_BYTES", default_value_t = 6 * 1024 * 1024, value_parser = at_least_one, value_name = "BYTES", hide_env_values = true)]
    batch_bytes: usize,

    /// How long a batch that is not full waits for more
    #[arg(long, env = "ORDER_CONSUMER_BATCH_LINGER", default_value = "0s", value_parser = parse_duration, value_name = "DURATION", hide_env_values = true)]
    batch_linger: Duration,

    /// How often a message is tried before it is dead-lettered
    #[arg(long, env = "ORDER_CONSUMER_MAX_ATTEMPTS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..), hide_env_values = true)]
    max_attempts: u32,

    /// How often a message may end the process, tried alone, before it is dead-lettered
    #[arg(long, env = "ORDER_CONSUMER_MAX_CRASHES", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..), hide_env_values = true)]
    max_crashes: u32,

    /// First wait before a message is tried again; doubles up to --retry-backoff-max
    #[arg(long, env = "ORDER_CONSUMER_RETRY_BACKOFF", default_value = "1s", value_parser = parse_duration, value_name = "DURATION", hide_env_values = true)]
    retry_backoff: Duration,

    /// Longest wait before a message is tried again
    #[arg(long, env = "ORDER_CONSUMER_RETRY_BACKOFF_MAX", default_value = "5m", value_parser = parse_duration, value_name = "DURATION", hide_env_values = true)]
    retry_backoff_max: Duration,

    /// How long the effects of a batch may take
    #[arg(long, env = "ORDER_CONSUMER_HANDLER_TIMEOUT", default_value = "20s", value_parser = parse_duration, value_name = "DURATION", hide_env_values = true)]
    handler_timeout: Duration,

    /// Stop, dead-lettering nothing, if a larger share of recent messages would be dead-lettered
    #[arg(long, env = "ORDER_CONSUMER_MAX_DEAD_LETTER_RATIO", value_parser = parse_ratio, value_name = "0..1", hide_env_values = true)]
    max_dead_letter_ratio: Option<f64>,

    /// Dead-letter messages that are older than this and have no claim, so that `purge` may take
    /// claims that are; longer than the topics keep records. By default claims are kept for ever
    #[arg(long, env = "ORDER_CONSUMER_DEDUP_WINDOW", value_parser = parse_duration, value_name = "DURATION", hide_env_values = true)]
    dedup_window: Option<Duration>,

    /// What to do with events of a type this version does not know
    #[arg(
        long,
        env = "ORDER_CONSUMER_UNKNOWN_TYPE",
        default_value = "dead-letter",
        hide_env_values = true
    )]
    unknown_type: UnknownType,

    /// Topic to publish a notification to for each change of an order's status, for
    /// notification-service. By default none is published
    #[arg(
        long,
        env = "ORDER_CONSUMER_NOTIFICATIONS_TOPIC",
        value_name = "TOPIC",
        hide_env_values = true
    )]
    notifications_topic: Option<String>,

    /// End by itself after so long with nothing to do
    #[arg(long, env = "ORDER_CONSUMER_EXIT_WHEN_IDLE", value_parser = parse_duration, value_name = "DURATION", hide_env_values = true)]
    exit_when_idle: Option<Duration>,

    /// Fail if a topic is missing, rather than create it
    #[arg(long, env = "ORDER_CONSUMER_NO_CREATE_TOPICS", value_parser = BoolishValueParser::new(), hide_env_values = true)]
    no_create_topics: bool,

    #[command(flatten)]
    trace: TraceArgs,

    /// Address of /livez, /readyz and /metrics
    #[arg(
        long,
        env = "ORDER_CONSUMER_LISTEN",
        default_value = "127.0.0.1:9464",
        value_name = "HOST:PORT",
        hide_env_values = true
    )]
    listen: SocketAddr,
}

pub(crate) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

impl RunArgs {
    fn config(&self) -> anyhow::Result<EngineConfig> {
        if self.topics.topic == self.topics.dlq_topic {
            return Err(WrongUse("--topic and --dlq-topic are the same".to_owned()).into());
        }
        let notifications = self.notifications_topic.as_deref();
        if [&self.topics.topic, &self.topics.dlq_topic].iter().any(|t| notifications == Some(t)) {
            let problem = "--notifications-topic is --topic or --dlq-topic; name another";
            return Err(WrongUse(problem.to_owned()).into());
        }
        let kafka = kafka_settings(&self.kafka)?;
        let defaults = EngineConfig::new(kafka, &self.topics.topic, &self.topics.group);
        Ok(EngineConfig {
            dlq_topic: self.topics.dlq_topic.clone(),
            publishes_to: self.notifications_topic.iter().cloned().collect(),
            message_id_from: self.message_id_from.clone(),
            create_topics: !self.no_create_topics,
            concurrency: self.concurrency,
            batch_size: self.batch_size,
            batch_bytes: self.batch_bytes,
            batch_linger: self.batch_linger,
            max_attempts: self.max_attempts,
            max_crashes: self.max_crashes,
            retry_backoff: Backoff { base: self.retry_backoff, cap: self.retry_backoff_max },
            handler_timeout: self.handler_timeout,
            max_dead_letter_ratio: self.max_dead_letter_ratio,
            dedup_window: self.dedup_window,
            exit_when_idle: self.exit_when_idle,
            ..defaults
        })
    }
}

/// Runs the engine with the order handler.
pub(crate) async fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let config = args.config()?;
    let exporting = args.trace.start("order-consumer")?;
    let stop = stop_on_signals()?;
    let pool = args.database.migrated_pool().await?;
    let decoder = OrderDecoder { unknown_type: args.unknown_type };
    let handler = match &args.notifications_topic {
        Some(topic) => OrderHandler::notifying(topic),
        None => OrderHandler::default(),
    };
    let engine = Engine::with_decoder(config, handler, decoder, pool);
    let ended = probes::beside(args.listen, engine.health(), engine.run(stop)).await;
    exporting.finish().await;
    print_summary(&ended??, args.output.output)?;
    Ok(ExitCode::SUCCESS)
}

/// Fires on SIGTERM and ctrl-C. A second signal ends the process at once.
pub(crate) fn stop_on_signals() -> Result<CancellationToken, SignalError> {
    let stopping = || tracing::info!("stopping: committing what is under way");
    let at_once = || {
        eprintln!("second signal: ending at once; what was not committed is read again");
        1
    };
    cli::stop_on_signals(stopping, at_once)
}

fn print_summary(summary: &Summary, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Json | Format::Jsonl => println!("{}", serde_json::to_string(summary)?),
        Format::Table => println!(
            "{} events in {:.1} s ({:.0} events/s): {} applied, {} duplicates, {} dead-lettered, \
             {} skipped, {} deferred",
            summary.events,
            summary.seconds,
            summary.events_per_second,
            summary.applied,
            summary.duplicates,
            summary.dead_lettered,
            summary.skipped,
            summary.deferred
        ),
    }
    Ok(())
}
