//! What the runs came to.

use std::io::Write as _;

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::contender::{Contender, Run};
use crate::series::spread;

#[derive(Serialize)]
pub(crate) struct Report {
    events: u64,
    /// With what: the best ceiling, or the first contender if none took part.
    compared_with: String,
    contenders: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    contender: String,
    /// Events a second, the median.
    rate: f64,
    /// (most - least) / median.
    spread: f64,
    /// Of the rate of what it is compared with.
    ratio: f64,
    runs: Vec<Run>,
}

impl Report {
    pub(crate) fn of(contenders: &[Contender], runs: &[Vec<Run>], events: u64) -> Self {
        let rate = |runs: &[Run]| spread(runs.iter().map(Run::rate));
        let best = contenders
            .iter()
            .zip(runs)
            .filter(|(contender, _)| contender.is_ceiling())
            .map(|(_, runs)| rate(runs).median)
            .max_by(f64::total_cmp);
        let (compared_with, reference) = match (best, contenders.first().zip(runs.first())) {
            (Some(best), _) => ("ceiling".to_owned(), best),
            (None, Some((first, runs))) => (first.name(), rate(runs).median),
            (None, None) => (String::new(), f64::NAN),
        };
        let line = |(contender, runs): (&Contender, &Vec<Run>)| {
            let of_it = rate(runs);
            Line {
                contender: contender.name(),
                rate: of_it.median,
                spread: of_it.spread,
                ratio: of_it.median / reference,
                runs: runs.clone(),
            }
        };
        Self { events, compared_with, contenders: contenders.iter().zip(runs).map(line).collect() }
    }

    pub(crate) fn print(&self, as_json: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if as_json {
            serde_json::to_writer_pretty(&mut out, self)?;
            writeln!(out)?;
        } else {
            writeln!(out, "{}", self.table())?;
            if let Some(lanes) = self.lanes() {
                writeln!(out, "\nWhere the lanes' time goes, in %:\n\n{lanes}")?;
            }
        }
        Ok(())
    }

    /// What the lanes did; `None` if nobody has lanes.
    fn lanes(&self) -> Option<Table> {
        let with_lanes = || {
            self.contenders.iter().filter_map(|line| {
                let run = line.runs.first().filter(|run| !run.lane_seconds.is_empty())?;
                Some((line, run.lane_seconds.keys()))
            })
        };
        let (_, phases) = with_lanes().next()?;
        let phases: Vec<&String> = phases.collect();
        let mut table = Table::new();
        let header = std::iter::once("contender").chain(phases.iter().map(|phase| phase.as_str()));
        table.load_style(ASCII_MARKDOWN).set_header(header);
        for (line, _) in with_lanes() {
            let share = |phase: &&String| {
                let of_run = |run: &Run| {
                    let all: f64 = run.lane_seconds.values().sum();
                    run.lane_seconds.get(*phase).map_or(0.0, |seconds| seconds / all)
                };
                format!("{:.0}", spread(line.runs.iter().map(of_run)).median * 100.0)
            };
            let name = std::iter::once(line.contender.clone());
            table.add_row(name.chain(phases.iter().map(share)));
        }
        Some(figures_right(table))
    }

    fn header(&self) -> [String; 11] {
        let compared = format!("of {}", self.compared_with);
        HEADER.map(|name| if name == "ratio" { compared.clone() } else { name.to_owned() })
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(ASCII_MARKDOWN).set_header(self.header());
        for line in &self.contenders {
            let median = |of: fn(&Run) -> f64| spread(line.runs.iter().map(of)).median;
            let million = |of: fn(&Run) -> f64| {
                format!("{:.1}", median(of) * 1e6 / median(|run| run.events as f64))
            };
            let each = |of: fn(&Run) -> f64| {
                format!("{:.0}", median(of) / median(|run| run.events as f64))
            };
            table.add_row([
                line.contender.clone(),
                format!("{:.0}", line.rate),
                format!("{:.0} %", line.spread * 100.0),
                format!("{:.2}", line.ratio),
                million(|run| run.usage.contender_cpu),
                million(|run| run.usage.postgres_cpu),
                million(|run| run.usage.kafka_cpu),
                format!("{:.0}", median(|run| run.usage.peak_mib as f64)),
                each(|run| run.usage.wal_bytes as f64),
                each(|run| run.usage.table_bytes as f64),
                each(|run| run.usage.index_bytes as f64),
            ]);
        }
        figures_right(table)
    }
}

/// All columns but the first hold figures.
fn figures_right(mut table: Table) -> Table {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

const HEADER: [&str; 11] = [
    "contender",
    "events/s",
    "spread",
    "ratio",
    "CPU s/million",
    "PostgreSQL",
    "Kafka",
    "peak MiB",
    "WAL B/event",
    "tables",
    "indexes",
];
