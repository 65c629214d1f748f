//! The two programs, with their points to die at.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use local_stack::programs;
use tokio::process::Command;

/// The two programs, with their points to die at.
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Builds both. They are to be kept before anybody builds them without the points.
    pub async fn build() -> anyhow::Result<Self> {
        let features = ["order-producer/failpoints", "order-consumer/failpoints"];
        Ok(Self { folder: programs::build(&features).await? })
    }

    /// Copies both into a new folder.
    pub fn kept_in(self, folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir(folder)?;
        for program in ["order-consumer", "order-producer"] {
            std::fs::copy(self.folder.join(program), folder.join(program))
                .with_context(|| format!("cannot copy {program}"))?;
        }
        Ok(Self { folder: folder.to_owned() })
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
