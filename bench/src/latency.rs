//! How long a message takes from the producer's hand to the commit of its effects, without backlog.
//!
//! The record has the producer's time. That its transaction is committed is seen from outside, by
//! asking for the progress of each partition all the time, so the wait for the disk is in it, and
//! so is the time between two questions: the figures are a little too high rather than too low.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use clap::Args;
use local_stack::programs::Program;
use rdkafka::message::Message as _;
use serde::Serialize;
use sqlx::PgConnection;
use tokio::sync::oneshot;

use crate::series::spread;
use crate::stage::{Place, Shape, Stage, on_stage, succeed};
use crate::usage::Clocks;
use crate::{Format, consumer, parse_settings, records};

/// Messages sent before this has passed do not count: programs, plans and caches are cold.
const WARM_UP: Duration = Duration::from_secs(3);
/// Between two questions for the progress, which take their part of the processors.
const POLL: Duration = Duration::from_millis(1);
/// At more messages a second than this they wait for one another, and less often is enough.
const MANY: u64 = 10_000;
const POLL_OF_MANY: Duration = Duration::from_millis(5);
pub(crate) const PARTITIONS: u32 = 6;

#[derive(Args)]
pub(crate) struct LatencyOptions {
    /// Messages a second; besides, half of what the consumer drains at
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    /// How long messages are sent at each rate
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// How often; each time half of what it drained at just before
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Records in the topic that it drains first
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    events: u64,
    /// Settings of PostgreSQL, as name=value[,name=value…]
    #[arg(long, value_name = "NAME=VALUE,…", value_parser = parse_settings)]
    settings: Option<String>,
    /// A property of the producer's client, as linger.ms=20
    #[arg(long = "producer", value_name = "NAME=VALUE")]
    producer_properties: Vec<String>,
    /// A property of the consumer's client
    #[arg(long = "consumer", value_name = "NAME=VALUE")]
    consumer_properties: Vec<String>,
    /// How results are printed
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Serialize)]
struct Latency {
    /// Messages a second that were asked for.
    rate: f64,
    /// And that were sent, with the warm-up.
    sent_rate: f64,
    messages: f64,
    p50_ms: f64,
    p99_ms: f64,
    slowest_ms: f64,
    peak_mib: f64,
    cpu: Cpu,
    /// So much of the machine's processors was used, by these four, while messages were sent.
    processors_used: f64,
}

/// Processor seconds per million messages.
#[derive(Serialize)]
struct Cpu {
    /// With its start and its end.
    consumer: f64,
    producer: f64,
    /// With the questions for the progress.
    postgres: f64,
    kafka: f64,
}

/// When each partition had come how far: milliseconds since 1970, and the next offset.
type Progress = HashMap<i32, Vec<(i64, f64)>>;

/// The medians of all runs, and of what counts most how far they spread.
#[derive(Serialize)]
struct Line {
    median: Latency,
    p50_spread: f64,
    p99_spread: f64,
    runs: Vec<Latency>,
}

impl Line {
    fn of(runs: Vec<Latency>) -> Self {
        let of = |value: fn(&Latency) -> f64| spread(runs.iter().map(value));
        let median = |value: fn(&Latency) -> f64| of(value).median;
        Self {
            median: Latency {
                rate: median(|run| run.rate),
                sent_rate: median(|run| run.sent_rate),
                messages: median(|run| run.messages),
                p50_ms: median(|run| run.p50_ms),
                p99_ms: median(|run| run.p99_ms),
                slowest_ms: median(|run| run.slowest_ms),
                peak_mib: median(|run| run.peak_mib),
                cpu: Cpu {
                    consumer: median(|run| run.cpu.consumer),
                    producer: median(|run| run.cpu.producer),
                    postgres: median(|run| run.cpu.postgres),
                    kafka: median(|run| run.cpu.kafka),
                },
                processors_used: median(|run| run.processors_used),
            },
            p50_spread: of(|run| run.p50_ms).spread,
            p99_spread: of(|run| run.p99_ms).spread,
            runs,
        }
    }
}

pub(crate) async fn run(options: &LatencyOptions) -> anyhow::Result<()> {
    let measured = on_stage(options.events, async |stage| measure(stage, options).await).await?;
    if matches!(options.output, Format::Json) {
        println!("{}", serde_json::to_string(&measured)?);
        return Ok(());
    }
    for (what, line) in ["as asked for", "half of what it drains at"].iter().zip(&measured) {
        let it = &line.median;
        println!(
            "{what}, {:.0} messages/s ({:.0} sent, {:.0} measured): p50 {:.1} ms (spread {:.0} %), \
             p99 {:.1} ms ({:.0} %), slowest {:.1} ms; most memory {:.0} MiB\n  CPU s/million: \
             consumer {:.1}, PostgreSQL {:.1}, Kafka {:.1}, producer {:.1}; {:.0} % of the processors",
            it.rate,
            it.sent_rate,
            it.messages,
            it.p50_ms,
            line.p50_spread * 100.0,
            it.p99_ms,
            line.p99_spread * 100.0,
            it.slowest_ms,
            it.peak_mib,
            it.cpu.consumer,
            it.cpu.postgres,
            it.cpu.kafka,
            it.cpu.producer,
            it.processors_used * 100.0
        );
    }
    Ok(())
}

/// At the rate that is asked for, and at half of the maximum.
async fn measure(stage: &Stage, options: &LatencyOptions) -> anyhow::Result<[Line; 2]> {
    stage.tune(options.settings.as_deref()).await?;
    let mut measured = [Vec::new(), Vec::new()];
    for run in 1..=options.runs {
        let place = stage.place(Shape::default()).await?;
        let drained = consumer::drain(&place, stage.events, 4, 1).await?;
        place.clear().await?;
        let time = Duration::from_secs_f64(drained.seconds).as_millis();
        let maximum = u64::try_from(u128::from(drained.events) * 1_000 / time.max(1))?;
        eprintln!("run {run} of {}: it drains at {maximum} events/s", options.runs);
        for (rate, measured) in [options.rate, maximum / 2].into_iter().zip(&mut measured) {
            let properties = &options.producer_properties;
            let load = Load { rate, seconds: options.seconds, properties };
            let it = at_rate(stage, &load, &options.consumer_properties).await?;
            eprintln!(
                "run {run} of {}: {rate} messages/s: p50 {:.1} ms, p99 {:.1} ms",
                options.runs, it.p50_ms, it.p99_ms
            );
            measured.push(it);
        }
    }
    Ok(measured.map(Line::of))
}

async fn at_rate(stage: &Stage, load: &Load<'_>, properties: &[String]) -> anyhow::Result<Latency> {
    let place = stage.empty_place(PARTITIONS).await?;
    let mut run = place.consumer("run");
    run.args(with_flags(properties));
    let mut program = Program::start(run, place.folder(), place.name())?;
    let (timed, ()) = timed(stage, &place, load, async { Ok(()) }).await?;
    if let Some(status) = program.try_wait() {
        bail!("order-consumer run: {status}: {}", program.last_lines());
    }
    program.signal(rustix::process::Signal::TERM);
    // Everything else has ended and is counted.
    let before = stage.clocks();
    let peak_kib = program.ended(Duration::from_mins(1)).await?.peak_kib;
    let consumer = stage.clocks().since(before).own_children;
    place.clear().await?;
    let Clocks { own_children: producer, postgres, kafka } = timed.used;
    let per_million = |seconds: f64| seconds * 1e6 / timed.orders;
    let processors = std::thread::available_parallelism()?.get() as f64;
    Ok(Latency {
        rate: load.rate as f64,
        sent_rate: timed.sent_rate,
        cpu: Cpu {
            consumer: per_million(consumer),
            producer: per_million(producer),
            postgres: per_million(postgres),
            kafka: per_million(kafka),
        },
        processors_used: (consumer + producer + postgres + kafka) * timed.sent_rate
            / timed.orders
            / processors,
        messages: timed.ms.len() as f64,
        p50_ms: timed.percentile(50),
        p99_ms: timed.percentile(99),
        slowest_ms: timed.percentile(100),
        peak_mib: peak_kib as f64 / 1024.0,
    })
}

/// What the producer is to do.
pub(crate) struct Load<'a> {
    /// Messages a second.
    pub(crate) rate: u64,
    pub(crate) seconds: u64,
    /// Of its client.
    pub(crate) properties: &'a [String],
}

fn with_flags(properties: &[String]) -> impl Iterator<Item = &str> {
    properties.iter().flat_map(|property| ["-X", property])
}

/// How long messages took.
pub(crate) struct Timed {
    pub(crate) sent_rate: f64,
    /// How many were sent, with the warm-up.
    orders: f64,
    /// While they were sent; the producer has ended by then, the consumer has not.
    used: Clocks,
    /// Of each message, the fastest first.
    ms: Vec<f64>,
}

impl Timed {
    pub(crate) fn percentile(&self, of: usize) -> f64 {
        self.ms[(self.ms.len() - 1) * of / 100]
    }
}

/// Sends messages at that rate, has them audited, and looks how long each took; does something else
/// meanwhile.
pub(crate) async fn timed<T>(
    stage: &Stage,
    place: &Place<'_>,
    load: &Load<'_>,
    beside: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<(Timed, T)> {
    let mut connection = place.connect().await?;
    let (done, ended) = oneshot::channel();
    let loading = async {
        let orders = load.rate * (load.seconds + WARM_UP.as_secs());
        let mut command = place.load(load.rate, orders);
        command.args(with_flags(load.properties));
        let (before, begun) = (stage.clocks(), Instant::now());
        let ((), beside) = tokio::try_join!(succeed(command, "order-producer load"), beside)?;
        let (used, orders) = (stage.clocks().since(before), orders as f64);
        let sent_rate = orders / begun.elapsed().as_secs_f64();
        place.audit().await?;
        _ = done.send(());
        anyhow::Ok((Timed { sent_rate, orders, used, ms: Vec::new() }, beside))
    };
    let poll = if load.rate > MANY { POLL_OF_MANY } else { POLL };
    let watching = watch(&mut connection, poll, ended);
    let (progress, (timed, beside)) = tokio::try_join!(watching, loading)?;
    let (servers, topic) = (stage.servers().to_owned(), place.topic().to_owned());
    let sent = tokio::task::spawn_blocking(move || times_of(&servers, &topic)).await??;
    let mut ms = latencies(&sent, &progress)?;
    ms.sort_by(f64::total_cmp);
    Ok((Timed { ms, ..timed }, beside))
}

/// Notes how far each partition is, until told to end.
async fn watch(
    connection: &mut PgConnection,
    poll: Duration,
    mut ended: oneshot::Receiver<()>,
) -> anyhow::Result<Progress> {
    let mut progress = Progress::new();
    while ended.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
        let rows: Vec<(i32, i64)> =
            sqlx::query_as("SELECT partition, next_offset FROM partition_progress")
                .fetch_all(&mut *connection)
                .await?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64() * 1e3;
        for (partition, next) in rows {
            let seen = progress.entry(partition).or_default();
            if seen.last().is_none_or(|(last, _)| next > *last) {
                seen.push((next, now));
            }
        }
        tokio::time::sleep(poll).await;
    }
    Ok(progress)
}

/// Partition, offset and time of each record.
fn times_of(servers: &str, topic: &str) -> anyhow::Result<Vec<(i32, i64, i64)>> {
    let mut times = Vec::new();
    records::each(servers, topic, PARTITIONS, |record| {
        let time = record.timestamp().to_millis().context("a record without a time")?;
        times.push((record.partition(), record.offset(), time));
        Ok(())
    })?;
    Ok(times)
}

/// Milliseconds of each record that was sent after the warm-up.
fn latencies(sent: &[(i32, i64, i64)], progress: &Progress) -> anyhow::Result<Vec<f64>> {
    let first = sent.iter().map(|(.., time)| *time).min().context("no record")?;
    let from = first + i64::try_from(WARM_UP.as_millis())?;
    sent.iter()
        .filter(|(.., time)| *time >= from)
        .map(|(partition, offset, time)| {
            let seen = progress.get(partition).context("a partition without progress")?;
            let at = seen.partition_point(|(next, _)| next <= offset);
            let (_, committed) = seen.get(at).context("a record that was not worked off")?;
            Ok(committed - *time as f64)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_committed_when_progress_has_passed_it() {
        let progress =
            Progress::from([(0, vec![(1, 4_000.0), (3, 4_010.5)]), (1, vec![(2, 5_000.0)])]);
        let sent = [(0, 0, 500), (0, 1, 4_000), (0, 2, 4_001), (1, 1, 4_990)];
        assert_eq!(latencies(&sent, &progress).unwrap(), [10.5, 9.5, 10.0]);
        assert!(latencies(&[(0, 3, 0), (0, 4, 3_000)], &progress).is_err());
    }
}
