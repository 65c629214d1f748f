//! The workspace's own programs: building them, and running them as child processes, of which none
//! outlives this one, also when it is killed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::watchdog::Watchdog;

/// The two programs that everything here is about.
pub const PAIR: [&str; 2] = ["order-producer", "order-consumer"];

/// Builds programs of this workspace with cargo, in this program's own profile; with features such
/// as `order-consumer/failpoints` always a debug build. Returns the folder of what was built.
///
/// Of the whole workspace, so that the libraries of others have the features that `cargo build` and `cargo
/// test` give them and need not be compiled again.
///
/// # Errors
/// There is no cargo, or they do not build.
pub async fn build(programs: &[&str], features: &[&str]) -> anyhow::Result<PathBuf> {
    let mut wanted: Vec<&str> = programs.iter().flat_map(|program| ["--bin", *program]).collect();
    let is_release = features.is_empty() && !cfg!(debug_assertions);
    if is_release {
        wanted.push("--release");
    }
    let features = features.join(",");
    if !features.is_empty() {
        wanted.extend(["--features", &features]);
    }
    cargo_build(&wanted).await?;
    built_in(if is_release { "release" } else { "debug" })
}

/// Builds the library of that package of this workspace for debugging. Returns its folder.
///
/// # Errors
/// There is no cargo, or it does not build.
pub async fn build_library(package: &str) -> anyhow::Result<PathBuf> {
    cargo_build(&["-p", package]).await?;
    built_in("debug")
}

/// Builds programs with their points to be killed at, as the examples that there are for it, which
/// leaves the programs themselves as they are. Returns the folder of the examples.
///
/// Of the whole workspace as [`build`], and ours are compiled once for whoever asks.
///
/// # Errors
/// There is no cargo, or they do not build.
pub async fn build_with_failpoints(examples: &[&str]) -> anyhow::Result<PathBuf> {
    let features = "order-consumer/failpoints,notification-service/failpoints";
    let mut wanted = vec!["--workspace", "--features", features];
    wanted.extend(examples.iter().flat_map(|example| ["--example", *example]));
    cargo_build(&wanted).await?;
    Ok(built_in("debug")?.join("examples"))
}

async fn cargo_build(arguments: &[&str]) -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build
        .args(["build", "--quiet", "--locked"])
        .args(arguments)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let status = build.status().await.context("cannot run cargo to build the programs")?;
    if !status.success() {
        bail!("the programs do not build, see above");
    }
    Ok(())
}

/// The folder of a profile's programs.
fn built_in(profile: &str) -> anyhow::Result<PathBuf> {
    let me = std::env::current_exe().context("cannot find out where this program is")?;
    let mut folder = me.parent().context("this program is in no folder")?;
    // A test or an example lies one deeper than a program.
    if folder.ends_with("deps") || folder.ends_with("examples") {
        folder = folder.parent().context("this program is in no folder")?;
    }
    Ok(folder.with_file_name(profile))
}

/// A program that is running.
pub struct Program {
    /// In timelines.
    pub name: String,
    // Dropped before the child is reaped: it must not fire at a number that is free.
    watchdog: Option<Watchdog>,
    child: Child,
    pid: Pid,
    stdout: PathBuf,
    stderr: PathBuf,
    peak_kib: u64,
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code or signal.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// Its most ever resident memory.
    pub peak_kib: u64,
}

impl Program {
    /// Starts it with its output in files of that name.
    pub fn start(mut command: Command, folder: &Path, name: &str) -> anyhow::Result<Self> {
        let file = |suffix: &str| folder.join(format!("{name}.{suffix}"));
        let (stdout, stderr) = (file("out"), file("log"));
        command.stdout(File::create(&stdout)?).stderr(File::create(&stderr)?);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let pid = pid.with_context(|| format!("{name} ended at once"))?;
        let watchdog = Watchdog::over_child(pid.as_raw_nonzero().get().cast_unsigned())?;
        let watchdog = Some(watchdog);
        Ok(Self { name: name.to_owned(), watchdog, child, pid, stdout, stderr, peak_kib: 0 })
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.note_memory();
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal. One that is gone already is fine.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(self.pid, signal);
    }

    /// Waits for its end, which becomes a kill after `patience`.
    pub async fn ended(mut self, patience: Duration) -> anyhow::Result<Ended> {
        let deadline = tokio::time::Instant::now() + patience;
        let status = loop {
            if let Some(status) = self.try_wait() {
                break status;
            }
            if tokio::time::Instant::now() > deadline {
                self.signal(Signal::KILL);
                bail!("{} did not end within {} s", self.name, patience.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        };
        self.watchdog = None;
        let stdout = std::fs::read_to_string(&self.stdout).unwrap_or_default();
        Ok(Ended { status, stdout, peak_kib: self.peak_kib })
    }

    /// Where its log is.
    pub fn log(&self) -> &Path {
        &self.stderr
    }

    /// The last of what it said.
    pub fn last_lines(&self) -> String {
        last_lines(&self.stderr)
    }

    /// Its most ever resident memory, as seen so far.
    pub fn peak_kib(&self) -> u64 {
        self.peak_kib
    }

    /// Whether it said so.
    pub fn says(&self, text: &str) -> bool {
        std::fs::read_to_string(&self.stderr).is_ok_and(|log| log.contains(text))
    }

    fn note_memory(&mut self) {
        let file = format!("/proc/{}/status", self.pid.as_raw_nonzero());
        let status = std::fs::read_to_string(file).unwrap_or_default();
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        self.peak_kib = self.peak_kib.max(peak.unwrap_or(0));
    }
}

/// The last of what a log says.
pub fn last_lines(log: &Path) -> String {
    let log = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = log.lines().rev().take(6).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
