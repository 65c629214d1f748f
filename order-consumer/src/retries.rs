//! `retries`: the retry queue, listed and hurried.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use idempotent_consumer::inspect::{RetryHead, list_retry_heads};
use idempotent_consumer::retries::{self, Chosen, Selection};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::cli::{DatabaseArgs, Format, OutputArgs, TopicArgs};
use crate::output::{age, counted, key, one_line, table, write, write_json};

/// What to do with messages that wait.
#[derive(Subcommand)]
pub(crate) enum RetriesCommand {
    /// List the messages that failed, the next to be tried first
    List(ListArgs),
    /// Try messages now
    Now(ChooseArgs),
    /// Dead-letter messages instead of trying them again
    DeadLetter(ChooseArgs),
}

/// Arguments of `retries list`.
#[derive(Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    topics: TopicArgs,

    /// So many at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,

    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `retries now` and `retries dead-letter`.
#[derive(Args)]
pub(crate) struct ChooseArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    topics: TopicArgs,
    #[command(flatten)]
    which: Which,

    /// Only say which
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// The message with this id
    #[arg(long, value_name = "MESSAGE_ID")]
    id: Option<Uuid>,

    /// All messages with this key
    #[arg(long)]
    key: Option<String>,

    /// All messages
    #[arg(long)]
    all: bool,
}

impl Which {
    fn selection(&self) -> Selection {
        match (self.id, &self.key) {
            (Some(id), _) => Selection::Id(id),
            (_, Some(key)) => Selection::Key(key.as_bytes().to_vec()),
            _ => Selection::All,
        }
    }
}

/// How long the command waits to see a running consumer do it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Does it.
pub(crate) async fn run(command: RetriesCommand) -> anyhow::Result<ExitCode> {
    match command {
        RetriesCommand::List(args) => list(args).await,
        RetriesCommand::Now(args) => now(args).await,
        RetriesCommand::DeadLetter(args) => dead_letter(args).await,
    }
}

async fn list(args: ListArgs) -> anyhow::Result<ExitCode> {
    let pool = args.database.migrated_pool().await?;
    let mut connection = pool.acquire().await?;
    let TopicArgs { group, topic, .. } = &args.topics;
    let heads = list_retry_heads(&mut connection, group, topic, args.limit.into()).await?;
    match args.output.output {
        Format::Json => write_json(&heads, Format::Json)?,
        Format::Jsonl => {
            for head in &heads {
                write_json(head, Format::Jsonl)?;
            }
        }
        Format::Table if heads.is_empty() => eprintln!("nothing waits for another attempt"),
        Format::Table => write(table(HEADER, &[1, 2], heads.iter().map(row)).as_bytes())?,
    }
    Ok(ExitCode::SUCCESS)
}

const HEADER: [&str; 8] =
    ["key", "attempts", "behind", "next", "failing for", "record", "message id", "reason"];

fn row(head: &RetryHead) -> [String; 8] {
    let next = match head.next_attempt_in_seconds {
        0.0 => "due".to_owned(),
        seconds => format!("in {}", age(seconds.ceil())),
    };
    let reason = head.error_message.as_deref().unwrap_or("not tried yet");
    [
        key(head.key.as_deref(), 20),
        head.attempts.to_string(),
        head.behind.to_string(),
        next,
        head.first_failed_age_seconds.map_or("-".to_owned(), age),
        format!("[{}]@{}", head.partition, head.offset),
        head.message_id.to_string(),
        one_line(reason, 60),
    ]
}

/// Those that the arguments mean; `None` if there are none, or if they were only to be named.
async fn choose(
    connection: &mut PgConnection,
    args: &ChooseArgs,
) -> anyhow::Result<Option<Vec<Chosen>>> {
    let TopicArgs { group, topic, .. } = &args.topics;
    let chosen = retries::find(connection, group, topic, &args.which.selection()).await?;
    if chosen.is_empty() {
        eprintln!("no such message waits; `order-consumer retries list` lists those that do");
        return Ok(None);
    }
    if args.dry_run {
        for message in &chosen {
            let behind = if message.is_behind { ", behind another one of its key" } else { "" };
            println!("{}{behind}", message.message_id);
        }
        eprintln!("nothing was changed (--dry-run)");
        return Ok(None);
    }
    Ok(Some(chosen))
}

async fn now(args: ChooseArgs) -> anyhow::Result<ExitCode> {
    let pool = args.database.migrated_pool().await?;
    let mut connection = pool.acquire().await?;
    let Some(chosen) = choose(&mut connection, &args).await? else { return Ok(ExitCode::SUCCESS) };
    let hurried = retries::now(&mut connection, &chosen).await?;
    println!("{} to be tried now", counted(hurried, "message"));
    let behind = chosen.len() as u64 - hurried.min(chosen.len() as u64);
    if behind > 0 {
        println!("{} wait behind another message of their key", counted(behind, "message"));
    }
    Ok(ExitCode::SUCCESS)
}

async fn dead_letter(args: ChooseArgs) -> anyhow::Result<ExitCode> {
    let pool = args.database.migrated_pool().await?;
    let mut connection = pool.acquire().await?;
    let Some(chosen) = choose(&mut connection, &args).await? else { return Ok(ExitCode::SUCCESS) };
    let who = std::env::var("USER").unwrap_or_else(|_| "an operator".to_owned());
    retries::give_up(&mut connection, &chosen, &who).await?;
    let deadline = Instant::now() + PATIENCE;
    let mut waiting = retries::still_waiting(&mut connection, &chosen).await?;
    while waiting > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(100)).await;
        waiting = retries::still_waiting(&mut connection, &chosen).await?;
    }
    let done = i64::try_from(chosen.len()).unwrap_or(i64::MAX) - waiting;
    println!(
        "{} left the retry queue; `order-consumer dlq list` lists dead letters",
        counted(done, "message")
    );
    if waiting > 0 {
        println!(
            "{} given up: a consumer dead-letters each at its turn, but none has in {} s; is one \
             running? Or an older message of the key is still to be tried",
            counted(waiting, "message"),
            PATIENCE.as_secs()
        );
    }
    Ok(ExitCode::SUCCESS)
}
