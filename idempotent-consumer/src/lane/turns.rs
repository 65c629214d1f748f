//! Whose turn it is, the log's or the retry queue's, and how many go together. Pure: who uses it
//! says how long things took.
//!
//! Neither keeps the other waiting, and what fails costs those that do not fail little: a turn of the
//! queue that brought nothing to its end is paid back to the log many times over, while the log has
//! records.

use std::time::Duration;

/// So many messages of the retry queue are tried together at first, and more while they succeed.
const FEW_RETRIES: usize = 16;

/// How many times as long the log has its turn, while it has records, after attempts in vain: what
/// fails may cost the others a hundredth.
const LOG_TURNS: u32 = 100;

/// Of one lane.
#[derive(Debug)]
pub(super) struct Turns {
    /// For so long the log has its turn, while it has records.
    logs: Duration,
    /// How many messages of the log go together: few where many have failed.
    pub(super) reach: usize,
    /// The same for the retry queue.
    pub(super) retries_together: usize,
    /// What transactions that committed have taken, since the queue's turn began.
    useful: Duration,
    /// Whether one that brought nothing to its end was among them.
    has_failed: bool,
}

impl Turns {
    pub(super) fn new() -> Self {
        Self {
            logs: Duration::ZERO,
            reach: usize::MAX,
            retries_together: FEW_RETRIES,
            useful: Duration::ZERO,
            has_failed: false,
        }
    }

    /// Whether the retry queue may have a turn.
    pub(super) fn is_the_queues(&self) -> bool {
        self.logs.is_zero()
    }

    /// The log was worked on for so long.
    pub(super) fn log_had(&mut self, time: Duration) {
        self.logs = self.logs.saturating_sub(time);
    }

    /// The log has no records now.
    pub(super) fn log_is_idle(&mut self) {
        self.logs = Duration::ZERO;
    }

    /// A transaction committed after so long.
    pub(super) fn committed(&mut self, after: Duration) {
        self.useful += after;
    }

    /// A transaction brought nothing to its end.
    pub(super) fn failed(&mut self) {
        self.has_failed = true;
    }

    /// The retry queue's turn begins.
    pub(super) fn queue_begins(&mut self) {
        self.useful = Duration::ZERO;
        self.has_failed = false;
    }

    /// The retry queue had its turn for so long. At most `batch_size` are tried together next time,
    /// which is at most `longest` from now: an attempt that ran into a timeout is not to put off those
    /// of other keys for longer than a message waits anyway.
    pub(super) fn queue_had(&mut self, time: Duration, batch_size: usize, longest: Duration) {
        self.retries_together =
            if self.has_failed { FEW_RETRIES } else { (self.retries_together * 4).min(batch_size) };
        let owed = time.saturating_sub(self.useful).saturating_mul(LOG_TURNS);
        self.logs = self.logs.saturating_add(owed).min(longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A turn of three seconds, `useful` of which were.
    fn turn(turns: &mut Turns, useful: u32, has_failed: bool) {
        turns.queue_begins();
        turns.committed(useful * SECOND);
        if has_failed {
            turns.failed();
        }
        turns.queue_had(3 * SECOND, 100, 300 * SECOND);
    }

    #[test]
    fn what_the_queue_had_in_vain_is_paid_back_to_the_log_or_to_nobody() {
        let mut turns = Turns::new();
        assert!(turns.is_the_queues());
        turn(&mut turns, 1, true);
        turns.log_had(199 * SECOND);
        assert!(!turns.is_the_queues());
        turns.log_had(SECOND);
        assert!(turns.is_the_queues());
        turn(&mut turns, 0, true);
        turns.log_is_idle();
        assert!(turns.is_the_queues(), "nobody waits");
        turn(&mut turns, 3, false);
        assert!(turns.is_the_queues(), "all of it was useful");
        turns.queue_had(20 * SECOND, 100, 300 * SECOND);
        turns.log_had(300 * SECOND);
        assert!(turns.is_the_queues(), "not for longer than that");
    }

    #[test]
    fn few_are_tried_together_after_a_failure_and_more_after_each_success() {
        let mut turns = Turns::new();
        let mut after = |has_failed| {
            turn(&mut turns, 3, has_failed);
            turns.retries_together
        };
        assert_eq!([after(false), after(false), after(true), after(false)], [64, 100, 16, 64]);
    }
}
