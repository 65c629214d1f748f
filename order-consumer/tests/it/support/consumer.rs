//! `order-consumer run` as a child process, to be watched, signalled and killed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::Value;

use super::poll::{PATIENCE, eventually, until};
use super::{Place, unique};

/// A running consumer. Killed when dropped.
pub(crate) struct Consumer {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// How a consumer ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Consumer {
    /// `order-consumer run -o json …`
    pub(crate) fn start(place: &Place, arguments: &[&str]) -> Self {
        let mut command = place.command("run", &["-o", "json"]);
        command.args(arguments);
        Self::of(command, &place.topic)
    }

    /// Any command that goes on for a while.
    pub(crate) fn of(mut command: Command, what: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("consumers");
        std::fs::create_dir_all(&folder).unwrap();
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

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it said on stderr so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stderr).unwrap()).into_owned()
    }

    pub(crate) fn says(&self, text: &str) -> bool {
        self.log().contains(text)
    }

    /// Status and body of `/readyz`; `None` before it listens.
    pub(crate) fn ready(&self) -> Option<(u16, Value)> {
        let (status, body) = self.get("/readyz")?;
        Some((status, serde_json::from_str(&body).ok()?))
    }

    fn get(&self, path: &str) -> Option<(u16, String)> {
        let log = self.log();
        let address =
            log.split("health and metrics on http://").nth(1)?.split_whitespace().next()?;
        local_stack::http::get(address, path)
    }

    /// Waits until `/readyz` says so.
    #[track_caller]
    pub(crate) fn wait_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ready = self.ready();
            if ready.as_ref().is_some_and(|(status, _)| *status == 200) {
                return;
            }
            assert!(self.is_running(), "it ended:\n{}", self.log());
            assert!(Instant::now() < deadline, "not ready: {ready:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Waits until `/readyz` answers 503 with a reason that contains this.
    #[track_caller]
    pub(crate) fn wait_unready(&self, reason: &str) -> String {
        until(&format!("/readyz: {reason}"), || {
            let (status, body) = self.ready()?;
            let text = body["reasons"].to_string();
            (status == 503 && text.contains(reason)).then_some(text)
        })
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends it a signal. After a stop it stands: the signal alone reaches one thread, and the others
    /// work on until that one has had its turn.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
        if signal == Signal::STOP {
            waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED).unwrap();
        }
    }

    /// Kills it without warning and waits until it is gone.
    pub(crate) fn sigkill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop, and waits.
    pub(crate) fn stop(self) -> Ended {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Ended {
        let what = format!("the end of the consumer of {}", self.stderr.display());
        eventually(&what, || !self.is_running());
        let code = self.child.wait().unwrap().code();
        let stdout = std::fs::read_to_string(&self.stdout).unwrap();
        Ended { code, stdout, stderr: self.log() }
    }

    /// What it has used of the processor.
    pub(crate) fn processor_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // Behind the name, which may hold anything: user and system time in hundredths.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
        (ticks(11) + ticks(12)) / 100.0
    }

    /// Its most ever resident memory, in KiB.
    pub(crate) fn peak_memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Ended {
    /// The summary of a run that ended well.
    #[track_caller]
    pub(crate) fn summary(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// The run failed, with this code and this text.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32, text: &str) {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        assert!(self.stderr.contains(text), "no {text:?} in:\n{}", self.stderr);
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // By its own number, and only while it is ours to wait for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
