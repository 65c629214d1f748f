//! `accept`: an operator's word that the log, as it is now, is the right one.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use idempotent_consumer::accept;
use idempotent_consumer::cli::KafkaArgs;

use crate::cli::{DatabaseArgs, TopicArgs, kafka_settings};

/// Arguments of `accept`.
#[derive(Args)]
pub(crate) struct AcceptArgs {
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    topics: TopicArgs,

    /// Only this partition; all that are stopped otherwise
    #[arg(long)]
    partition: Option<i32>,

    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Lets stopped partitions begin again at their log's start.
pub(crate) async fn run(args: AcceptArgs) -> anyhow::Result<ExitCode> {
    let settings = kafka_settings(&args.kafka)?;
    let pool = args.database.pool().await?;
    let mut connection = pool.acquire().await?;
    let found = accept::find(
        &settings,
        &mut connection,
        &args.topics.group,
        &args.topics.topic,
        Duration::from_secs(15),
    )
    .await
    .context("cannot compare the database's progress with the log")?;
    let chosen: Vec<_> = found
        .into_iter()
        .filter(|stopped| args.partition.is_none_or(|partition| partition == stopped.partition))
        .collect();
    if chosen.is_empty() {
        eprintln!("no partition is waiting for this: each one's progress fits its log");
        return Ok(ExitCode::SUCCESS);
    }
    for stopped in &chosen {
        println!(
            "{}[{}]: {}\n  begins again at offset {} of {}; what has its outcome already counts as duplicate",
            args.topics.topic,
            stopped.partition,
            stopped.reason,
            stopped.log_start,
            stopped.log_end
        );
        if !args.dry_run
            && !accept::accept(&mut connection, &args.topics.group, &args.topics.topic, stopped)
                .await?
        {
            bail!("partition {} has no progress to accept any more", stopped.partition);
        }
    }
    if args.dry_run {
        eprintln!("nothing was changed (--dry-run)");
    }
    Ok(ExitCode::SUCCESS)
}
