//! `order-consumer verify`: the audit as a command.

use std::io::{IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use idempotent_consumer::audit::{self, AuditConfig, AuditReport, Progress, Stage};
use idempotent_consumer::cli::{KafkaArgs, check_pooler, parse_duration};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::{DatabaseArgs, Format, OutputArgs, TopicArgs, kafka_settings};
use crate::order_projection::OrderProjection;

/// Exit code for "it could be checked, and it does not hold".
const EXIT_VIOLATION: u8 = 3;

/// Arguments of `verify`.
#[derive(clap::Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    kafka: KafkaArgs,

    #[command(flatten)]
    database: DatabaseArgs,

    #[command(flatten)]
    topics: TopicArgs,

    /// What `order-producer load --manifest` wrote: each acknowledged message must be in the log
    #[arg(long, env = "ORDER_CONSUMER_MANIFEST", value_name = "FILE", hide_env_values = true)]
    manifest: Option<PathBuf>,

    /// Wait so long for everything to be consumed and published; what is still pending then is a
    /// violation
    #[arg(
        long,
        env = "ORDER_CONSUMER_WAIT",
        value_name = "DURATION",
        value_parser = parse_duration,
        hide_env_values = true
    )]
    wait: Option<Duration>,

    #[command(flatten)]
    output: OutputArgs,
}

/// Audits and prints the report. The exit code is 0 if everything holds, else
/// [`EXIT_VIOLATION`].
///
/// # Errors
/// It could not be checked.
pub async fn run(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let config = AuditConfig {
        kafka: kafka_settings(&args.kafka)?,
        topic: args.topics.topic,
        dlq_topic: args.topics.dlq_topic,
        consumer_group: args.topics.group,
        manifest: args.manifest,
        wait: args.wait,
        examples: audit::DEFAULT_EXAMPLES,
    };
    let database = args.database.server.options()?;
    check_pooler(&database).await?;
    let mut shown = Shown::new();
    let mut projection = OrderProjection::default();
    let report =
        audit::audit(&config, &database, &mut projection, |progress| shown.update(progress)).await;
    shown.finish();
    let report = report.map_err(with_advice)?;
    print(&report, args.output.output, &mut std::io::stdout().lock())
        .context("cannot write the report")?;
    Ok(ExitCode::from(if report.holds() { 0 } else { EXIT_VIOLATION }))
}

/// What to do about it, where that is known.
fn with_advice(error: audit::AuditError) -> anyhow::Error {
    const UNDEFINED_TABLE: &str = "42P01";
    let has_no_tables = matches!(
        &error,
        audit::AuditError::Database(sqlx::Error::Database(database))
            if database.code().as_deref() == Some(UNDEFINED_TABLE)
    );
    let error = anyhow::Error::new(error);
    if has_no_tables {
        error.context("the database has no tables yet; run `order-consumer migrate`")
    } else {
        error
    }
}

/// Prints the report.
fn print(report: &AuditReport, format: Format, out: &mut impl Write) -> anyhow::Result<()> {
    #[derive(serde::Serialize)]
    struct WithVerdict<'a> {
        holds: bool,
        verdict: String,
        #[serde(flatten)]
        report: &'a AuditReport,
    }
    let whole = WithVerdict { holds: report.holds(), verdict: report.verdict(), report };
    match format {
        Format::Table => print_table(report, out)?,
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, &whole)?;
            writeln!(out)?;
        }
        Format::Jsonl => {
            serde_json::to_writer(&mut *out, &whole)?;
            writeln!(out)?;
        }
    }
    Ok(())
}

fn print_table(report: &AuditReport, out: &mut impl Write) -> std::io::Result<()> {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(["", "invariant", "checked", "violations"]);
    for invariant in &report.invariants {
        table.add_row([
            invariant.number.to_string(),
            invariant.sentence.to_owned(),
            invariant.checked.to_string(),
            invariant.violations.to_string(),
        ]);
    }
    for column in 2..4 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    writeln!(out, "{table}")?;
    for invariant in &report.invariants {
        for note in &invariant.notes {
            writeln!(out, "note on {}: {note}", invariant.number)?;
        }
    }
    let tally = &report.tally;
    writeln!(
        out,
        "{} of group {}: {} records read in {:.1} s: {} applied, {} dead-lettered, {} skipped, {} \
         duplicates, {} to be tried again, {} not consumed yet",
        report.topic,
        report.consumer_group,
        tally.records,
        report.seconds,
        tally.applied,
        tally.dead_lettered,
        tally.skipped,
        tally.duplicates,
        tally.waiting,
        tally.unconsumed,
    )?;
    writeln!(out, "pending: {}, of these {} in the outbox", report.pending, tally.outbox)?;
    writeln!(out, "not provable: {}", report.not_provable)?;
    for invariant in report.invariants.iter().filter(|invariant| invariant.violations > 0) {
        let shown = u64::try_from(invariant.examples.len()).unwrap_or(u64::MAX);
        writeln!(out, "\nviolated: {}. {}", invariant.number, invariant.sentence)?;
        for example in &invariant.examples {
            writeln!(out, "  {example}")?;
        }
        if shown < invariant.violations {
            writeln!(out, "  … and {} more", invariant.violations - shown)?;
        }
    }
    writeln!(out, "\nverdict: {}", report.verdict())
}

/// Progress on stderr: a bar for people, a line for each stage in a log.
struct Shown {
    bar: ProgressBar,
    stage: Option<Stage>,
}

impl Shown {
    fn new() -> Self {
        Self { bar: ProgressBar::new(0), stage: None }
    }

    fn update(&mut self, progress: Progress) {
        if self.stage != Some(progress.stage) {
            self.stage = Some(progress.stage);
            self.begin(progress.stage);
        }
        self.bar.set_length(progress.of);
        self.bar.set_position(progress.done);
    }

    fn begin(&self, stage: Stage) {
        let text = match stage {
            Stage::Waiting => "waiting for the consumer",
            Stage::Log => "reading the log beside the claims",
            Stage::DeadLetters => "reading the dead letters",
            Stage::Projection => "comparing orders and totals with the applied events",
        };
        if !std::io::stderr().is_terminal() {
            eprintln!("{text} …");
            return;
        }
        let template = match stage {
            Stage::Log => "{msg} {bar:30} {human_pos} of {human_len}",
            Stage::Waiting => "{spinner} {msg}, {human_len} to go",
            Stage::DeadLetters | Stage::Projection => "{spinner} {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        self.bar.set_message(text);
        self.bar.enable_steady_tick(Duration::from_millis(100));
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
