//! In which pieces a batch is worked off when something in it fails. Pure.
//!
//! A batch is one transaction while all is well. When it fails as a whole it is bisected, from left
//! to right, each clean piece committed, until the failing message stands alone. What is known is
//! not asked again: if the left half of a failing piece turns out clean, the culprit is in the
//! right half, which is split without being run.

use std::collections::HashMap;
use std::ops::Range;

use crate::outcome::Verdict;

/// How a batch is worked off.
#[derive(Debug)]
pub struct Plan {
    /// Pieces to come; the last is the next.
    pieces: Vec<Piece>,
    current: Option<Piece>,
    doomed: HashMap<usize, Verdict>,
    attempts: HashMap<usize, u32>,
    max_attempts: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    range: Range<usize>,
    suspicion: Suspicion,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suspicion {
    None,
    /// At least one message in it fails.
    Certain,
    /// At least one message in it fails, if the piece before it is clean.
    IfBeforeIsClean,
}

/// The next piece to run, in a transaction of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which messages of the batch.
    pub range: Range<usize>,
    /// How often this message has been tried and failed, if it stands alone; wait accordingly.
    pub failed_attempts: u32,
}

impl Plan {
    /// A plan for a batch of `len` messages, each to be tried `max_attempts` times at most.
    pub fn new(len: usize, max_attempts: u32) -> Self {
        let whole = Piece { range: 0..len, suspicion: Suspicion::None };
        Self {
            pieces: if len == 0 { Vec::new() } else { vec![whole] },
            current: None,
            doomed: HashMap::new(),
            attempts: HashMap::new(),
            max_attempts: max_attempts.max(1),
        }
    }

    /// The next piece; the same one again until [`committed`](Self::committed) or one of the
    /// failures is reported. `None` when all is done.
    pub fn next_step(&mut self) -> Option<Step> {
        if self.current.is_none() {
            let mut piece = self.pieces.pop()?;
            while piece.suspicion == Suspicion::Certain && piece.range.len() > 1 {
                let middle = piece.range.start + piece.range.len() / 2;
                self.pieces.push(Piece {
                    range: middle..piece.range.end,
                    suspicion: Suspicion::IfBeforeIsClean,
                });
                piece = Piece { range: piece.range.start..middle, suspicion: Suspicion::None };
            }
            self.current = Some(piece);
        }
        let range = self.current.as_ref()?.range.clone();
        let failed_attempts = if range.len() == 1 { self.attempts(range.start) } else { 0 };
        Some(Step { range, failed_attempts })
    }

    /// The current piece is in the database.
    pub fn committed(&mut self) {
        self.current = None;
        if let Some(next) = self.pieces.last_mut()
            && next.suspicion == Suspicion::IfBeforeIsClean
        {
            next.suspicion = Suspicion::Certain;
        }
    }

    /// The current piece failed because of a message in it. A message that stands alone gets the
    /// verdict, at once if the failure is permanent, after its last attempt otherwise.
    pub fn failed(&mut self, permanent: bool, verdict: impl FnOnce(u32) -> Verdict) {
        let Some(mut piece) = self.current.take() else { return };
        self.clear_inference();
        if piece.range.len() > 1 {
            piece.suspicion = Suspicion::Certain;
            self.pieces.push(piece);
            return;
        }
        let index = piece.range.start;
        let attempts = self.attempts.entry(index).or_insert(0);
        *attempts += 1;
        if permanent || *attempts >= self.max_attempts {
            self.doomed.insert(index, verdict(*attempts));
            // Its dead letter needs no transaction of its own.
            self.push_unsuspected(piece.range);
        } else {
            self.pieces.push(piece);
        }
    }

    /// The handler wants the message at `index` tried again later. It stands alone from now on;
    /// those before it go first.
    pub fn retry(&mut self, index: usize, verdict: impl FnOnce(u32) -> Verdict) {
        let Some(piece) = self.current.take() else { return };
        self.clear_inference();
        let range = piece.range;
        debug_assert!(range.contains(&index), "the handler answers for its own messages");
        if index + 1 < range.end {
            self.push_unsuspected(index + 1..range.end);
        }
        let alone = Piece { range: index..index + 1, suspicion: Suspicion::None };
        self.current = Some(alone);
        self.failed(false, verdict);
        if range.start < index {
            self.pieces.push(Piece { range: range.start..index, suspicion: Suspicion::None });
        }
    }

    /// The verdict on a message that is to be dead-lettered without being run again.
    pub fn verdict(&self, index: usize) -> Option<&Verdict> {
        self.doomed.get(&index)
    }

    /// How often the message has been tried and failed.
    pub fn attempts(&self, index: usize) -> u32 {
        self.attempts.get(&index).copied().unwrap_or(0)
    }

    /// The piece before was not clean, so nothing follows about the piece after it.
    fn clear_inference(&mut self) {
        if let Some(next) = self.pieces.last_mut()
            && next.suspicion == Suspicion::IfBeforeIsClean
        {
            next.suspicion = Suspicion::None;
        }
        // Adjacent pieces of which nothing is known are one.
        if let Some(next) = self.pieces.pop() {
            if next.suspicion == Suspicion::None {
                self.push_unsuspected(next.range);
            } else {
                self.pieces.push(next);
            }
        }
    }

    fn push_unsuspected(&mut self, mut range: Range<usize>) {
        while let Some(next) = self.pieces.last()
            && next.suspicion == Suspicion::None
            && next.range.start == range.end
            && !self.stands_alone(next)
        {
            range.end = next.range.end;
            self.pieces.pop();
        }
        self.pieces.push(Piece { range, suspicion: Suspicion::None });
    }

    /// A message that is being retried is not put back among the others.
    fn stands_alone(&self, piece: &Piece) -> bool {
        piece.range.len() == 1
            && self.attempts(piece.range.start) > 0
            && !self.doomed.contains_key(&piece.range.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FailureClass;
    use proptest::prelude::*;

    fn verdict(attempts: u32) -> Verdict {
        Verdict::new(FailureClass::Permanent, "x", "x", attempts)
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Nature {
        Good,
        /// Its batch fails whenever it is in it.
        Fails,
        /// The handler asks for so many retries.
        Retries(u32),
    }

    /// Runs a plan over messages of these natures; returns transactions and the doomed.
    fn run(natures: &[Nature], max_attempts: u32) -> (usize, Vec<usize>) {
        let mut plan = Plan::new(natures.len(), max_attempts);
        let (mut transactions, mut done) = (0, 0);
        let mut tried: HashMap<usize, u32> = HashMap::new();
        let mut doomed = Vec::new();
        while let Some(step) = plan.next_step() {
            transactions += 1;
            assert!(transactions < 100_000, "it ends");
            assert_eq!(step.range.start, done, "in order, nothing twice, nothing left out");
            let live = |i: &usize| plan.verdict(*i).is_none();
            let retry = step.range.clone().filter(live).find(|i| {
                matches!(natures[*i], Nature::Retries(n) if tried.get(i).copied().unwrap_or(0) < n)
            });
            if step.range.clone().filter(live).any(|i| natures[i] == Nature::Fails) {
                plan.failed(true, verdict);
            } else if let Some(index) = retry {
                *tried.entry(index).or_default() += 1;
                plan.retry(index, verdict);
            } else {
                doomed.extend(step.range.clone().filter(|i| plan.verdict(*i).is_some()));
                done = step.range.end;
                plan.committed();
            }
        }
        assert_eq!(done, natures.len(), "every message has its end");
        (transactions, doomed)
    }

    #[test]
    fn a_clean_batch_is_one_transaction() {
        assert_eq!(run(&[Nature::Good; 1000], 5), (1, vec![]));
    }

    #[test]
    fn one_bad_row_in_a_thousand_costs_at_most_twelve_further_transactions() {
        for bad in 0..1000 {
            let mut natures = [Nature::Good; 1000];
            natures[bad] = Nature::Fails;
            let (transactions, doomed) = run(&natures, 5);
            assert_eq!(doomed, [bad]);
            assert!(transactions <= 13, "{bad}: {transactions}");
        }
    }

    #[test]
    fn a_message_is_tried_as_often_as_allowed_and_then_given_up() {
        let (transactions, doomed) = run(&[Nature::Good, Nature::Retries(9), Nature::Good], 3);
        assert_eq!(doomed, [1]);
        // All three; the first alone; two more attempts of the second; the end of both others.
        assert_eq!(transactions, 5);
        let (_, doomed) = run(&[Nature::Retries(2)], 3);
        assert_eq!(doomed, [0; 0]);
    }

    proptest! {
        #[test]
        fn whatever_fails_every_message_ends_once_in_order_and_only_the_guilty_are_doomed(
            natures in prop::collection::vec(prop_oneof![
                8 => Just(Nature::Good),
                1 => Just(Nature::Fails),
                1 => (1_u32..6).prop_map(Nature::Retries),
            ], 0..80),
            max_attempts in 1_u32..5,
        ) {
            let (_, doomed) = run(&natures, max_attempts);
            let guilty: Vec<_> = natures.iter().enumerate().filter(|(_, n)| match n {
                Nature::Good => false,
                Nature::Fails => true,
                Nature::Retries(n) => *n >= max_attempts,
            }).map(|(i, _)| i).collect();
            prop_assert_eq!(doomed, guilty);
        }
    }
}
