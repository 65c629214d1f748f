//! What exactly once costs: every figure is a ratio within one run, contenders take turns on the
//! same servers and the same records, and the auditor looks at each run of the consumer.

mod baseline;
mod ceiling;
mod consumer;
mod contender;
mod disturbed;
mod latency;
mod peers;
mod produce;
mod purge;
mod records;
mod relay;
mod report;
mod rolling;
mod series;
mod stage;
mod usage;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::baseline::{BaselineOptions, Kind};
use crate::contender::{Contender, Grown};
use crate::latency::LatencyOptions;
use crate::peers::{Peer, PeersOptions};
use crate::produce::ProduceOptions;
use crate::purge::PurgeOptions;
use crate::report::Report;
use crate::rolling::RollingOptions;
use crate::stage::{Ids, Shape, Stage, Violated, on_stage};

/// Measures the consumer against what the database can take, on a stack of its own
#[derive(Parser)]
#[command(
    name = "bench",
    after_help = "Exit codes: 0 measured, 1 failed, 2 wrong use, 3 the auditor found a violation."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Work off a topic: the consumer with duplicates, poison, less concurrency, and plain COPY
    Drain(Options),
    /// Work off a topic while the rows of one customer in ten are refused
    Disturbed(Options),
    /// A contender of `drain`, as a process of its own
    #[command(hide = true)]
    Baseline(BaselineOptions),
    /// Work off a topic with claims of earlier messages in the table
    Growth {
        #[command(flatten)]
        options: Options,
        /// How many claims; besides, none
        #[arg(long, value_delimiter = ',', default_value = "1000000,10000000")]
        claims: Vec<u64>,
        /// Version of the UUIDs of messages and orders, and of the claims before
        #[arg(long, value_enum, default_value = "7")]
        id_version: Ids,
        /// Also with nothing of the claims in memory: PostgreSQL is started anew, and the system
        /// gives up the pages of its files
        #[arg(long)]
        cold: bool,
        /// Settings of PostgreSQL, as name=value[,name=value…]: each once more with these
        #[arg(long, value_name = "NAME=VALUE,…", value_parser = parse_settings)]
        settings: Vec<String>,
    },
    /// Work off a topic with PostgreSQL's settings, one after the other
    Settings {
        #[command(flatten)]
        options: Options,
        /// Settings, as name=value[,name=value…]; besides, none
        #[arg(
            long,
            value_name = "NAME=VALUE,…",
            value_parser = parse_settings,
            default_values = SETTINGS
        )]
        settings: Vec<String>,
    },
    /// Publish, beside Kafka's own ProducerPerformance
    Produce(ProduceOptions),
    /// From the producer's hand to the commit, without backlog
    Latency(LatencyOptions),
    /// Restart one process after the other while messages come in
    Rolling(RollingOptions),
    /// Purge old claims, beside batches that claim
    Purge(PurgeOptions),
    /// Work off a topic, beside what a user would pick instead
    Peers {
        #[command(flatten)]
        options: Options,
        #[command(flatten)]
        peers: PeersOptions,
    },
    /// All but the peers, one after the other
    All {
        /// Records in a topic; ten times as many where one customer in ten is refused, since who
        /// that is has to be found out first
        #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(1_000..))]
        events: u64,
        /// How results are printed: one table or one line of JSON after the other
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
}

#[derive(Args)]
struct Options {
    /// Records in the topic
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    events: u64,
    /// How often each contender runs
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Only the contender of this name, or if there is none those whose names contain it
    #[arg(long, value_name = "TEXT", value_delimiter = ',')]
    only: Vec<String>,
    /// How results are printed
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

/// What is often recommended, one by one. All of them keep what is committed, except the last: it
/// loses the latest transactions in a crash of the machine.
const SETTINGS: [&str; 8] = [
    "shared_buffers=2GB",
    "max_wal_size=8GB",
    "checkpoint_timeout=15min",
    "wal_buffers=64MB",
    "wal_compression=pglz",
    "commit_delay=1000",
    "autovacuum_vacuum_cost_limit=2000",
    "synchronous_commit=off",
];

/// Some settings of PostgreSQL, checked for their form.
fn parse_settings(text: &str) -> Result<String, String> {
    let is_name = |name: &str| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.".contains(c))
    };
    let is_setting = |text: &str| {
        text.split_once('=').is_some_and(|(name, value)| is_name(name) && !value.contains('\''))
    };
    if text.split(',').all(is_setting) {
        Ok(text.to_owned())
    } else {
        Err("expected name=value[,name=value…], such as max_wal_size=8GB".to_owned())
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Cli::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<Violated>() { 3 } else { 1 })
        }
    }
}

async fn run(command: &Command) -> anyhow::Result<()> {
    let (options, contenders) = match command {
        Command::Drain(options) => (options, drain()),
        Command::Disturbed(options) => (options, disturbed()),
        Command::Growth { options, claims, id_version: ids, cold, settings } => {
            let mut contenders = Vec::new();
            for settings in as_it_comes_and(settings) {
                let grown = |claims, cold| {
                    Contender::Grown(Grown { claims, ids: *ids, cold, settings: settings.clone() })
                };
                contenders.push(grown(0, false));
                for claims in claims {
                    contenders.push(grown(*claims, false));
                    contenders.extend(cold.then(|| grown(*claims, true)));
                }
            }
            (options, contenders)
        }
        Command::Settings { options, settings } => {
            let tuned = |settings| Contender::Tuned { settings };
            (options, as_it_comes_and(settings).map(tuned).collect())
        }
        Command::Peers { options, peers } => {
            let folder = peers
                .folder
                .canonicalize()
                .with_context(|| format!("--folder {}", peers.folder.display()))?;
            let peer = |name: &String| {
                Contender::Peer(Peer { folder: folder.clone(), name: name.clone() })
            };
            let ours =
                Contender::Consumer { shape: Shape::default(), concurrency: 4, processes: 1 };
            (options, std::iter::once(ours).chain(peers.peers.iter().map(peer)).collect())
        }
        Command::Baseline(options) => {
            let options = options.clone();
            return tokio::task::spawn_blocking(move || baseline::run(&options)).await?;
        }
        Command::Produce(options) => return produce::run(options).await,
        Command::Latency(options) => return latency::run(options).await,
        Command::Rolling(options) => return rolling::run(options).await,
        Command::Purge(options) => return purge::run(options).await,
        Command::All { events, output } => return all(*events, *output).await,
    };
    let names: Vec<String> = contenders.iter().map(Contender::name).collect();
    let is_wanted = |contender: &Contender| is_meant(&options.only, &contender.name(), &names);
    let contenders: Vec<Contender> = contenders.into_iter().filter(is_wanted).collect();
    anyhow::ensure!(!contenders.is_empty(), "no contender has such a name");
    let settings = match command {
        Command::Growth { settings, .. } | Command::Settings { settings, .. } => &settings[..],
        _ => &[],
    };
    let take_turns = async |stage: &Stage| {
        // What is refused is told now, and not after half an hour.
        for settings in settings {
            stage.set(Some(settings)).await?;
        }
        series::take_turns(stage, &contenders, options.runs).await
    };
    let runs = on_stage(options.events, take_turns).await?;
    let report = Report::of(&contenders, &runs, options.events);
    report.print(matches!(options.output, Format::Json))
}

/// Whether `--only` asks for this one of `names`; without it for all. A text that is the name of one
/// asks for that one, any other for those that contain it.
fn is_meant(only: &[String], name: &str, names: &[String]) -> bool {
    let asks =
        |text: &String| if names.contains(text) { text == name } else { name.contains(text) };
    only.is_empty() || only.iter().any(asks)
}

/// PostgreSQL as it comes, and with each of these.
fn as_it_comes_and(settings: &[String]) -> impl Iterator<Item = Option<String>> {
    std::iter::once(None).chain(settings.iter().cloned().map(Some))
}

/// Each as its own command would run it.
async fn all(events: u64, output: Format) -> anyhow::Result<()> {
    let output = match output {
        Format::Table => ["--output", "table"],
        Format::Json => ["--output", "json"],
    };
    let (few, many) = (events.to_string(), events.saturating_mul(10).to_string());
    for arguments in [
        &["drain", "--events", &few][..],
        &["disturbed", "--events", &many],
        &["growth", "--events", &few],
        &["produce", "--events", &few],
        &["latency", "--events", &few],
        &["rolling"],
        &["purge"],
    ] {
        eprintln!("bench {}", arguments.join(" "));
        let arguments = ["bench"].iter().chain(arguments).chain(&output);
        Box::pin(run(&Cli::try_parse_from(arguments)?.command)).await?;
    }
    Ok(())
}

/// The first one is what the others are compared with.
fn drain() -> Vec<Contender> {
    let plain = Shape::default();
    let consumer =
        |shape, concurrency, processes| Contender::Consumer { shape, concurrency, processes };
    let mut all: Vec<Contender> =
        [1, 2, 4].map(|connections| Contender::Copy { connections }).to_vec();
    all.extend([
        consumer(plain, 4, 1),
        consumer(plain, 1, 1),
        consumer(plain, 2, 1),
        consumer(plain, 4, 2),
        consumer(plain, 4, 3),
        consumer(Shape { partitions: 1, ..plain }, 4, 1),
        consumer(Shape { duplicates: 10, ..plain }, 4, 1),
        consumer(Shape { duplicates: 50, ..plain }, 4, 1),
        consumer(Shape { poison: 20, ..plain }, 4, 1),
        Contender::Baseline { kind: Kind::Read, workers: 1 },
        Contender::Baseline { kind: Kind::OneByOne, workers: 1 },
        Contender::Baseline { kind: Kind::OneByOne, workers: 6 },
    ]);
    all
}

fn disturbed() -> Vec<Contender> {
    vec![Contender::Disturbed { refused: false }, Contender::Disturbed { refused: true }]
}
