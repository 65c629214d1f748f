//! One plan from its beginning to the verdict.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures_util::future::join_all;
use local_stack::programs::{Program, last_lines};
use tokio::time::sleep;

use crate::fault::Fault;
use crate::inject::suffer;
use crate::plan::Plan;
use crate::report::{Line, Recovery};
use crate::scene::Scene;
use crate::stage::Stage;
use crate::verdict;

/// How long a load may take past its schedule.
const PATIENCE: Duration = Duration::from_secs(90);

/// Performs a plan. An error means that it could not be judged.
pub async fn perform(
    scene: &Scene,
    plan: &Plan,
    folder: &Path,
    shown: bool,
) -> anyhow::Result<Line> {
    let begun = Instant::now();
    let stage = Stage::set(scene, plan, folder, shown).await?;
    stage.timeline.note(plan);
    let mut line = Line::of(plan);
    let faults = join_all(plan.faults.iter().map(|fault| meet(&stage, fault)));
    let (loaded, met) = tokio::join!(load(&stage), faults);
    scene.heal_links();
    loaded?;
    for end in met {
        match end? {
            Met::Recovered(recovery) => line.recoveries.push(recovery),
            Met::Skipped(kind) => line.skipped.push(kind),
        }
    }
    let settled = stage.caught_up().await?;
    if let Some(took) = settled {
        stage.timeline.note(format!("lag zero after {:.1} s more", took.as_secs_f64()));
    }
    verdict::audit(&stage).await?;
    verdict::end_consumers(&stage).await?;
    line.peak_mib = stage.peak_kib() / 1024;
    line.points = stage.points();
    line.violations = stage.violations();
    line.seconds = tenths(begun.elapsed());
    stage.timeline.note(format!("{} after {} s", line.verdict(), line.seconds));
    if line.violations.is_empty() {
        stage.clear().await?;
    }
    Ok(line)
}

enum Met {
    Recovered(Recovery),
    Skipped(String),
}

/// A fault from its time to its recovery.
async fn meet(stage: &Stage<'_>, fault: &Fault) -> anyhow::Result<Met> {
    sleep(Duration::from_millis(fault.at_ms)).await;
    let missing = stage.scene.missing.iter().find(|(kind, _)| *kind == fault.kind);
    if let Some((kind, why)) = missing {
        stage.timeline.note(format!("{kind} skipped: {why}"));
        stage.healed();
        return Ok(Met::Skipped(kind.name().to_owned()));
    }
    stage.timeline.note(format!("begins: {fault}"));
    suffer(stage, fault).await.with_context(|| fault.to_string())?;
    stage.healed();
    stage.timeline.note(format!("healed: {}", fault.kind));
    let kind = fault.kind.name().to_owned();
    let seconds = stage.caught_up().await?.map(tenths);
    if let Some(seconds) = seconds {
        stage.timeline.note(format!("recovered from {kind} in {seconds} s"));
    }
    Ok(Met::Recovered(Recovery { kind, what: fault.to_string(), seconds }))
}

/// The load, from when the faults stand that are to be there before it.
async fn load(stage: &Stage<'_>) -> anyhow::Result<()> {
    let mut standing = stage.standing.subscribe();
    let stood = standing.wait_for(|missing| *missing == 0);
    tokio::time::timeout(PATIENCE, stood).await.context("faults did not come")??;
    let messages = stage.plan.load.messages;
    let load: Program = stage.start_load(messages, &[])?;
    stage.timeline.note("the load begins");
    let schedule = Duration::from_secs(messages / stage.plan.load.rate);
    let log = stage.folder.join(format!("{}.log", load.name));
    let ended = load.ended(schedule + PATIENCE).await?;
    stage.note_memory(ended.peak_kib);
    stage.timeline.note("the load has ended");
    // Some of it may be unconfirmed.
    if !matches!(ended.status.code(), Some(0 | 4)) {
        bail!("the load ended with {}: {}", ended.status, last_lines(&log));
    }
    Ok(())
}

fn tenths(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}
