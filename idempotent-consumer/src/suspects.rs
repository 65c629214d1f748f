//! Messages that end the process: which are suspected, and when one is found guilty. Pure.
//!
//! A handler that aborts, overflows its stack, takes all memory or blocks its thread for ever gives
//! no answer that could be counted. What is left is how the process before this one ended:
//!
//! ```text
//!   Trusting ──(it ended in mid-work)──► Careful ──(again, during a batch)──► Alone
//!      ▲                                    │                                   │
//!      └───────(what it may have had in work is through)──────────◄─────────────┘
//! ```
//!
//! Careful, a lane writes down how far a batch goes before the batch goes into work. Alone, those
//! messages run one at a time in the whole process, each charged before it starts; a message that
//! this process outlives is charged nothing. So a neighbour of the guilty one is never charged for
//! it.

use crate::failure::FailureClass;
use crate::outcome::Verdict;

/// How a lane treats the messages of its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caution {
    /// Batches, and nothing is written ahead.
    Trusting,
    /// Batches, each written down before it goes into work.
    Careful {
        /// For so many messages more, or to the end of the log.
        left: usize,
    },
    /// One message at a time in the whole process.
    Alone {
        /// Up to this offset.
        until: i64,
    },
}

impl Caution {
    /// What the row of a partition says when a lane takes it over. `clean`: the lane before gave it
    /// back. `in_work`: how many messages that lane may have had in work.
    pub fn on_taking_over(clean: bool, next_offset: i64, handed_out: i64, in_work: usize) -> Self {
        if handed_out > next_offset {
            Self::Alone { until: handed_out }
        } else if clean || in_work == 0 {
            Self::Trusting
        } else {
            Self::Careful { left: in_work }
        }
    }

    /// After a batch of so many messages, which leaves the partition at `next_offset`.
    #[must_use]
    pub fn after(self, messages: usize, next_offset: i64) -> Self {
        match self {
            Self::Careful { left } if left > messages => Self::Careful { left: left - messages },
            Self::Alone { until } if next_offset < until => self,
            _ => Self::Trusting,
        }
    }

    /// Whether the row may say that nothing is suspected when the lane gives the partition back.
    pub fn is_clean(self) -> bool {
        !matches!(self, Self::Careful { .. })
    }
}

/// The verdict on a message that `charges` processes have begun to work on alone, this one
/// included; `None` if it is to be tried.
pub fn verdict(charges: u32, max_crashes: u32) -> Option<Verdict> {
    let ended = charges.saturating_sub(1);
    (ended >= max_crashes.max(1)).then(|| {
        // A process that was to write this down may have ended over something else.
        let ended = ended.min(max_crashes.max(1));
        let text = format!(
            "{ended} times the process ended while it worked on this message and on nothing else"
        );
        Verdict::new(FailureClass::Retryable, "crashed_consumer", text, ended)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The row of a partition, and processes that take it over, work, and die on one message.
    struct World {
        next_offset: i64,
        handed_out: i64,
        clean: bool,
        charged: (i64, u32),
        crashes: u32,
        charged_offsets: Vec<i64>,
    }

    const END: i64 = 40;
    const MAX_CRASHES: u32 = 3;

    impl World {
        fn commit(&mut self, to: i64) {
            self.next_offset = to;
            self.handed_out = self.handed_out.max(to);
        }

        /// One process, up to its death or the end. Says whether it got through.
        fn live(&mut self, guilty: i64, batch: usize, gives_back_after: usize) -> bool {
            let mut caution =
                Caution::on_taking_over(self.clean, self.next_offset, self.handed_out, batch);
            self.clean = false;
            let mut batches = 0;
            while self.next_offset < END {
                if batches == gives_back_after {
                    if !matches!(caution, Caution::Alone { .. }) {
                        self.handed_out = self.next_offset;
                    }
                    self.clean = caution.is_clean();
                    return false;
                }
                batches += 1;
                let from = self.next_offset;
                let mut to = (from + i64::try_from(batch).unwrap()).min(END);
                let dies = match caution {
                    Caution::Trusting => (from..to).contains(&guilty),
                    Caution::Careful { .. } => {
                        self.handed_out = self.handed_out.max(to);
                        (from..to).contains(&guilty)
                    }
                    Caution::Alone { .. } => {
                        to = from + 1;
                        let before = if self.charged.0 == from { self.charged.1 } else { 0 };
                        self.charged = (from, before + 1);
                        let is_run = verdict(self.charged.1, MAX_CRASHES).is_none();
                        if is_run && from == guilty {
                            self.charged_offsets.push(from);
                        }
                        is_run && from == guilty
                    }
                };
                if dies {
                    self.crashes += 1;
                    return false;
                }
                let taken = usize::try_from(to - from).unwrap();
                self.commit(to);
                caution = caution.after(taken, to);
            }
            self.clean = true;
            true
        }
    }

    proptest! {
        #[test]
        fn a_message_that_kills_is_found_after_a_bounded_number_of_deaths_and_no_other_is_charged(
            guilty in 0..END,
            batches in prop::collection::vec(1_usize..12, 1..40),
            handovers in prop::collection::vec(prop::option::of(0_usize..4), 1..40),
        ) {
            let mut world = World {
                next_offset: 0, handed_out: 0, clean: true, charged: (-1, 0), crashes: 0,
                charged_offsets: Vec::new(),
            };
            let mut lives = 0;
            for (batch, handover) in batches.iter().cycle().zip(handovers.iter().cycle()) {
                lives += 1;
                // Every other process at least lives for as long as it can.
                let handover = if lives % 2 == 0 { None } else { *handover };
                if world.live(guilty, *batch, handover.unwrap_or(usize::MAX)) {
                    break;
                }
                prop_assert!(lives < 200, "it never got through");
            }
            prop_assert!(world.charged_offsets.iter().all(|offset| *offset == guilty));
            // Batches of other sizes may each bring one death with progress.
            prop_assert!(world.crashes <= 2 * MAX_CRASHES + 12, "{} deaths", world.crashes);
            prop_assert!(world.crashes > MAX_CRASHES);
        }
    }

    #[test]
    fn who_is_found_where_is_treated_so() {
        use Caution::{Alone, Careful, Trusting};
        assert_eq!(Caution::on_taking_over(true, 7, 7, 100), Trusting);
        assert_eq!(Caution::on_taking_over(false, 7, 7, 100), Careful { left: 100 });
        assert_eq!(Caution::on_taking_over(false, 7, 7, 0), Trusting);
        assert_eq!(Caution::on_taking_over(false, 7, 9, 100), Alone { until: 9 });
        // Given back in the middle of it: the suspicion stays.
        assert_eq!(Caution::on_taking_over(true, 7, 9, 100), Alone { until: 9 });
        assert_eq!(Careful { left: 100 }.after(60, 60), Careful { left: 40 });
        assert_eq!(Careful { left: 40 }.after(60, 120), Trusting);
        assert_eq!(Alone { until: 9 }.after(1, 8), Alone { until: 9 });
        assert_eq!(Alone { until: 9 }.after(1, 9), Trusting);
    }

    #[test]
    fn only_deaths_count_and_not_the_attempt_that_begins() {
        assert_eq!(verdict(1, 3), None);
        assert_eq!(verdict(3, 3), None);
        let verdict = verdict(4, 3).unwrap();
        assert_eq!((verdict.code.as_ref(), verdict.attempts), ("crashed_consumer", 3));
    }
}
