//! What the cells came to.

use std::fmt;
use std::io::Write as _;
use std::time::Duration;

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::catalog::OURS;
use crate::cli::{CompareOptions, Format};
use crate::fault::Fault;
use crate::html;
use crate::judge::{Facts, Verdict};
use crate::measure::Measures;

/// What became of a cell.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    Ran(Verdict),
    /// The fault cannot happen to the strategy.
    NotApplicable,
    /// A server is missing. Never a pass.
    Skipped,
    /// It could not be judged. Never a pass.
    Failed(String),
}

/// A cell.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) strategy: &'static str,
    pub(crate) fault: Fault,
    pub(crate) expected: Option<Verdict>,
    pub(crate) outcome: Outcome,
    pub(crate) facts: Option<Facts>,
    /// Transactions tried again.
    pub(crate) retries: u64,
    pub(crate) measures: Option<Measures>,
    pub(crate) extra_servers: &'static str,
    pub(crate) seconds: f64,
}

impl Line {
    /// Whether it is not what it should be.
    fn differs(&self) -> bool {
        match &self.outcome {
            Outcome::Ran(verdict) => Some(*verdict) != self.expected,
            Outcome::Failed(_) => true,
            Outcome::NotApplicable | Outcome::Skipped => false,
        }
    }

    /// In a few words, with figures.
    pub(crate) fn text(&self) -> String {
        let text = match &self.outcome {
            Outcome::Ran(verdict) => {
                self.facts.map_or_else(|| verdict.to_string(), |facts| facts.to_string())
            }
            Outcome::NotApplicable => "-".to_owned(),
            Outcome::Skipped => "skipped".to_owned(),
            Outcome::Failed(_) => "failed".to_owned(),
        };
        if self.differs() { format!("{text} (!)") } else { text }
    }

    /// For the style of a page.
    pub(crate) fn class(&self) -> &'static str {
        match &self.outcome {
            _ if self.differs() => "differs",
            Outcome::Ran(verdict) if verdict.is_safe() => "safe",
            Outcome::Ran(_) => "unsafe",
            _ => "none",
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { strategy, fault, seconds, .. } = self;
        write!(f, "{strategy} under {}: {} ({seconds:.1} s)", fault.name(), self.text())?;
        if let (true, Some(expected)) = (self.differs(), self.expected) {
            write!(f, ", expected: {expected}")?;
        }
        if let (true, Some(facts)) = (self.differs(), self.facts) {
            write!(f, "; {facts:?}")?;
        }
        if let Outcome::Failed(why) = &self.outcome {
            write!(f, "; {why}")?;
        }
        Ok(())
    }
}

/// All cells.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) orders: u64,
    pub(crate) seconds: f64,
    /// Whether every verdict is as expected.
    pub(crate) as_expected: bool,
    /// Cells that say nothing, since a server is missing.
    pub(crate) skipped: usize,
    pub(crate) cells: Vec<Line>,
    #[serde(skip)]
    pub(crate) strategies: Vec<&'static str>,
    #[serde(skip)]
    pub(crate) faults: Vec<Fault>,
}

impl Report {
    pub(crate) fn of(options: &CompareOptions, mut cells: Vec<Line>, took: Duration) -> Self {
        let strategies: Vec<_> = options.strategies().iter().map(|entry| entry.name).collect();
        cells.sort_by_key(|line| {
            (strategies.iter().position(|name| *name == line.strategy), line.fault)
        });
        Self {
            orders: options.orders,
            seconds: took.as_secs_f64(),
            skipped: cells.iter().filter(|line| line.outcome == Outcome::Skipped).count(),
            as_expected: !cells.iter().any(Line::differs),
            cells,
            strategies,
            faults: options.faults(),
        }
    }

    pub(crate) fn differing(&self) -> impl Iterator<Item = &Line> {
        self.cells.iter().filter(|line| line.differs())
    }

    pub(crate) fn print(&self, format: Format) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        match format {
            Format::Table => {
                writeln!(out, "{}", self.verdicts())?;
                if let Some(costs) = self.costs() {
                    writeln!(out, "\nWithout a fault:\n\n{}", table(&COSTS, &costs))?;
                }
                writeln!(out, "\n{}", self.sentence())?;
            }
            Format::Json => {
                serde_json::to_writer_pretty(&mut out, self)?;
                writeln!(out)?;
            }
            Format::Html => write!(out, "{}", html::page(self))?,
        }
        Ok(())
    }

    pub(crate) fn sentence(&self) -> String {
        let judged =
            self.cells.iter().filter(|line| matches!(line.outcome, Outcome::Ran(_))).count();
        let skipped = self.skipped;
        let differing = self.differing().count();
        format!(
            "{judged} cells judged, {differing} not as expected, {skipped} skipped; {} orders under each \
             fault; {:.0} s.",
            self.orders, self.seconds
        )
    }

    pub(crate) fn of_strategy(&self, name: &str) -> impl Iterator<Item = &Line> {
        self.cells.iter().filter(move |line| line.strategy == name)
    }

    fn verdicts(&self) -> Table {
        let mut table = Table::new();
        let faults = self.faults.iter().map(|fault| fault.name());
        table.load_style(ASCII_MARKDOWN).set_header(std::iter::once("strategy").chain(faults));
        for strategy in &self.strategies {
            let verdicts = self.of_strategy(strategy).map(Line::text);
            table.add_row(std::iter::once((*strategy).to_owned()).chain(verdicts));
        }
        table
    }

    /// Rows under [`COSTS`]; `None` if nothing was measured.
    pub(crate) fn costs(&self) -> Option<Vec<[String; COSTS.len()]>> {
        let measured: Vec<(&Line, Measures)> =
            self.cells.iter().filter_map(|line| Some((line, line.measures?))).collect();
        let ours = measured.iter().find(|(line, _)| line.strategy == OURS).map(|(_, it)| it.rate);
        let row = |(line, it): &(&Line, Measures)| {
            let retries: u64 = self.of_strategy(line.strategy).map(|line| line.retries).sum();
            [
                line.strategy.to_owned(),
                ours.map_or("-".to_owned(), |ours| format!("{:.3}", it.rate / ours)),
                format!("{:.0}", it.rate),
                it.p99_ms.map_or("-".to_owned(), |p99_ms| format!("{p99_ms:.1}")),
                format!("{:.3}", it.transactions),
                format!("{:.2}", it.round_trips),
                retries.to_string(),
                line.extra_servers.to_owned(),
            ]
        };
        if measured.is_empty() { None } else { Some(measured.iter().map(row).collect()) }
    }
}

fn table(header: &[&str], rows: &[[String; COSTS.len()]]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    // All columns but the first hold figures.
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

pub(crate) const COSTS: [&str; 8] = [
    "strategy",
    "of unique-claim",
    "messages/s",
    "p99 ms",
    "transactions/message",
    "round trips/message",
    "retries, all faults",
    "extra servers",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn line(outcome: Outcome) -> Line {
        Line {
            strategy: "upsert",
            fault: Fault::Crash,
            expected: Some(Verdict { doubles_totals: true, ..Verdict::SAFE }),
            outcome,
            facts: None,
            retries: 0,
            measures: None,
            extra_servers: "-",
            seconds: 0.0,
        }
    }

    #[test]
    fn a_strategy_that_is_better_than_expected_differs_as_well() {
        let better = line(Outcome::Ran(Verdict::SAFE));
        assert!(better.differs());
        assert_eq!(better.text(), "safe (!)");
        assert!(better.to_string().ends_with("expected: doubles totals"), "{better}");
        assert!(!line(Outcome::Ran(Verdict { doubles_totals: true, ..Verdict::SAFE })).differs());
    }

    #[test]
    fn what_was_skipped_is_no_pass_and_what_failed_differs() {
        assert_eq!(line(Outcome::Skipped).text(), "skipped");
        assert_eq!(line(Outcome::Skipped).class(), "none");
        assert!(!line(Outcome::Skipped).differs());
        assert!(line(Outcome::Failed("no broker".into())).differs());
    }
}
