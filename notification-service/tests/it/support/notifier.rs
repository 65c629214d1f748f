//! `notification-service run` as a child process.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{World, eventually, unique, wait};

/// The broker takes a dead consumer for dead after this time, and what is put off is soon tried again.
const QUICK: [&str; 6] = [
    "-X",
    "session.timeout.ms=2000",
    "-X",
    "heartbeat.interval.ms=300",
    "--retry-backoff",
    "200ms",
];

/// The address of everybody who has no other.
pub(crate) const EVERYBODY: [&str; 2] = ["--recipient-template", "{customer_id}@example.com"];

/// Where the commands with their points to die at are. Built once; the others stay as they are. Tests
/// that want them come last, and find them built meanwhile.
pub(crate) static WITH_FAILPOINTS: LazyLock<PathBuf> = LazyLock::new(|| {
    let examples = ["notifier_with_failpoints", "orders_command", "gateway_command"];
    wait(local_stack::programs::build_with_failpoints(&examples)).unwrap()
});

/// The orders' command, which is another package's.
pub(crate) fn order_consumer() -> PathBuf {
    WITH_FAILPOINTS.join("orders_command")
}

/// The gateway's command, likewise.
pub(crate) fn order_producer() -> PathBuf {
    WITH_FAILPOINTS.join("gateway_command")
}

pub(crate) const COMMAND: &str = env!("CARGO_BIN_EXE_notification-service");

/// A running notifier. Killed when dropped.
pub(crate) struct Notifier {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Notifier {
    /// `notification-service run …`
    pub(crate) fn start(world: &World, arguments: &[&str]) -> Self {
        let mut command = world.command_of(COMMAND.as_ref(), "run", &QUICK);
        command.args(arguments);
        Self::of(command, &world.topic)
    }

    /// The same, for whom this certificate is the only one to trust.
    pub(crate) fn trusting(certificate: &Path, world: &World, arguments: &[&str]) -> Self {
        let mut command = world.command_of(COMMAND.as_ref(), "run", &QUICK);
        // OpenSSL's own variable.
        command.args(arguments).env("SSL_CERT_FILE", certificate);
        Self::of(command, &world.topic)
    }

    /// Waits for its end, which is a good one; returns its summary.
    #[track_caller]
    pub(crate) fn ended_well(self) -> Value {
        let (code, out, log) = self.wait();
        assert_eq!(code, Some(0), "{log}");
        serde_json::from_str(&out).unwrap()
    }

    /// One that is killed when it comes to this point for the n-th time, as `NAME:N`. Returns once it
    /// is dead.
    #[track_caller]
    pub(crate) fn killed_at(world: &World, point: &str) {
        let program = WITH_FAILPOINTS.join("notifier_with_failpoints");
        let mut command = world.command_of(&program, "run", &QUICK);
        command.args(EVERYBODY).env("FAILPOINT", point);
        let (code, _, log) = Self::of(command, &world.topic).wait();
        assert_eq!(code, None, "killed at {point}: {log}");
    }

    /// Works off all there is in a run of its own; returns its summary.
    #[track_caller]
    pub(crate) fn drain(world: &World, arguments: &[&str]) -> Value {
        Self::drain_and_log(world, arguments).0
    }

    /// The same; returns what it has logged as well.
    #[track_caller]
    pub(crate) fn drain_and_log(world: &World, arguments: &[&str]) -> (Value, String) {
        let arguments = [arguments, &["--exit-when-idle", "1s"]].concat();
        let (code, out, log) = Self::start(world, &arguments).wait();
        assert_eq!(code, Some(0), "{log}");
        (serde_json::from_str(&out).unwrap(), log)
    }

    /// A command that runs until it is asked to stop.
    pub(crate) fn of(mut command: Command, what: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let name = unique(what);
        let (stdout, stderr) =
            (folder.join(format!("{name}.out")), folder.join(format!("{name}.log")));
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap();
        Self { child, stdout, stderr }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap()
    }

    /// Status and body of a page of its own; `None` before it listens.
    pub(crate) fn page(&self, path: &str) -> Option<(u16, String)> {
        let log = self.log();
        let rest = log.split("health and metrics on http://").nth(1)?;
        local_stack::http::get(rest.split_whitespace().next()?, path)
    }

    /// A whole number of `/metrics`, by its name and labels; `None` before it is there.
    pub(crate) fn metric(&self, name: &str) -> Option<u64> {
        let (_, text) = self.page("/metrics")?;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    /// How many mails came to this.
    pub(crate) fn mails(&self, outcome: &str) -> u64 {
        let name = format!("notification_service_mails_total{{outcome=\"{outcome}\"}}");
        self.metric(&name).unwrap_or(0)
    }

    /// Kills it without warning.
    pub(crate) fn kill(self) {
        drop(self);
    }

    /// Asks it to stop; it ends well.
    #[track_caller]
    pub(crate) fn stop(self) {
        self.ask_to_stop();
        self.ended_well();
    }

    /// The same of another program, whose last words are its own.
    #[track_caller]
    pub(crate) fn stop_other(self) {
        self.ask_to_stop();
        let (code, _, log) = self.wait();
        assert_eq!(code, Some(0), "{log}");
    }

    fn ask_to_stop(&self) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
    }

    /// Waits for its end: code, stdout and stderr.
    #[track_caller]
    fn wait(mut self) -> (Option<i32>, String, String) {
        let what = format!("the end of {}", self.stderr.display());
        eventually(&what, || self.child.try_wait().unwrap().is_some());
        let code = self.child.wait().unwrap().code();
        (code, std::fs::read_to_string(&self.stdout).unwrap(), self.log())
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        // By its own number, and only while it is ours to wait for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
