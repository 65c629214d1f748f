//! The two programs, with their points to die at.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use local_stack::programs;
use tokio::process::Command;

const STEPPED_CLOCK: &str = "libstepped_clock.so";

/// The two programs, with their points to die at.
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Builds all. They are to be kept before anybody builds them without the points.
    pub async fn build() -> anyhow::Result<Self> {
        let features = ["order-producer/failpoints", "order-consumer/failpoints"];
        let [producer, consumer] = programs::PAIR;
        let packages = [producer, consumer, "stepped-clock"];
        Ok(Self { folder: programs::build(&packages, &features).await? })
    }

    /// Copies all into a new folder.
    pub fn kept_in(self, folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir(folder)?;
        for program in programs::PAIR.into_iter().chain([STEPPED_CLOCK]) {
            std::fs::copy(self.folder.join(program), folder.join(program))
                .with_context(|| format!("cannot copy {program}"))?;
        }
        Ok(Self { folder: folder.to_owned() })
    }

    /// The library that makes the clock of a process one that steps.
    pub fn stepped_clock(&self) -> PathBuf {
        self.folder.join(STEPPED_CLOCK)
    }

    /// A command about to be run.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.folder.join(program));
        command.stdin(Stdio::null()).kill_on_drop(true).process_group(0);
        for variable in ["RUST_LOG", "FAILPOINT", "FAILPOINTS_SEEN"] {
            command.env_remove(variable);
        }
        command
    }
}
