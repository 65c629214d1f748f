//! What an audit found. Pure.

use serde::Serialize;

/// How many examples of each invariant are kept unless [`AuditConfig`](super::AuditConfig) says
/// otherwise.
pub const DEFAULT_EXAMPLES: usize = 10;

/// One invariant and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Invariant {
    /// 1 to 5, as in the documentation.
    pub number: u8,
    /// Short name, stable.
    pub name: &'static str,
    /// What has to be true, as a sentence.
    pub sentence: &'static str,
    /// How many things were looked at.
    pub checked: u64,
    /// How many of them break the invariant.
    pub violations: u64,
    /// The first of the violations: what, and where.
    pub examples: Vec<String>,
    /// What a reader should know and what breaks nothing.
    pub notes: Vec<String>,
    #[serde(skip)]
    examples_max: usize,
}

impl Invariant {
    /// Nothing checked yet.
    pub fn new(
        number: u8,
        name: &'static str,
        sentence: &'static str,
        examples_max: usize,
    ) -> Self {
        Self {
            number,
            name,
            sentence,
            checked: 0,
            violations: 0,
            examples: Vec::new(),
            notes: Vec::new(),
            examples_max,
        }
    }

    /// Counts a violation; `example` is only asked for while examples are wanted.
    pub fn violation(&mut self, example: impl FnOnce() -> String) {
        self.violations += 1;
        if self.examples.len() < self.examples_max {
            self.examples.push(example());
        }
    }

    /// Something to know that breaks nothing.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }
}

/// How much of what was counted.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Tally {
    /// Records of the topic that were read.
    pub records: u64,
    /// Outcomes of these records.
    pub applied: u64,
    /// See [`applied`](Self::applied).
    pub dead_lettered: u64,
    /// See [`applied`](Self::applied).
    pub skipped: u64,
    /// Records whose message has its outcome at another record.
    pub duplicates: u64,
    /// Records that the consumer has not come to.
    pub unconsumed: u64,
    /// Records whose message waits in the retry queue.
    pub waiting: u64,
    /// Rows that wait in the outbox.
    pub outbox: u64,
}

/// The result of an audit.
#[derive(Clone, Debug, Serialize)]
pub struct AuditReport {
    /// Topic that was audited.
    pub topic: String,
    /// Group whose effects were audited.
    pub consumer_group: String,
    /// In the order of their numbers.
    pub invariants: Vec<Invariant>,
    /// What was counted.
    pub tally: Tally,
    /// What the log no longer reaches back to. Neither fine nor wrong.
    pub not_provable: u64,
    /// What is still on its way: records not consumed, the retry queue, and the outbox.
    pub pending: u64,
    /// Seconds the audit took.
    pub seconds: f64,
}

impl AuditReport {
    /// Whether no invariant is broken.
    pub fn holds(&self) -> bool {
        self.violations() == 0
    }

    /// Violations of all invariants.
    pub fn violations(&self) -> u64 {
        self.invariants.iter().map(|invariant| invariant.violations).sum()
    }

    /// The verdict in a sentence, without claiming more than was proved.
    pub fn verdict(&self) -> String {
        if !self.holds() {
            return match self.violations() {
                1 => "the promise is broken: 1 violation".to_owned(),
                count => format!("the promise is broken: {count} violations"),
            };
        }
        let mut verdict = "every acknowledged event has exactly one outcome".to_owned();
        if self.tally.unconsumed > 0 {
            verdict = format!(
                "every acknowledged event that was consumed has exactly one outcome; \
                 {} are not consumed yet",
                self.tally.unconsumed
            );
        }
        if self.tally.waiting > 0 {
            verdict.push_str("; ");
            verdict.push_str(&self.tally.waiting.to_string());
            verdict.push_str(" of them will get it in another attempt");
        }
        if self.not_provable > 0 {
            verdict.push_str("; ");
            verdict.push_str(&self.not_provable.to_string());
            verdict.push_str(" are older than the log and cannot be proved");
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(violations: u64, unconsumed: u64, not_provable: u64) -> AuditReport {
        let mut invariant = Invariant::new(1, "outcomes", "…", 2);
        for _ in 0..violations {
            invariant.violation(|| "x".to_owned());
        }
        AuditReport {
            topic: "t".to_owned(),
            consumer_group: "g".to_owned(),
            invariants: vec![invariant],
            tally: Tally { unconsumed, ..Tally::default() },
            not_provable,
            pending: unconsumed,
            seconds: 0.0,
        }
    }

    #[test]
    fn the_verdict_claims_no_more_than_was_proved() {
        assert_eq!(report(0, 0, 0).verdict(), "every acknowledged event has exactly one outcome");
        assert!(report(0, 3, 0).verdict().contains("3 are not consumed yet"));
        assert!(report(0, 0, 4).verdict().contains("4 are older than the log"));
        assert!(report(1, 0, 4).verdict().contains("broken: 1 violation"));
        assert!(report(0, 3, 4).holds() && !report(1, 0, 0).holds());
    }

    #[test]
    fn every_violation_is_counted_and_only_the_first_are_told() {
        let report = report(5, 0, 0);
        assert_eq!((report.violations(), report.invariants[0].examples.len()), (5, 2));
    }
}
