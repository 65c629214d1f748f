//! Cell after cell.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::catalog::Entry;
use crate::cell::{self, Ran, Size};
use crate::cli::CompareOptions;
use crate::expected::expected;
use crate::fault::Fault;
use crate::judge::Verdict;
use crate::redis_server::INSTALL;
use crate::report::{Line, Outcome, Report};
use crate::stage::{Stage, on_stage};

/// Cells under a fault at once: they mostly wait.
const AT_ONCE: usize = 8;
/// For a cell.
const PATIENCE: Duration = Duration::from_mins(5);

/// Runs, prints, and says whether all is as expected.
pub(crate) async fn run(options: &CompareOptions) -> anyhow::Result<bool> {
    if cfg!(debug_assertions) {
        eprintln!("this is a debug build: its verdicts count, its figures mean nothing");
    }
    let begun = Instant::now();
    let report = on_stage(async |stage| compare(stage, options, begun).await).await?;
    report.print(options.output)?;
    for line in report.differing() {
        eprintln!("differs: {line}");
    }
    Ok(report.differing().next().is_none())
}

async fn compare(
    stage: Arc<Stage>,
    options: &CompareOptions,
    begun: Instant,
) -> anyhow::Result<Report> {
    let (strategies, faults, size) = (options.strategies(), options.faults(), options.size());
    let mut cells = Vec::new();
    for entry in &strategies {
        cells.extend(faults.iter().map(|fault| (*entry, *fault)));
    }
    if !stage.has_redis() && strategies.iter().any(Entry::needs_redis) {
        eprintln!("skipped: {INSTALL}");
    }
    let mut lines = Vec::new();
    // Measured one after the other, on a machine that does nothing else.
    for (entry, fault) in cells.iter().filter(|(_, fault)| *fault == Fault::None) {
        lines.push(line(&stage, *entry, *fault, size).await);
    }
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for (entry, fault) in cells.iter().copied().filter(|(_, fault)| *fault != Fault::None) {
        let (stage, permits) = (Arc::clone(&stage), Arc::clone(&permits));
        running.spawn(async move {
            let _permit = permits.acquire_owned().await;
            line(&stage, entry, fault, size).await
        });
    }
    while let Some(line) = running.join_next().await {
        lines.push(line.context("a cell panicked")?);
    }
    Ok(Report::of(options, lines, begun.elapsed()))
}

async fn line(stage: &Stage, entry: Entry, fault: Fault, size: Size) -> Line {
    let begun = Instant::now();
    let expected = expected(entry.name, fault);
    let (mut facts, mut measures, mut retries) = (None, None, 0);
    let outcome = if expected.is_none() {
        Outcome::NotApplicable
    } else if entry.needs_redis() && !stage.has_redis() {
        Outcome::Skipped
    } else {
        let ran = tokio::time::timeout(PATIENCE, cell::run(stage, entry, fault, size));
        match ran.await.context("it took too long").flatten() {
            Ok(Ran { facts: found, retries: tried_again, measures: measured }) => {
                (facts, measures, retries) = (Some(found), measured, tried_again);
                Outcome::Ran(Verdict::of(&found))
            }
            Err(error) => Outcome::Failed(format!("{error:#}")),
        }
    };
    let seconds = begun.elapsed().as_secs_f64();
    let line = Line {
        strategy: entry.name,
        fault,
        expected,
        outcome,
        facts,
        retries,
        measures,
        extra_servers: entry.extra_servers(),
        seconds,
    };
    eprintln!("{line}");
    line
}
