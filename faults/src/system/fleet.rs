//! The processes of the system: started, watched, killed, started again.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use local_stack::Stack;
use local_stack::programs::Program;
use rustix::process::Signal;
use tokio::process::Command;
use tokio::time::sleep;

use super::http::{Connection, Request};
use super::look;
use crate::children::Programs;
use crate::plan::SESSION_TIMEOUT_MS;
use crate::scene::free_port;
use crate::timeline::Timeline;

const NOTIFICATIONS: &str = "order-notifications";
/// Of the mails' `Message-ID`s.
const SENDER: &str = "Tea shop <shop@tea.example>";
/// Within which a program has to be ready, or to have ended.
const LIMIT: Duration = Duration::from_mins(1);
/// How long a server that is up again may take to answer all that a process asks as it begins, and how long
/// a process may ask.
const ANSWER_AGAIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// Mails under way at once, at most: one for each partition of their topic.
pub(super) const MAILS_AT_ONCE: u16 = 6;

/// One of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Member {
    Api,
    Consumer,
    Notifier,
}

impl Member {
    pub(super) const ALL: [Self; 3] = [Self::Api, Self::Consumer, Self::Notifier];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Consumer => "consumer",
            Self::Notifier => "notifier",
        }
    }

    const fn program(self) -> &'static str {
        match self {
            Self::Api => "order-producer",
            Self::Consumer => "order-consumer",
            Self::Notifier => "notification-service",
        }
    }
}

/// What is known of a member's process.
#[derive(Default)]
struct Slot {
    program: Option<Program>,
    starts: u32,
    /// Somebody is about to kill it: its end is wanted.
    is_condemned: bool,
    started_at: Option<Instant>,
}

/// Servers and programs.
pub(super) struct Fleet {
    pub(super) stack: Arc<Stack>,
    programs: Programs,
    pub(super) folder: PathBuf,
    pub(super) timeline: Timeline,
    api_port: u16,
    consumer_port: u16,
    smtp_port: u16,
    slots: [Mutex<Slot>; 3],
    /// When both servers were last known to be there; `None` while one is not.
    servers_up: Mutex<Option<Instant>>,
    violations: Mutex<Vec<String>>,
    peak_kib: Mutex<u64>,
}

impl Fleet {
    /// Builds the programs, starts the servers, and makes the tables. No program runs yet.
    pub(super) async fn gather(folder: &Path, smtp_port: u16) -> anyhow::Result<Self> {
        let programs = Programs::build_system().await?;
        let options = local_stack::Options::private("faults-system");
        // Blocks, also for a download.
        let stack = tokio::task::spawn_blocking(move || Stack::start(options)).await??;
        let programs = programs.kept_in(&stack.folder().join("programs"))?;
        let fleet = Self {
            stack: Arc::new(stack),
            programs,
            folder: folder.to_owned(),
            timeline: Timeline::begin(&folder.join("timeline.txt"), true)?,
            api_port: free_port(31_000)?,
            consumer_port: free_port(31_500)?,
            smtp_port,
            slots: Default::default(),
            // For long: nobody has an excuse yet.
            servers_up: Mutex::new(Instant::now().checked_sub(2 * ANSWER_AGAIN)),
            violations: Mutex::default(),
            peak_kib: Mutex::default(),
        };
        for member in [Member::Consumer, Member::Notifier] {
            fleet.output(member, &["migrate"]).await?;
        }
        Ok(fleet)
    }

    /// The address of the API.
    pub(super) fn api_address(&self) -> String {
        format!("127.0.0.1:{}", self.api_port)
    }

    fn command(&self, member: Member) -> Command {
        let mut command = self.programs.command(member.program());
        command
            .env("KAFKA_BOOTSTRAP_SERVERS", self.stack.bootstrap_servers())
            .env("DATABASE_URL", self.stack.database_url())
            .env("FAILPOINT_FROM", self.point_file(member));
        command
    }

    fn point_file(&self, member: Member) -> PathBuf {
        self.folder.join(format!("{}.point", member.name()))
    }

    /// What a command of a member's program prints.
    pub(super) async fn output(
        &self,
        member: Member,
        arguments: &[&str],
    ) -> anyhow::Result<(Option<i32>, String)> {
        let output = self.command(member).args(arguments).output().await?;
        let (program, what) = (member.program(), arguments[0]);
        if !matches!(output.status.code(), Some(0 | 3)) {
            bail!("{program} {what}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok((output.status.code(), String::from_utf8(output.stdout)?))
    }

    /// Starts a member's program.
    pub(super) fn start(&self, member: Member) -> anyhow::Result<()> {
        let mut command = self.command(member);
        let session = format!("session.timeout.ms={SESSION_TIMEOUT_MS}");
        let quick = ["-X", &session, "-X", "heartbeat.interval.ms=500", "--retry-backoff", "200ms"];
        match member {
            Member::Api => {
                let listen = format!("127.0.0.1:{}", self.api_port);
                command.args(["serve", "--listen", &listen, "--rate-per-address", "0"]);
            }
            Member::Consumer => {
                let listen = format!("127.0.0.1:{}", self.consumer_port);
                command
                    .args(["run", "-o", "json", "--listen", &listen])
                    .args(["--notifications-topic", NOTIFICATIONS])
                    .args(quick);
            }
            Member::Notifier => {
                let smtp = format!("smtp://127.0.0.1:{}", self.smtp_port);
                command
                    .args(["run", "--smtp-url", &smtp, "--from", SENDER])
                    .args(["--recipient-template", "{customer_id}@example.com"])
                    .args(["--concurrency", &MAILS_AT_ONCE.to_string()])
                    .args(quick);
            }
        }
        let mut slot = self.slot(member);
        slot.starts += 1;
        let name = format!("{}-{}", member.name(), slot.starts);
        slot.program = Some(Program::start(command, &self.folder, &name)?);
        slot.started_at = Some(Instant::now());
        slot.is_condemned = false;
        Ok(())
    }

    /// Starts a member's program and waits until it says that it is ready. The notifier says nothing.
    pub(super) async fn start_ready(&self, member: Member) -> anyhow::Result<()> {
        self.start(member)?;
        let port = match member {
            Member::Api => self.api_port,
            Member::Consumer => self.consumer_port,
            Member::Notifier => return Ok(()),
        };
        let address = format!("127.0.0.1:{port}");
        let ready = Request { method: "GET", path: "/readyz".to_owned(), key: None, body: None };
        let deadline = Instant::now() + LIMIT;
        loop {
            let mut connection = Connection::to(&address, "");
            let answer = connection.ask(&ready, Duration::from_secs(2)).await;
            if answer.is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let log = self.slot(member).program.as_ref().map(Program::last_lines);
                bail!("{} is not ready after 60 s: {}", member.name(), log.unwrap_or_default());
            }
            sleep(POLL).await;
        }
    }

    /// Kills a member at once.
    pub(super) async fn kill(&self, member: Member) -> anyhow::Result<String> {
        let deadline = Instant::now() + LIMIT;
        // One that has just ended by itself is about to be started again.
        while self.slot(member).program.is_none() && Instant::now() < deadline {
            sleep(POLL).await;
        }
        self.condemn(member);
        if let Some(program) = &self.slot(member).program {
            program.signal(Signal::KILL);
        }
        let died = self.death_of(&[member], LIMIT).await;
        died.map(|(_, name)| name).with_context(|| format!("{} outlived SIGKILL", member.name()))
    }

    /// Has the first of these that comes to its point die there. `None`: none came.
    pub(super) async fn kill_at(
        &self,
        points: &[(Member, &str)],
        patience: Duration,
    ) -> anyhow::Result<Option<(Member, String)>> {
        for (member, point) in points {
            self.condemn(*member);
            std::fs::write(self.point_file(*member), point)?;
        }
        let members: Vec<Member> = points.iter().map(|(member, _)| *member).collect();
        let died = self.death_of(&members, patience).await;
        for member in members {
            std::fs::remove_file(self.point_file(member))?;
            if died.as_ref().is_none_or(|(dead, _)| *dead != member) {
                self.slot(member).is_condemned = false;
            }
        }
        Ok(died)
    }

    fn condemn(&self, member: Member) {
        self.slot(member).is_condemned = true;
    }

    async fn death_of(&self, members: &[Member], patience: Duration) -> Option<(Member, String)> {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            for member in members {
                if let Some((status, program)) = self.take_ended(*member, |_| true) {
                    if status.signal() != Some(Signal::KILL.as_raw()) {
                        self.ended_by_itself(&program, status);
                    }
                    return Some((*member, program.name));
                }
            }
            sleep(Duration::from_millis(5)).await;
        }
        None
    }

    /// Takes a program that has ended out of its slot.
    fn take_ended(
        &self,
        member: Member,
        may: impl Fn(&Slot) -> bool,
    ) -> Option<(ExitStatus, Program)> {
        let mut slot = self.slot(member);
        let program = slot.program.as_mut()?;
        let status = program.try_wait()?;
        self.note_memory(program.peak_kib());
        if !may(&slot) {
            return None;
        }
        slot.program.take().map(|program| (status, program))
    }

    /// Starts what ends by itself again, for ever. That is a violation, unless the process was young
    /// and a server away, or just back.
    pub(super) async fn watch(&self) -> anyhow::Result<()> {
        loop {
            for member in Member::ALL {
                let Some((status, program)) = self.take_ended(member, |slot| !slot.is_condemned)
                else {
                    continue;
                };
                let started_at = self.slot(member).started_at;
                let up_since = *lock(&self.servers_up);
                let was_alone = up_since.is_none_or(|up| up.elapsed() < 2 * ANSWER_AGAIN);
                let is_young = started_at.is_some_and(|at| at.elapsed() < ANSWER_AGAIN);
                if was_alone && is_young && status.code() == Some(1) {
                    self.timeline.note(format!("{} could not begin, again", program.name));
                } else {
                    self.ended_by_itself(&program, status);
                }
                sleep(Duration::from_millis(500)).await;
                self.start(member)?;
            }
            sleep(POLL).await;
        }
    }

    fn ended_by_itself(&self, program: &Program, status: ExitStatus) {
        let (name, log) = (&program.name, program.last_lines());
        self.violated(format!("{name} ended by itself with {status}: {log}"));
    }

    /// A server is away, or both are there again.
    pub(super) fn servers_are_up(&self, all: bool) {
        *lock(&self.servers_up) = all.then(Instant::now);
    }

    /// Asks everybody to stop; each has to end well.
    pub(super) async fn stop(&self) -> anyhow::Result<()> {
        for member in Member::ALL {
            self.condemn(member);
            let program = self.slot(member).program.take();
            let program = program.with_context(|| format!("{} is not there", member.name()))?;
            program.signal(Signal::TERM);
            let (name, log) = (program.name.clone(), program.last_lines());
            match program.ended(LIMIT).await {
                Ok(ended) => {
                    self.note_memory(ended.peak_kib);
                    if !ended.status.success() {
                        self.violated(format!("{name} ended with {}: {log}", ended.status));
                    }
                }
                Err(error) => self.violated(format!("{error}: {log}")),
            }
        }
        Ok(())
    }

    /// A connection to the database.
    pub(super) async fn connect(&self) -> anyhow::Result<sqlx::PgConnection> {
        look::connect(self.stack.database_url()).await
    }

    /// Something that may not be. It is never taken back.
    pub(super) fn violated(&self, what: String) {
        self.timeline.note(format!("VIOLATION: {what}"));
        lock(&self.violations).push(what);
    }

    pub(super) fn violations(&self) -> Vec<String> {
        lock(&self.violations).clone()
    }

    pub(super) fn peak_mib(&self) -> u64 {
        *lock(&self.peak_kib) / 1024
    }

    fn note_memory(&self, kib: u64) {
        let mut peak = lock(&self.peak_kib);
        *peak = kib.max(*peak);
    }

    fn slot(&self, member: Member) -> MutexGuard<'_, Slot> {
        lock(&self.slots[member as usize])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
