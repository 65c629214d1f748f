//! How fast records are published, beside Kafka's own ProducerPerformance with the same settings.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use rdkafka::message::{Headers as _, Message as _};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::process::Command;

use crate::series::spread;
use crate::stage::{Stage, on_stage};
use crate::{Format, is_meant, records, relay};

/// Where Kafka's tools are kept, once Maven has fetched them.
const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench/kafka-tools");
const POM: &str = r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>bench</groupId>
  <artifactId>kafka-tools</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka-tools</artifactId>
      <version>4.3.0</version>
    </dependency>
  </dependencies>
</project>
"#;
const PARTITIONS: u32 = 6;
/// Of a record of `load`, about: ProducerPerformance sends letters at random.
const RECORD_BYTES: &str = "350";

#[derive(Args)]
pub(crate) struct ProduceOptions {
    /// Records that each publishes
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    events: u64,
    /// How often each runs
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Only the one of this name, or if there is none those whose names contain it, beside Kafka's own
    #[arg(long, value_name = "TEXT", value_delimiter = ',')]
    only: Vec<String>,
    /// How results are printed
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Publisher {
    Load,
    /// The same orders, as lines of a file.
    SendFile,
    /// What waits in an outbox.
    Relay,
    ProducerPerformance,
}

impl Publisher {
    fn name(self) -> &'static str {
        match self {
            Self::Load => "order-producer load",
            Self::SendFile => "order-producer send --file",
            Self::Relay => "relay",
            Self::ProducerPerformance => "ProducerPerformance",
        }
    }
}

/// Who publishes with which compression.
const TURNS: [(&str, &[Publisher]); 2] = [
    (
        "lz4",
        &[Publisher::Load, Publisher::ProducerPerformance, Publisher::SendFile, Publisher::Relay],
    ),
    ("none", &[Publisher::Load, Publisher::ProducerPerformance]),
];

#[derive(Serialize)]
struct Line {
    publisher: String,
    /// Records a second, the median.
    rate: f64,
    /// (most - least) / median.
    spread: f64,
    /// Of ProducerPerformance's with the same compression.
    of_kafkas_own: f64,
    cpu_seconds_per_million: f64,
    postgres_cpu_seconds_per_million: f64,
    kafka_cpu_seconds_per_million: f64,
}

pub(crate) async fn run(options: &ProduceOptions) -> anyhow::Result<()> {
    let lines = on_stage(options.events, async |stage| measure(stage, options).await).await?;
    if matches!(options.output, Format::Json) {
        println!("{}", serde_json::to_string(&lines)?);
        return Ok(());
    }
    for line in lines {
        println!(
            "{:<32} {:>8.0} records/s, spread {:.0} %, {:.2} of Kafka's own; CPU s/million {:.1}, \
             PostgreSQL {:.1}, Kafka {:.1}",
            line.publisher,
            line.rate,
            line.spread * 100.0,
            line.of_kafkas_own,
            line.cpu_seconds_per_million,
            line.postgres_cpu_seconds_per_million,
            line.kafka_cpu_seconds_per_million
        );
    }
    Ok(())
}

async fn measure(stage: &Stage, options: &ProduceOptions) -> anyhow::Result<Vec<Line>> {
    let tools = kafka_tools().await?;
    let file = stage.folder().join("orders.ndjson");
    let mut lines = Vec::new();
    for (compression, publishers) in TURNS {
        let name_of = |publisher: Publisher| format!("{}, {compression}", publisher.name());
        let names: Vec<String> = publishers.iter().map(|publisher| name_of(*publisher)).collect();
        let is_wanted = |publisher: &Publisher| {
            *publisher == Publisher::ProducerPerformance
                || is_meant(&options.only, &name_of(*publisher), &names)
        };
        let publishers: Vec<Publisher> = publishers.iter().copied().filter(is_wanted).collect();
        let mut series = vec![Vec::new(); publishers.len()];
        for number in 1..=options.runs {
            for (publisher, runs) in publishers.iter().zip(&mut series) {
                let how = How { compression, events: options.events, tools: &tools, file: &file };
                if *publisher == Publisher::SendFile && !file.exists() {
                    write_orders(stage, how).await?;
                }
                let topic = stage.empty_topic(PARTITIONS).await?;
                let run = publish(stage, *publisher, &topic, how).await?;
                let (name, all) = (name_of(*publisher), options.runs);
                eprintln!("run {number} of {all}, {name}: {:.0} records/s", run.rate);
                // Whoever is fast because it lost some is found out.
                let counted = records::count(stage.servers(), &topic, PARTITIONS)?;
                ensure!(counted == options.events, "{name}: {counted} records in the topic");
                runs.push(run);
            }
        }
        let median = |runs: &[Run], of: fn(&Run) -> f64| spread(runs.iter().map(of)).median;
        let measured = || publishers.iter().zip(&series);
        let own = measured()
            .find(|(publisher, _)| **publisher == Publisher::ProducerPerformance)
            .map(|(_, runs)| median(runs, |run| run.rate))
            .context("nothing to compare with")?;
        let million = 1e6 / options.events as f64;
        for (publisher, runs) in measured() {
            let rate = spread(runs.iter().map(|run| run.rate));
            lines.push(Line {
                publisher: name_of(*publisher),
                rate: rate.median,
                spread: rate.spread,
                of_kafkas_own: rate.median / own,
                cpu_seconds_per_million: median(runs, |run| run.cpu) * million,
                postgres_cpu_seconds_per_million: median(runs, |run| run.postgres_cpu) * million,
                kafka_cpu_seconds_per_million: median(runs, |run| run.kafka_cpu) * million,
            });
        }
    }
    Ok(lines)
}

/// What one run took.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    /// Records a second.
    pub(crate) rate: f64,
    /// Processor seconds of the publisher.
    pub(crate) cpu: f64,
    /// Of PostgreSQL.
    pub(crate) postgres_cpu: f64,
    /// Of Kafka.
    pub(crate) kafka_cpu: f64,
}

#[derive(Clone, Copy)]
struct How<'a> {
    compression: &'a str,
    events: u64,
    /// A class path.
    tools: &'a str,
    /// With a line for each event.
    file: &'a Path,
}

#[derive(Deserialize)]
struct Loaded {
    events_per_second: f64,
}

async fn publish(
    stage: &Stage,
    publisher: Publisher,
    topic: &str,
    how: How<'_>,
) -> anyhow::Result<Run> {
    let How { compression, events, tools, file } = how;
    let number = events.to_string();
    let mut command = match publisher {
        Publisher::Load => {
            let mut load = stage.command("order-producer");
            load.args(["load", "--seed", "7", "--orders", &number, "--customers", "10000"])
                .args(["--topic", topic, "--compression", compression, "-o", "json"])
                .stdout(Stdio::piped());
            load
        }
        Publisher::SendFile => {
            let mut send = stage.command("order-producer");
            send.args(["send", "--topic", topic, "--compression", compression, "-o", "jsonl"])
                .arg("--file")
                .arg(file)
                // It tells of each record.
                .stdout(Stdio::null());
            send
        }
        Publisher::Relay => return relay::publish(stage, topic, events).await,
        Publisher::ProducerPerformance => {
            let mut java = Command::new("java");
            java.args(["-Xmx512m", "-cp", tools, "org.apache.kafka.tools.ProducerPerformance"])
                .args(["--topic", topic, "--num-records", &number])
                .args(["--record-size", RECORD_BYTES, "--throughput", "-1"])
                .args(["--bootstrap-server", stage.servers()]);
            let compression = format!("compression.type={compression}");
            for property in ["acks=all", "linger.ms=5", &compression] {
                java.args(["--command-property", property]);
            }
            java.stdout(Stdio::piped()).kill_on_drop(true);
            java
        }
    };
    let (before, begun) = (stage.clocks(), Instant::now());
    let child = command.stderr(Stdio::piped()).spawn().context("cannot run the publisher")?;
    let output = child.wait_with_output().await?;
    let (used, took) = (stage.clocks().since(before), begun.elapsed());
    if !output.status.success() {
        bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let rate = match publisher {
        Publisher::Load => serde_json::from_str::<Loaded>(&said)?.events_per_second,
        // It has no account of its own; its start and its end are in this one.
        Publisher::SendFile | Publisher::Relay => events as f64 / took.as_secs_f64(),
        Publisher::ProducerPerformance => own_account(&said)
            .with_context(|| format!("no rate after {} s: {said}", took.as_secs()))?,
    };
    Ok(Run { rate, cpu: used.own_children, postgres_cpu: used.postgres, kafka_cpu: used.kafka })
}

/// One line of `send --file`.
#[derive(Serialize)]
struct FileLine<'a> {
    #[serde(rename = "type")]
    event_type: &'a str,
    id: &'a str,
    data: &'a RawValue,
}

/// Writes what `load` publishes as lines of a file.
async fn write_orders(stage: &Stage, how: How<'_>) -> anyhow::Result<()> {
    let topic = stage.empty_topic(PARTITIONS).await?;
    publish(stage, Publisher::Load, &topic, how).await?;
    let mut lines = std::io::BufWriter::new(std::fs::File::create(how.file)?);
    records::each(stage.servers(), &topic, PARTITIONS, |record| {
        let header = |name: &str| -> anyhow::Result<&str> {
            let value = record.headers().into_iter().flat_map(|headers| headers.iter());
            let value = value.into_iter().find(|header| header.key == name);
            let value =
                value.and_then(|header| header.value).context("a record without headers")?;
            Ok(std::str::from_utf8(value)?)
        };
        let data = record.payload().context("a record without value")?;
        serde_json::to_writer(
            &mut lines,
            &FileLine {
                event_type: header("ce_type")?,
                id: header("ce_id")?,
                data: serde_json::from_slice(data)?,
            },
        )?;
        Ok(lines.write_all(b"\n")?)
    })?;
    Ok(lines.flush()?)
}

/// The rate in the last line of ProducerPerformance.
fn own_account(said: &str) -> Option<f64> {
    let line = said.lines().rev().find(|line| line.contains("records/sec"))?;
    line.split("records sent, ").nth(1)?.split(' ').next()?.parse().ok()
}

/// The class path of Kafka's tools, fetched by Maven once.
async fn kafka_tools() -> anyhow::Result<String> {
    let folder = PathBuf::from(TOOLS);
    if !folder.join("done").exists() {
        eprintln!("fetching Kafka's tools with Maven");
        std::fs::create_dir_all(&folder)?;
        let pom = folder.join("pom.xml");
        std::fs::write(&pom, POM)?;
        let fetched = Command::new("mvn")
            .args(["--quiet", "--batch-mode", "--file"])
            .arg(&pom)
            .arg("dependency:copy-dependencies")
            .arg(format!("-DoutputDirectory={}", folder.display()))
            .output()
            .await
            .context("cannot run mvn")?;
        if !fetched.status.success() {
            bail!("mvn: {}", String::from_utf8_lossy(&fetched.stdout));
        }
        std::fs::write(folder.join("done"), "")?;
    }
    Ok(format!("{}/*", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_has_the_rate_of_the_whole_run() {
        let said = "49999 records sent, 9999.8 records/sec (3.34 MB/sec), 1.0 ms avg latency.\n\
                    100000 records sent, 226270.5 records/sec (75.5 MB/sec), 9 ms avg latency, \
                    30.00 ms max latency, 8 ms 50th.\n";
        assert_eq!(own_account(said), Some(226_270.5));
        assert_eq!(own_account("nothing"), None);
    }
}
