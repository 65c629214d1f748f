//! The first proof: orders in, a consumer killed half way, and each order applied exactly once.

mod children;
mod queries;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Parser;
use local_stack::{Endpoints, Options, Stack};
use sqlx::PgPool;
use tokio::signal::unix::{SignalKind, signal};

use crate::children::Programs;

/// Starts Kafka and PostgreSQL, sends orders, kills a consumer half way, and proves the outcome
#[derive(Parser)]
#[command(
    name = "demo",
    after_help = "Exit codes: 0 every invariant holds, 1 failed, 2 wrong use, 3 an invariant is violated."
)]
struct Args {
    /// Leave the servers running afterwards, and say how to go on by hand
    #[arg(long)]
    keep: bool,

    /// Messages to send: 10 % of them duplicates, 0.5 % poison
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    orders: u32,
}

/// How long any step may take before the demo gives up on it.
const PATIENCE: Duration = Duration::from_mins(1);

/// Messages per second: fast enough not to bore, slow enough that half way is a moment in time.
const RATE: u32 = 2_500;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let ended = tokio::select! {
        ended = run(&args) => ended,
        signal = interrupted() => signal.and_then(|()| bail!("interrupted; everything is stopped")),
    };
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

async fn run(args: &Args) -> anyhow::Result<u8> {
    say("building order-producer and order-consumer");
    let programs = Programs::build().await?;
    let begun = Instant::now();

    say("starting Kafka and PostgreSQL");
    let options = if args.keep { Options::named("demo") } else { Options::private("demo") };
    // Blocks, also for a download, so not on a thread that has to see ctrl-C.
    let stack = tokio::task::spawn_blocking(move || Stack::start(options)).await??;
    let endpoints = stack.endpoints().clone();
    done(begun);
    let ended = prove(args, &programs, &endpoints, stack.folder()).await;

    if args.keep && ended.is_ok() {
        let endpoints = stack.detach()?;
        how_to_go_on(&programs, &endpoints);
    } else {
        say("stopping Kafka and PostgreSQL");
        tokio::task::spawn_blocking(move || drop(stack)).await?;
    }
    let code = ended?;
    println!(
        "\n{} Everything above took {:.0} s.",
        if code == 0 { "Each order exactly once." } else { "An invariant is violated, see above." },
        begun.elapsed().as_secs_f64()
    );
    Ok(code)
}

/// The proof itself; whatever it starts has ended when it returns.
async fn prove(
    args: &Args,
    programs: &Programs,
    endpoints: &Endpoints,
    folder: &Path,
) -> anyhow::Result<u8> {
    let manifest: PathBuf = folder.join("manifest.ndjson");
    let manifest = manifest.to_str().context("the stack's folder has a name that is not text")?;

    say("creating the tables (order-consumer migrate)");
    programs.consumer(endpoints).args(["migrate"]).quiet().await?;
    let pool = PgPool::connect(&endpoints.database_url).await?;

    say("starting two consumers");
    let mut first = programs.consumer(endpoints).run_in(folder, "consumer-1.log")?;
    let mut second = programs.consumer(endpoints).run_in(folder, "consumer-2.log")?;
    let shares = wait_for(&pool, |progress| progress.owners == 2, &mut [&mut first, &mut second])
        .await
        .context("the two consumers did not share the partitions")?;
    println!(
        "   process {} and process {} share {} partitions",
        first.pid(),
        second.pid(),
        shares.partitions
    );

    let orders = args.orders.to_string();
    say(&format!("sending {orders} messages, 10 % of them duplicates, 0.5 % poison"));
    let rate = RATE.max(args.orders / 20).to_string();
    let load = programs
        .producer(endpoints)
        .args(["load", "--orders", &orders, "--duplicates", "10", "--poison", "0.5"])
        .args(["--rate", &rate, "--manifest", manifest])
        .quiet();
    let half = i64::from(args.orders) / 2;
    let kill = async {
        wait_for(&pool, |progress| progress.ended >= half, &mut [&mut first, &mut second]).await
    };
    let (loaded, killed) = tokio::join!(load, kill);
    let at = killed.context("half of the messages were not worked off")?;
    say(&format!("half way, at {} messages: SIGKILL to process {}", at.ended, first.pid()));
    first.kill().await?;
    loaded?;

    say("the other one takes over, and the auditor waits until nothing is left");
    let verify = ["verify", "--wait", "60s", "--manifest", manifest];
    let audit = programs.consumer(endpoints).args(verify).captured().await?;

    command("order-consumer status");
    programs.consumer(endpoints).args(["status"]).shown().await?;
    command(&format!("order-consumer {}", verify.join(" ")));
    print!("{}", audit.text);
    queries::show(&pool).await?;

    say("stopping the other consumer (SIGTERM)");
    println!("   {}", second.terminate(PATIENCE).await?.trim_end());
    pool.close().await;
    Ok(audit.code)
}

struct Progress {
    ended: i64,
    owners: i64,
    partitions: i64,
}

/// Polls progress until it is as wanted.
async fn wait_for(
    pool: &PgPool,
    wanted: impl Fn(&Progress) -> bool,
    running: &mut [&mut children::Consumer],
) -> anyhow::Result<Progress> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (ended, owners, partitions) = sqlx::query_as(
            r"
            SELECT coalesce(sum(applied + duplicates + dead_lettered), 0)::bigint,
                   count(DISTINCT split_part(owner, '-', 1)) FILTER (WHERE owner <> ''),
                   count(*)
              FROM partition_progress
            ",
        )
        .fetch_one(pool)
        .await?;
        let progress = Progress { ended, owners, partitions };
        if wanted(&progress) {
            return Ok(progress);
        }
        for consumer in running.iter_mut() {
            consumer.check()?;
        }
        if Instant::now() > deadline {
            bail!("nothing changed within {} s", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn how_to_go_on(programs: &Programs, endpoints: &Endpoints) {
    println!(
        "
The servers are still there. To go on by hand:

  export KAFKA_BOOTSTRAP_SERVERS={}
  export DATABASE_URL={}
  export PATH={}:$PATH

  order-consumer run &                                   # applies what comes
  order-producer send --customer c-17 --item TEA-1:2:450
  order-consumer show ORDER_ID                           # with the id that send printed
  order-consumer verify --wait 10s
  psql \"$DATABASE_URL\"

  cargo stack down --name demo --remove-data             # ends it",
        endpoints.bootstrap_servers,
        endpoints.database_url,
        programs.folder().display(),
    );
}

fn say(what: &str) {
    heading("==>", what);
}

fn command(what: &str) {
    println!();
    heading("$", what);
}

fn heading(mark: &str, what: &str) {
    let plain = std::env::var_os("NO_COLOR").is_some() || !std::io::stdout().is_terminal();
    if plain {
        println!("{mark} {what}");
    } else {
        println!("\x1b[1m{mark} {what}\x1b[0m");
    }
    // The commands write to the same stream.
    let _ = std::io::stdout().flush();
}

fn done(begun: Instant) {
    println!("   ready after {:.1} s", begun.elapsed().as_secs_f64());
}
