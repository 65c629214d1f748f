//! `dlq list`.

use std::io::{ErrorKind, Write as _};
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use idempotent_consumer::cli::parse_duration;
use idempotent_consumer::inspect::{
    DeadLetterFilter, DeadLetterState, DeadLetterSummary, list_dead_letters,
};

use crate::cli::{DatabaseArgs, Format, OutputArgs, TopicArgs};
use crate::output::{age, key, one_line, table, write};

/// Arguments of `dlq list`.
#[derive(Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    topics: TopicArgs,

    /// Only with this error code, such as invalid_json
    #[arg(long)]
    code: Option<String>,

    /// Only in this state
    #[arg(long)]
    state: Option<State>,

    /// Only those dead-lettered within so long, as 30m, 24h or 7d
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    since: Option<Duration>,

    /// So many at most, the newest
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..u32::MAX.into()))]
    limit: u32,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum State {
    Open,
    Redriven,
    Discarded,
    Resolved,
}

impl From<State> for DeadLetterState {
    fn from(state: State) -> Self {
        match state {
            State::Open => Self::Open,
            State::Redriven => Self::Redriven,
            State::Discarded => Self::Discarded,
            State::Resolved => Self::Resolved,
        }
    }
}

/// Lists them. An empty list is an answer too: exit code 0.
pub(super) async fn run(args: ListArgs) -> anyhow::Result<ExitCode> {
    let pool = args.database.migrated_pool().await?;
    let mut connection = pool.acquire().await?;
    let filter = DeadLetterFilter {
        code: args.code,
        state: args.state.map(DeadLetterState::from),
        since: args.since,
        // One more, to know whether there are more.
        limit: Some(args.limit + 1),
    };
    let mut list = List { format: args.output.output, limit: args.limit, ..List::default() };
    list_dead_letters(&mut connection, &args.topics.group, &filter, |letter| list.add(&letter))
        .await?;
    list.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// JSON is written as it comes, so that a list of any length takes no memory.
#[derive(Default)]
struct List {
    format: Format,
    limit: u32,
    count: u32,
    has_more: bool,
    rows: Vec<[String; 8]>,
    failed: Option<std::io::Error>,
}

impl List {
    fn add(&mut self, letter: &DeadLetterSummary) -> ControlFlow<()> {
        if self.count == self.limit {
            self.has_more = true;
            return ControlFlow::Break(());
        }
        self.count += 1;
        if self.format == Format::Table {
            self.rows.push(row(letter));
            return ControlFlow::Continue(());
        }
        match self.element(letter) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failed = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    fn element(&self, letter: &DeadLetterSummary) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        match (self.format, self.count) {
            (Format::Jsonl, _) => {}
            (_, 1) => out.write_all(b"[\n  ")?,
            _ => out.write_all(b",\n  ")?,
        }
        serde_json::to_writer(&mut out, letter)?;
        if self.format == Format::Jsonl {
            out.write_all(b"\n")?;
        }
        Ok(())
    }

    fn finish(self) -> anyhow::Result<()> {
        match self.failed {
            // The reader has what it wanted.
            Some(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            Some(error) => return Err(error.into()),
            None => {}
        }
        match (self.format, self.count) {
            (Format::Json, 0) => write(b"[]\n")?,
            (Format::Json, _) => write(b"\n]\n")?,
            (Format::Jsonl, _) => {}
            (Format::Table, 0) => eprintln!("no dead letters"),
            (Format::Table, _) => write(table(HEADER, &[0], self.rows).as_bytes())?,
        }
        if self.has_more {
            eprintln!("only the newest {} are listed; --limit lists more", self.limit);
        }
        Ok(())
    }
}

const HEADER: [&str; 8] = ["age", "state", "code", "type", "key", "record", "dlq id", "reason"];

fn row(letter: &DeadLetterSummary) -> [String; 8] {
    [
        age(letter.age_seconds),
        letter.state.as_str().to_owned(),
        one_line(&letter.error_code, 30),
        letter.event_type.as_deref().map_or("-".to_owned(), |name| one_line(name, 20)),
        key(letter.key.as_deref(), 20),
        format!("{}[{}]@{}", letter.topic, letter.partition, letter.offset),
        letter.dlq_id.to_string(),
        one_line(&letter.error_message, 60),
    ]
}
