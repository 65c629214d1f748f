//! Which rows of a round may go out now. Pure.

use std::collections::{HashMap, VecDeque};

use crate::store::outbox::OutboxRow;

/// Rows as they were read, in the order of their ids. Of a topic and key one is under way at a time; a row
/// without a key has no order to keep.
pub(super) struct Round {
    rows: Vec<OutboxRow>,
    /// Those that may go out.
    ready: VecDeque<i64>,
    /// Those behind a row under way, by its id: the nearest first.
    behind: HashMap<i64, VecDeque<i64>>,
    under_way: usize,
}

impl Round {
    pub(super) fn new(rows: Vec<OutboxRow>) -> Self {
        let mut first: HashMap<(&str, &[u8]), i64> = HashMap::new();
        let (mut ready, mut behind) = (VecDeque::new(), HashMap::<i64, VecDeque<i64>>::new());
        for row in &rows {
            let ahead = row.record.key.as_deref().and_then(|key| {
                let first = first.entry((&row.record.topic, key)).or_insert(row.id);
                (*first != row.id).then_some(*first)
            });
            match ahead {
                Some(ahead) => behind.entry(ahead).or_default().push_back(row.id),
                None => ready.push_back(row.id),
            }
        }
        Self { rows, ready, behind, under_way: 0 }
    }

    /// The next row to hand to the producer. It is under way from now on.
    pub(super) fn next(&mut self) -> Option<&OutboxRow> {
        let id = self.ready.pop_front()?;
        self.under_way += 1;
        self.row(id)
    }

    /// The producer has no room for it yet.
    pub(super) fn put_back(&mut self, id: i64) {
        self.under_way -= 1;
        self.ready.push_front(id);
    }

    /// A row under way has its end. If it was acknowledged, the next of its key may go; if not,
    /// none of its key goes in this round.
    pub(super) fn ended(&mut self, id: i64, acknowledged: bool) {
        self.under_way -= 1;
        if let Some(mut rest) = self.behind.remove(&id)
            && acknowledged
            && let Some(next) = rest.pop_front()
        {
            self.behind.insert(next, rest);
            self.ready.push_back(next);
        }
    }

    pub(super) fn ids(&self) -> Vec<i64> {
        self.rows.iter().map(|row| row.id).collect()
    }

    pub(super) fn row(&self, id: i64) -> Option<&OutboxRow> {
        let index = self.rows.binary_search_by_key(&id, |row| row.id).ok()?;
        self.rows.get(index)
    }

    /// Nothing is under way, and nothing may go out any more.
    pub(super) fn is_done(&self) -> bool {
        self.under_way == 0 && self.ready.is_empty()
    }

    /// How many rows the producer has.
    pub(super) fn under_way(&self) -> usize {
        self.under_way
    }
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
    fn a_round_is_not_done_while_the_producer_has_no_room_for_the_rest() {
        let mut round = Round::new(vec![row(1, None)]);
        let id = round.next().unwrap().id;
        round.put_back(id);
        assert_eq!((round.under_way(), round.is_done()), (0, false));
        round.next().unwrap();
        round.ended(id, true);
        assert!(round.is_done());
    }

    proptest! {
        #[test]
        fn nothing_goes_out_behind_an_unacknowledged_row_of_its_key_and_nothing_is_left(
            keys in prop::collection::vec(prop::option::of(0_u8..4), 0..60),
            choices in prop::collection::vec((any::<usize>(), 0_u8..10), 1..60),
            room in 1_usize..6,
        ) {
            let rows: Vec<_> = (0..).zip(&keys).map(|(id, key)| row(id, *key)).collect();
            let key_of = |id: i64| keys[usize::try_from(id).unwrap()];
            let mut round = Round::new(rows);
            let mut under_way: Vec<i64> = Vec::new();
            let mut acknowledged: HashSet<i64> = HashSet::new();
            let mut refused: HashSet<i64> = HashSet::new();
            let mut choices = choices.iter().cycle();
            loop {
                while let Some(next) = round.next() {
                    let id = next.id;
                    if under_way.len() == room {
                        round.put_back(id);
                        break;
                    }
                    if let Some(key) = key_of(id) {
                        for before in (0..id).filter(|b| key_of(*b) == Some(key)) {
                            prop_assert!(acknowledged.contains(&before), "{id} went before {before}");
                        }
                    }
                    under_way.push(id);
                }
                prop_assert_eq!(round.under_way(), under_way.len());
                prop_assert_eq!(round.is_done(), under_way.is_empty());
                if round.is_done() {
                    break;
                }
                let (which, luck) = choices.next().unwrap();
                let id = under_way.swap_remove(which % under_way.len());
                let good = *luck > 0;
                round.ended(id, good);
                if good { acknowledged.insert(id) } else { refused.insert(id) };
            }
            for id in (0..).take(keys.len()) {
                let held_up = key_of(id).is_some_and(|key| {
                    refused.iter().any(|r| *r < id && key_of(*r) == Some(key))
                });
                prop_assert!(acknowledged.contains(&id) || refused.contains(&id) || held_up);
            }
        }
    }
}
