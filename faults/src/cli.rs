//! The command line.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};
use idempotent_consumer::failpoint;
use tokio::signal::unix::{SignalKind, signal};

use crate::fault::Kind;
use crate::minimise::smaller;
use crate::plan::Plan;
use crate::report::{self, Line};
use crate::run::perform;
use crate::scene::Scene;
use crate::system;

const EXIT_WRONG_USE: u8 = 2;
const EXIT_VIOLATION: u8 = 3;

/// Breaks a running pipeline by a seeded plan, heals it, and has it audited
#[derive(Parser)]
#[command(
    name = "faults",
    after_help = "Exit codes: 0 everything is proven, 1 a plan could not be run, 2 wrong use, 3 a violation."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Perform the plans of seeds
    Run(RunArgs),
    /// The kinds of fault, or the points at which a process can be killed
    List {
        /// The points
        #[arg(long)]
        points: bool,
    },
    /// The plan of a seed, without performing it
    Show(Chosen),
    /// The table of a results file, as Markdown
    Report {
        /// Written by `run --append`
        file: PathBuf,
    },
    /// Drop faults from the plan of a seed that fails, while it still does
    Minimise(Chosen),
    /// Kill gateway, relay, consumer, notifier, broker and database in turn while clients order by
    /// HTTP, and hold what they were answered against what there is
    System(SystemArgs),
}

#[derive(Args)]
struct Chosen {
    /// The seed
    #[arg(long, value_name = "S")]
    seed: u64,
    /// Draw these kinds only
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = parse_kind)]
    only: Vec<Kind>,
}

#[derive(Args)]
struct RunArgs {
    /// One seed, with its timeline
    #[arg(long, value_name = "S", conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Seeds from A to before B
    #[arg(long, value_name = "A..B", value_parser = parse_seeds, required_unless_present = "seed")]
    seeds: Option<Range<u64>>,
    /// Draw these kinds only
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = parse_kind)]
    only: Vec<Kind>,
    /// Append a line for each seed to this file, and leave out those it has of this engine
    #[arg(long, value_name = "FILE", conflicts_with = "only")]
    append: Option<PathBuf>,
}

#[derive(Args)]
#[command(after_help = "\
Everything is real and of its own: gateway, consumer, notification service, Kafka, PostgreSQL; the mails
go to an SMTP server within this command. Each client sends a request, with its key, until it is answered.
Logs, the timeline and the auditor's report are in target/faults/system-SEED/.

Exit codes: 0 everything is proven, 1 it could not be judged, 2 wrong use, 3 a violation.")]
struct SystemArgs {
    /// Who dies when and how, and what is ordered
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Orders, at least 100 for each kill; some are amended, paid or cancelled as well, some keys are
    /// sent twice on purpose
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    orders: u64,
    /// How often each of the six is killed
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=20))]
    rounds: u64,
    /// Clients at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=200))]
    clients: u64,
    /// Orders a second, at most; where a mail takes longer than an order, they lag behind
    #[arg(long, value_name = "N", default_value_t = 80, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    rate: u64,
    /// Show the plan, and do not perform it
    #[arg(long)]
    dry_run: bool,
}

fn parse_seeds(text: &str) -> Result<Range<u64>, String> {
    let wanted = || text.split_once("..").and_then(|(a, b)| Some(a.parse().ok()?..b.parse().ok()?));
    wanted().filter(|seeds: &Range<u64>| !seeds.is_empty()).ok_or("such as 1..26".to_owned())
}

fn parse_kind(text: &str) -> Result<Kind, String> {
    Kind::named(text).ok_or_else(|| "no kind of fault, see `faults list`".to_owned())
}

fn plan_of(seed: u64, only: &[Kind]) -> Plan {
    if only.is_empty() { Plan::of(seed) } else { Plan::drawn_from(seed, only) }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = dispatch(cli.command) => ended,
            signal = interrupted() => signal.and_then(|()| bail!("interrupted; everything is stopped")),
        }
    });
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn interrupted() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        ended = tokio::signal::ctrl_c() => ended?,
        _ = terminate.recv() => {}
    }
    Ok(())
}

async fn dispatch(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Run(args) => run(args).await,
        Command::List { points: false } => {
            for kind in Kind::ALL {
                println!("{:<24}{}", kind.name(), kind.sentence());
            }
            println!("\nAnd in each load: duplicates 0, 10 or 50 %, poison 0, 1 or 20 %.");
            Ok(0)
        }
        Command::List { points: true } => {
            for point in failpoint::CONSUMER.iter().chain(&failpoint::PRODUCER) {
                println!("{point}");
            }
            Ok(0)
        }
        Command::Show(Chosen { seed, only }) => {
            println!("{}", plan_of(seed, &only));
            Ok(0)
        }
        Command::Report { file } => {
            print!("{}", report::table(&report::read(&file)?));
            Ok(0)
        }
        Command::Minimise(Chosen { seed, only }) => minimise(plan_of(seed, &only)).await,
        Command::System(args) => kill_system(&args).await,
    }
}

/// Logs of seeds, and the programs.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/faults")
}

async fn run(args: RunArgs) -> anyhow::Result<u8> {
    let (engine, commit) = report::engine().context("which engine this is")?;
    let seeds = args.seeds.or(args.seed.map(|seed| seed..seed + 1)).context("no seed")?;
    let known: Vec<Line> = match &args.append {
        Some(file) => report::read(file)?,
        None => Vec::new(),
    };
    let is_known = |seed| known.iter().any(|line| line.engine == engine && line.seed == seed);
    let names: Vec<&str> = args.only.iter().map(|kind| kind.name()).collect();
    let only =
        if names.is_empty() { String::new() } else { format!(" --only {}", names.join(",")) };
    let mut scene = None;
    let mut failed: Vec<u64> = Vec::new();
    let mut points: BTreeSet<String> = BTreeSet::new();
    let (mut count, mut unjudged) = (0, 0);
    for seed in seeds.filter(|seed| !is_known(*seed)) {
        let plan = plan_of(seed, &args.only);
        let at = folder().join(seed.to_string());
        let current = match scene.take() {
            Some(current) => current,
            None => Scene::set_up().await?,
        };
        let line = perform(&current, &plan, &at, args.seed.is_some()).await;
        let line = match line {
            Ok(line) => line,
            Err(error) => {
                println!("seed {seed:>4}  could not be judged: {error:#}");
                println!("           logs: {}", at.display());
                unjudged += 1;
                continue;
            }
        };
        let line = Line { engine: engine.clone(), commit: commit.clone(), ..line };
        count += 1;
        points.extend(line.points.iter().cloned());
        println!("{}", line.sentence());
        if let Some(file) = &args.append {
            report::append(file, &line)?;
        }
        if line.violations.is_empty() {
            scene = Some(current);
        } else {
            // What is broken stays out of the next plan.
            failed.push(seed);
            for violation in &line.violations {
                println!("           {violation}");
            }
            println!("           logs: {}; again: faults run --seed {seed}{only}", at.display());
        }
    }
    let all = failpoint::CONSUMER.iter().chain(&failpoint::PRODUCER);
    let missed: Vec<&str> = all.copied().filter(|point| !points.contains(*point)).collect();
    match missed.as_slice() {
        [] => println!("each of the {} named points was reached", points.len()),
        missed => println!("named points that were not reached: {}", missed.join(", ")),
    }
    println!("{count} plans, {} with a violation, {unjudged} not judged", failed.len());
    Ok(match (failed.is_empty(), unjudged) {
        (false, _) => EXIT_VIOLATION,
        (true, 0) => 0,
        (true, _) => 1,
    })
}

async fn minimise(mut plan: Plan) -> anyhow::Result<u8> {
    let at = folder().join(format!("{}-minimised", plan.seed));
    let is_bad = async |plan: &Plan| {
        // What a failure leaves behind would be in the way of the next one.
        let scene = Scene::set_up().await?;
        println!("{plan}");
        let line = perform(&scene, plan, &at, false).await?;
        println!("{}", line.sentence());
        anyhow::Ok(!line.violations.is_empty())
    };
    if !is_bad(&plan).await? {
        println!("nothing is violated");
        return Ok(0);
    }
    'smaller: loop {
        for candidate in smaller(&plan).collect::<Vec<_>>() {
            if is_bad(&candidate).await? {
                plan = candidate;
                continue 'smaller;
            }
        }
        println!("least that fails:\n{plan}");
        return Ok(EXIT_VIOLATION);
    }
}

async fn kill_system(args: &SystemArgs) -> anyhow::Result<u8> {
    let SystemArgs { seed, orders, rounds, clients, rate, dry_run } = *args;
    let size = system::plan::Size { orders, rate, clients, rounds };
    if orders < size.least_orders() {
        let least = size.least_orders();
        eprintln!("error: {rounds} rounds of six kills need at least {least} orders; see --help");
        return Ok(EXIT_WRONG_USE);
    }
    let plan = system::plan::Plan::of(seed, size);
    if dry_run {
        println!("{plan}");
        return Ok(0);
    }
    let at = folder().join(format!("system-{seed}"));
    let violations = system::perform(&plan, &at).await;
    let violations = violations.with_context(|| format!("not judged; logs: {}", at.display()))?;
    if violations.is_empty() {
        println!("proven");
        return Ok(0);
    }
    println!("VIOLATED");
    for violation in &violations {
        println!("  {violation}");
    }
    println!(
        "  logs: {}; again: faults system --seed {seed} --orders {orders} --rounds {rounds} --clients {clients} --rate {rate}",
        at.display()
    );
    Ok(EXIT_VIOLATION)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
