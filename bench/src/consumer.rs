//! `order-consumer run` on a topic that is full.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::future::try_join_all;
use local_stack::programs::{Ended, Program};
use tokio::process::Command;

use crate::baseline::{Kind, Summary};
use crate::contender::{Grown, Run};
use crate::stage::{Place, Shape, Stage};

/// How long a consumer may take in all.
const PATIENCE: Duration = Duration::from_mins(30);

/// Works the topic off with so many processes.
pub(crate) async fn run(
    stage: &Stage,
    shape: Shape,
    concurrency: u32,
    processes: u32,
) -> anyhow::Result<Run> {
    audited(stage.place(shape).await?, stage.events, concurrency, processes).await
}

/// Works the topic off beside claims of earlier messages.
pub(crate) async fn grown(stage: &Stage, grown: &Grown) -> anyhow::Result<Run> {
    let place = stage.grown_place(grown.claims, grown.ids).await?;
    // PostgreSQL starts anew, so that all of them begin with as little in its memory.
    stage.tune(grown.settings.as_deref()).await?;
    if grown.cold {
        stage.forget_pages().await?;
    }
    audited(place, stage.events, 4, 1).await
}

/// Works the topic off with settings of PostgreSQL.
pub(crate) async fn tuned(stage: &Stage, settings: Option<&str>) -> anyhow::Result<Run> {
    stage.tune(settings).await?;
    run(stage, Shape::default(), 4, 1).await
}

async fn audited(
    place: Place<'_>,
    events: u64,
    concurrency: u32,
    processes: u32,
) -> anyhow::Result<Run> {
    let run = drain(&place, events, concurrency, processes).await?;
    place.audit().await?;
    place.clear().await?;
    Ok(run)
}

/// Works the topic off, and leaves the database to look at.
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
    let mut lane_seconds = BTreeMap::new();
    for (phase, seconds) in ended.into_iter().flat_map(|(_, summary)| summary.lane_seconds) {
        *lane_seconds.entry(phase).or_default() += seconds;
    }
    Ok(Run { events, seconds, usage, lane_seconds })
}

async fn one(place: &Place<'_>, concurrency: u32, number: u32) -> anyhow::Result<(Ended, Summary)> {
    let mut consumer = place.consumer("run");
    consumer
        .args(["--exit-when-idle", "1s", "-o", "json"])
        .args(["--concurrency", &concurrency.to_string()]);
    ended(place, consumer, &format!("{}-consumer-{number}", place.name())).await
}

/// Runs a contender's process to its end, and takes its summary.
async fn ended(
    place: &Place<'_>,
    command: Command,
    name: &str,
) -> anyhow::Result<(Ended, Summary)> {
    let program = Program::start(command, place.folder(), name)?;
    let log = program.log().to_owned();
    let ended = program.ended(PATIENCE).await?;
    if !ended.status.success() {
        let said = local_stack::programs::last_lines(&log);
        bail!("{name}: {}: {said}", ended.status);
    }
    let summary = serde_json::from_str(&ended.stdout).context("the summary")?;
    Ok((ended, summary))
}

/// The most messages for those who commit each by itself: they take minutes for more.
const ONE_BY_ONE: u64 = 20_000;

/// What people write by hand, on the same topic and tables.
pub(crate) async fn baseline(stage: &Stage, kind: Kind, workers: u32) -> anyhow::Result<Run> {
    let place = stage.place(Shape::default()).await?;
    let events = if kind == Kind::OneByOne { stage.events.min(ONE_BY_ONE) } else { stage.events };
    let before = place.before().await?;
    let command = place.baseline(kind, workers, events)?;
    let (program, summary) = ended(&place, command, &format!("{}-baseline", place.name())).await?;
    let usage = place.since(&before, program.peak_kib).await?;
    if kind == Kind::OneByOne {
        let mut connection = place.connect().await?;
        let claims: i64 = sqlx::query_scalar("SELECT count(*) FROM processed_messages")
            .fetch_one(&mut connection)
            .await?;
        anyhow::ensure!(claims.unsigned_abs() == events, "{claims} of {events} claims");
    }
    place.clear().await?;
    let Summary { events, seconds, lane_seconds } = summary;
    Ok(Run { events, seconds, usage, lane_seconds })
}
