//! The command against real Kafka. Each test has a topic of its own.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panic, as tests do")]

mod atomic;
mod by_flags;
mod from_file;
mod kafka;
mod loads;
mod murmur2;
mod serve;
mod trouble;
mod wrong_use;

use std::io::Write;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Variables that would change what the command does.
const VARIABLES: [&str; 4] =
    ["ORDERS_TOPIC", "ORDER_PRODUCER_OUTPUT", "ORDER_PRODUCER_SEED", "RUST_LOG"];

/// The command, with the shared broker.
pub(crate) fn producer(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_order-producer"));
    for variable in VARIABLES {
        command.env_remove(variable);
    }
    let servers = &local_stack::shared().bootstrap_servers;
    command.env("KAFKA_BOOTSTRAP_SERVERS", servers).args(args);
    command
}

pub(crate) fn run(args: &[&str]) -> Output {
    producer(args).output().unwrap()
}

/// Runs with this on stdin.
pub(crate) fn run_with_input(args: &[&str], input: &[u8]) -> Output {
    let mut child = spawn(&mut producer(args));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    output
}

pub(crate) fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[track_caller]
pub(crate) fn assert_exit(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}\n{}", stdout(output), stderr(output));
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub(crate) fn json(output: &Output) -> Value {
    serde_json::from_str(&stdout(output)).unwrap()
}

pub(crate) fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A name that no other run has used.
pub(crate) fn topic(test: &str) -> String {
    format!("producer-{test}-{}", uuid::Uuid::now_v7().simple())
}

/// A file of its own, removed at the end.
pub(crate) struct TempFile(pub(crate) std::path::PathBuf);

impl TempFile {
    pub(crate) fn new(name: &str) -> Self {
        let unique = format!("order-producer-{name}-{}", uuid::Uuid::now_v7().simple());
        Self(std::env::temp_dir().join(unique))
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    pub(crate) fn text(&self) -> String {
        std::fs::read_to_string(&self.0).unwrap()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Waits until the condition holds, for a minute and a half at most.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(90);
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sends a signal to a child of this test.
#[cfg(unix)]
pub(crate) fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}
