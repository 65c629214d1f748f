//! `status`: how far the consumer is, and what waits for whom, on one screen.

mod report;
mod text;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use idempotent_consumer::cli::KafkaArgs;
use idempotent_consumer::inspect;

use crate::cli::{DatabaseArgs, Format, OutputArgs, TopicArgs, kafka_settings};
use crate::output;
use report::Status;

/// How long each question to Kafka may take: somebody is looking at the screen.
const PATIENCE: Duration = Duration::from_secs(5);

/// Arguments of `status`.
#[derive(Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    topics: TopicArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Prints it. What the database knows is printed also if Kafka does not answer.
pub(crate) async fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let settings = kafka_settings(&args.kafka)?;
    let (group, topic) = (&args.topics.group, &args.topics.topic);
    let pool = args.database.migrated_pool().await?;
    let mut connection = pool.acquire().await?;
    // The database first: a position read after the log's end could seem to be beyond it.
    let overview = inspect::overview(&mut connection, group, topic).await?;
    let others = if overview.partitions.is_empty() {
        inspect::known_consumers(&mut connection).await?
    } else {
        Vec::new()
    };
    let log = inspect::topic_log(&settings, group, topic, PATIENCE).await;
    let status = Status::new(&args.topics, overview, log.map_err(|error| error.to_string()));
    match args.output.output {
        Format::Table => {
            let place = args.topics.options(&args.kafka);
            output::write(text::render(&status, &others, &place).as_bytes())?;
        }
        format => output::write_json(&status, format)?,
    }
    Ok(match &status.kafka.problem {
        Some(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    })
}
