//! Invariant 5: along a partition's offsets, the events of one key were applied in their order.
//! Pure.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher;

use super::merge::{ClaimRow, Seen};
use super::report::Invariant;

/// The last transaction that applied something, for each key of the partition being read.
///
/// Keys are kept as 64 bits, since there may be millions: two of a million share a value with a
/// probability of one in thirty million.
pub(super) struct KeyOrder {
    partition: i32,
    last: HashMap<u64, i64>,
    pub(super) findings: Invariant,
}

impl KeyOrder {
    pub(super) fn new(findings: Invariant) -> Self {
        Self { partition: -1, last: HashMap::new(), findings }
    }

    /// The next applied record by partition and offset.
    pub(super) fn applied(&mut self, seen: &Seen, claim: &ClaimRow) {
        if seen.record.source.partition != self.partition {
            self.partition = seen.record.source.partition;
            self.last.clear();
        }
        // Records without a key have no order among each other.
        let Some(key) = &seen.record.key else { return };
        self.findings.checked += 1;
        let hash = self.last.hasher().hash_one(key);
        match self.last.entry(hash) {
            Entry::Vacant(entry) => {
                entry.insert(claim.batch_seq);
            }
            Entry::Occupied(mut entry) => {
                let before = *entry.get();
                if claim.batch_seq < before {
                    self.findings.violation(|| {
                        format!(
                            "{} offset {}: message {} of key {:?} was applied in transaction \
                             {}, but an earlier record of this key in {before}",
                            seen.record.source,
                            seen.record.offset,
                            seen.id,
                            String::from_utf8_lossy(key),
                            claim.batch_seq,
                        )
                    });
                }
                entry.insert(claim.batch_seq.max(before));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::message::{Fingerprint, Headers, MessageId, PartitionKey, Record};
    use crate::outcome::Outcome;

    fn violations(applied: &[(i32, Option<u8>, i64)]) -> u64 {
        let mut order = KeyOrder::new(Invariant::new(5, "order", "…", 10));
        for (offset, (partition, key, batch_seq)) in (0..).zip(applied) {
            let (id, fingerprint) = (MessageId(Uuid::nil()), Fingerprint([0; Fingerprint::LEN]));
            let record = Record {
                source: PartitionKey { topic: "t".into(), partition: *partition },
                offset,
                timestamp_ms: None,
                key: key.map(|key| vec![key]),
                value: None,
                headers: Headers::new(),
            };
            let claim = ClaimRow {
                partition: *partition,
                offset,
                id,
                fingerprint,
                outcome: Outcome::Applied,
                batch_seq: *batch_seq,
            };
            order.applied(&Seen { record, id, fingerprint }, &claim);
        }
        order.findings.violations
    }

    #[test]
    fn an_event_applied_before_an_earlier_one_of_its_key_is_found() {
        assert_eq!(violations(&[(0, Some(1), 1), (0, Some(1), 1), (0, Some(1), 2)]), 0);
        assert_eq!(violations(&[(0, Some(1), 2), (0, Some(1), 1), (0, Some(1), 3)]), 1);
    }

    #[test]
    fn other_keys_other_partitions_and_no_key_have_orders_of_their_own() {
        assert_eq!(violations(&[(0, Some(1), 5), (0, Some(2), 4), (1, Some(1), 3)]), 0);
        assert_eq!(violations(&[(0, None, 5), (0, None, 4)]), 0);
    }

    proptest! {
        #[test]
        fn swapping_two_transactions_of_one_key_is_found(
            keys in prop::collection::vec(0_u8..4, 2..40), a in any::<prop::sample::Index>(),
        ) {
            let mut applied: Vec<_> =
                (0..).zip(&keys).map(|(at, key)| (0, Some(*key), at)).collect();
            prop_assert_eq!(violations(&applied), 0);
            let a = a.index(keys.len());
            if let Some(b) = (a + 1..keys.len()).find(|b| keys[*b] == keys[a]) {
                (applied[a].2, applied[b].2) = (applied[b].2, applied[a].2);
                prop_assert!(violations(&applied) > 0);
            }
        }
    }
}
