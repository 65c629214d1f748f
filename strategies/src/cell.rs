//! One strategy under one fault. Whatever happens is forced at a named step, and waited for by what
//! can be seen; no verdict depends on how long something takes.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use sqlx::PgConnection;
use tokio::task::block_in_place;
use tokio_util::task::AbortOnDropHandle;

use crate::catalog::Entry;
use crate::fault::Fault;
use crate::judge::Facts;
use crate::measure::{self, Measures};
use crate::place::Place;
use crate::stage::Stage;
use crate::steps::{BETWEEN, Gate, READ, Steps, Trap};
use crate::stream::{self, Orders, Outgoing};
use crate::worker::{self, Finished, Role, Until, Watch, Worker};

/// For whatever a step waits for.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
pub(crate) const POLL: Duration = Duration::from_millis(5);
/// Of a lock that is to expire.
const SHORT: Duration = Duration::from_millis(300);
/// Of a session that is to end while it is paused, and not before.
const SESSION: Duration = Duration::from_secs(1);
/// Of a lock that outlives every pause.
const LONG: Duration = Duration::from_mins(10);

/// How many orders.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Under a fault.
    pub(crate) orders: u64,
    /// Without one, as a backlog.
    pub(crate) backlog: u64,
    /// The engine's backlog: as many would be a batch or two.
    pub(crate) engine_backlog: u64,
    /// Without a fault, one by one.
    pub(crate) trickle: u64,
}

impl Size {
    pub(crate) fn of(orders: u64) -> Self {
        Self {
            orders,
            backlog: orders * 4,
            engine_backlog: orders * 80,
            trickle: orders.clamp(60, 200),
        }
    }
}

/// What came of it.
pub(crate) struct Ran {
    pub(crate) facts: Facts,
    pub(crate) retries: u64,
    pub(crate) measures: Option<Measures>,
}

/// What a cell is made of.
pub(crate) struct Cell<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) entry: Entry,
    pub(crate) place: Arc<Place>,
    pub(crate) size: Size,
    orders: Orders,
    workers: u32,
    retries: u64,
}

/// Performs it.
pub(crate) async fn run(
    stage: &Stage,
    entry: Entry,
    fault: Fault,
    size: Size,
) -> anyhow::Result<Ran> {
    let place = stage.place(&entry).await?;
    let ran = perform(stage, entry, &place, fault, size).await;
    stage.clear(&place).await?;
    ran
}

async fn perform(
    stage: &Stage,
    entry: Entry,
    place: &Arc<Place>,
    fault: Fault,
    size: Size,
) -> anyhow::Result<Ran> {
    let orders = Orders::default();
    let mut cell =
        Cell { stage, entry, place: Arc::clone(place), size, orders, workers: 0, retries: 0 };
    let mut measures = None;
    let mut is_stuck = false;
    match fault {
        Fault::None => measures = Some(measure::run(&mut cell).await?),
        _ if entry.is_engine() => crate::engine_cell::run(&mut cell, fault).await?,
        Fault::Duplicates => {
            cell.send_with(stream::with_duplicates).await?;
            cell.run_to_end().await?;
        }
        Fault::Poison => {
            cell.send_with(with_garbage).await?;
            is_stuck = cell.run_to_end().await?;
        }
        Fault::Crash => cell.crash().await?,
        Fault::Rebalance => cell.rebalance().await?,
        Fault::Frozen => {
            let steps: Vec<_> = std::iter::once(&READ).chain(entry.steps).copied().collect();
            cell.freeze_at(&steps, false).await?;
        }
        Fault::LockExpiry => cell.freeze_at(entry.under_lock, true).await?,
    }
    if entry.is_topic_to_topic() {
        place.load_output().await?;
    }
    let facts = place.facts(u64::from(fault == Fault::Poison), is_stuck).await?;
    Ok(Ran { facts, retries: cell.retries, measures })
}

/// Garbage in the middle.
pub(crate) fn with_garbage(orders: &[Outgoing]) -> Vec<Outgoing> {
    let mut all = orders.to_vec();
    all.insert(orders.len() / 2, Orders::garbage());
    all
}

/// A worker at work.
pub(crate) struct Running {
    task: AbortOnDropHandle<anyhow::Result<Finished>>,
    consumer: Arc<BaseConsumer<Watch>>,
    gate: Option<Gate>,
    name: String,
}

impl Running {
    /// Waits until it is held at its trap.
    async fn reached(&mut self) -> anyhow::Result<()> {
        let gate = self.gate.as_mut().context("it has no trap")?;
        let reached = tokio::time::timeout(PATIENCE, &mut gate.reached).await;
        if !matches!(reached, Ok(Ok(()))) {
            self.task.abort();
            if let Ok(Err(error)) = (&mut self.task).await {
                return Err(error.context("it never came to the step"));
            }
            anyhow::bail!("it never came to the step");
        }
        Ok(())
    }

    fn release(&mut self) {
        if let Some(gate) = self.gate.take() {
            gate.release();
        }
    }

    /// As a kill does: whatever it has not sent is never sent.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let ended = self.task.await;
        // Leaving the group blocks.
        block_in_place(|| drop((ended, self.consumer)));
    }

    /// Waits until it has partitions.
    pub(crate) async fn is_assigned(&self) -> anyhow::Result<()> {
        let patience = Patience::until("it has partitions");
        while self.consumer.context().assignments.load(SeqCst) == 0 {
            patience.wait().await?;
        }
        Ok(())
    }

    fn is_through(&self) -> bool {
        self.task.is_finished()
    }

    /// Whether it waits for a lock that only its holder gives back.
    fn waits(&self, is_expiry: bool) -> bool {
        !is_expiry && self.consumer.context().waits.load(SeqCst)
    }

    /// How it ended, which may have been with an error.
    async fn outcome(self) -> anyhow::Result<anyhow::Result<Finished>> {
        let ended = tokio::time::timeout(PATIENCE, self.task).await;
        Ok(ended.context("it never came to its end")??)
    }

    pub(crate) async fn ended(self) -> anyhow::Result<Finished> {
        self.outcome().await?
    }
}

impl Cell<'_> {
    /// Makes orders, notes them, and sends what is made of them.
    pub(crate) async fn send_with(
        &mut self,
        make: impl FnOnce(&[Outgoing]) -> Vec<Outgoing>,
    ) -> anyhow::Result<()> {
        let orders = self.orders.take(self.size.orders);
        self.place.note(&orders).await?;
        let mut messages = make(&orders);
        stream::send(&self.stage.producer, &self.place.topic, &mut messages).await
    }

    /// Makes and sends so many.
    pub(crate) async fn send(&mut self, count: u64) -> anyhow::Result<()> {
        let mut orders = self.orders.take(count);
        stream::send(&self.stage.producer, &self.place.topic, &mut orders).await?;
        self.place.note(&orders).await
    }

    /// The same, with a pause behind each.
    pub(crate) async fn trickle(&mut self, count: u64, pause: Duration) -> anyhow::Result<()> {
        let mut orders = self.orders.take(count);
        stream::trickle(&self.stage.producer, &self.place.topic, &mut orders, pause).await?;
        self.place.note(&orders).await
    }

    fn role(&mut self, lock_ttl: Duration) -> Role {
        self.workers += 1;
        let name = format!("{}-worker-{}", self.place.group, self.workers);
        Role { name, slot: 0, lock_ttl, idle_timeout: None }
    }

    async fn start(&self, role: Role, trap: Option<Trap>, until: Until) -> anyhow::Result<Running> {
        let run = self.entry.run.context("the engine is no worker")?;
        let (steps, gate) = match trap.map(Steps::with) {
            Some((steps, gate)) => (steps, Some(gate)),
            None => (Steps::default(), None),
        };
        let name = role.name.clone();
        let worker = Worker::join(&self.place, role, steps).await?;
        let consumer = Arc::clone(&worker.consumer);
        let task = AbortOnDropHandle::new(tokio::spawn(run(worker, until)));
        Ok(Running { task, consumer, gate, name })
    }

    /// One worker, undisturbed. Whether it got stuck.
    async fn run_to_end(&mut self) -> anyhow::Result<bool> {
        let role = self.role(LONG);
        let finished = self.start(role, None, Until::End).await?.ended().await?;
        Ok(self.settle(finished))
    }

    /// The same, with how it ended.
    pub(crate) async fn work_off(&mut self) -> anyhow::Result<Finished> {
        let role = self.role(LONG);
        self.start(role, None, Until::End).await?.ended().await
    }

    /// One that works until it is aborted.
    pub(crate) async fn keep_working(&mut self) -> anyhow::Result<Running> {
        let role = self.role(LONG);
        self.start(role, None, Until::Aborted).await
    }

    pub(crate) fn settle(&mut self, finished: Finished) -> bool {
        self.retries += finished.worker.counts.retries;
        let is_stuck = finished.is_stuck;
        // Leaving the group blocks.
        block_in_place(|| drop(finished));
        is_stuck
    }

    /// Worker after worker is killed, each at the next step.
    async fn crash(&mut self) -> anyhow::Result<()> {
        self.send(self.size.orders).await?;
        let steps = std::iter::once(&READ).chain(self.entry.steps);
        for (from, step) in (3..).zip(steps) {
            let role = self.role(SHORT);
            let trap = Trap { step, from };
            let mut worker = self.start(role, Some(trap), Until::Aborted).await?;
            worker.reached().await.with_context(|| format!("at {step}"))?;
            worker.kill().await;
        }
        let role = self.role(SHORT);
        let finished = self.start(role, None, Until::End).await?.ended().await?;
        self.settle(finished);
        Ok(())
    }

    /// A second worker joins while the first has done what Kafka has not been told of.
    async fn rebalance(&mut self) -> anyhow::Result<()> {
        self.send(self.size.orders).await?;
        let role = self.role(LONG);
        let trap = Trap { step: BETWEEN, from: worker::COMMIT_EVERY / 2 + 1 };
        let mut first = self.start(role, Some(trap), Until::End).await?;
        first.reached().await?;
        let role = Role { slot: 1, ..self.role(LONG) };
        let second = self.start(role, None, Until::End).await?;
        first.release();
        let first = first.ended().await.context("the first")?;
        let second = second.ended().await.context("the second")?;
        anyhow::ensure!(
            first.worker.counts.messages > 0 && second.worker.counts.messages > 0,
            "no rebalance took place"
        );
        self.settle(first);
        self.settle(second);
        Ok(())
    }

    /// At each step in turn: one is held with a message in hand and loses its place in the group; a
    /// second one works off everything, or waits for what the first one holds; the first wakes up.
    async fn freeze_at(&mut self, steps: &[&'static str], is_expiry: bool) -> anyhow::Result<()> {
        for step in steps {
            self.send(self.size.orders / steps.len() as u64).await?;
            self.freeze_once(step, is_expiry).await.with_context(|| format!("at {step}"))?;
        }
        Ok(())
    }

    async fn freeze_once(&mut self, step: &'static str, is_expiry: bool) -> anyhow::Result<()> {
        let lock_ttl = if is_expiry { SHORT } else { LONG };
        let ends_session = is_expiry && !self.entry.needs_redis();
        let idle_timeout = ends_session.then_some(SESSION);
        let role = Role { idle_timeout, ..self.role(lock_ttl) };
        let mut frozen = self.start(role, Some(Trap { step, from: 3 }), Until::Aborted).await?;
        frozen.reached().await?;
        let mut db = self.place.connect().await?;
        if ends_session {
            let patience = Patience::until("PostgreSQL ends the session");
            while has_session(&mut db, &frozen.name).await? {
                patience.wait().await?;
            }
        }
        block_in_place(|| worker::evict(&frozen.consumer))?;
        let role = self.role(lock_ttl);
        let other = self.start(role, None, Until::End).await?;
        let patience = Patience::until("the other one is through or waits");
        while !(other.is_through()
            || other.waits(is_expiry)
            || has_to_wait(&mut db, &other.name).await?)
        {
            patience.wait().await?;
        }
        frozen.release();
        match frozen.outcome().await? {
            Ok(finished) => _ = self.settle(finished),
            // Its session or its lock is gone, or its place in the group where it needs one.
            Err(_) if is_expiry || self.entry.needs_group.contains(&step) => {}
            Err(error) => return Err(error.context("the one that woke up")),
        }
        let finished = other.ended().await.context("the one that took over")?;
        self.settle(finished);
        Ok(())
    }
}

/// Waits for what can be seen, within bounds.
pub(crate) struct Patience {
    what: &'static str,
    begun: Instant,
}

impl Patience {
    pub(crate) fn until(what: &'static str) -> Self {
        Self { what, begun: Instant::now() }
    }

    /// Between one look and the next.
    pub(crate) async fn wait(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.begun.elapsed() < PATIENCE, "in vain: until {}", self.what);
        tokio::time::sleep(POLL).await;
        Ok(())
    }
}

async fn has_session(db: &mut PgConnection, name: &str) -> anyhow::Result<bool> {
    let has = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = $1)";
    Ok(sqlx::query_scalar(has).bind(name).fetch_one(db).await?)
}

async fn has_to_wait(db: &mut PgConnection, name: &str) -> anyhow::Result<bool> {
    let waits = "
        SELECT EXISTS (SELECT FROM pg_stat_activity
                        WHERE application_name = $1 AND wait_event_type = 'Lock')";
    Ok(sqlx::query_scalar(waits).bind(name).fetch_one(db).await?)
}
