//! One server as a child process: started until ready, stopped, killed, frozen, started again.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::error::{IoContext, StackError};
use crate::kind::Kind;
use crate::log;
use crate::ports;
use crate::processes;
use crate::user::User;
use crate::watchdog::Watchdog;

/// How long a start may take. Recovery after a kill, on a busy machine, included.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// How long an orderly stop may take before it becomes a kill.
pub(crate) const STOPPED_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// What to run.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) kind: Kind,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(&'static str, OsString)>,
    pub(crate) user: Option<User>,
    /// Everything of this server: data, settings, log, process number.
    pub(crate) folder: PathBuf,
    pub(crate) port: u16,
    /// Whether the server whose log begins at that byte, and whose number that is, is ready.
    pub(crate) is_ready: fn(&Path, u64, u32) -> bool,
}

impl Launch {
    fn log(&self) -> PathBuf {
        log::path(&self.folder)
    }
}

/// A server of a [`Stack`](crate::Stack), to be disturbed by tests. Its address and data stay
/// the same over stops and starts.
#[derive(Debug)]
pub struct Server {
    launch: Launch,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    // Dropped before the child is reaped by anyone: it must not fire at a number that is free.
    watchdog: Watchdog,
    child: Child,
}

impl Server {
    pub(crate) fn new(launch: Launch) -> Server {
        Server { launch, running: Mutex::new(None) }
    }

    /// Starts the server and waits until it is ready; one that runs already is left alone.
    pub fn start(&self) -> Result<(), StackError> {
        let mut running = self.lock();
        if let Some(current) = running.as_mut()
            && current.child.try_wait().is_ok_and(|ended| ended.is_none())
        {
            return Ok(());
        }
        *running = None;
        ports::check_free(self.launch.kind, self.launch.port)?;
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let log_from = log::length(&self.launch.log());
            let mut started = self.spawn()?;
            match self.wait_ready(&mut started, log_from, deadline) {
                // The backends of a killed PostgreSQL hold its memory until they notice.
                Err(StackError::ExitedDuringStart { tail, .. })
                    if tail.contains("pre-existing shared memory block")
                        && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(error) => {
                    started.kill();
                    return Err(error);
                }
                Ok(()) => {
                    *running = Some(started);
                    return Ok(());
                }
            }
        }
    }

    fn spawn(&self) -> Result<Running, StackError> {
        let launch = &self.launch;
        let log = launch.log();
        let output = OpenOptions::new().create(true).append(true).open(&log);
        let output = output.doing("cannot open", &log)?;
        let errors = output.try_clone().doing("cannot open", &log)?;
        let mut command = Command::new(&launch.program);
        command
            .args(&launch.arguments)
            .envs(launch.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&launch.folder)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            // ctrl-C in a terminal is for us; we stop the servers in order.
            .process_group(0);
        if let Some(user) = launch.user {
            command.uid(user.uid).gid(user.gid);
        }
        let mut child = command.spawn().doing("cannot start", &launch.program)?;
        let guarded = record_pid(&launch.folder, child.id())
            .and_then(|()| Watchdog::over(launch.kind, child.id()));
        match guarded {
            Ok(watchdog) => Ok(Running { watchdog, child }),
            Err(error) => {
                // Nobody would stop it later. It can only have ended already.
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    fn wait_ready(
        &self,
        started: &mut Running,
        log_from: u64,
        deadline: Instant,
    ) -> Result<(), StackError> {
        let launch = &self.launch;
        let log = launch.log();
        let tail = || log::tail(&log, log_from);
        loop {
            if let Some(status) = started.child.try_wait().doing("cannot wait for", &log)? {
                let (server, tail) = (launch.kind, tail());
                if log::says_port_busy(&tail) {
                    return Err(StackError::PortBusy { server, port: launch.port });
                }
                return Err(StackError::ExitedDuringStart { server, status, log, tail });
            }
            if (launch.is_ready)(&launch.folder, log_from, started.child.id()) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let waited_s = READY_WITHIN.as_secs();
                return Err(StackError::NotReady {
                    server: launch.kind,
                    waited_s,
                    tail: tail(),
                    log,
                });
            }
            std::thread::sleep(POLL);
        }
    }

    /// The process number, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.lock().as_ref().map(|running| running.child.id())
    }

    /// Fails when the server ended by itself, with the last lines of its log. One that was
    /// stopped is fine.
    pub fn check(&self) -> Result<(), StackError> {
        let log = self.log();
        let Some(status) = self.lock().as_mut().and_then(|running| {
            // An error means that it was waited for already; there is nothing new to say.
            running.child.try_wait().unwrap_or_default()
        }) else {
            return Ok(());
        };
        let tail = log::tail(&log, 0);
        Err(StackError::Ended { server: self.launch.kind, status, log, tail })
    }

    /// Ends the server by SIGKILL, as a crash would, and waits for its end.
    ///
    /// PostgreSQL's backends notice by themselves; a statement that one is in may still finish.
    pub fn kill(&self) {
        if let Some(running) = self.lock().take() {
            running.kill();
        }
    }

    /// Stops the server in order (PostgreSQL: a fast shutdown, which breaks off what clients do)
    /// and waits for its end, which becomes a kill after 20 s.
    pub fn terminate(&self) -> Result<(), StackError> {
        self.stop_by(self.launch.kind.signal_in_order())
    }

    /// For data that nobody needs any more.
    pub(crate) fn stop_at_once(&self) -> Result<(), StackError> {
        self.stop_by(self.launch.kind.signal_at_once())
    }

    fn stop_by(&self, signal: Signal) -> Result<(), StackError> {
        let Some(mut running) = self.lock().take() else { return Ok(()) };
        processes::signal(running.child.id(), signal)?;
        processes::signal(running.child.id(), Signal::CONT)?;
        let deadline = Instant::now() + STOPPED_WITHIN;
        while Instant::now() < deadline {
            match running.child.try_wait() {
                Ok(None) => std::thread::sleep(POLL),
                Ok(Some(_)) | Err(_) => return Ok(()),
            }
        }
        running.kill();
        Ok(())
    }

    /// Freezes the server by SIGSTOP: connections stay open and nothing answers. Of PostgreSQL
    /// only the part that accepts connections freezes; backends go on.
    pub fn pause(&self) -> Result<(), StackError> {
        self.signal(Signal::STOP)
    }

    /// Lets a frozen server go on.
    pub fn resume(&self) -> Result<(), StackError> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), StackError> {
        match self.lock().as_ref() {
            Some(running) => processes::signal(running.child.id(), signal),
            None => Ok(()),
        }
    }

    /// Where its output goes.
    pub fn log(&self) -> PathBuf {
        self.launch.log()
    }

    /// On 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.launch.port
    }

    /// Lets the server outlive us.
    pub(crate) fn let_go(&self) {
        if let Some(running) = self.lock().take() {
            drop(running.watchdog);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        // What a panicking thread left is still a true account of the child.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn kill(mut self) {
        // It can only have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number of a server's process, kept beside its data for those who come after us.
pub(crate) fn recorded_pid(folder: &Path) -> Option<u32> {
    std::fs::read_to_string(folder.join("pid")).ok()?.trim().parse().ok()
}

fn record_pid(folder: &Path, pid: u32) -> Result<(), StackError> {
    let file = folder.join("pid");
    std::fs::write(&file, pid.to_string()).doing("cannot write", &file)
}
