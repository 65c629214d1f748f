//! The two programs as child processes. None outlives the demo: a child is killed when its handle
//! is dropped.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use local_stack::Endpoints;
use tokio::process::{Child, Command};

/// Where the two programs are.
pub(crate) struct Programs {
    folder: PathBuf,
}

impl Programs {
    pub(crate) async fn build() -> anyhow::Result<Self> {
        Ok(Self { folder: local_stack::programs::build(&local_stack::programs::PAIR, &[]).await? })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn consumer(&self, endpoints: &Endpoints) -> Call {
        self.call("order-consumer", endpoints)
    }

    pub(crate) fn producer(&self, endpoints: &Endpoints) -> Call {
        self.call("order-producer", endpoints)
    }

    fn call(&self, program: &'static str, endpoints: &Endpoints) -> Call {
        let mut command = Command::new(self.folder.join(program));
        command
            .env("KAFKA_BOOTSTRAP_SERVERS", &endpoints.bootstrap_servers)
            .env("DATABASE_URL", &endpoints.database_url)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        for variable in ["ORDERS_TOPIC", "ORDERS_DLQ_TOPIC", "CONSUMER_GROUP"] {
            command.env_remove(variable);
        }
        Call { program, command }
    }
}

/// A command about to be run.
pub(crate) struct Call {
    program: &'static str,
    command: Command,
}

/// What a command printed, and its exit code.
pub(crate) struct Captured {
    pub(crate) text: String,
    pub(crate) code: u8,
}

impl Call {
    pub(crate) fn args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Self {
        self.command.args(args);
        self
    }

    /// Runs it, and shows what it printed only if it fails.
    pub(crate) async fn quiet(mut self) -> anyhow::Result<()> {
        let output = self.command.output().await.with_context(|| self.program)?;
        if !output.status.success() {
            let printed = String::from_utf8_lossy(&output.stderr);
            bail!("{} ended with {}: {}", self.program, output.status, printed.trim_end());
        }
        Ok(())
    }

    /// Runs it with its output on the demo's own.
    pub(crate) async fn shown(mut self) -> anyhow::Result<()> {
        let status = self.command.status().await.with_context(|| self.program)?;
        if !status.success() {
            bail!("{} ended with {status}", self.program);
        }
        Ok(())
    }

    /// Runs it and keeps its output; progress and messages are shown.
    pub(crate) async fn captured(mut self) -> anyhow::Result<Captured> {
        self.command.stderr(Stdio::inherit());
        let output = self.command.output().await.with_context(|| self.program)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let code = output.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
        Ok(Captured { text, code })
    }

    /// Starts a consumer, with its log in a file.
    pub(crate) fn run_in(mut self, folder: &Path, log: &str) -> anyhow::Result<Consumer> {
        let log = folder.join(log);
        let file = std::fs::File::create(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        // A killed consumer is noticed after its session: six seconds, not the usual 45.
        self.command
            .args(["run", "--listen", "127.0.0.1:0", "-X", "session.timeout.ms=6000"])
            .args(["-X", "heartbeat.interval.ms=1000"])
            .stdout(Stdio::piped())
            .stderr(file);
        let child = self.command.spawn().context("cannot start a consumer")?;
        let pid = child.id().context("the consumer ended at once")?;
        Ok(Consumer { child, pid, log })
    }
}

/// A consumer that is running.
pub(crate) struct Consumer {
    child: Child,
    pid: u32,
    log: PathBuf,
}

impl Consumer {
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Fails if it has ended by itself.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("a consumer ended with {status}:\n{}", self.last_lines()),
            None => Ok(()),
        }
    }

    fn last_lines(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(10).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("cannot kill a consumer")
    }

    /// SIGTERM; returns what it printed at its end.
    pub(crate) async fn terminate(self, patience: Duration) -> anyhow::Result<String> {
        let mut kill = Command::new("kill");
        let sent: ExitStatus = kill.args(["-TERM", &self.pid.to_string()]).status().await?;
        if !sent.success() {
            bail!("process {} is not there any more", self.pid);
        }
        let log = self.log.clone();
        let output = tokio::time::timeout(patience, self.child.wait_with_output())
            .await
            .with_context(|| format!("a consumer did not stop, see {}", log.display()))??;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
