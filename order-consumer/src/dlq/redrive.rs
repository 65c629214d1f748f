//! `dlq redrive` and `dlq discard`.

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use idempotent_consumer::cli::{WrongUse, parse_duration};
use idempotent_consumer::inspect::DeadLetterState;
use idempotent_consumer::redrive::{self, Chosen, Refusal, Selection, Standing, Wish};
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::cli::{DatabaseArgs, Format, OutputArgs, TopicArgs};
use crate::output::{counted, one_line, table, write, write_json};

/// Which dead letters, and who wants it.
#[derive(Args)]
pub(crate) struct WhichArgs {
    /// Dlq ids or message ids
    #[arg(value_name = "ID")]
    ids: Vec<Uuid>,

    /// Those with this error code, such as wrong_status
    #[arg(long)]
    code: Option<String>,

    /// Those dead-lettered within so long, as 30m, 24h or 7d
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    since: Option<Duration>,

    /// Those dead-lettered at least so long ago
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    until: Option<Duration>,

    /// All
    #[arg(long)]
    all: bool,

    /// Only say what would become of each
    #[arg(long)]
    dry_run: bool,

    /// Who does it, for `dlq show`
    #[arg(long, env = "USER", default_value = "unknown", hide_env_values = true)]
    by: String,

    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    topics: TopicArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `dlq redrive`.
#[derive(Args)]
#[command(after_help = "\
A running consumer publishes the copies and applies them; the claim of each message stays until then,
so whatever else is delivered, a message takes effect once. Exit code 4: some were refused, or with
--wait did not come to be applied.

Examples:
  order-consumer dlq redrive --code wrong_status --since 1d --dry-run
  order-consumer dlq redrive 01920000-0000-7000-8000-000000000001 --wait 30s
  order-consumer dlq redrive --all --rate 50")]
pub(crate) struct RedriveArgs {
    #[command(flatten)]
    which: WhichArgs,

    /// Also those that are under way, whose copy is lost: its topic was created anew, or retention
    /// has removed it
    #[arg(long, requires = "ids")]
    again: bool,

    /// So many a second at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,

    /// Wait so long for the consumer to finish them, and say what became of each
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    wait: Option<Duration>,
}

/// Arguments of `dlq discard`.
#[derive(Args)]
#[command(after_help = "\
The claims stay: a repeat of a discarded message is a duplicate. `dlq redrive ID` brings one back.
Exit code 4: some were refused.

Examples:
  order-consumer dlq discard --code invalid_json --until 30d
  order-consumer dlq discard 01920000-0000-7000-8000-000000000001")]
pub(crate) struct DiscardArgs {
    #[command(flatten)]
    which: WhichArgs,
}

/// Dead letters in one transaction at most.
const CHUNK: usize = 200;
const POLL: Duration = Duration::from_millis(200);

impl WhichArgs {
    fn selection(&self) -> Result<Selection, WrongUse> {
        let has_filter = self.code.is_some() || self.since.is_some() || self.until.is_some();
        match (!self.ids.is_empty(), has_filter, self.all) {
            (true, false, false) => Ok(Selection::Ids(self.ids.clone())),
            (false, true, false) => Ok(Selection::Filter {
                code: self.code.clone(),
                since: self.since,
                until: self.until,
            }),
            (false, false, true) => Ok(Selection::All),
            (false, false, false) => Err(WrongUse(
                "say which dead letters: ids, or --code, --since, --until, or --all".to_owned(),
            )),
            _ => Err(WrongUse(
                "ids, --code with --since and --until, and --all exclude each other".to_owned(),
            )),
        }
    }
}

/// What became of a dead letter, for a report.
#[derive(Serialize)]
struct Line {
    dlq_id: Option<Uuid>,
    message_id: Option<Uuid>,
    record: Option<String>,
    error_code: Option<String>,
    redrive_count: Option<i32>,
    fate: &'static str,
    reason: Option<String>,
}

impl Line {
    fn of(letter: &Chosen, fate: &'static str, reason: Option<String>) -> Self {
        let Chosen { topic, partition, offset, .. } = letter;
        Self {
            dlq_id: Some(letter.dlq_id),
            message_id: Some(letter.message_id),
            record: Some(format!("{topic}[{partition}]@{offset}")),
            error_code: Some(letter.error_code.clone()),
            redrive_count: Some(letter.redrive_count),
            fate,
            reason,
        }
    }

    fn unknown(id: Uuid) -> Self {
        Self {
            dlq_id: Some(id),
            message_id: None,
            record: None,
            error_code: None,
            redrive_count: None,
            fate: "refused",
            reason: Some("no dead letter of this group has this id".to_owned()),
        }
    }
}

pub(super) async fn redrive(args: RedriveArgs) -> anyhow::Result<ExitCode> {
    let by_id = !args.which.ids.is_empty();
    run(args.which, Wish::Redrive { by_id, again: args.again }, args.rate, args.wait).await
}

pub(super) async fn discard(args: DiscardArgs) -> anyhow::Result<ExitCode> {
    run(args.which, Wish::Discard, None, None).await
}

async fn run(
    args: WhichArgs,
    wish: Wish,
    rate: Option<u32>,
    wait: Option<Duration>,
) -> anyhow::Result<ExitCode> {
    let selection = args.selection()?;
    let pool = args.database.migrated_pool().await?;
    let mut connection = pool.acquire().await?;
    let group = &args.topics.group;
    let chosen = redrive::find(&mut connection, group, &selection).await?;
    let mut lines = unknown_ids(&mut connection, &args, &chosen).await?;
    let mut granted: Vec<Chosen> = Vec::new();
    for letter in chosen {
        match redrive::check(wish, &letter, &args.topics.topic) {
            Ok(()) => granted.push(letter),
            Err(Refusal::Already(why)) => {
                lines.push(Line::of(&letter, "already", Some(why.to_owned())));
            }
            Err(Refusal::Never(why)) => lines.push(Line::of(&letter, "refused", Some(why))),
        }
    }
    if args.dry_run {
        let fate = if wish == Wish::Discard { "would discard" } else { "would redrive" };
        lines.extend(granted.iter().map(|letter| Line::of(letter, fate, None)));
        report(&lines, args.output.output)?;
        eprintln!("nothing was changed (--dry-run)");
        return Ok(exit_code(&lines));
    }
    let done = carry_out(&mut connection, &args, wish, &granted, rate).await?;
    let (done, changed): (Vec<Chosen>, Vec<Chosen>) =
        granted.into_iter().partition(|letter| done.contains(&letter.dlq_id));
    let why = || {
        let again = matches!(wish, Wish::Redrive { again: true, .. });
        let waits = if again { ", or its copy waits, see `order-consumer show`" } else { "" };
        Some(format!("somebody else changed it meanwhile{waits}"))
    };
    lines.extend(changed.iter().map(|letter| Line::of(letter, "refused", why())));
    match (wish, wait) {
        (Wish::Discard, _) => {
            lines.extend(done.iter().map(|letter| Line::of(letter, "discarded", None)));
        }
        (Wish::Redrive { .. }, None) => {
            lines.extend(done.iter().map(|letter| Line::of(letter, "redriven", None)));
        }
        (Wish::Redrive { .. }, Some(patience)) => {
            lines.extend(follow(&mut connection, group, &done, patience).await?);
        }
    }
    report(&lines, args.output.output)?;
    if wish != Wish::Discard && wait.is_none() && !done.is_empty() {
        eprintln!("a running consumer publishes and applies them; --wait waits for it");
    }
    Ok(exit_code(&lines))
}

/// Those of the ids given that mean nothing.
async fn unknown_ids(
    connection: &mut PgConnection,
    args: &WhichArgs,
    chosen: &[Chosen],
) -> anyhow::Result<Vec<Line>> {
    let known = |id: &Uuid| chosen.iter().any(|c| c.dlq_id == *id || c.message_id == *id);
    let mut lines = Vec::new();
    for id in args.ids.iter().filter(|id| !known(id)) {
        // It may be an earlier dlq id, or the id that a conflict came with.
        let selection = Selection::Ids(vec![*id]);
        if redrive::find(connection, &args.topics.group, &selection).await?.is_empty() {
            lines.push(Line::unknown(*id));
        }
    }
    Ok(lines)
}

/// Does it, chunk by chunk; returns the dlq ids of those that it was done to.
async fn carry_out(
    connection: &mut PgConnection,
    args: &WhichArgs,
    wish: Wish,
    granted: &[Chosen],
    rate: Option<u32>,
) -> anyhow::Result<Vec<Uuid>> {
    use DeadLetterState::{Discarded, Open, Redriven};
    let group = &args.topics.group;
    let from: &[DeadLetterState] = match wish {
        Wish::Redrive { again: true, .. } => &[Open, Redriven, Discarded],
        Wish::Redrive { by_id: true, .. } => &[Open, Discarded],
        Wish::Redrive { by_id: false, .. } | Wish::Discard => &[Open],
    };
    let chunk = rate.map_or(CHUNK, |rate| (rate as usize / 10).clamp(1, CHUNK));
    let (began, mut told) = (Instant::now(), Instant::now());
    let mut done = Vec::new();
    for (number, chunk_of) in granted.chunks(chunk).enumerate() {
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64((number * chunk) as f64 / f64::from(rate));
            tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
        }
        let ids: Vec<Uuid> = chunk_of.iter().map(|letter| letter.dlq_id).collect();
        done.extend(match wish {
            Wish::Redrive { .. } => {
                redrive::redrive(connection, group, &ids, from, &args.by).await?
            }
            Wish::Discard => redrive::discard(connection, group, &ids, &args.by).await?,
        });
        if told.elapsed() > Duration::from_secs(1) {
            told = Instant::now();
            eprintln!("{} of {}", done.len(), granted.len());
        }
    }
    Ok(done)
}

/// Waits until the consumer has finished them, and says what became of each.
async fn follow(
    connection: &mut PgConnection,
    group: &str,
    done: &[Chosen],
    patience: Duration,
) -> anyhow::Result<Vec<Line>> {
    let ids: Vec<Uuid> = done.iter().map(|letter| letter.message_id).collect();
    let (deadline, mut told) = (Instant::now() + patience, Instant::now());
    let standings: HashMap<Uuid, Standing> = loop {
        let standings = redrive::standings(connection, group, &ids).await?;
        let under_way = standings.iter().filter(|s| s.state == DeadLetterState::Redriven).count();
        if under_way == 0 || Instant::now() >= deadline {
            break standings.into_iter().map(|s| (s.message_id, s)).collect();
        }
        if told.elapsed() > Duration::from_secs(1) {
            told = Instant::now();
            eprintln!("{} under way", counted(under_way as u64, "message"));
        }
        tokio::time::sleep(POLL).await;
    };
    Ok(done
        .iter()
        .map(|letter| match standings.get(&letter.message_id) {
            None => Line::of(letter, "gone", None),
            Some(standing) => {
                let (fate, reason) = fate(standing);
                let mut line = Line::of(letter, fate, reason);
                line.redrive_count = Some(standing.redrive_count);
                line
            }
        })
        .collect())
}

fn fate(standing: &Standing) -> (&'static str, Option<String>) {
    let why = |text: &str| Some(text.to_owned());
    match standing.state {
        DeadLetterState::Resolved => ("applied", None),
        DeadLetterState::Discarded => ("discarded", why("by somebody else, meanwhile")),
        DeadLetterState::Open => match &standing.state_reason {
            Some(reason) => ("not published", Some(reason.clone())),
            None => (
                "dead-lettered again",
                Some(format!("{}: {}", standing.error_code, standing.error_message)),
            ),
        },
        DeadLetterState::Redriven if standing.is_in_outbox => {
            ("waiting", why("to be published; is a consumer running?"))
        }
        DeadLetterState::Redriven if standing.is_in_retry_queue => {
            ("waiting", why("for another attempt, or behind one of its key"))
        }
        DeadLetterState::Redriven => ("waiting", why("to be consumed; is a consumer running?")),
    }
}

fn exit_code(lines: &[Line]) -> ExitCode {
    let good = ["already", "redriven", "applied", "discarded", "would redrive", "would discard"];
    if lines.iter().all(|line| good.contains(&line.fate)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(4)
    }
}

fn report(lines: &[Line], format: Format) -> anyhow::Result<()> {
    match format {
        Format::Json => write_json(&lines, Format::Json)?,
        Format::Jsonl => {
            for line in lines {
                write_json(line, Format::Jsonl)?;
            }
        }
        Format::Table if lines.is_empty() => eprintln!("no dead letters"),
        Format::Table => write(table(HEADER, &[], lines.iter().map(row)).as_bytes())?,
    }
    let mut fates: Vec<(&str, u64)> = Vec::new();
    for line in lines {
        match fates.iter_mut().find(|(fate, _)| *fate == line.fate) {
            Some((_, count)) => *count += 1,
            None => fates.push((line.fate, 1)),
        }
    }
    let parts: Vec<String> = fates.iter().map(|(fate, count)| format!("{count} {fate}")).collect();
    if !parts.is_empty() {
        eprintln!("{}", parts.join(", "));
    }
    Ok(())
}

const HEADER: [&str; 5] = ["fate", "code", "record", "dlq id", "reason"];

fn row(line: &Line) -> [String; 5] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        line.fate.to_owned(),
        line.error_code.as_deref().map_or("-".to_owned(), |code| one_line(code, 30)),
        or_dash(line.record.clone()),
        or_dash(line.dlq_id.map(|id| id.to_string())),
        line.reason.as_deref().map_or("-".to_owned(), |reason| one_line(reason, 120)),
    ]
}
