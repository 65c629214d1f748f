//! The command line.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::catalog::{self, Entry};
use crate::cell::Size;
use crate::compare;
use crate::engine::{self, EngineOptions};
use crate::fault::Fault;

/// Compares ways to consume exactly once, on a stack of its own
#[derive(Parser)]
#[command(
    name = "strategies",
    after_help = "Exit codes: 0 every verdict is as expected, 1 one differs or could not be had, 2 wrong use."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs each strategy under each fault, and compares what came of it with what is expected
    Compare(CompareOptions),
    /// Lists strategies and faults
    List,
    /// The engine, as a process of its own
    #[command(hide = true)]
    Engine(EngineOptions),
}

#[derive(Args)]
pub(crate) struct CompareOptions {
    /// Orders under each fault; without a fault four times as many, and eighty times for unique-claim
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(60..=3_000))]
    pub(crate) orders: u64,
    /// Only these strategies
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = strategy)]
    only: Vec<String>,
    /// Only these faults
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_enum)]
    fault: Vec<Fault>,
    /// How results are printed
    #[arg(short, long, value_enum, default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
    Html,
}

impl CompareOptions {
    pub(crate) fn size(&self) -> Size {
        Size::of(self.orders)
    }

    pub(crate) fn strategies(&self) -> Vec<Entry> {
        let is_wanted =
            |entry: &Entry| self.only.is_empty() || self.only.iter().any(|it| it == entry.name);
        catalog::all().into_iter().filter(is_wanted).collect()
    }

    pub(crate) fn faults(&self) -> Vec<Fault> {
        let is_wanted = |fault: &Fault| self.fault.is_empty() || self.fault.contains(fault);
        Fault::ALL.into_iter().filter(is_wanted).collect()
    }
}

fn strategy(name: &str) -> Result<String, String> {
    if catalog::all().iter().any(|entry| entry.name == name) {
        Ok(name.to_owned())
    } else {
        Err("no strategy has this name; see `strategies list`".to_owned())
    }
}

pub(crate) fn main() -> ExitCode {
    let command = Cli::parse().command;
    let done = tokio::runtime::Builder::new_multi_thread()
        // Calls of the Kafka client block.
        .worker_threads(16)
        .enable_all()
        .build()
        .context("no runtime")
        .and_then(|runtime| runtime.block_on(run(command)));
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all is as expected.
async fn run(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Compare(options) => compare::run(&options).await,
        Command::List => {
            for entry in catalog::all() {
                println!("{:<28} {}", entry.name, entry.what);
            }
            println!();
            for fault in Fault::ALL {
                let what =
                    fault.to_possible_value().and_then(|it| Some(it.get_help()?.to_string()));
                println!("{:<28} {}", fault.name(), what.unwrap_or_default());
            }
            Ok(true)
        }
        Command::Engine(options) => engine::run(options).await.map(|()| true),
    }
}
