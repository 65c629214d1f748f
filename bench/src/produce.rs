//! How fast orders are published, beside Kafka's own ProducerPerformance with the same settings.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::Format;
use crate::series::spread;
use crate::stage::{Stage, on_stage};

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
    /// How results are printed
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Clone, Copy)]
enum Publisher {
    Load,
    ProducerPerformance,
}

#[derive(Serialize)]
struct Line {
    publisher: String,
    /// Records a second by its own account, the median.
    rate: f64,
    /// (most - least) / median.
    spread: f64,
    /// Of ProducerPerformance's with the same compression.
    of_kafkas_own: f64,
    cpu_seconds_per_million: f64,
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
            "{:<28} {:>8.0} records/s, spread {:.0} %, {:.2} of Kafka's own; CPU s/million {:.1}, \
             Kafka {:.1}",
            line.publisher,
            line.rate,
            line.spread * 100.0,
            line.of_kafkas_own,
            line.cpu_seconds_per_million,
            line.kafka_cpu_seconds_per_million
        );
    }
    Ok(())
}

async fn measure(stage: &Stage, options: &ProduceOptions) -> anyhow::Result<Vec<Line>> {
    let tools = kafka_tools().await?;
    let mut lines = Vec::new();
    for compression in ["lz4", "none"] {
        let (mut ours, mut kafkas) = (Vec::new(), Vec::new());
        for number in 1..=options.runs {
            for (publisher, runs) in
                [(Publisher::Load, &mut ours), (Publisher::ProducerPerformance, &mut kafkas)]
            {
                let run = publish(stage, publisher, compression, options.events, &tools).await?;
                eprintln!("run {number} of {}: {:.0} records/s", options.runs, run.rate);
                runs.push(run);
            }
        }
        let median = |runs: &[Run], of: fn(&Run) -> f64| spread(runs.iter().map(of)).median;
        let own = median(&kafkas, |run| run.rate);
        for (name, runs) in [("order-producer load", ours), ("ProducerPerformance", kafkas)] {
            let rate = spread(runs.iter().map(|run| run.rate));
            let million = 1e6 / options.events as f64;
            lines.push(Line {
                publisher: format!("{name}, {compression}"),
                rate: rate.median,
                spread: rate.spread,
                of_kafkas_own: rate.median / own,
                cpu_seconds_per_million: median(&runs, |run| run.cpu) * million,
                kafka_cpu_seconds_per_million: median(&runs, |run| run.kafka_cpu) * million,
            });
        }
    }
    Ok(lines)
}

struct Run {
    rate: f64,
    cpu: f64,
    kafka_cpu: f64,
}

#[derive(Deserialize)]
struct Loaded {
    events_per_second: f64,
}

/// To a new topic.
async fn publish(
    stage: &Stage,
    publisher: Publisher,
    compression: &str,
    events: u64,
    tools: &str,
) -> anyhow::Result<Run> {
    let topic = stage.empty_topic(PARTITIONS).await?;
    let events = events.to_string();
    let mut command =
        match publisher {
            Publisher::Load => {
                let mut load = stage.command("order-producer");
                load.args(["load", "--seed", "7", "--orders", &events, "--customers", "10000"])
                    .args(["--topic", &topic, "--compression", compression, "-o", "json"]);
                load
            }
            Publisher::ProducerPerformance => {
                let mut java = Command::new("java");
                java.args(["-Xmx512m", "-cp", tools, "org.apache.kafka.tools.ProducerPerformance"])
                    .args(["--topic", &topic, "--num-records", &events])
                    .args(["--record-size", RECORD_BYTES, "--throughput", "-1"])
                    .args(["--bootstrap-server", stage.servers()]);
                let compression = format!("compression.type={compression}");
                for property in ["acks=all", "linger.ms=5", &compression] {
                    java.args(["--command-property", property]);
                }
                java.kill_on_drop(true);
                java
            }
        };
    let (before, begun) = (stage.clocks(), Instant::now());
    let output = command.output().await.context("cannot run the publisher")?;
    let (used, took) = (stage.clocks().since(before), begun.elapsed());
    if !output.status.success() {
        bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let rate = match publisher {
        Publisher::Load => serde_json::from_str::<Loaded>(&said)?.events_per_second,
        Publisher::ProducerPerformance => own_account(&said)
            .with_context(|| format!("no rate after {} s: {said}", took.as_secs()))?,
    };
    Ok(Run { rate, cpu: used.own_children, kafka_cpu: used.kafka })
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
