//! `show`: the story of an order or a message, from the log and the database.

mod orders;
mod story;
mod text;
mod wanted;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use idempotent_consumer::KafkaSettings;
use idempotent_consumer::cli::KafkaArgs;
use idempotent_consumer::inspect::{self, ScanError, ScanProgress, ScannedTopic};
use indicatif::{ProgressBar, ProgressStyle};
use uuid::Uuid;

use crate::cli::{DatabaseArgs, Format, OutputArgs, TopicArgs, kafka_settings};
use crate::output;
use story::Story;
use wanted::{Found, Wanted};

pub(crate) use wanted::order_id_of;

/// How long the log may be silent.
const PATIENCE: Duration = Duration::from_secs(10);

/// Arguments of `show`.
#[derive(Args)]
pub(crate) struct ShowArgs {
    /// An order id, a message id, or the producer's own id text
    id: String,

    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    topics: TopicArgs,

    /// Records to tell of, at most
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,

    #[command(flatten)]
    output: OutputArgs,
}

/// Tells it. What the database knows is told also if Kafka does not answer.
pub(crate) async fn run(args: ShowArgs) -> anyhow::Result<ExitCode> {
    let settings = kafka_settings(&args.kafka)?;
    let pool = args.database.migrated_pool().await?;
    let mut connection = pool.acquire().await?;
    let id = message_of_dlq_id(&mut connection, &args.topics.group, &args.id).await?;
    let id_mode = inspect::id_mode(&mut connection).await?;
    let wanted = Wanted::new(&id, id_mode, usize::try_from(args.limit)?);
    let (scanned, found) = scan(settings, args.topics.topic.clone(), wanted).await?;
    let (scanned, problem) = match scanned {
        Ok(Some(scanned)) => (Some(scanned), None),
        Ok(None) => (None, Some(format!("the topic {} does not exist", args.topics.topic))),
        Err(error) => (None, Some(error.to_string())),
    };
    let story = Story::read(&mut connection, &args.topics, &id, found, scanned, problem).await?;
    if let Some(problem) = &story.kafka_problem {
        eprintln!("error: the log was not read to its end: {problem}");
    }
    if story.is_empty() {
        eprintln!("{}", text::nothing_found(&story));
        if args.output.output == Format::Table {
            return Ok(ExitCode::FAILURE);
        }
    }
    match args.output.output {
        Format::Table => output::write(text::render(&story).as_bytes())?,
        format => output::write_json(&story, format)?,
    }
    let is_whole = story.kafka_problem.is_none() && !story.is_empty();
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Who comes from the dead letter topic has a dlq id in hand: it stands for its message.
async fn message_of_dlq_id(
    connection: &mut sqlx::PgConnection,
    group: &str,
    id: &str,
) -> anyhow::Result<String> {
    let Ok(uuid) = Uuid::try_parse(id) else { return Ok(id.to_owned()) };
    let letters = inspect::dead_letter(connection, group, uuid).await?;
    let Some(letter) = letters.first().filter(|letter| letter.summary.dlq_id == uuid) else {
        return Ok(id.to_owned());
    };
    let message_id = letter.summary.message_id.to_string();
    eprintln!("{id} is the dlq id of the message {message_id}");
    Ok(message_id)
}

/// Reads the log on a thread of its own.
async fn scan(
    settings: KafkaSettings,
    topic: String,
    wanted: Wanted,
) -> anyhow::Result<(Result<Option<ScannedTopic>, ScanError>, Found)> {
    let scan = move || {
        let mut shown = Shown::new();
        let id_mode = wanted.id_mode.clone();
        let mut found = Found::new(wanted);
        let scanned = inspect::scan_log(
            &settings,
            &topic,
            &id_mode,
            PATIENCE,
            |record, identity| found.look_at(&record, &identity),
            |progress| shown.update(progress),
        );
        shown.finish();
        (scanned, found)
    };
    Ok(tokio::task::spawn_blocking(scan).await?)
}

/// Progress on stderr once it takes long: a bar for people, a line now and then in a log.
struct Shown {
    began: Instant,
    told: Instant,
    bar: Option<ProgressBar>,
}

impl Shown {
    fn new() -> Self {
        Self { began: Instant::now(), told: Instant::now(), bar: None }
    }

    fn update(&mut self, progress: ScanProgress) {
        if self.began.elapsed() < Duration::from_secs(1) {
            return;
        }
        if !std::io::stderr().is_terminal() {
            if self.told.elapsed() > Duration::from_secs(5) {
                self.told = Instant::now();
                eprintln!("reading the log: {} of {} offsets", progress.done, progress.of);
            }
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::new(progress.of);
            let template = "reading the log {bar:30} {human_pos} of {human_len}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar
        });
        bar.set_position(progress.done);
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
