//! The engine in processes of its own, so that it can be killed and frozen as a whole.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use idempotent_consumer::{Engine, EngineConfig, KafkaSettings};
use local_stack::Watchdog;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::postgres::PgPoolOptions;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::place::Place;
use crate::steps::Trap;
use crate::strategy::unique_claim::UniqueClaim;

/// What a process writes when it is held, and reads to go on.
const REACHED: &str = "reached";
/// A member that is dead or frozen is taken for dead after this time.
const SESSION_MS: &str = "1000";
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Args)]
pub(crate) struct EngineOptions {
    #[arg(long)]
    servers: String,
    #[arg(long)]
    database_url: String,
    #[arg(long)]
    topic: String,
    #[arg(long)]
    group: String,
    #[arg(long)]
    batch_size: usize,
    /// Where it is held
    #[arg(long, requires = "from")]
    step: Option<String>,
    /// With which message at the earliest
    #[arg(long)]
    from: Option<u64>,
}

/// The steps of a process, whose gate is its input.
pub(crate) struct ProcessSteps {
    trap: Option<(String, u64)>,
    messages: AtomicU64,
    was_held: AtomicBool,
}

impl ProcessSteps {
    /// A batch of so many messages is at this step; those of the first step are counted.
    pub(crate) async fn at(&self, step: &str, messages: usize) {
        let so_far = match step {
            "after_claim" => self.messages.fetch_add(messages as u64, SeqCst) + messages as u64,
            _ => self.messages.load(SeqCst),
        };
        let Some((wanted, from)) = &self.trap else { return };
        if wanted != step || so_far < *from || self.was_held.swap(true, SeqCst) {
            return;
        }
        println!("{REACHED}");
        let mut line = String::new();
        let read = BufReader::new(tokio::io::stdin()).read_line(&mut line).await;
        if !matches!(read, Ok(1..)) {
            std::future::pending::<()>().await;
        }
    }
}

/// The process itself.
pub(crate) async fn run(options: EngineOptions) -> anyhow::Result<()> {
    let kafka = KafkaSettings::new(options.servers)
        .property("session.timeout.ms", SESSION_MS)?
        .property("heartbeat.interval.ms", "200")?;
    let mut config = EngineConfig::new(kafka, options.topic, options.group);
    config.batch_size = options.batch_size;
    config.lock_timeout = Duration::from_millis(500);
    let pool = PgPoolOptions::new().max_connections(2).connect(&options.database_url).await?;
    let steps = ProcessSteps {
        trap: options.step.zip(options.from),
        messages: AtomicU64::new(0),
        was_held: AtomicBool::new(false),
    };
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let on_signal = stop.clone();
    tokio::spawn(async move {
        terminate.recv().await;
        on_signal.cancel();
    });
    Engine::new(config, UniqueClaim { steps }, pool).run(stop).await?;
    Ok(())
}

/// A process in the hand of the harness.
pub(crate) struct Process {
    // Dropped before the child is reaped: it must not fire at a number that is free.
    watchdog: Option<Watchdog>,
    child: Child,
    pid: Pid,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Process {
    pub(crate) fn start(
        place: &Place,
        batch_size: usize,
        trap: Option<Trap>,
    ) -> anyhow::Result<Self> {
        let me = std::env::current_exe().context("cannot find out where this program is")?;
        let mut command = Command::new(me);
        command
            .arg("engine")
            .args(["--servers", &place.servers, "--database-url", &place.database_url])
            .args(["--topic", &place.topic, "--group", &place.group])
            .args(["--batch-size", &batch_size.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if let Some(Trap { step, from }) = trap {
            command.args(["--step", step, "--from", &from.to_string()]);
        }
        let mut child = command.spawn().context("cannot start the engine")?;
        let number = child.id().context("the engine ended at once")?;
        let pid = Pid::from_raw(number.cast_signed()).context("no process has this number")?;
        let input = child.stdin.take().context("no input")?;
        let output = BufReader::new(child.stdout.take().context("no output")?).lines();
        let watchdog = Some(Watchdog::over_child(number)?);
        Ok(Self { watchdog, child, pid, input, output })
    }

    /// Waits until it is held.
    pub(crate) async fn reached(&mut self) -> anyhow::Result<()> {
        let line = tokio::time::timeout(PATIENCE, self.output.next_line()).await;
        let line = line.context("the engine never came to the step")??;
        anyhow::ensure!(line.as_deref() == Some(REACHED), "the engine said {line:?}");
        Ok(())
    }

    /// Lets it go on.
    pub(crate) async fn release(&mut self) -> anyhow::Result<()> {
        Ok(self.input.write_all(b"go\n").await?)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // One that is gone already is fine.
        let _ = kill_process(self.pid, signal);
    }

    /// Signals it and waits for its end.
    pub(crate) async fn end(mut self, signal: Signal) -> anyhow::Result<()> {
        self.signal(signal);
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        self.watchdog = None;
        let status = ended.context("the engine did not end")??;
        anyhow::ensure!(status.success() || signal == Signal::KILL, "the engine: {status}");
        Ok(())
    }
}
