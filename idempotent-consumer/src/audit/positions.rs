//! Invariant 3: committed offset, `next_offset` and the log's end stand in this order, and the
//! counters of the database agree with its claims. Pure.

use std::collections::BTreeMap;

use super::merge::{Range, Ranges};
use super::report::Invariant;

/// A row of `partition_progress`.
#[derive(Clone, Debug, Default)]
pub(super) struct ProgressRow {
    pub(super) partition: i32,
    pub(super) topic_id: String,
    pub(super) next_offset: i64,
    /// Claims up to this transaction are of a log that an operator has given up.
    pub(super) accepted_batch_seq: i64,
    pub(super) counted: Outcomes,
}

/// Messages of a partition by their outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcomes {
    pub(super) applied: i64,
    pub(super) dead_lettered: i64,
    pub(super) skipped: i64,
}

impl Outcomes {
    /// How many are missing in `rest`; `None` if it has more of one kind.
    fn without(self, rest: Self) -> Option<u64> {
        let less = |all: i64, rest: i64| u64::try_from(all - rest).ok();
        Some(
            less(self.applied, rest.applied)?
                + less(self.dead_lettered, rest.dead_lettered)?
                + less(self.skipped, rest.skipped)?,
        )
    }
}

impl std::fmt::Display for Outcomes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { applied, dead_lettered, skipped } = self;
        write!(f, "{applied} applied, {dead_lettered} dead-lettered, {skipped} skipped")
    }
}

/// Offsets that the consumer noted as deleted before it could read them.
#[derive(Clone, Debug)]
pub(super) struct LostRange {
    pub(super) partition: i32,
    pub(super) from_offset: i64,
    pub(super) to_offset: i64,
}

/// Everything that positions are judged by.
pub(super) struct Positions<'a> {
    pub(super) topic_id: &'a str,
    pub(super) ranges: &'a Ranges,
    pub(super) progress: &'a [ProgressRow],
    /// What the group has committed in Kafka, by partition, read before the snapshot.
    pub(super) committed: &'a [Option<i64>],
    /// The first record of each partition that is not consumed.
    pub(super) first_unconsumed: &'a BTreeMap<i32, i64>,
    /// Rows of `processed_messages` by partition.
    pub(super) claimed: &'a BTreeMap<i32, Outcomes>,
    pub(super) lost: &'a [LostRange],
    /// Whether claims were ever purged.
    pub(super) is_purged: bool,
}

impl Positions<'_> {
    /// Checks; returns how many outcomes were counted whose claims have been purged.
    pub(super) fn check(&self, findings: &mut Invariant) -> u64 {
        let topic = &self.ranges.topic;
        for row in self.progress {
            findings.checked += 1;
            let partition = row.partition;
            match self.ranges.get(partition) {
                None if self.ranges.given_up.contains_key(&partition) => {}
                None => findings.violation(|| {
                    format!(
                        "{topic}[{partition}] has next_offset {} in the database, but the topic \
                         has no such partition",
                        row.next_offset
                    )
                }),
                Some(_) if row.topic_id != self.topic_id => findings.violation(|| {
                    format!(
                        "{topic}[{partition}]: the topic was created anew: the database is at \
                         offset {} of the topic with id {}, but the topic of that name has the id \
                         {} now",
                        row.next_offset, row.topic_id, self.topic_id
                    )
                }),
                Some(range) => self.check_range(row, range, findings),
            }
        }
        for (partition, committed) in (0..).zip(self.committed) {
            if let Some(committed) = committed {
                findings.checked += 1;
                self.check_committed(partition, *committed, findings);
            }
        }
        for LostRange { partition, from_offset, to_offset } in self.lost {
            findings.violation(|| {
                format!(
                    "{topic}[{partition}]: the offsets {from_offset} to {} were deleted before \
                     the consumer read them",
                    to_offset - 1
                )
            });
        }
        self.check_counters(findings)
    }

    fn check_range(&self, row: &ProgressRow, range: &Range, findings: &mut Invariant) {
        let (topic, partition, next) = (&self.ranges.topic, row.partition, row.next_offset);
        if next > range.end {
            findings.violation(|| {
                format!(
                    "{topic}[{partition}]: next_offset {next} is beyond the log's end {}",
                    range.end
                )
            });
        }
        if next < range.start {
            findings.violation(|| {
                format!(
                    "{topic}[{partition}]: the offsets {next} to {} were deleted before the \
                     consumer read them",
                    range.start - 1
                )
            });
        }
    }

    /// That the committed offset is ahead by transaction markers alone harms nobody: what counts
    /// is whether a consumer that starts there passes over a record.
    fn check_committed(&self, partition: i32, committed: i64, findings: &mut Invariant) {
        let topic = &self.ranges.topic;
        let Some(range) = self.ranges.get(partition).filter(|range| range.comparable) else {
            return;
        };
        if committed > range.end {
            findings.violation(|| {
                format!(
                    "{topic}[{partition}]: the committed offset {committed} is beyond the log's \
                     end {}",
                    range.end
                )
            });
        } else if let Some(first) =
            self.first_unconsumed.get(&partition).filter(|first| **first < committed)
        {
            let next = range.next_offset.map_or("absent".to_owned(), |next| next.to_string());
            findings.violation(|| {
                format!(
                    "{topic}[{partition}]: the committed offset {committed} is ahead of the \
                     record at offset {first}, which the database has not consumed (next_offset \
                     {next})"
                )
            });
        }
    }

    /// Each transaction counts its outcomes in the same row that moves `next_offset`.
    fn check_counters(&self, findings: &mut Invariant) -> u64 {
        let mut purged = 0;
        let counted: BTreeMap<i32, Outcomes> =
            self.progress.iter().map(|row| (row.partition, row.counted)).collect();
        let mut partitions: Vec<_> = counted.keys().chain(self.claimed.keys()).collect();
        partitions.sort_unstable();
        partitions.dedup();
        for partition in partitions {
            let of =
                |map: &BTreeMap<i32, Outcomes>| map.get(partition).copied().unwrap_or_default();
            let (counted, claimed) = (of(&counted), of(self.claimed));
            findings.checked += 1;
            let gone = counted.without(claimed).filter(|gone| *gone == 0 || self.is_purged);
            if let Some(gone) = gone {
                purged += gone;
            } else {
                findings.violation(|| {
                    format!(
                        "{}[{partition}]: transactions counted {counted}; processed_messages has \
                         {claimed}",
                        self.ranges.topic
                    )
                });
            }
        }
        purged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One partition: log 10..100, next_offset 50, committed 50, record 50 is the next.
    fn examples(
        change: impl FnOnce(&mut Range, &mut ProgressRow, &mut Option<i64>),
    ) -> Vec<String> {
        check(false, change).0
    }

    fn check(
        is_purged: bool,
        change: impl FnOnce(&mut Range, &mut ProgressRow, &mut Option<i64>),
    ) -> (Vec<String>, u64) {
        let mut range = Range { start: 10, end: 100, comparable: true, ..Range::default() };
        let mut row = ProgressRow {
            topic_id: "id".to_owned(),
            next_offset: 50,
            counted: Outcomes { applied: 40, ..Outcomes::default() },
            ..ProgressRow::default()
        };
        let mut committed = Some(50);
        change(&mut range, &mut row, &mut committed);
        range.next_offset = Some(row.next_offset);
        let ranges =
            Ranges { topic: "t".to_owned(), by_partition: vec![range], ..Ranges::default() };
        let mut findings = Invariant::new(3, "positions", "…", 10);
        let purged = Positions {
            topic_id: "id",
            ranges: &ranges,
            progress: &[row],
            committed: &[committed],
            first_unconsumed: &BTreeMap::from([(0, 50)]),
            claimed: &BTreeMap::from([(0, Outcomes { applied: 40, ..Outcomes::default() })]),
            lost: &[],
            is_purged,
        }
        .check(&mut findings);
        assert_eq!(findings.violations, findings.examples.len() as u64);
        (findings.examples, purged)
    }

    fn one(change: impl FnOnce(&mut Range, &mut ProgressRow, &mut Option<i64>), text: &str) {
        let examples = examples(change);
        assert!(matches!(&examples[..], [one] if one.contains(text)), "{examples:?}");
    }

    #[test]
    fn positions_in_their_order_hold_with_or_without_a_committed_offset() {
        assert_eq!(examples(|_, _, _| {}), Vec::<String>::new());
        assert_eq!(examples(|_, _, committed| *committed = None), Vec::<String>::new());
        assert_eq!(examples(|_, _, committed| *committed = Some(7)), Vec::<String>::new());
    }

    #[test]
    fn a_committed_offset_ahead_of_a_record_that_is_not_consumed_is_found() {
        one(|_, _, committed| *committed = Some(51), "ahead of the record at offset 50");
        one(|_, _, committed| *committed = Some(101), "beyond the log's end 100");
    }

    #[test]
    fn a_position_outside_the_log_is_found() {
        one(|_, row, _| row.next_offset = 101, "beyond the log's end 100");
        one(|range, _, _| range.start = 60, "offsets 50 to 59 were deleted");
    }

    #[test]
    fn a_topic_created_anew_is_told_in_words() {
        one(|_, row, _| row.topic_id = "old".to_owned(), "created anew");
    }

    #[test]
    fn claims_that_no_transaction_counted_are_found() {
        one(|_, row, _| row.counted.applied = 39, "counted 39 applied");
    }

    #[test]
    fn claims_that_are_missing_are_found_unless_claims_were_purged() {
        one(|_, row, _| row.counted.applied = 43, "counted 43 applied");
        assert_eq!(check(true, |_, row, _| row.counted.applied = 43), (Vec::new(), 3));
        let (examples, _) = check(true, |_, row, _| row.counted.applied = 39);
        assert_eq!(examples.len(), 1, "a purge makes none");
    }
}
