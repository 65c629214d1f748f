//! What a strategy costs without a fault.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::cell::{Cell, Patience};
use crate::engine::Process;
use rustix::process::Signal;

const ENGINE_BATCH: usize = 1000;
/// Between two orders of the trickle.
const PAUSE: Duration = Duration::from_millis(10);

/// A worker has begun to read so long after it got its partitions.
const SETTLED: Duration = Duration::from_millis(500);

/// Per message, where nothing else is said.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Measures {
    /// Messages a second.
    pub(crate) rate: f64,
    /// From the producer's hand to the commit, without backlog. `None`: not seen by the database.
    pub(crate) p99_ms: Option<f64>,
    /// That wrote something.
    pub(crate) transactions: f64,
    /// Statements, requests to Redis, and requests to Kafka that were waited for.
    pub(crate) round_trips: f64,
}

/// A backlog, and then order by order.
pub(crate) async fn run(cell: &mut Cell<'_>) -> anyhow::Result<Measures> {
    let is_engine = cell.entry.is_engine();
    let backlog = if is_engine { cell.size.engine_backlog } else { cell.size.backlog };
    let messages = backlog as f64;
    cell.send(backlog).await?;
    cell.stage.reset_statements().await?;
    let (_, before) = cell.stage.statements(&cell.place).await?;
    let (mut requests, mut own_rate) = (0.0, 0.0);
    let mut process = None;
    if is_engine {
        process = Some(Process::start(&cell.place, ENGINE_BATCH, None)?);
        all_there(cell, backlog).await?;
    } else {
        let finished = cell.work_off().await?;
        requests = finished.worker.counts.requests as f64;
        own_rate = messages / finished.busy.as_secs_f64();
        cell.settle(finished);
    }
    let (statements, after) = cell.stage.statements(&cell.place).await?;
    let mut trickle_us = i64::MAX;
    if !cell.entry.is_topic_to_topic() {
        let worker = if is_engine { None } else { Some(cell.keep_working().await?) };
        if let Some(worker) = &worker {
            worker.is_assigned().await?;
        }
        tokio::time::sleep(SETTLED).await;
        trickle_us = now_us();
        cell.trickle(cell.size.trickle, PAUSE).await?;
        all_there(cell, backlog + cell.size.trickle).await?;
        if let Some(worker) = worker {
            worker.kill().await;
        }
    }
    if let Some(process) = process {
        process.end(Signal::TERM).await?;
    }
    let speed = cell.place.speed(trickle_us).await?;
    Ok(Measures {
        rate: speed.rate.unwrap_or(own_rate),
        p99_ms: speed.p99_ms,
        transactions: (after - before) as f64 / messages,
        round_trips: (statements as f64 + requests) / messages,
    })
}

/// Waits until so many orders are there. Asks rarely: it is measured meanwhile.
async fn all_there(cell: &Cell<'_>, orders: u64) -> anyhow::Result<()> {
    let mut db = cell.place.connect().await?;
    let patience = Patience::until("all orders are there");
    while cell.place.orders(&mut db).await? < orders {
        tokio::time::sleep(Duration::from_millis(100)).await;
        patience.wait().await?;
    }
    Ok(())
}

fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
