//! `notification-service run` as a child process.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{World, eventually, unique};

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

/// The command with its points to die at. Built once; the other one stays as it is.
static WITH_FAILPOINTS: LazyLock<PathBuf> = LazyLock::new(|| {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let name = "notifier_with_failpoints";
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--locked", "-p", "notification-service"])
        .args(["--features", "failpoints", "--example", name])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(built.success());
    let folder = Path::new(env!("CARGO_BIN_EXE_notification-service")).parent().unwrap();
    folder.with_file_name("debug").join("examples").join(name)
});

/// A running notifier. Killed when dropped.
pub(crate) struct Notifier {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Notifier {
    /// `notification-service run …`
    pub(crate) fn start(world: &World, arguments: &[&str]) -> Self {
        let program = env!("CARGO_BIN_EXE_notification-service");
        let mut command = world.command_of(program, "run", &QUICK);
        command.args(arguments);
        Self::of(command, &world.topic)
    }

    /// One that is killed when it comes to this point for the n-th time, as `NAME:N`. Returns once it
    /// is dead.
    #[track_caller]
    pub(crate) fn killed_at(world: &World, point: &str) {
        let program = WITH_FAILPOINTS.to_str().unwrap();
        let mut command = world.command_of(program, "run", &QUICK);
        command.args(EVERYBODY).env("FAILPOINT", point);
        let (code, _, log) = Self::of(command, &world.topic).wait();
        assert_eq!(code, None, "killed at {point}: {log}");
    }

    /// Works off all there is in a run of its own; returns its summary.
    #[track_caller]
    pub(crate) fn drain(world: &World, arguments: &[&str]) -> Value {
        let arguments = [arguments, &["--exit-when-idle", "1s"]].concat();
        let (code, out, log) = Self::start(world, &arguments).wait();
        assert_eq!(code, Some(0), "{log}");
        serde_json::from_str(&out).unwrap()
    }

    fn of(mut command: Command, what: &str) -> Self {
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

    /// Asks it to stop; it ends well.
    #[track_caller]
    pub(crate) fn stop(self) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let (code, _, log) = self.wait();
        assert_eq!(code, Some(0), "{log}");
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
