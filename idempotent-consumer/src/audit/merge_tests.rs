use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::audit::report::Invariant;
use crate::message::Headers;

const TOPIC: &str = "t";

/// A history of two partitions, as a right consumer would leave it.
#[derive(Clone, Debug)]
struct History {
    /// (partition, id, content) by partition; offsets have gaps, as transaction markers leave them.
    records: Vec<(i32, i64, u8, u8)>,
    claims: Vec<ClaimRow>,
    next_offset: [i64; 2],
    start: [i64; 2],
    accepted_batch_seq: i64,
    /// Places in the retry queue.
    waiting: HashSet<Place>,
}

fn seen(partition: i32, offset: i64, id: u8, content: u8) -> Seen {
    Seen {
        record: Record {
            source: PartitionKey { topic: TOPIC.into(), partition },
            offset,
            timestamp_ms: None,
            key: None,
            value: None,
            headers: Headers::new(),
        },
        id: MessageId(Uuid::from_u128(id.into())),
        fingerprint: Fingerprint([content; Fingerprint::LEN]),
    }
}

fn history(stream: &[(bool, u8, u8, i64)], unconsumed: usize) -> History {
    let mut offsets = [0_i64; 2];
    let mut next_offset = [0_i64; 2];
    let mut claims: Vec<ClaimRow> = Vec::new();
    let mut records = Vec::new();
    for (at, (second, id, content, gap)) in stream.iter().enumerate() {
        let partition = i32::from(*second);
        let offset = &mut offsets[usize::from(*second)];
        *offset += gap;
        let record = seen(partition, *offset, *id, *content);
        records.push((partition, *offset, *id, *content));
        *offset += 1;
        if at + unconsumed >= stream.len() {
            continue;
        }
        next_offset[usize::from(*second)] = *offset;
        let holder = |id| claims.iter().find(|claim| claim.id == id).map(|claim| claim.fingerprint);
        let conflict_id = id_of_conflict(record.id, record.fingerprint);
        let claim = match holder(record.id) {
            None => Some((record.id, Outcome::Applied)),
            Some(fingerprint) if fingerprint == record.fingerprint => None,
            Some(_) if holder(conflict_id).is_some() => None,
            Some(_) => Some((conflict_id, Outcome::DeadLettered)),
        };
        if let Some((id, outcome)) = claim {
            claims.push(ClaimRow {
                partition,
                offset: record.record.offset,
                id,
                fingerprint: record.fingerprint,
                outcome,
                batch_seq: i64::try_from(at).unwrap() + 1,
            });
        }
    }
    records.sort_unstable();
    History {
        records,
        claims,
        next_offset,
        start: [0, 0],
        accepted_batch_seq: 0,
        waiting: HashSet::new(),
    }
}

/// Drives the merge as the auditor does, with claims in chunks of `chunk`.
fn audit(history: &History, chunk: usize) -> Merge {
    let ranges = Ranges {
        topic: TOPIC.to_owned(),
        by_partition: (0..2)
            .map(|p| Range {
                start: history.start[p],
                end: 1_000_000,
                next_offset: Some(history.next_offset[p]),
                accepted_batch_seq: history.accepted_batch_seq,
                comparable: true,
                awaited: 0,
            })
            .collect(),
        ..Ranges::default()
    };
    let mut rows = history.claims.clone();
    rows.sort_unstable_by_key(ClaimRow::place);
    let mut rows = rows.chunks(chunk).map(<[ClaimRow]>::to_vec).collect::<VecDeque<_>>();
    let holders = history.claims.iter().map(|claim| (claim.id, claim.fingerprint)).collect();
    let mut merge = Merge::new(Invariant::new(1, "outcomes", "…", 10), None);
    for (partition, offset, id, content) in &history.records {
        if *offset < history.start[usize::try_from(*partition).unwrap()] {
            continue;
        }
        let seen = seen(*partition, *offset, *id, *content);
        while merge.wants_claims(&seen) {
            merge.feed(rows.pop_front().unwrap_or_default());
        }
        merge.record(&seen, &ranges);
    }
    while !merge.is_exhausted() {
        merge.feed(rows.pop_front().unwrap_or_default());
    }
    merge.finish(&ranges);
    let unclaimed = merge.take_unclaimed();
    merge.resolve(&unclaimed, &holders, &history.waiting, &ranges);
    merge
}

fn streams() -> impl Strategy<Value = Vec<(bool, u8, u8, i64)>> {
    prop::collection::vec((any::<bool>(), 0_u8..12, 0_u8..2, 0_i64..3), 1..60)
}

proptest! {
    #[test]
    fn a_right_history_holds_and_every_record_has_one_outcome(
        stream in streams(), chunk in 1_usize..20, unconsumed in 0_usize..5,
    ) {
        let history = history(&stream, unconsumed);
        let merge = audit(&history, chunk);
        prop_assert_eq!(&merge.findings.examples, &Vec::<String>::new());
        let t = merge.tally;
        prop_assert_eq!(t.records, stream.len() as u64);
        prop_assert_eq!(t.applied + t.dead_lettered + t.duplicates + t.unconsumed, t.records);
        prop_assert_eq!(t.applied + t.dead_lettered, history.claims.len() as u64);
        prop_assert_eq!(t.unconsumed, unconsumed.min(stream.len()) as u64);
    }

    #[test]
    fn a_claim_taken_away_is_found(stream in streams(), at in any::<prop::sample::Index>()) {
        let mut history = history(&stream, 0);
        let at = at.index(history.claims.len());
        history.claims.remove(at);
        prop_assert!(audit(&history, 7).findings.violations > 0);
    }

    #[test]
    fn a_record_that_waits_for_another_attempt_needs_no_claim(
        stream in streams(), at in any::<prop::sample::Index>(),
    ) {
        let mut history = history(&stream, 0);
        let claim = history.claims.remove(at.index(history.claims.len()));
        let without = |history: &History| {
            let merge = audit(history, 7);
            (merge.findings.violations, merge.tally.waiting)
        };
        // Its repeats wait behind it, and so do those that it is a conflict with.
        let same = |id: u8, content: u8| {
            let id = MessageId(Uuid::from_u128(id.into()));
            let fingerprint = Fingerprint([content; Fingerprint::LEN]);
            claim.id == id || claim.id == id_of_conflict(id, fingerprint)
        };
        let places: HashSet<Place> = history
            .records
            .iter()
            .filter(|(partition, offset, id, content)| {
                let claimed = history.claims.iter().any(|c| c.place() == (*partition, *offset));
                same(*id, *content) && !claimed
            })
            .map(|(partition, offset, id, content)| {
                let id = MessageId(Uuid::from_u128((*id).into()));
                (*partition, *offset, id, Fingerprint([*content; Fingerprint::LEN]))
            })
            .collect();
        prop_assert!(without(&history).0 > 0);
        history.waiting = places;
        let conflicts = history.claims.iter().any(|other| {
            other.outcome == Outcome::DeadLettered && claim.outcome == Outcome::Applied
                && history.records.iter().any(|(_, _, id, content)| same(*id, *content)
                    && other.id == id_of_conflict(claim.id, Fingerprint([*content; Fingerprint::LEN])))
        });
        let (violations, waiting) = without(&history);
        prop_assert!(conflicts || violations == 0, "{violations}");
        prop_assert_eq!(waiting, history.waiting.len() as u64);
    }

    #[test]
    fn a_claim_invented_moved_or_altered_is_found(
        stream in streams(), at in any::<prop::sample::Index>(), how in 0_u8..4, offset in 0_i64..200,
    ) {
        let mut history = history(&stream, 0);
        let at = at.index(history.claims.len());
        let unknown = MessageId(Uuid::from_u128(99));
        let claim = &mut history.claims[at];
        match how {
            0 => claim.id = unknown,
            1 => claim.fingerprint = Fingerprint([9; Fingerprint::LEN]),
            // Not onto its neighbour: that may be a repeat of it, and either may hold the claim.
            2 => claim.offset += 1_000,
            _ => {
                let claim = ClaimRow { id: unknown, offset, ..*claim };
                history.claims.push(claim);
            }
        }
        prop_assert!(audit(&history, 7).findings.violations > 0);
    }

    #[test]
    fn a_position_ahead_of_a_record_without_outcome_is_found(stream in streams()) {
        let mut history = history(&stream, 1);
        let (second, id, content, _) = stream[stream.len() - 1];
        let new = !stream[..stream.len() - 1].iter().any(|(_, i, c, _)| (*i, *c) == (id, content));
        history.next_offset[usize::from(second)] = 1_000;
        prop_assert_eq!(audit(&history, 7).findings.violations > 0, new);
    }

    #[test]
    fn a_position_set_back_is_found(stream in streams()) {
        let mut history = history(&stream, 0);
        let last = history.claims[history.claims.len() - 1];
        history.next_offset[usize::try_from(last.partition).unwrap()] = last.offset;
        prop_assert!(audit(&history, 7).findings.violations > 0);
    }

    #[test]
    fn what_the_log_lost_to_retention_is_counted_and_never_called_wrong(
        stream in streams(), start in 0_i64..30,
    ) {
        let mut history = history(&stream, 0);
        history.start = [start, start];
        let merge = audit(&history, 7);
        prop_assert_eq!(&merge.findings.examples, &Vec::<String>::new());
        let gone = history.claims.iter().filter(|claim| claim.offset < start).count();
        prop_assert_eq!(merge.not_provable, gone as u64);
    }

    #[test]
    fn claims_from_before_another_log_was_accepted_prove_nothing_and_are_not_called_wrong(
        stream in streams(), old in prop::collection::vec((0_i64..2, 0_i64..200), 1..40),
    ) {
        let mut history = history(&stream, 0);
        for claim in &mut history.claims {
            claim.batch_seq += 1_000;
        }
        for (at, (partition, offset)) in (1_u8..).zip(&old) {
            history.claims.push(ClaimRow {
                partition: i32::try_from(*partition).unwrap(),
                offset: *offset,
                id: MessageId(Uuid::from_u128(1_000 + u128::from(at))),
                fingerprint: Fingerprint([77; Fingerprint::LEN]),
                outcome: Outcome::Applied,
                batch_seq: at.into(),
            });
        }
        prop_assert!(audit(&history, 7).findings.violations > 0);
        history.accepted_batch_seq = 1_000;
        let merge = audit(&history, 7);
        prop_assert_eq!(&merge.findings.examples, &Vec::<String>::new());
        prop_assert_eq!(merge.not_provable, old.len() as u64);
    }
}
