//! How long messages wait while one process after the other is restarted, as for a new version.

use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use local_stack::programs::Program;
use serde::Serialize;

use crate::Format;
use crate::latency::{Load, PARTITIONS, timed};
use crate::stage::{Place, Stage, on_stage};

/// Between the start of a process and the end of the next.
const BETWEEN: Duration = Duration::from_secs(6);

#[derive(Args)]
pub(crate) struct RollingOptions {
    /// Messages a second meanwhile
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    /// Processes, each of them restarted once
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=6))]
    processes: u32,
    /// How results are printed
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Serialize)]
struct Rolled {
    members: &'static str,
    /// From the signal to the end of a process, the longest.
    stopped_ms: f64,
    p99_ms: f64,
    /// The longest that any message waited for its commit: no partition paused for longer.
    slowest_ms: f64,
}

pub(crate) async fn run(options: &RollingOptions) -> anyhow::Result<()> {
    let rolled = on_stage(0, async |stage| {
        anyhow::Ok([roll(stage, options, false).await?, roll(stage, options, true).await?])
    })
    .await?;
    if matches!(options.output, Format::Json) {
        println!("{}", serde_json::to_string(&rolled)?);
        return Ok(());
    }
    for Rolled { members, stopped_ms, p99_ms, slowest_ms } in rolled {
        println!(
            "{} processes, {members}: a process took at most {stopped_ms:.0} ms to stop; messages \
             p99 {p99_ms:.0} ms, slowest {slowest_ms:.0} ms",
            options.processes
        );
    }
    Ok(())
}

async fn roll(stage: &Stage, options: &RollingOptions, has_names: bool) -> anyhow::Result<Rolled> {
    let place = stage.empty_place(PARTITIONS).await?;
    let start = |number: u32, life: u32| {
        let mut run = place.consumer("run");
        if has_names {
            run.args(["-X", &format!("group.instance.id=consumer-{number}")]);
        }
        Program::start(run, place.folder(), &format!("{}-{number}-{life}", place.name()))
    };
    let mut programs = Vec::new();
    for number in 0..options.processes {
        programs.push(start(number, 0)?);
    }
    shared_out(&place, options.processes).await?;
    let rolling = async {
        let (mut stopped, mut restarted) = (Duration::ZERO, Vec::new());
        for (number, program) in (0..).zip(programs) {
            tokio::time::sleep(BETWEEN).await;
            let begun = Instant::now();
            stop(program).await?;
            stopped = stopped.max(begun.elapsed());
            restarted.push(start(number, 1)?);
        }
        tokio::time::sleep(BETWEEN).await;
        shared_out(&place, options.processes).await?;
        Ok((stopped, restarted))
    };
    let seconds = BETWEEN.as_secs() * u64::from(options.processes + 3);
    let load = Load { rate: options.rate, seconds, properties: &[] };
    let (timed, (stopped, restarted)) = timed(stage, &place, &load, rolling).await?;
    for program in restarted {
        stop(program).await?;
    }
    place.clear().await?;
    Ok(Rolled {
        members: if has_names { "each with its group.instance.id" } else { "without names" },
        stopped_ms: stopped.as_secs_f64() * 1e3,
        p99_ms: timed.percentile(99),
        slowest_ms: timed.percentile(100),
    })
}

async fn stop(program: Program) -> anyhow::Result<()> {
    program.signal(rustix::process::Signal::TERM);
    let ended = program.ended(Duration::from_mins(1)).await?;
    if !ended.status.success() {
        bail!("order-consumer run: {}", ended.status);
    }
    Ok(())
}

/// Waits until each process has partitions.
async fn shared_out(place: &Place<'_>, processes: u32) -> anyhow::Result<()> {
    let mut connection = place.connect().await?;
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let owners: Vec<String> = sqlx::query_scalar("SELECT owner FROM partition_progress")
            .fetch_all(&mut connection)
            .await?;
        // The name of a process, and the number of its assignment; nobody's has none.
        let names = owners.iter().filter_map(|owner| owner.rsplit_once('-'));
        let mut names: Vec<&str> = names.map(|(process, _)| process).collect();
        let owned = names.len();
        names.sort_unstable();
        names.dedup();
        if owned == PARTITIONS as usize && names.len() == processes as usize {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the partitions are with {names:?}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
