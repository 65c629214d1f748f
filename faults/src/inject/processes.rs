//! Processes die, freeze, come, go, and are wrong about the time.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use local_stack::programs::Program;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::fault::What;
use crate::random::Random;
use crate::stage::Stage;

/// Whether it ended by SIGKILL within that time.
async fn dies_within(stage: &Stage<'_>, program: &mut Program, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if let Some(status) = program.try_wait() {
            stage.note_memory(program.peak_kib());
            return status.signal() == Some(Signal::KILL.as_raw());
        }
        sleep(Duration::from_millis(20)).await;
    }
    false
}

pub(super) async fn kill_consumer(
    stage: &Stage<'_>,
    what: What,
    lasts: Duration,
) -> anyhow::Result<()> {
    let What::Point(point, times) = what else { return Ok(()) };
    let mut victim = stage.start_consumer(&[("FAILPOINT", &format!("{point}:{times}"))])?;
    if !dies_within(stage, &mut victim, lasts / 2).await {
        // Others that come and go bring it what it may be waiting for.
        let other = stage.start_consumer(&[])?;
        let died = dies_within(stage, &mut victim, lasts / 2).await;
        stage.stop(other, false).await?;
        if !died {
            stage.timeline.note(format!("{} did not come to {point}", victim.name));
            return stage.stop(victim, false).await;
        }
    }
    stage.timeline.note(format!("{} died at {point}", victim.name));
    Ok(())
}

pub(super) async fn kill_producer(stage: &Stage<'_>, what: What) -> anyhow::Result<()> {
    let What::Point(point, times) = what else { return Ok(()) };
    let fuse = format!("{point}:{times}");
    let mut victim = stage.start_load(600, &[("FAILPOINT", &fuse)])?;
    if dies_within(stage, &mut victim, Duration::from_secs(10)).await {
        stage.timeline.note(format!("{} died at {point}", victim.name));
    } else {
        stage.timeline.note(format!("{} did not come to {point}", victim.name));
        victim.signal(Signal::INT);
        let _ = victim.ended(Duration::from_secs(40)).await;
    }
    Ok(())
}

pub(super) async fn freeze(
    stage: &Stage<'_>,
    lasts: Duration,
    random: &mut Random,
) -> anyhow::Result<()> {
    let which = usize::try_from(random.between(0, stage.plan.consumers))?;
    {
        let consumers = stage.consumers.lock().await;
        stage.timeline.note(format!("SIGSTOP to {}", consumers[which].name));
        consumers[which].signal(Signal::STOP);
    }
    sleep(lasts).await;
    stage.consumers.lock().await[which].signal(Signal::CONT);
    Ok(())
}

pub(super) async fn come_and_go(
    stage: &Stage<'_>,
    lasts: Duration,
    random: &mut Random,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + lasts + Duration::from_secs(2);
    let mut there: Vec<Program> = Vec::new();
    while Instant::now() < deadline {
        match (there.len(), random.between(0, 3)) {
            (0, _) | (1 | 2, 0) => there.push(stage.start_consumer(&[])?),
            (_, 1) => {
                let mut gone = there.swap_remove(0);
                gone.signal(Signal::KILL);
                dies_within(stage, &mut gone, Duration::from_secs(5)).await;
            }
            _ => stage.stop(there.swap_remove(0), false).await?,
        }
        sleep(Duration::from_millis(random.between(300, 1_500))).await;
    }
    for consumer in there {
        stage.stop(consumer, false).await?;
    }
    Ok(())
}

pub(super) async fn step_clock(
    stage: &Stage<'_>,
    what: What,
    lasts: Duration,
) -> anyhow::Result<()> {
    let What::Seconds(seconds) = what else { return Ok(()) };
    stage.step_clock(seconds)?;
    sleep(lasts).await;
    stage.step_clock(0)
}
