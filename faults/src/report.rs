//! The results file, a line of JSON a plan, and the table made of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::plan::Plan;

/// What became of one plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Of the sources that were attacked; `-dirty` if they are not committed.
    pub engine: String,
    /// The commit it ran on.
    pub commit: String,
    /// The plan's.
    pub seed: u64,
    /// Names, those of the load included.
    pub kinds: Vec<String>,
    /// From healing until the database was past what was in the log then.
    pub recoveries: Vec<Recovery>,
    /// Kinds that this machine refuses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<String>,
    /// Named points that processes came to.
    #[serde(default)]
    pub points: Vec<String>,
    /// The most resident memory of any program.
    pub peak_mib: u64,
    /// Of the whole plan.
    pub seconds: f64,
    /// What may not be and was. None: all is proven.
    pub violations: Vec<String>,
}

/// How one fault was recovered from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recovery {
    /// Of the fault.
    pub kind: String,
    /// What exactly.
    pub what: String,
    /// `None`: it was not.
    pub seconds: Option<f64>,
}

impl Line {
    /// Nothing has happened yet.
    pub fn of(plan: &Plan) -> Self {
        Self { seed: plan.seed, kinds: plan.kinds(), ..Self::default() }
    }

    /// In a word.
    pub fn verdict(&self) -> &'static str {
        if self.violations.is_empty() { "proven" } else { "VIOLATED" }
    }

    /// For a terminal.
    pub fn sentence(&self) -> String {
        let recoveries: Vec<String> = self
            .recoveries
            .iter()
            .map(|recovery| match recovery.seconds {
                Some(seconds) => format!("{} {seconds} s", recovery.kind),
                None => format!("{} never", recovery.kind),
            })
            .collect();
        let mut text = format!(
            "seed {:>4}  {}  {:>5.1} s  {:>3} MiB  recovered: {}",
            self.seed,
            self.verdict(),
            self.seconds,
            self.peak_mib,
            recoveries.join(", ")
        );
        if !self.skipped.is_empty() {
            let _ = write!(text, "; skipped: {}", self.skipped.join(", "));
        }
        text
    }
}

/// The lines of a results file. None if there is no file.
pub fn read(file: &Path) -> anyhow::Result<Vec<Line>> {
    let text = match std::fs::read_to_string(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.with_context(|| format!("cannot read {}", file.display()))?,
    };
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// Appends a line. Lines of another engine leave the file: what they proved is of that one.
pub fn append(file: &Path, line: &Line) -> anyhow::Result<()> {
    let mut lines = read(file)?;
    lines.retain(|other| other.engine == line.engine);
    lines.push(line.clone());
    let texts = lines.iter().map(|line| Ok(serde_json::to_string(line)? + "\n"));
    let text: String = texts.collect::<anyhow::Result<_>>()?;
    let new = file.with_extension("new");
    std::fs::write(&new, text)?;
    Ok(std::fs::rename(new, file)?)
}

/// Of which sources the programs are made, and the commit.
pub fn engine() -> anyhow::Result<(String, String)> {
    const SOURCES: [&str; 5] = [
        "idempotent-consumer/src",
        "order-consumer/src",
        "order-producer/src",
        "order-events/src",
        "migrations",
    ];
    let git = |arguments: &[&str]| -> anyhow::Result<String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut git = std::process::Command::new("git");
        let output = git.args(arguments).args(["--"]).args(SOURCES).current_dir(root).output()?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    let commit = git(&["log", "-1", "--format=%h"])?;
    let dirty = if git(&["status", "--porcelain"])?.is_empty() { "" } else { "-dirty" };
    // FNV-1a over the trees' names: short, and the same everywhere.
    let trees = git(&["ls-tree", "HEAD"])?;
    let hash = trees.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Ok((format!("{hash:016x}{dirty}"), commit))
}

/// Faults against runs, as Markdown.
pub fn table(lines: &[Line]) -> String {
    #[derive(Default)]
    struct Row {
        runs: usize,
        skipped: usize,
        violated: usize,
        seconds: Vec<f64>,
    }
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    for line in lines {
        for kind in &line.kinds {
            let row = rows.entry(kind).or_default();
            if line.skipped.contains(kind) {
                row.skipped += 1;
                continue;
            }
            row.runs += 1;
            row.violated += usize::from(!line.violations.is_empty());
        }
        for recovery in &line.recoveries {
            rows.entry(&recovery.kind).or_default().seconds.extend(recovery.seconds);
        }
    }
    let violated = lines.iter().filter(|line| !line.violations.is_empty()).count();
    let peak = lines.iter().map(|line| line.peak_mib).max().unwrap_or(0);
    let mut text = format!(
        "{} plans, {violated} with a violation; most resident memory {peak} MiB.\n\n\
         | fault | plans | violated | skipped | median recovery | worst |\n\
         | --- | ---: | ---: | ---: | ---: | ---: |\n",
        lines.len()
    );
    for (kind, row) in &mut rows {
        row.seconds.sort_by(f64::total_cmp);
        let at = |at: usize| row.seconds.get(at).map_or("–".to_owned(), |s| format!("{s:.1} s"));
        let (median, worst) = (at(row.seconds.len() / 2), at(row.seconds.len().wrapping_sub(1)));
        let Row { runs, violated, skipped, .. } = row;
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "| {kind} | {runs} | {violated} | {skipped} | {median} | {worst} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seed: u64, engine: &str, seconds: Option<f64>) -> Line {
        let recovery = Recovery { kind: "disk-full".into(), what: String::new(), seconds };
        Line {
            engine: engine.into(),
            recoveries: vec![recovery],
            kinds: vec!["disk-full".into()],
            violations: if seconds.is_none() { vec!["no end".into()] } else { Vec::new() },
            ..Line::of(&Plan::of(seed))
        }
    }

    #[test]
    fn a_changed_engine_starts_anew() {
        let file = std::env::temp_dir().join(format!("faults-{}.jsonl", std::process::id()));
        for (seed, engine) in [(1, "a"), (2, "a"), (3, "b")] {
            append(&file, &line(seed, engine, Some(1.0))).unwrap();
        }
        let lines = read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(lines, [line(3, "b", Some(1.0))]);
    }

    #[test]
    fn what_was_skipped_or_never_recovered_from_counts_as_such() {
        let mut lines: Vec<Line> =
            [Some(1.0), Some(9.0), Some(2.0), None].map(|s| line(1, "a", s)).to_vec();
        lines.push(Line {
            skipped: vec!["disk-full".into()],
            recoveries: Vec::new(),
            ..line(5, "a", Some(0.0))
        });
        let table = table(&lines);
        assert!(table.contains("| disk-full | 4 | 1 | 1 | 2.0 s | 9.0 s |"), "{table}");
    }
}
