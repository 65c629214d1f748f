//! What a user would pick instead, each run by the script of a folder that holds them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde::Deserialize;
use tokio::process::Command;

use crate::contender::Run;
use crate::stage::{Stage, succeed};
use crate::usage::Usage;

/// A run, its start and its end.
const PATIENCE: Duration = Duration::from_mins(15);

#[derive(Args)]
pub(crate) struct PeersOptions {
    /// Folder with bench.py and what it runs, built as its README says
    #[arg(long, value_name = "FOLDER")]
    pub(crate) folder: PathBuf,
    /// Contenders as bench.py names them
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "debezium:2,debezium:4,bento-claim,onebyone:6"
    )]
    pub(crate) peers: Vec<String>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) folder: PathBuf,
    pub(crate) name: String,
}

/// What the script has started is in a session of its own, and ends only by the script's own hand,
/// which an interrupt moves.
struct Interrupted(Option<u32>);

impl Interrupted {
    /// The script has ended.
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Interrupted {
    fn drop(&mut self) {
        let script = self.0.and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
        if let Some(script) = script {
            // One that is gone needs none.
            let _ = rustix::process::kill_process(script, rustix::process::Signal::INT);
        }
    }
}

/// The line that bench.py prints.
#[derive(Deserialize)]
struct Line {
    complete: bool,
    /// In the time measured, and all of them.
    rows: u64,
    orders: u64,
    seconds: f64,
    peak_rss_mib: u64,
    cpu_contender: f64,
    cpu_pg: f64,
    cpu_broker: f64,
    wal_mib: i64,
}

/// The records of the peers, once for all of them.
pub(crate) async fn generate(stage: &Stage, folder: &Path, work: &Path) -> anyhow::Result<()> {
    let class_path = format!("{0}/java/target/classes:{0}/java/target/lib/*", folder.display());
    let mut generate = Command::new("java");
    generate
        .args(["-cp", &class_path, "bench.Gen", &stage.events.to_string()])
        .env("KAFKA", stage.servers())
        .env("COPY_DIR", work.join("copy"))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    succeed(generate, "bench.Gen").await
}

/// Runs it in a database of its own.
pub(crate) async fn run(stage: &Stage, peer: &Peer) -> anyhow::Result<Run> {
    let place = stage.bare_place().await?;
    let url: sqlx::postgres::PgConnectOptions = place.url().parse()?;
    let work = place.folder().join("peers");
    stage.peers_records(&peer.folder, &work).await?;
    let mut script = Command::new("python3");
    script
        .arg(peer.folder.join("bench.py"))
        .arg(&peer.name)
        .env("KAFKA", stage.servers())
        .env("PG_HOST", url.get_host())
        .env("PG_PORT", url.get_port().to_string())
        .env("PG_USER", url.get_username())
        .env("PG_DB", place.name())
        .env("WORK", &work)
        .env("BROKER_PID", stage.broker_pid()?.to_string())
        .env("N", stage.events.to_string())
        .env_remove("BENCH_LOCK")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let script = script.spawn().context("python3")?;
    let interrupted = Interrupted(script.id());
    let ended = tokio::time::timeout(PATIENCE, script.wait_with_output())
        .await
        .with_context(|| format!("{}: not within {} s", peer.name, PATIENCE.as_secs()))??;
    interrupted.disarm();
    let said = String::from_utf8_lossy(&ended.stdout);
    let Some(line) = said.lines().last().filter(|_| ended.status.success()) else {
        let stderr = String::from_utf8_lossy(&ended.stderr);
        bail!("{}: {}: {}", peer.name, ended.status, stderr.trim());
    };
    let line: Line =
        serde_json::from_str(line).with_context(|| format!("{}: {line}", peer.name))?;
    if !line.complete || line.rows == 0 {
        bail!("{}: not all rows arrived, or all at once: {said}", peer.name);
    }
    let (table_bytes, index_bytes) = place.sizes().await?;
    place.clear().await?;
    // Sizes are of all rows.
    let of_rows = |bytes: i64| {
        let of_rows = i128::from(bytes) * i128::from(line.rows) / i128::from(line.orders.max(1));
        i64::try_from(of_rows).unwrap_or(i64::MAX)
    };
    let usage = Usage {
        contender_cpu: line.cpu_contender,
        postgres_cpu: line.cpu_pg,
        kafka_cpu: line.cpu_broker,
        peak_mib: line.peak_rss_mib,
        wal_bytes: of_rows(line.wal_mib * 1024 * 1024),
        table_bytes: of_rows(table_bytes),
        index_bytes: of_rows(index_bytes),
    };
    Ok(Run { events: line.rows, seconds: line.seconds, usage, lane_seconds: BTreeMap::new() })
}
