//! `order-consumer run` on a topic that is full.

use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::future::try_join_all;
use local_stack::programs::{Ended, Program};
use serde::Deserialize;

use crate::contender::Run;
use crate::stage::{Place, Shape, Stage};

/// How long a consumer may take in all.
const PATIENCE: Duration = Duration::from_mins(30);

/// What the consumer says at its end.
#[derive(Deserialize)]
struct Summary {
    events: u64,
    seconds: f64,
}

/// Works the topic off with so many processes.
pub(crate) async fn run(
    stage: &Stage,
    shape: Shape,
    concurrency: u32,
    processes: u32,
) -> anyhow::Result<Run> {
    let place = stage.place(shape).await?;
    let run = drain(&place, stage.events, concurrency, processes).await?;
    place.audit().await?;
    place.clear().await?;
    Ok(run)
}

/// The same, and leaves the database to look at.
pub(crate) async fn drain(
    place: &Place<'_>,
    events: u64,
    concurrency: u32,
    processes: u32,
) -> anyhow::Result<Run> {
    let before = place.before().await?;
    let ended = try_join_all((0..processes).map(|number| one(place, concurrency, number))).await?;
    let peak_kib = ended.iter().map(|(ended, _)| ended.peak_kib).max().unwrap_or(0);
    let usage = place.since(&before, peak_kib).await?;
    let done: u64 = ended.iter().map(|(_, summary)| summary.events).sum();
    // Records of a partition that changes hands are read again, and counted again.
    if done < events {
        bail!("{done} of {events} records were worked off");
    }
    let seconds = ended.iter().map(|(_, summary)| summary.seconds).fold(0.0, f64::max);
    Ok(Run { events, seconds, usage })
}

async fn one(place: &Place<'_>, concurrency: u32, number: u32) -> anyhow::Result<(Ended, Summary)> {
    let mut consumer = place.consumer("run");
    consumer
        .args(["--exit-when-idle", "1s", "--listen", "127.0.0.1:0", "-o", "json"])
        .args(["--concurrency", &concurrency.to_string()]);
    let name = format!("{}-consumer-{number}", place.name());
    let program = Program::start(consumer, place.folder(), &name)?;
    let log = program.log().to_owned();
    let ended = program.ended(PATIENCE).await?;
    if !ended.status.success() {
        let said = local_stack::programs::last_lines(&log);
        bail!("order-consumer run: {}: {said}", ended.status);
    }
    let summary = serde_json::from_str(&ended.stdout).context("the consumer's summary")?;
    Ok((ended, summary))
}
