//! In which pieces a batch is worked off when something in it fails. Pure.
//!
//! A batch is one transaction while all is well. When it fails as a whole it is bisected, from left
//! to right, each clean piece committed, until the failing message stands alone. What is known is
//! not asked again: if the left half of a failing piece turns out clean, the culprit is in the
//! right half, which is split without being run. Where many fail, what is left is not run as a whole
//! for each of them, but in pieces of about their distance, which grow again behind them.
//!
//! A message that failed and may be tried again is deferred: it goes to the retry queue in the
//! transaction of its piece, and so do those behind it with its key, see `deferral`.

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
    deferred: HashMap<usize, Verdict>,
    /// The last message that was found to fail the batch, if any was.
    last_found: Option<usize>,
    /// How many messages that are not suspected go together.
    reach: usize,
    /// Attempts of each message before this plan.
    attempts: Vec<u32>,
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
    /// It failed as part of a batch before, so it does not go among others again.
    Alone,
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
}

/// What a failure comes to: another attempt later, or the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Attempts so far, this one included.
    pub attempts: u32,
    /// Whether it was the last.
    pub is_last: bool,
}

impl Plan {
    /// A plan for messages that have been tried so often before, each to be tried `max_attempts`
    /// times at most.
    pub fn new(attempts: Vec<u32>, max_attempts: u32) -> Self {
        let whole = Piece { range: 0..attempts.len(), suspicion: Suspicion::None };
        Self {
            pieces: if attempts.is_empty() { Vec::new() } else { vec![whole] },
            current: None,
            doomed: HashMap::new(),
            deferred: HashMap::new(),
            last_found: None,
            reach: usize::MAX,
            attempts,
            max_attempts: max_attempts.max(1),
        }
    }

    /// How many messages that are not suspected go together, as a plan before this one left it: where
    /// many have failed, many will. To be said before the first step.
    pub fn set_reach(&mut self, reach: usize) {
        self.reach = reach.max(1);
    }

    /// How many messages that are not suspected go together now.
    pub fn reach(&self) -> usize {
        self.reach
    }

    /// These messages, in ascending order, have failed the batch that they were in before: each
    /// runs in a transaction of its own. To be said before the first step.
    pub fn isolate(&mut self, messages: &[usize]) {
        let len = self.attempts.len();
        let mut cuts: Vec<usize> = messages.iter().flat_map(|m| [*m, m + 1]).collect();
        cuts.extend([0, len]);
        cuts.sort_unstable();
        cuts.dedup();
        self.pieces = cuts
            .windows(2)
            .map(|cut| {
                let alone = messages.binary_search(&cut[0]).is_ok();
                let suspicion = if alone { Suspicion::Alone } else { Suspicion::None };
                Piece { range: cut[0]..cut[1], suspicion }
            })
            .rev()
            .collect();
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
            if piece.suspicion == Suspicion::None && piece.range.len() > self.reach {
                let end = piece.range.start + self.reach;
                self.pieces.push(Piece { range: end..piece.range.end, suspicion: Suspicion::None });
                piece.range.end = end;
            }
            self.current = Some(piece);
        }
        Some(Step { range: self.current.as_ref()?.range.clone() })
    }

    /// The current piece is in the database.
    pub fn committed(&mut self) {
        if let Some(piece) = self.current.take()
            && piece.range.len() >= self.reach
        {
            self.reach = self.reach.saturating_mul(4);
        }
        if let Some(next) = self.pieces.last_mut()
            && next.suspicion == Suspicion::IfBeforeIsClean
        {
            next.suspicion = Suspicion::Certain;
        }
    }

    /// The current piece failed because of a message in it. A message that stands alone gets the
    /// verdict: it is dead-lettered if the failure is permanent or its last attempt, and deferred
    /// otherwise.
    pub fn failed(&mut self, permanent: bool, verdict: impl FnOnce(Failed) -> Verdict) {
        let Some(mut piece) = self.current.take() else { return };
        self.clear_inference();
        if piece.range.len() > 1 {
            piece.suspicion = Suspicion::Certain;
            self.pieces.push(piece);
            return;
        }
        let found = piece.range.start;
        if let Some(last) = self.last_found.replace(found)
            && piece.suspicion != Suspicion::Alone
        {
            self.reach = (2 * found.saturating_sub(last)).max(4);
        }
        self.note(found, permanent, verdict);
        // Neither a dead letter nor a place in the queue needs a transaction of its own.
        self.push_unsuspected(piece.range);
    }

    /// The handler wants these messages of the current piece tried again later. The others are
    /// run again without them.
    pub fn retry(
        &mut self,
        messages: impl IntoIterator<Item = (usize, String)>,
        verdict: impl Fn(Failed, &str) -> Verdict,
    ) {
        let Some(piece) = self.current.take() else { return };
        self.clear_inference();
        for (index, reason) in messages {
            debug_assert!(piece.range.contains(&index), "the handler answers for its own messages");
            self.note(index, false, |failed| verdict(failed, &reason));
        }
        self.push_unsuspected(piece.range);
    }

    fn note(&mut self, index: usize, permanent: bool, verdict: impl FnOnce(Failed) -> Verdict) {
        let attempts = self.attempts[index].saturating_add(1);
        let is_last = permanent || attempts >= self.max_attempts;
        let verdict = verdict(Failed { attempts, is_last });
        if is_last { &mut self.doomed } else { &mut self.deferred }.insert(index, verdict);
    }

    /// The verdict on a message that is to be dead-lettered without being run again.
    pub fn verdict(&self, index: usize) -> Option<&Verdict> {
        self.doomed.get(&index)
    }

    /// The failure of a message that is to be tried again later.
    pub fn deferral(&self, index: usize) -> Option<&Verdict> {
        self.deferred.get(&index)
    }

    /// How often the message had been tried before.
    pub fn attempts(&self, index: usize) -> u32 {
        self.attempts[index]
    }

    /// The piece before was not clean, so nothing follows about the piece after it.
    fn clear_inference(&mut self) {
        let suspected = |piece: &&mut Piece| piece.suspicion != Suspicion::None;
        if let Some(next) = self.pieces.iter_mut().rev().find(suspected)
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
        {
            range.end = next.range.end;
            self.pieces.pop();
        }
        self.pieces.push(Piece { range, suspicion: Suspicion::None });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FailureClass;
    use proptest::prelude::*;

    fn verdict(failed: Failed) -> Verdict {
        Verdict::new(FailureClass::Permanent, "x", "x", failed.attempts)
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Nature {
        Good,
        /// Its batch fails whenever it is in it.
        Fails,
        /// The same, and it may be tried again.
        FailsForNow,
        /// The handler wants it later.
        Retry,
    }

    #[derive(Debug, Default, PartialEq)]
    struct Ran {
        transactions: usize,
        /// In all of them.
        messages: usize,
        doomed: Vec<usize>,
        deferred: Vec<usize>,
    }

    /// Runs a plan over messages of these natures, each tried so often before.
    fn run(messages: &[(Nature, u32)], max_attempts: u32) -> Ran {
        let attempts = messages.iter().map(|(_, attempts)| *attempts).collect();
        let mut plan = Plan::new(attempts, max_attempts);
        let (mut ran, mut done) = (Ran::default(), 0);
        while let Some(step) = plan.next_step() {
            ran.transactions += 1;
            ran.messages += step.range.len();
            assert!(ran.transactions < 100_000, "it ends");
            assert_eq!(step.range.start, done, "in order, nothing twice, nothing left out");
            let live: Vec<usize> = step
                .range
                .clone()
                .filter(|i| plan.verdict(*i).is_none() && plan.deferral(*i).is_none())
                .collect();
            let is = |i: &usize, nature| messages[*i].0 == nature;
            let retry: Vec<_> = live.iter().filter(|i| is(i, Nature::Retry)).copied().collect();
            if live.iter().any(|i| is(i, Nature::Fails)) {
                plan.failed(true, verdict);
            } else if live.iter().any(|i| is(i, Nature::FailsForNow)) {
                plan.failed(false, verdict);
            } else if !retry.is_empty() {
                let later = retry.into_iter().map(|i| (i, "later".to_owned()));
                plan.retry(later, |failed, _| verdict(failed));
            } else {
                ran.doomed.extend(step.range.clone().filter(|i| plan.verdict(*i).is_some()));
                ran.deferred.extend(step.range.clone().filter(|i| plan.deferral(*i).is_some()));
                done = step.range.end;
                plan.committed();
            }
        }
        assert_eq!(done, messages.len(), "every message has its end");
        ran
    }

    #[test]
    fn a_clean_batch_is_one_transaction() {
        let ran = run(&[(Nature::Good, 0); 1000], 5);
        assert_eq!(ran, Ran { transactions: 1, messages: 1000, ..Ran::default() });
    }

    #[test]
    fn one_bad_row_in_a_thousand_costs_at_most_twelve_further_transactions() {
        for bad in 0..1000 {
            let mut messages = [(Nature::Good, 0); 1000];
            messages[bad].0 = Nature::Fails;
            let ran = run(&messages, 5);
            assert_eq!(ran.doomed, [bad]);
            assert!(ran.transactions <= 13, "{bad}: {ran:?}");
        }
    }

    #[test]
    fn where_many_fail_each_costs_few_transactions_of_few_messages() {
        let nature = |i| if i % 10 == 3 { Nature::FailsForNow } else { Nature::Good };
        let messages: Vec<_> = (0..1000).map(|i| (nature(i), 0)).collect();
        let ran = run(&messages, 5);
        assert_eq!(ran.deferred.len(), 100);
        assert!(ran.transactions <= 700, "{}", ran.transactions);
        assert!(ran.messages <= 8_000, "{} messages in all of them", ran.messages);
    }

    #[test]
    fn behind_those_that_fail_pieces_grow_again() {
        let nature = |i| if i == 10 || i == 20 { Nature::Fails } else { Nature::Good };
        let messages: Vec<_> = (0..1000).map(|i| (nature(i), 0)).collect();
        let ran = run(&messages, 5);
        assert!(ran.transactions <= 32, "{}", ran.transactions);
    }

    #[test]
    fn a_plan_that_begins_where_many_failed_goes_on_carefully() {
        let mut plan = Plan::new(vec![0; 1000], 5);
        plan.set_reach(10);
        let mut lengths = Vec::new();
        while let Some(Step { range }) = plan.next_step() {
            lengths.push(range.len());
            plan.committed();
        }
        assert_eq!(lengths, [10, 40, 160, 640, 150]);
    }

    #[test]
    fn messages_that_the_handler_wants_later_cost_one_further_transaction_together() {
        let messages: Vec<_> =
            (0..100).map(|i| (if i % 10 == 3 { Nature::Retry } else { Nature::Good }, 0)).collect();
        let ran = run(&messages, 5);
        assert_eq!((ran.transactions, ran.deferred.len()), (2, 10));
    }

    #[test]
    fn messages_known_to_fail_are_run_alone() {
        let mut plan = Plan::new(vec![0, 1, 0, 0, 1], 5);
        plan.isolate(&[1, 4]);
        let mut ranges = Vec::new();
        while let Some(Step { range }) = plan.next_step() {
            ranges.push(range.clone());
            if range == (0..1) && ranges.len() == 1 {
                // Whatever its neighbours do, it stays alone.
                plan.retry([(0, String::new())], |failed, _| verdict(failed));
            } else {
                plan.committed();
            }
        }
        assert_eq!(ranges, [0..1, 0..1, 1..2, 2..4, 4..5]);
    }

    #[test]
    fn the_last_attempt_ends_in_a_dead_letter() {
        let ran = run(&[(Nature::Retry, 3), (Nature::Retry, 4), (Nature::FailsForNow, 4)], 5);
        assert_eq!((ran.deferred, ran.doomed), (vec![0], vec![1, 2]));
    }

    proptest! {
        #[test]
        fn whatever_fails_every_message_ends_once_in_order_and_only_the_guilty_are_charged(
            messages in prop::collection::vec((prop_oneof![
                8 => Just(Nature::Good),
                1 => Just(Nature::Fails),
                1 => Just(Nature::FailsForNow),
                1 => Just(Nature::Retry),
            ], 0_u32..4), 0..80),
            max_attempts in 1_u32..5,
        ) {
            let ran = run(&messages, max_attempts);
            let of = |guilty: &dyn Fn(Nature, u32) -> bool| -> Vec<usize> {
                (0..messages.len()).filter(|i| guilty(messages[*i].0, messages[*i].1)).collect()
            };
            let last = |tried: u32| tried + 1 >= max_attempts;
            let again = |nature| matches!(nature, Nature::FailsForNow | Nature::Retry);
            prop_assert_eq!(ran.doomed, of(&|n, tried| n == Nature::Fails || (again(n) && last(tried))));
            prop_assert_eq!(ran.deferred, of(&|n, tried| again(n) && !last(tried)));
        }
    }
}
