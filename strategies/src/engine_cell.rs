//! The engine under a fault: the same faults as for the others, done to whole processes.

use anyhow::Context as _;
use rustix::process::Signal;

use crate::cell::{Cell, Patience, with_garbage};
use crate::engine::Process;
use crate::fault::Fault;
use crate::steps::Trap;
use crate::stream;

/// Small, so that there is something before and behind every fault.
const BATCH: usize = 5;
const HELD: [&str; 2] = ["after_claim", "after_effect"];

pub(crate) async fn run(cell: &mut Cell<'_>, fault: Fault) -> anyhow::Result<()> {
    match fault {
        Fault::None | Fault::Duplicates => {
            cell.send_with(stream::with_duplicates).await?;
            to_the_end(cell).await
        }
        Fault::Poison => {
            cell.send_with(with_garbage).await?;
            to_the_end(cell).await
        }
        Fault::Crash => crash(cell).await,
        Fault::Rebalance => rebalance(cell).await,
        Fault::Frozen => each_step(cell, false).await,
        Fault::LockExpiry => each_step(cell, true).await,
    }
}

async fn to_the_end(cell: &Cell<'_>) -> anyhow::Result<()> {
    let process = Process::start(&cell.place, BATCH, None)?;
    at_the_end(cell).await?;
    process.end(Signal::TERM).await
}

/// The database is behind everything that is in the log.
async fn at_the_end(cell: &Cell<'_>) -> anyhow::Result<()> {
    let ends = cell.stage.ends(&cell.place)?;
    let mut db = cell.place.connect().await?;
    let patience = Patience::until("the database is at the end of the log");
    loop {
        let progress: Vec<(i32, i64)> =
            sqlx::query_as("SELECT partition, next_offset FROM partition_progress")
                .fetch_all(&mut db)
                .await?;
        let is_there = |(partition, end): (i32, &i64)| {
            *end == 0 || progress.iter().any(|(it, next)| *it == partition && next >= end)
        };
        if (0..).zip(&ends).all(is_there) {
            return Ok(());
        }
        patience.wait().await?;
    }
}

/// Killed inside the transaction, and once more behind a commit, whose offset Kafka does not know.
async fn crash(cell: &mut Cell<'_>) -> anyhow::Result<()> {
    cell.send(cell.size.orders).await?;
    for (from, step) in (3..).zip(HELD) {
        let mut process = Process::start(&cell.place, BATCH, Some(Trap { step, from }))?;
        process.reached().await.with_context(|| format!("at {step}"))?;
        process.end(Signal::KILL).await?;
    }
    let mut db = cell.place.connect().await?;
    let before = cell.place.orders(&mut db).await?;
    // Held in its next batch, so that it is killed before the offset of the one that it committed.
    let from = BATCH as u64 + 1;
    let trap = Trap { step: HELD[0], from };
    let mut process = Process::start(&cell.place, BATCH, Some(trap))?;
    process.reached().await?;
    let committed = cell.place.orders(&mut db).await?;
    process.end(Signal::KILL).await?;
    anyhow::ensure!(committed > before, "nothing was committed before the kill");
    to_the_end(cell).await
}

async fn rebalance(cell: &mut Cell<'_>) -> anyhow::Result<()> {
    cell.send(cell.size.orders / 2).await?;
    let trap = Trap { step: HELD[0], from: BATCH as u64 + 1 };
    let mut first = Process::start(&cell.place, BATCH, Some(trap))?;
    first.reached().await?;
    let second = Process::start(&cell.place, BATCH, None)?;
    let patience = Patience::until("both have a partition");
    while cell.stage.members_with_partitions(&cell.place)? < 2 {
        patience.wait().await?;
    }
    cell.send(cell.size.orders / 2).await?;
    first.release().await?;
    at_the_end(cell).await?;
    first.end(Signal::TERM).await?;
    second.end(Signal::TERM).await
}

async fn each_step(cell: &mut Cell<'_>, is_expiry: bool) -> anyhow::Result<()> {
    for step in HELD {
        cell.send(cell.size.orders / HELD.len() as u64).await?;
        let mut first = Process::start(&cell.place, BATCH, Some(Trap { step, from: 3 }))?;
        first.reached().await.with_context(|| format!("at {step}"))?;
        if is_expiry {
            end_idle_transactions(cell).await?;
        }
        // Stopped as a whole: it sends no heartbeat, and the group goes on without it.
        first.signal(Signal::STOP);
        let second = Process::start(&cell.place, BATCH, None)?;
        at_the_end(cell).await?;
        first.release().await?;
        first.signal(Signal::CONT);
        first.end(Signal::TERM).await?;
        second.end(Signal::TERM).await?;
    }
    Ok(())
}

/// What `idle_in_transaction_session_timeout` does.
async fn end_idle_transactions(cell: &Cell<'_>) -> anyhow::Result<()> {
    let mut db = cell.place.connect().await?;
    let ended: i64 = sqlx::query_scalar(
        r"
        SELECT count(pg_terminate_backend(pid))
          FROM pg_stat_activity
         WHERE datname = current_database() AND state = 'idle in transaction'
        ",
    )
    .fetch_one(&mut db)
    .await?;
    anyhow::ensure!(ended > 0, "no transaction was open");
    Ok(())
}
