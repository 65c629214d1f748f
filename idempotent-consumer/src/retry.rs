//! When to try again. Pure: the randomness comes in as a number.

use std::time::Duration;

/// Exponential backoff with jitter and a cap, as in "Exponential Backoff And Jitter" (AWS, 2015).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Upper bound of the first wait.
    pub base: Duration,
    /// Upper bound of any wait.
    pub cap: Duration,
}

impl Backoff {
    /// The wait after failure number `failures` (from 1). `jitter` is in `0.0..=1.0`; the wait is
    /// between half of its bound and the bound, so it never degenerates to a busy loop.
    pub fn delay(&self, failures: u32, jitter: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let bound = self.base.saturating_mul(1 << doublings).min(self.cap);
        bound.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn waits_grow_to_the_cap_and_never_shrink_to_nothing(
            base_ms in 1_u64..10_000, cap_ms in 1_u64..600_000, failures in 0_u32..u32::MAX, jitter in 0.0..=1.0_f64,
        ) {
            let backoff = Backoff { base: Duration::from_millis(base_ms), cap: Duration::from_millis(cap_ms) };
            let delay = backoff.delay(failures, jitter);
            let first = backoff.base.min(backoff.cap);
            prop_assert!(delay <= backoff.cap);
            prop_assert!(delay >= first / 2);
            prop_assert!(backoff.delay(failures.saturating_add(1), jitter) >= delay);
        }
    }

    #[test]
    fn the_first_waits_double() {
        let backoff = Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(30) };
        let waits: Vec<_> = (1..=4).map(|n| backoff.delay(n, 1.0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800]);
    }
}
