//! The programs, with their points to die at.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use local_stack::programs;
use tokio::process::Command;

const STEPPED_CLOCK: &str = "libstepped_clock.so";

/// Builds programs, and waits until the disk has what was built: some GB, for which each commit of the servers would
/// wait otherwise. Two minutes of that have been seen.
async fn built(programs: &[&str], features: &[&str]) -> anyhow::Result<PathBuf> {
    let folder = programs::build(programs, features).await?;
    tokio::task::spawn_blocking(rustix::fs::sync).await?;
    Ok(folder)
}

/// The programs, with their points to die at.
pub struct Programs {
    folder: PathBuf,
    files: Vec<&'static str>,
}

impl Programs {
    /// Builds the pair and its clock. They are to be kept before anybody builds them without the
    /// points.
    pub async fn build() -> anyhow::Result<Self> {
        let features = ["order-producer/failpoints", "order-consumer/failpoints"];
        let [producer, consumer] = programs::PAIR;
        programs::build_library("stepped-clock").await?;
        let folder = built(&programs::PAIR, &features).await?;
        Ok(Self { folder, files: vec![producer, consumer, STEPPED_CLOCK] })
    }

    /// Builds the pair and the notification service, likewise.
    pub async fn build_system() -> anyhow::Result<Self> {
        let [producer, consumer] = programs::PAIR;
        let files = [producer, consumer, "notification-service"];
        let features = files.map(|package| format!("{package}/failpoints"));
        let features: Vec<&str> = features.iter().map(String::as_str).collect();
        let folder = built(&files, &features).await?;
        Ok(Self { folder, files: files.to_vec() })
    }

    /// Copies all into a new folder.
    pub fn kept_in(self, folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir(folder)?;
        for file in &self.files {
            std::fs::copy(self.folder.join(file), folder.join(file))
                .with_context(|| format!("cannot copy {file}"))?;
        }
        Ok(Self { folder: folder.to_owned(), files: self.files })
    }

    /// The library that makes the clock of a process one that steps.
    pub fn stepped_clock(&self) -> PathBuf {
        self.folder.join(STEPPED_CLOCK)
    }

    /// A command about to be run.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.folder.join(program));
        command.stdin(Stdio::null()).kill_on_drop(true).process_group(0);
        for variable in ["RUST_LOG", "FAILPOINT", "FAILPOINT_FROM", "FAILPOINTS_SEEN"] {
            command.env_remove(variable);
        }
        command
    }
}
