//! `load`: synthetic orders at speed, with duplicates and poison among them.
//!
//! `plan` decides what each message is, `orders` and `poison` make it from the seed and its
//! number alone. So nothing that was sent has to be kept in order to be sent again.

mod manifest;
mod orders;
mod plan;
mod poison;
mod progress;
mod random;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use idempotent_consumer::cli::WrongUse;
use idempotent_consumer::failpoint::failpoint;
use idempotent_consumer::publish::PublisherOptions;
use order_events::EventKind;
use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::Exit;
use crate::cli::{App, Connection, Format};
use crate::session::{Ends, Flow, Outcome, Session};
use manifest::{Entry, Kind, Manifest};
use orders::{IdVersion, Synth};
use plan::{Original, Plan, PlanError, Shares, Step};
use progress::Progress;

/// `order-producer load`
#[derive(Args)]
#[command(after_help = "\
Examples:
  order-producer load --orders 10000 --duplicates 10 --poison 0.5 --manifest sent.ndjson
  order-producer load --orders 1000000 --rate 5000 --customers 20000 --seed 7
  order-consumer verify --manifest sent.ndjson

Of N messages, the given percentages are duplicates, poison and status events; the rest are
distinct orders. A duplicate is a record sent before, with the same id and bytes: some at once, some
far later. Poison is broken in varied ways. The same seed gives the same messages, apart from the
time in ids and timestamps. A line of the manifest is
  {\"id\":…,\"type\":…,\"order\":…,\"partition\":…,\"offset\":…,\"kind\":…,\"outcome\":…}
with kind order (status events of orders too), duplicate or poison, and outcome acknowledged, refused or unconfirmed.")]
pub struct LoadArgs {
    /// How many messages to send, duplicates and poison included
    #[arg(
        long,
        value_name = "N",
        env = "ORDER_PRODUCER_ORDERS",
        hide_env_values = true,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000)
    )]
    orders: u64,

    /// Messages per second; as fast as Kafka takes them by default. Batches wait 20 ms for more from
    /// 5,000 on and 50 ms from 20,000 on, unless -X linger.ms says otherwise
    #[arg(
        long,
        value_name = "R",
        env = "ORDER_PRODUCER_RATE",
        hide_env_values = true,
        value_parser = parse_rate
    )]
    rate: Option<f64>,

    /// Customers that the orders are spread over
    #[arg(
        long,
        value_name = "K",
        env = "ORDER_PRODUCER_CUSTOMERS",
        hide_env_values = true,
        default_value_t = 1000,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000_000)
    )]
    customers: u64,

    /// Percentage of messages that are duplicates
    #[arg(
        long,
        value_name = "PCT",
        env = "ORDER_PRODUCER_DUPLICATES",
        hide_env_values = true,
        default_value = "0",
        value_parser = parse_percent
    )]
    duplicates: f64,

    /// Percentage of messages that no consumer can apply
    #[arg(
        long,
        value_name = "PCT",
        env = "ORDER_PRODUCER_POISON",
        hide_env_values = true,
        default_value = "0",
        value_parser = parse_percent
    )]
    poison: f64,

    /// Percentage of messages that pay, fulfill or cancel an earlier order
    #[arg(
        long,
        value_name = "PCT",
        env = "ORDER_PRODUCER_LIFECYCLE",
        hide_env_values = true,
        default_value = "0",
        value_parser = parse_percent
    )]
    lifecycle: f64,

    /// Version of the UUIDs that messages and orders get
    #[arg(
        long,
        value_name = "VERSION",
        env = "ORDER_PRODUCER_ID_VERSION",
        hide_env_values = true,
        default_value = "7"
    )]
    id_version: IdVersion,

    /// Seed of everything that is random; a random one by default, printed at the end
    #[arg(long, value_name = "S", env = "ORDER_PRODUCER_SEED", hide_env_values = true)]
    seed: Option<u64>,

    /// Write what became of each message to this file, as NDJSON
    #[arg(long, value_name = "FILE", env = "ORDER_PRODUCER_MANIFEST", hide_env_values = true)]
    manifest: Option<PathBuf>,

    #[command(flatten, next_help_heading = "Kafka and output")]
    connection: Connection,
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    match number.parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err("expected a percentage from 0 to 100, such as 0.5".to_owned()),
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate >= 0.001 => Ok(rate),
        _ => Err("expected messages per second, such as 5000".to_owned()),
    }
}

/// How long a batch waits for company. Many small requests take the time of the broker and of who
/// reads after it, and so make each message later than the wait does (docs/performance.md, "Half of the
/// maximum").
fn linger(rate: Option<f64>) -> Duration {
    match rate {
        Some(20_000.0..) => Duration::from_millis(50),
        Some(5_000.0..) => Duration::from_millis(20),
        _ => PublisherOptions::default().linger,
    }
}

/// What was done, printed at the end. The field names are part of the contract.
#[derive(Serialize)]
struct Summary<'a> {
    topic: &'a str,
    seed: u64,
    sent: u64,
    orders: u64,
    status_events: u64,
    duplicates: u64,
    poison: u64,
    acknowledged: u64,
    refused: u64,
    unconfirmed: u64,
    seconds: f64,
    events_per_second: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest: Option<String>,
}

pub(crate) fn run(args: &LoadArgs, app: &App) -> anyhow::Result<Exit> {
    let seed = args.seed.unwrap_or_else(|| Uuid::new_v4().as_u64_pair().0);
    let shares =
        Shares { duplicates: args.duplicates, poison: args.poison, lifecycle: args.lifecycle };
    let plan = Plan::new(seed, args.orders, shares).map_err(|error| wrong_shares(&error))?;
    let connection = &args.connection;
    let settings = connection.settings()?;
    connection.prepare_topic(app, &settings)?;
    let options = PublisherOptions { linger: linger(args.rate), ..connection.publisher_options() };
    let mut session = connection.session_with(app, &settings, &options)?;
    let synth = Synth::new(seed, OffsetDateTime::now_utc(), args.customers, &connection.source)
        .ids(args.id_version);
    let mut tally = Tally {
        manifest: args.manifest.as_deref().map(Manifest::create).transpose()?,
        progress: Progress::new(args.orders),
        ..Tally::default()
    };
    let pace = args.rate.map(|rate| Pace { started: Instant::now(), rate });
    let started = Instant::now();
    let result = send_all(plan, &synth, pace.as_ref(), &mut session, &mut tally);
    session.finish(&mut tally)?;
    let seconds = started.elapsed().as_secs_f64();
    tally.progress.finish();
    if let Some(manifest) = tally.manifest.take() {
        manifest.finish()?;
    }
    let complete = result?;
    if !complete {
        crate::output::say!(
            "stopped by a signal: {} of {} were not sent",
            args.orders - tally.sent,
            args.orders
        );
    }
    tally.report_failures();
    print(&tally.summary(args, seed, seconds), connection.output)?;
    let all_acknowledged = complete && tally.acknowledged == tally.sent;
    Ok(if all_acknowledged { Exit::Done } else { Exit::Incomplete })
}

fn wrong_shares(error: &PlanError) -> WrongUse {
    WrongUse(error.to_string())
}

/// Sends in a schedule, not with pauses: a stall is caught up.
struct Pace {
    started: Instant,
    rate: f64,
}

impl Pace {
    fn due(&self, number: u64) -> Instant {
        self.started
            + Duration::try_from_secs_f64(number as f64 / self.rate).unwrap_or(Duration::MAX / 4)
    }
}

/// Whether all were sent, rather than stopped by a signal.
fn send_all(
    plan: Plan,
    synth: &Synth<'_>,
    pace: Option<&Pace>,
    session: &mut Session<Entry>,
    tally: &mut Tally,
) -> anyhow::Result<bool> {
    for (number, step) in (0..).zip(plan) {
        if let Some(pace) = pace {
            session.wait_until(pace.due(number), tally)?;
        }
        let (message, entry) = match step {
            Step::Order(index) => synth.order(index, Kind::Order),
            Step::Status(index) => synth.status(index, Kind::Order),
            Step::Duplicate(Original::Order(index)) => synth.order(index, Kind::Duplicate),
            Step::Duplicate(Original::Status(index)) => synth.status(index, Kind::Duplicate),
            Step::Poison(index) => poison::make(synth, index),
        };
        failpoint("producer.before_send");
        if session.send(&message, entry, tally)? == Flow::Stop {
            return Ok(false);
        }
        failpoint("producer.after_send_before_ack");
        tally.count_sent(&entry);
    }
    Ok(true)
}

/// Counts, and writes the manifest.
#[derive(Default)]
struct Tally {
    manifest: Option<Manifest>,
    progress: Progress,
    sent: u64,
    orders: u64,
    status_events: u64,
    duplicates: u64,
    poison: u64,
    acknowledged: u64,
    refused: u64,
    unconfirmed: u64,
    /// The first reasons, since thousands of the same help nobody.
    failures: Vec<String>,
}

impl Tally {
    const FAILURES_MAX: usize = 5;

    fn count_sent(&mut self, entry: &Entry) {
        self.sent += 1;
        *match entry.kind {
            Kind::Order if entry.event == Some(EventKind::Placed) => &mut self.orders,
            Kind::Order => &mut self.status_events,
            Kind::Duplicate => &mut self.duplicates,
            Kind::Poison => &mut self.poison,
        } += 1;
        self.progress.update(self.sent, self.acknowledged);
    }

    fn report_failures(&self) {
        for reason in &self.failures {
            crate::output::say!("{reason}");
        }
        let failed = self.refused + self.unconfirmed;
        if failed > self.failures.len() as u64 {
            crate::output::say!("… {failed} in all; the manifest (--manifest) names each");
        }
    }

    fn summary<'a>(&self, args: &'a LoadArgs, seed: u64, seconds: f64) -> Summary<'a> {
        let rate = self.acknowledged as f64 / seconds.max(0.001);
        Summary {
            topic: &args.connection.topic,
            seed,
            sent: self.sent,
            orders: self.orders,
            status_events: self.status_events,
            duplicates: self.duplicates,
            poison: self.poison,
            acknowledged: self.acknowledged,
            refused: self.refused,
            unconfirmed: self.unconfirmed,
            seconds: (seconds * 1000.0).round() / 1000.0,
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate")]
            events_per_second: rate.round() as u64,
            manifest: args.manifest.as_ref().map(|path| path.display().to_string()),
        }
    }
}

impl Ends<Entry> for Tally {
    fn end(&mut self, entry: Entry, outcome: Outcome) -> anyhow::Result<()> {
        match &outcome {
            Outcome::Acknowledged { .. } => self.acknowledged += 1,
            Outcome::Refused { reason } | Outcome::Unconfirmed { reason } => {
                *(match outcome {
                    Outcome::Refused { .. } => &mut self.refused,
                    _ => &mut self.unconfirmed,
                }) += 1;
                if self.failures.len() < Self::FAILURES_MAX {
                    let id = entry.id.map_or_else(|| "without id".to_owned(), |id| id.to_string());
                    self.failures.push(format!("message {id} {}: {reason}", outcome.as_str()));
                }
            }
        }
        failpoint("producer.after_ack_before_manifest");
        if let Some(manifest) = &mut self.manifest {
            manifest.write(&entry, &outcome).context("cannot write the manifest")?;
        }
        failpoint("producer.after_manifest");
        Ok(())
    }
}

fn print(summary: &Summary<'_>, format: Format) -> anyhow::Result<()> {
    let text = match format {
        Format::Jsonl => serde_json::to_string(summary)?,
        Format::Json => serde_json::to_string_pretty(summary)?,
        Format::Table => table(summary),
    };
    crate::output::print_line(&text)
}

fn table(summary: &Summary<'_>) -> String {
    let mut rows = vec![
        ("topic", summary.topic.to_owned()),
        ("seed", summary.seed.to_string()),
        ("sent", summary.sent.to_string()),
        ("  orders", summary.orders.to_string()),
        ("  status events", summary.status_events.to_string()),
        ("  duplicates", summary.duplicates.to_string()),
        ("  poison", summary.poison.to_string()),
        ("acknowledged", summary.acknowledged.to_string()),
        ("refused", summary.refused.to_string()),
        ("unconfirmed", summary.unconfirmed.to_string()),
        ("seconds", format!("{:.3}", summary.seconds)),
        ("events/s", summary.events_per_second.to_string()),
    ];
    rows.extend(summary.manifest.clone().map(|path| ("manifest", path)));
    let lines: Vec<_> = rows.iter().map(|(name, value)| format!("{name:<16} {value}")).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_wait_for_company_where_much_is_sent() {
        let ms = |rate| linger(rate).as_millis();
        assert_eq!([None, Some(0.5), Some(4_999.9)].map(ms), [5, 5, 5]);
        assert_eq!([Some(5_000.0), Some(19_999.0)].map(ms), [20, 20]);
        assert_eq!([Some(20_000.0), Some(1e9)].map(ms), [50, 50]);
    }
}
