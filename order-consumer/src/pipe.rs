//! `pipe`: from raw orders to order records or dead letters, in Kafka transactions.

mod stage;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;
use idempotent_consumer::cli::{KafkaArgs, WrongUse, parse_duration, parse_transaction_timeout};
use idempotent_consumer::pipe::{Pipe, PipeConfig, PipeSummary};
use serde::Serialize;

use self::stage::OrderStage;
use crate::cli::{Format, OutputArgs, kafka_settings};
use crate::output;
use crate::run::{at_least_one, stop_on_signals};

/// Arguments of `pipe`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  order-consumer pipe
  order-consumer pipe --from shop.orders --transactional-id pipe-1
  order-consumer pipe --exit-when-idle 5s -o json

A raw order is a record whose value is {\"type\":\"order.placed\",\"id\":\"any text, optional\",\"data\":{...}},
or a CloudEvent in structured mode; its key and its partition do not matter. What is no order goes to
the dead letter topic. Each comes out once, for readers with isolation.level=read_committed.")]
pub(crate) struct PipeArgs {
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    output: OutputArgs,

    /// Topic of raw orders
    #[arg(
        long,
        env = "ORDER_CONSUMER_FROM",
        default_value = "orders.incoming",
        value_name = "TOPIC",
        hide_env_values = true
    )]
    from: String,

    /// Topic for orders
    #[arg(long, env = "ORDERS_TOPIC", default_value = "orders", hide_env_values = true)]
    topic: String,

    /// Topic for what is no order
    #[arg(long, env = "ORDERS_DLQ_TOPIC", default_value = "orders.dlq", hide_env_values = true)]
    dlq_topic: String,

    /// Consumer group of the processes that share the work; not that of `run`
    #[arg(
        short,
        long,
        env = "ORDER_CONSUMER_PIPE_GROUP",
        default_value = "order-pipe",
        hide_env_values = true
    )]
    group: String,

    /// Name of this process for Kafka's transactions. With one that stays, a new start ends at once
    /// what a killed process left open; two processes under one name end each other. By default a
    /// new one at each start
    #[arg(
        long,
        env = "ORDER_CONSUMER_TRANSACTIONAL_ID",
        value_name = "NAME",
        value_parser = clap::builder::NonEmptyStringValueParser::new(),
        hide_env_values = true
    )]
    transactional_id: Option<String>,

    /// When the brokers abort what a killed process left open. Until then readers with
    /// read_committed wait behind it
    #[arg(
        long,
        env = "ORDER_CONSUMER_TRANSACTION_TIMEOUT",
        default_value = "10s",
        value_name = "DURATION",
        value_parser = parse_transaction_timeout,
        hide_env_values = true
    )]
    transaction_timeout: Duration,

    /// Raw orders in a transaction, at most
    #[arg(long, env = "ORDER_CONSUMER_BATCH_SIZE", default_value_t = 1000, value_parser = at_least_one, hide_env_values = true)]
    batch_size: usize,

    /// Bytes of raw orders in a transaction, at most; a larger one goes alone
    #[arg(long, env = "ORDER_CONSUMER_BATCH_BYTES", default_value_t = 4 * 1024 * 1024, value_parser = at_least_one, value_name = "BYTES", hide_env_values = true)]
    batch_bytes: usize,

    /// How long a transaction that is not full waits for more
    #[arg(long, env = "ORDER_CONSUMER_BATCH_LINGER", default_value = "50ms", value_parser = parse_duration, value_name = "DURATION", hide_env_values = true)]
    batch_linger: Duration,

    /// CloudEvents source of orders that name none, as a URI reference
    #[arg(
        long,
        env = "ORDER_CONSUMER_SOURCE",
        default_value = "/order-pipe",
        value_name = "URI",
        hide_env_values = true
    )]
    source: String,

    /// End by itself after so long with nothing to do
    #[arg(long, env = "ORDER_CONSUMER_EXIT_WHEN_IDLE", value_parser = parse_duration, value_name = "DURATION", hide_env_values = true)]
    exit_when_idle: Option<Duration>,

    /// Fail if a topic is missing, rather than create it
    #[arg(long, env = "ORDER_CONSUMER_NO_CREATE_TOPICS", value_parser = BoolishValueParser::new(), hide_env_values = true)]
    no_create_topics: bool,
}

impl PipeArgs {
    fn config(&self) -> anyhow::Result<PipeConfig> {
        let topics =
            [("--from", &self.from), ("--topic", &self.topic), ("--dlq-topic", &self.dlq_topic)];
        for (one, other) in [(0, 1), (0, 2), (1, 2)] {
            if topics[one].1 == topics[other].1 {
                let text = format!("{} and {} are the same", topics[one].0, topics[other].0);
                return Err(WrongUse(text).into());
            }
        }
        let mut config = PipeConfig::new(kafka_settings(&self.kafka)?, &self.from, &self.group);
        if let Some(id) = &self.transactional_id {
            config.transactional_id.clone_from(id);
        }
        Ok(PipeConfig {
            transaction_timeout: self.transaction_timeout,
            create_topics: !self.no_create_topics,
            batch_size: self.batch_size,
            batch_bytes: self.batch_bytes,
            batch_linger: self.batch_linger,
            exit_when_idle: self.exit_when_idle,
            ..config
        })
    }
}

/// Runs the stage until it is told to stop.
pub(crate) async fn run(args: PipeArgs) -> anyhow::Result<ExitCode> {
    let config = args.config()?;
    let stop = stop_on_signals()?;
    let stage = OrderStage {
        topic: args.topic.clone(),
        dlq_topic: args.dlq_topic.clone(),
        group: args.group.clone(),
        source: args.source.clone(),
    };
    let pipe = Pipe::new(config, [&args.topic, &args.dlq_topic], stage);
    let summary = pipe.run(stop).await?;
    print_summary(&Summary::of(&summary, &args), args.output.output)?;
    Ok(ExitCode::SUCCESS)
}

/// The library's summary in the words of orders.
#[derive(Serialize)]
struct Summary {
    /// Raw orders whose transaction was committed.
    records: u64,
    seconds: f64,
    records_per_second: f64,
    published: u64,
    dead_lettered: u64,
    transactions: u64,
    aborted: u64,
    lost: u64,
}

impl Summary {
    fn of(summary: &PipeSummary, args: &PipeArgs) -> Self {
        let to = |topic: &String| summary.published.get(topic).copied().unwrap_or(0);
        let seconds = summary.seconds;
        Self {
            records: summary.records,
            seconds,
            records_per_second: if seconds > 0.0 { summary.records as f64 / seconds } else { 0.0 },
            published: to(&args.topic),
            dead_lettered: to(&args.dlq_topic),
            transactions: summary.transactions,
            aborted: summary.aborted,
            lost: summary.lost,
        }
    }
}

fn print_summary(summary: &Summary, format: Format) -> anyhow::Result<()> {
    if format != Format::Table {
        return output::write_json(summary, Format::Jsonl);
    }
    let text = format!(
        "{} raw orders in {:.1} s ({:.0}/s): {} published, {} dead-lettered, in {} transactions; {} \
         aborted, {} offsets lost\n",
        summary.records,
        summary.seconds,
        summary.records_per_second,
        summary.published,
        summary.dead_lettered,
        summary.transactions,
        summary.aborted,
        summary.lost
    );
    output::write(text.as_bytes())
}
