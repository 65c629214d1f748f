//! Which rows may go out now. Pure.

use std::collections::hash_map::{Entry, RandomState};
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher as _;
use std::time::Instant;

use crate::store::outbox::OutboxRow;

/// Rows that were read and are not acknowledged. Of a topic and key one is under way at a time, in the order
/// in which they were added; a row without a key has no order to keep.
#[derive(Default)]
pub(super) struct Flow {
    rows: HashMap<i64, Row>,
    bytes: usize,
    /// Those that may go out.
    ready: VecDeque<i64>,
    /// Of each topic and key that has rows: those behind its first, the nearest first.
    behind: HashMap<Key, VecDeque<i64>>,
    under_way: usize,
    hasher: RandomState,
}

struct Row {
    row: OutboxRow,
    under_way_since: Option<Instant>,
}

/// The hash of a topic and a key. Where two have the same one, rows of the one wait for those of the other.
type Key = u64;

impl Flow {
    /// More rows, behind those that are there.
    pub(super) fn add(&mut self, rows: Vec<OutboxRow>) {
        for row in rows {
            match self.key(&row).map(|key| self.behind.entry(key)) {
                Some(Entry::Occupied(behind)) => behind.into_mut().push_back(row.id),
                Some(Entry::Vacant(none)) => {
                    none.insert(VecDeque::new());
                    self.ready.push_back(row.id);
                }
                None => self.ready.push_back(row.id),
            }
            self.bytes += bytes(&row);
            self.rows.insert(row.id, Row { row, under_way_since: None });
        }
    }

    fn key(&self, OutboxRow { record, .. }: &OutboxRow) -> Option<Key> {
        let key = record.key.as_deref()?;
        Some(self.hasher.hash_one((&record.topic, key)))
    }

    /// The next row to hand to the producer. It is under way from `now` on.
    pub(super) fn next(&mut self, now: Instant) -> Option<&OutboxRow> {
        let id = self.ready.pop_front()?;
        self.under_way += 1;
        let Row { row, under_way_since } = self.rows.get_mut(&id)?;
        *under_way_since = Some(now);
        Some(row)
    }

    /// The producer has no room for it yet.
    pub(super) fn put_back(&mut self, id: i64) {
        self.left(id);
        self.ready.push_front(id);
    }

    /// A row under way has its end. If it was acknowledged, the next of its key may go; if not, it stays
    /// here, and none of its key goes any more.
    pub(super) fn ended(&mut self, id: i64, acknowledged: bool) {
        self.left(id);
        if !acknowledged {
            return;
        }
        let Some(Row { row, .. }) = self.rows.remove(&id) else { return };
        self.bytes -= bytes(&row);
        let Some(Entry::Occupied(mut behind)) = self.key(&row).map(|key| self.behind.entry(key))
        else {
            return;
        };
        match behind.get_mut().pop_front() {
            Some(next) => self.ready.push_back(next),
            None => drop(behind.remove()),
        }
    }

    /// Nothing more goes out.
    pub(super) fn close(&mut self) {
        self.ready.clear();
        self.behind.clear();
    }

    /// It is under way no more.
    fn left(&mut self, id: i64) {
        self.under_way -= 1;
        if let Some(row) = self.rows.get_mut(&id) {
            row.under_way_since = None;
        }
    }

    /// Those that are not acknowledged.
    pub(super) fn ids(&self) -> Vec<i64> {
        self.rows.keys().copied().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// About what their rows take in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn row(&self, id: i64) -> Option<&OutboxRow> {
        self.rows.get(&id).map(|row| &row.row)
    }

    /// Nothing is under way, and nothing may go out any more.
    pub(super) fn is_done(&self) -> bool {
        self.under_way == 0 && self.ready.is_empty()
    }

    /// How many rows the producer has.
    pub(super) fn under_way(&self) -> usize {
        self.under_way
    }

    /// Since when it has had the one that it has had longest.
    pub(super) fn under_way_since(&self) -> Option<Instant> {
        self.rows.values().filter_map(|row| row.under_way_since).min()
    }
}

/// About what a row takes in memory.
fn bytes(OutboxRow { record, .. }: &OutboxRow) -> usize {
    let of = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
    let headers = record.headers.iter().map(|(name, value)| name.len() + of(value));
    512 + of(record.key.as_deref()) + of(record.value.as_deref()) + headers.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handler::Outgoing;
    use crate::message::Headers;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn row(id: i64, key: Option<u8>) -> OutboxRow {
        let record = Outgoing {
            topic: "t".into(),
            partition: None,
            key: key.map(|key| vec![key]),
            value: None,
            headers: Headers::new(),
        };
        OutboxRow { id, record, may_omit_value: false }
    }

    #[test]
    fn a_flow_is_not_done_while_the_producer_has_no_room_for_the_rest() {
        let mut flow = Flow::default();
        flow.add(vec![row(1, None)]);
        let id = flow.next(Instant::now()).unwrap().id;
        flow.put_back(id);
        assert_eq!((flow.under_way(), flow.is_done()), (0, false));
        flow.next(Instant::now()).unwrap();
        flow.ended(id, true);
        assert!(flow.is_done());
    }

    #[test]
    fn of_a_flow_that_is_closed_nothing_goes_out_behind_what_is_under_way() {
        let mut flow = Flow::default();
        flow.add(vec![row(1, Some(1)), row(2, Some(1)), row(3, None)]);
        flow.next(Instant::now()).unwrap();
        flow.close();
        assert!(!flow.is_done());
        flow.ended(1, true);
        assert!(flow.is_done() && flow.next(Instant::now()).is_none());
    }

    proptest! {
        #[test]
        fn nothing_goes_out_behind_an_unacknowledged_row_of_its_key_and_nothing_is_left(
            keys in prop::collection::vec(prop::option::of(0_u8..4), 0..60),
            at_once in prop::collection::vec(1_usize..20, 0..20),
            choices in prop::collection::vec((any::<usize>(), 0_u8..10), 1..60),
            room in 1_usize..6,
        ) {
            let mut rows = (0..).zip(&keys).map(|(id, key)| row(id, *key));
            let key_of = |id: i64| keys[usize::try_from(id).unwrap()];
            let mut flow = Flow::default();
            let mut under_way: Vec<i64> = Vec::new();
            let mut acknowledged: HashSet<i64> = HashSet::new();
            let mut refused: HashSet<i64> = HashSet::new();
            let mut at_once = at_once.into_iter();
            let mut choices = choices.iter().cycle();
            loop {
                // Some more each time, then all that are left.
                let more: Vec<_> = rows.by_ref().take(at_once.next().unwrap_or(keys.len())).collect();
                let no_more = more.is_empty();
                flow.add(more);
                while let Some(next) = flow.next(Instant::now()) {
                    let id = next.id;
                    if under_way.len() == room {
                        flow.put_back(id);
                        break;
                    }
                    if let Some(key) = key_of(id) {
                        for before in (0..id).filter(|b| key_of(*b) == Some(key)) {
                            prop_assert!(acknowledged.contains(&before), "{id} went before {before}");
                        }
                    }
                    under_way.push(id);
                }
                prop_assert_eq!(flow.under_way(), under_way.len());
                prop_assert_eq!(flow.is_done(), under_way.is_empty());
                prop_assert_eq!(flow.under_way_since().is_some(), !under_way.is_empty());
                if flow.is_done() {
                    if no_more {
                        break;
                    }
                    continue;
                }
                let (which, luck) = choices.next().unwrap();
                let id = under_way.swap_remove(which % under_way.len());
                let good = *luck > 0;
                flow.ended(id, good);
                if good { acknowledged.insert(id) } else { refused.insert(id) };
            }
            for id in (0..).take(keys.len()) {
                let held_up = key_of(id).is_some_and(|key| {
                    refused.iter().any(|r| *r < id && key_of(*r) == Some(key))
                });
                let is_sent = acknowledged.contains(&id);
                prop_assert!(is_sent || refused.contains(&id) || held_up);
                prop_assert_eq!(flow.row(id).is_none(), is_sent);
            }
            prop_assert_eq!(flow.len(), keys.len() - acknowledged.len());
            prop_assert_eq!(flow.bytes() == 0, flow.len() == 0);
        }
    }
}
