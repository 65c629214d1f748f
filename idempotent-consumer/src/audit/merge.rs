//! The heart of invariant 1: the log and the claims, both by partition and offset, side by side.
//! Pure; whoever drives it brings the records and the rows.
//!
//! ```text
//!   log     41  42  43  44  45 │ 46        a record at or behind next_offset is not consumed yet
//!   claims  41  42      44  45 │           no claim at 43: a duplicate of a claim elsewhere, or lost
//!                 next_offset ─┘           a claim without a record: invented, or of a lost log
//! ```

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use super::report::{Invariant, Tally};
use crate::identity::{IdMode, id_of_conflict, identify};
use crate::message::{Fingerprint, MessageId, PartitionKey, Record};
use crate::outcome::Outcome;
use crate::window::time_ms;

/// A record with its identity.
pub(super) struct Seen {
    pub(super) record: Record,
    pub(super) id: MessageId,
    pub(super) fingerprint: Fingerprint,
}

impl Seen {
    pub(super) fn new(record: Record, topic_id: &str, id_mode: &IdMode) -> Self {
        let identity = identify(&record, topic_id, id_mode);
        Self { record, id: identity.id, fingerprint: identity.fingerprint }
    }

    fn place(&self) -> (i32, i64) {
        (self.record.source.partition, self.record.offset)
    }
}

/// A row of `processed_messages`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClaimRow {
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) id: MessageId,
    pub(super) fingerprint: Fingerprint,
    pub(super) outcome: Outcome,
    pub(super) batch_seq: i64,
}

impl ClaimRow {
    fn place(&self) -> (i32, i64) {
        (self.partition, self.offset)
    }
}

/// What is known of a partition before its log is read.
#[derive(Clone, Debug, Default)]
pub(super) struct Range {
    /// The log reaches from here …
    pub(super) start: i64,
    /// … up to and without this offset, as a `read_committed` reader sees it.
    pub(super) end: i64,
    /// How far the database is; `None` if it has no row.
    pub(super) next_offset: Option<i64>,
    /// Whether the offsets in the database are those of this log, and not of one that was deleted.
    pub(super) comparable: bool,
    /// Claims up to this transaction were made before an operator accepted another log: where one
    /// does not fit a record of this log, that proves nothing.
    pub(super) accepted_batch_seq: i64,
    /// Below this offset everything has to be consumed, since it was waited for.
    pub(super) awaited: i64,
}

/// Every partition of the topic, by its number.
#[derive(Default)]
pub(super) struct Ranges {
    pub(super) topic: String,
    pub(super) by_partition: Vec<Range>,
    /// Partitions that the topic has no longer, which an operator has accepted. Their claims up to
    /// this transaction are not provable.
    pub(super) given_up: BTreeMap<i32, i64>,
}

impl Ranges {
    pub(super) fn get(&self, partition: i32) -> Option<&Range> {
        self.by_partition.get(usize::try_from(partition).ok()?)
    }

    fn has_given_up(&self, claim: &ClaimRow) -> bool {
        self.given_up.get(&claim.partition).is_some_and(|last| claim.batch_seq <= *last)
    }
}

/// What a record came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// The consumer has not come to it.
    Unconsumed,
    /// It has this claim.
    Claimed(ClaimRow),
    /// Its outcome, if it has any, is another record's: see [`Merge::take_unclaimed`].
    Elsewhere,
}

/// A record whose outcome has to be looked up by its id.
#[derive(Debug)]
pub(super) struct Unclaimed {
    pub(super) source: PartitionKey,
    pub(super) offset: i64,
    pub(super) id: MessageId,
    /// Under which it has an outcome if `id` belongs to another message.
    pub(super) conflict_id: MessageId,
    pub(super) fingerprint: Fingerprint,
    time_ms: Option<i64>,
    /// It was dead-lettered as a conflict, so another message must hold `id`.
    is_conflict: bool,
}

/// Partition, offset, id and fingerprint of a message in the retry queue.
pub(super) type Place = (i32, i64, MessageId, Fingerprint);

/// Walks log and claims.
pub(super) struct Merge {
    claims: VecDeque<ClaimRow>,
    exhausted: bool,
    unclaimed: Vec<Unclaimed>,
    pub(super) findings: Invariant,
    pub(super) tally: Tally,
    /// Claims whose records the log no longer has, and records whose claims were purged.
    pub(super) not_provable: u64,
    /// Claims of messages from before this moment may be gone. Milliseconds since 1970.
    purged_before_ms: Option<i64>,
}

impl Merge {
    pub(super) fn new(findings: Invariant, purged_before_ms: Option<i64>) -> Self {
        Self {
            claims: VecDeque::new(),
            exhausted: false,
            unclaimed: Vec::new(),
            findings,
            tally: Tally::default(),
            not_provable: 0,
            purged_before_ms,
        }
    }

    /// Whether more claims have to be fed before [`record`](Self::record) may be asked.
    pub(super) fn wants_claims(&self, seen: &Seen) -> bool {
        !self.exhausted && self.claims.back().is_none_or(|last| last.place() <= seen.place())
    }

    /// The next claims by partition and offset; none says that there are no more.
    pub(super) fn feed(&mut self, claims: Vec<ClaimRow>) {
        self.exhausted = claims.is_empty();
        self.claims.extend(claims);
    }

    /// Judges the next record by partition and offset.
    pub(super) fn record(&mut self, seen: &Seen, ranges: &Ranges) -> Judgement {
        debug_assert!(!self.wants_claims(seen), "claims at this record are still to come");
        let here = seen.place();
        self.tally.records += 1;
        while let Some(claim) = self.claims.pop_front_if(|claim| claim.place() < here) {
            self.without_record(&claim, ranges);
        }
        let range = ranges.get(here.0);
        let consumed =
            range.and_then(|range| range.next_offset).is_some_and(|next| seen.record.offset < next);
        let mut own = None;
        while let Some(claim) = self.claims.pop_front_if(|claim| claim.place() == here) {
            let is_own = claim.fingerprint == seen.fingerprint
                && (claim.id == seen.id || claim.id == id_of_conflict(seen.id, seen.fingerprint));
            let of_another_log =
                range.is_some_and(|range| claim.batch_seq <= range.accepted_batch_seq);
            if of_another_log && (!is_own || !consumed) {
                self.not_provable += 1;
                continue;
            }
            if !is_own || own.is_some() {
                self.foreign_claim(&claim, seen);
            } else {
                own = Some(claim);
            }
            if !consumed {
                self.claimed_ahead(&claim, range);
            }
        }
        if consumed {
            self.findings.checked += 1;
        } else {
            self.unconsumed(seen, range);
        }
        match own {
            Some(claim) => {
                match claim.outcome {
                    Outcome::Applied => self.tally.applied += 1,
                    Outcome::DeadLettered => self.tally.dead_lettered += 1,
                    Outcome::Skipped => self.tally.skipped += 1,
                }
                if claim.id != seen.id {
                    self.look_up(seen, true);
                }
                Judgement::Claimed(claim)
            }
            None if consumed => {
                self.look_up(seen, false);
                Judgement::Elsewhere
            }
            None => Judgement::Unconsumed,
        }
    }

    /// After the last record, once all claims are fed.
    pub(super) fn finish(&mut self, ranges: &Ranges) {
        while let Some(claim) = self.claims.pop_front() {
            self.without_record(&claim, ranges);
        }
    }

    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// How many records wait for [`take_unclaimed`](Self::take_unclaimed).
    pub(super) fn unclaimed_len(&self) -> usize {
        self.unclaimed.len()
    }

    /// The records whose ids have to be looked up now; [`resolve`](Self::resolve) takes them back.
    pub(super) fn take_unclaimed(&mut self) -> Vec<Unclaimed> {
        std::mem::take(&mut self.unclaimed)
    }

    /// Judges records by who holds their ids, and by whether they wait in the retry queue.
    pub(super) fn resolve(
        &mut self,
        unclaimed: &[Unclaimed],
        holders: &HashMap<MessageId, Fingerprint>,
        waiting: &HashSet<Place>,
        ranges: &Ranges,
    ) {
        for record in unclaimed {
            let partition = record.source.partition;
            let place = (partition, record.offset, record.id, record.fingerprint);
            if !record.is_conflict && waiting.contains(&place) {
                self.tally.waiting += 1;
                if ranges.get(partition).is_some_and(|range| record.offset < range.awaited) {
                    self.findings.violation(|| {
                        format!(
                            "{} offset {}: message {} still waits for another attempt",
                            record.source, record.offset, record.id
                        )
                    });
                }
                continue;
            }
            let holder = holders.get(&record.id);
            let at =
                || format!("{} offset {}: message {}", record.source, record.offset, record.id);
            if holder.is_none() && self.may_be_purged(record) {
                self.not_provable += 1;
            } else if record.is_conflict {
                if holder.is_none_or(|holder| *holder == record.fingerprint) {
                    self.findings.violation(|| {
                        format!(
                            "{} is dead-lettered as a conflict, but no other message has its id",
                            at()
                        )
                    });
                }
            } else if holder == Some(&record.fingerprint)
                || holders.get(&record.conflict_id) == Some(&record.fingerprint)
            {
                self.tally.duplicates += 1;
            } else if holder.is_some() {
                self.findings.violation(|| {
                    format!(
                        "{} has no outcome: its id belongs to a message with other content",
                        at()
                    )
                });
            } else {
                self.findings.violation(|| {
                    format!("{} has no outcome, though the consumer is past it", at())
                });
            }
        }
    }

    fn may_be_purged(&self, record: &Unclaimed) -> bool {
        self.purged_before_ms
            .is_some_and(|purged| record.time_ms.is_none_or(|time_ms| time_ms < purged))
    }

    fn look_up(&mut self, seen: &Seen, is_conflict: bool) {
        self.unclaimed.push(Unclaimed {
            source: seen.record.source.clone(),
            offset: seen.record.offset,
            id: seen.id,
            conflict_id: id_of_conflict(seen.id, seen.fingerprint),
            fingerprint: seen.fingerprint,
            time_ms: time_ms(seen.id, seen.record.timestamp_ms),
            is_conflict,
        });
    }

    fn unconsumed(&mut self, seen: &Seen, range: Option<&Range>) {
        self.tally.unconsumed += 1;
        if range.is_some_and(|range| seen.record.offset < range.awaited) {
            self.findings.violation(|| {
                format!(
                    "{} offset {}: message {} was not consumed in the time given",
                    seen.record.source, seen.record.offset, seen.id
                )
            });
        }
    }

    fn foreign_claim(&mut self, claim: &ClaimRow, seen: &Seen) {
        self.findings.violation(|| {
            format!(
                "{} offset {}: the claim says message {} ({}), the record there is message {}{}",
                seen.record.source,
                seen.record.offset,
                claim.id,
                claim.outcome.as_str(),
                seen.id,
                if claim.id == seen.id { " with other content" } else { "" },
            )
        });
    }

    fn claimed_ahead(&mut self, claim: &ClaimRow, range: Option<&Range>) {
        let next_offset = range.and_then(|range| range.next_offset).unwrap_or(0);
        self.findings.violation(|| {
            format!(
                "message {} has the outcome {} at partition {} offset {}, but next_offset is \
                 {next_offset}",
                claim.id,
                claim.outcome.as_str(),
                claim.partition,
                claim.offset,
            )
        });
    }

    fn without_record(&mut self, claim: &ClaimRow, ranges: &Ranges) {
        let range = ranges.get(claim.partition);
        match range {
            Some(range)
                if !range.comparable
                    || claim.offset < range.start
                    || claim.batch_seq <= range.accepted_batch_seq =>
            {
                self.not_provable += 1;
                return;
            }
            None if ranges.has_given_up(claim) => {
                self.not_provable += 1;
                return;
            }
            Some(range) if range.next_offset.is_none_or(|next| claim.offset >= next) => {
                self.claimed_ahead(claim, Some(range));
                return;
            }
            _ => {}
        }
        self.findings.violation(|| {
            format!(
                "message {} has the outcome {} at {}[{}] offset {}, but no such record is in the \
                 log",
                claim.id,
                claim.outcome.as_str(),
                ranges.topic,
                claim.partition,
                claim.offset,
            )
        });
    }
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
