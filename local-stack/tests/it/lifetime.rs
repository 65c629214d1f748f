//! The servers end with their parent, and what a killed one leaves is cleaned up.

use std::process::{Child, Stdio};

use crate::client::{Down, Seen, eventually, local_stack, runs, said, seen};

pub(crate) struct Foreground(Child);

impl Foreground {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn up_in_foreground(name: &str) -> (Foreground, Seen) {
    let child = local_stack()
        .args(["up", "--foreground", "--kafka-port", "0", "--postgres-port", "0", "--name", name])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut foreground = Foreground(child);
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(
        foreground.0.stderr.take().expect("stderr was asked for as a pipe"),
    ));
    let ready = lines.find(|line| line.as_ref().unwrap().starts_with("Ready after"));
    assert!(ready.is_some(), "the command ended before the stack was ready");
    // It goes on writing to the pipe.
    std::thread::spawn(move || lines.count());
    (foreground, seen(name).unwrap())
}

#[test]
fn the_servers_end_when_their_parent_is_killed_and_the_next_start_has_their_data() {
    let _down = Down("it-killed");
    let (mut foreground, stack) = up_in_foreground("it-killed");
    crate::client::execute(&stack.database_url, "CREATE TABLE kept AS SELECT 1 AS i");
    foreground.0.kill().unwrap();
    foreground.0.wait().unwrap();
    eventually("both servers end", || !runs(stack.kafka_pid) && !runs(stack.postgres_pid));

    let (_foreground, stack) = up_in_foreground("it-killed");
    assert_eq!(crate::client::number(&stack.database_url, "SELECT count(*) FROM kept"), 1);
}

#[test]
fn the_servers_end_when_the_thread_that_started_them_lives_no_longer_than_the_start() {
    use local_stack::{Options, Stack};
    let stack =
        std::thread::spawn(|| Stack::start(Options::private("thread"))).join().unwrap().unwrap();
    // The other way round: the end of a thread is not the end of the parent.
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(crate::client::number(stack.database_url(), "SELECT 1::bigint"), 1);
    stack.check().unwrap();
}

#[test]
fn sigterm_stops_a_stack_in_the_foreground_with_exit_code_0() {
    let _down = Down("it-term");
    let (mut foreground, stack) = up_in_foreground("it-term");
    let pid = foreground.0.id().to_string();
    assert!(std::process::Command::new("kill").arg(pid).status().unwrap().success());
    assert_eq!(foreground.0.wait().unwrap().code(), Some(0));
    assert!(!runs(stack.kafka_pid) && !runs(stack.postgres_pid));
}

#[test]
fn down_stops_a_stack_in_the_foreground() {
    let _down = Down("it-down");
    let (mut foreground, stack) = up_in_foreground("it-down");
    assert_eq!(said(local_stack().args(["down", "--name", "it-down"])).0, Some(0));
    assert_eq!(foreground.0.wait().unwrap().code(), Some(0));
    assert!(!runs(stack.kafka_pid) && !runs(stack.postgres_pid));
}

#[test]
fn the_end_of_a_server_ends_the_command_in_the_foreground_with_its_log() {
    let _down = Down("it-server-end");
    let (mut foreground, stack) = up_in_foreground("it-server-end");
    let pid = stack.kafka_pid.to_string();
    assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    assert_eq!(foreground.0.wait().unwrap().code(), Some(1));
    eventually("the other server is stopped too", || !runs(stack.postgres_pid));
}

#[test]
fn what_a_killed_owner_left_running_is_stopped_by_the_next_start() {
    let _down = Down("it-stale");
    let (mut foreground, stack) = up_in_foreground("it-stale");
    // Frozen servers do not notice that their parent is gone: the worst that can be left.
    let pid = stack.postgres_pid.to_string();
    assert!(std::process::Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
    disarm(&foreground.0);
    foreground.0.kill().unwrap();
    foreground.0.wait().unwrap();
    assert!(runs(stack.postgres_pid) && runs(stack.kafka_pid));

    let (_foreground, again) = up_in_foreground("it-stale");
    assert!(!runs(stack.postgres_pid) && !runs(stack.kafka_pid));
    assert_eq!(again.folder, stack.folder);
}

/// Ends the shells that would stop the servers when their parent ends.
fn disarm(parent: &Child) {
    let output = std::process::Command::new("ps")
        .args(["-o", "pid=,args=", "--ppid", &parent.id().to_string()])
        .output()
        .unwrap();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        if line.contains("/bin/sh") {
            let pid = line.split_whitespace().next().unwrap();
            let kill = std::process::Command::new("kill").args(["-9", pid]).status().unwrap();
            assert!(kill.success());
        }
    }
}

#[test]
fn a_name_that_runs_elsewhere_is_refused_with_who_runs_it() {
    let _down = Down("it-twice");
    let (foreground, _) = up_in_foreground("it-twice");
    let (code, message) = said(local_stack().args(["up", "--foreground", "--name", "it-twice"]));
    assert_eq!(code, Some(1));
    assert!(message.contains("already up"), "{message}");
    assert!(message.contains(&foreground.0.id().to_string()), "{message}");
}
