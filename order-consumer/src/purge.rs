//! `purge`: claims that are older than the dedup window leave.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use idempotent_consumer::cli::{KafkaArgs, WrongUse, parse_duration};
use idempotent_consumer::purge::{self, Purgeable, Purged};
use serde::Serialize;

use crate::cli::{DatabaseArgs, Format, OutputArgs, TopicArgs, kafka_settings};
use crate::output;

/// How long each question to Kafka may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Arguments of `purge`.
#[derive(Args)]
pub(crate) struct PurgeArgs {
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    topics: TopicArgs,
    #[command(flatten)]
    output: OutputArgs,

    /// Keep claims for so long; longer than the topics keep records. The window that was given
    /// last, to a purge or a consumer, otherwise
    #[arg(long, env = "ORDER_CONSUMER_DEDUP_WINDOW", value_parser = parse_duration, value_name = "DURATION", hide_env_values = true)]
    dedup_window: Option<Duration>,

    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
}

/// What it found and did, as JSON.
#[derive(Serialize)]
struct Report {
    found: Vec<Purgeable>,
    /// Nothing in a dry run.
    purged: Option<Purged>,
}

/// Checks the window, says what goes, and lets it go.
pub(crate) async fn run(args: PurgeArgs) -> anyhow::Result<ExitCode> {
    let settings = kafka_settings(&args.kafka)?;
    let pool = args.database.migrated_pool().await?;
    let mut connection = pool.acquire().await?;
    let recorded = purge::recorded_window(&mut connection).await?;
    let Some(window) = args.dedup_window.or(recorded) else {
        let text = "claims are kept for ever; give --dedup-window to purge older ones";
        return Err(WrongUse(text.to_owned()).into());
    };
    let topics = [args.topics.topic.as_str(), args.topics.dlq_topic.as_str()];
    purge::check_window(&settings, topics, window, PATIENCE).await?;

    let format = args.output.output;
    let announce = |found: &[Purgeable]| match format {
        Format::Table => output::write(table(found).as_bytes()),
        _ => Ok(()),
    };
    let (found, purged) = if args.dry_run {
        let found = purge::preview(&mut connection, window).await?;
        announce(&found)?;
        (found, None)
    } else {
        let mut announced = Ok(Vec::new());
        let purged = purge::purge(&mut connection, window, |found| {
            announced = announce(found).map(|()| found.to_vec());
        });
        let purged = purged.await?;
        (announced?, Some(purged))
    };
    match (&purged, format) {
        (None, Format::Table) => eprintln!("nothing was changed (--dry-run)"),
        (Some(purged), Format::Table) => output::write(summary(purged).as_bytes())?,
        _ => output::write_json(&Report { found, purged: purged.clone() }, format)?,
    }
    match purged.map(|purged| purged.busy) {
        Some(busy) if !busy.is_empty() => {
            bail!("{} in use by a reader all the time; purge again later", busy.join(", "))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn table(found: &[Purgeable]) -> String {
    if found.is_empty() {
        return "no claim is older than the dedup window\n".to_owned();
    }
    let rows = found.iter().map(|leaf| {
        let way = if leaf.is_whole { "emptied" } else { "old claims deleted" };
        let megabytes = leaf.bytes / 1_000_000;
        [leaf.leaf.clone(), way.to_owned(), leaf.claims.to_string(), megabytes.to_string()]
    });
    output::table(["claims of", "is", "holds about", "MB"], &[2, 3], rows)
}

fn summary(purged: &Purged) -> String {
    let kept: i64 = purged.emptied.iter().map(|leaf| leaf.kept).sum();
    format!(
        "{} emptied, {} kept in them (young, or of dead letters); {} deleted elsewhere\n",
        output::counted(purged.emptied.len() as i128, "leaf").replace("leafs", "leaves"),
        output::counted(kept, "claim"),
        output::counted(purged.deleted, "claim"),
    )
}
