//! How often each of many may come: a bucket of tokens each, refilled with time. Pure but for its lock;
//! the caller brings the time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A full bucket lasts so long at the rate: bursts pass, and a client that was quiet may catch up.
const WINDOW_S: u32 = 10;
/// Most buckets that are remembered. A full one need not be.
const BUCKETS_MAX: usize = 50_000;

/// Buckets by what is limited.
#[derive(Debug)]
pub(super) struct Limiter<K> {
    /// Of the policy, in headers.
    name: &'static str,
    /// Requests a second; zero is no limit.
    rate: u32,
    buckets: Mutex<HashMap<K, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

/// What is left for somebody.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Quota {
    name: &'static str,
    limit: u32,
    /// Requests that may follow at once.
    pub(super) remaining: u32,
    /// Seconds until the bucket is full again.
    pub(super) reset_s: u64,
    /// Whether this request may pass, and if not, when the next may.
    pub(super) verdict: Result<(), u64>,
}

impl Quota {
    /// For the header `RateLimit-Policy`.
    pub(super) fn policy(&self) -> String {
        format!("\"{}\";q={};w={WINDOW_S}", self.name, self.limit)
    }

    /// For the header `RateLimit`.
    pub(super) fn left(&self) -> String {
        format!("\"{}\";r={};t={}", self.name, self.remaining, self.reset_s)
    }
}

impl<K: Eq + Hash> Limiter<K> {
    pub(super) fn new(name: &'static str, rate: u32) -> Self {
        Self { name, rate, buckets: Mutex::default() }
    }

    /// Takes a token of this one's bucket. `None`: there is no limit.
    pub(super) fn take(&self, who: K, now: Instant) -> Option<Quota> {
        if self.rate == 0 {
            return None;
        }
        let rate = f64::from(self.rate);
        let limit = self.rate.saturating_mul(WINDOW_S);
        let full = f64::from(limit);
        let level = |bucket: &Bucket| {
            let since = now.saturating_duration_since(bucket.at).as_secs_f64();
            (bucket.tokens + since * rate).min(full)
        };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(&who) {
            buckets.retain(|_, bucket| level(bucket) < full);
            // More strangers within seconds than there is room for: memory goes before justice.
            if buckets.len() >= BUCKETS_MAX {
                buckets.clear();
            }
        }
        let bucket = buckets.entry(who).or_insert(Bucket { tokens: full, at: now });
        let mut tokens = level(bucket);
        let passes = tokens >= 1.0;
        if passes {
            tokens -= 1.0;
        }
        *bucket = Bucket { tokens, at: now };
        let wait = |missing: f64| whole(missing / rate);
        Some(Quota {
            name: self.name,
            limit,
            remaining: u32::try_from(whole_down(tokens)).unwrap_or(limit),
            reset_s: wait(full - tokens),
            verdict: if passes { Ok(()) } else { Err(wait(1.0 - tokens).max(1)) },
        })
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
fn whole(number: f64) -> u64 {
    number.max(0.0).ceil() as u64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
fn whole_down(number: f64) -> u64 {
    number.max(0.0).floor() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_passes_and_then_one_at_a_time() {
        let limiter = Limiter::new("key", 2);
        let start = Instant::now();
        for left in (0..20).rev() {
            let quota = limiter.take("a", start).unwrap();
            assert_eq!((quota.verdict, quota.remaining), (Ok(()), left));
        }
        let refused = limiter.take("a", start).unwrap();
        assert_eq!((refused.verdict, refused.remaining, refused.reset_s), (Err(1), 0, 10));
        assert_eq!(refused.policy(), "\"key\";q=20;w=10");
        assert_eq!(refused.left(), "\"key\";r=0;t=10");
        assert_eq!(limiter.take("b", start).unwrap().verdict, Ok(()), "others are not concerned");
        let later = start + Duration::from_millis(500);
        assert_eq!(limiter.take("a", later).unwrap().verdict, Ok(()));
        assert_eq!(limiter.take("a", later).unwrap().verdict, Err(1));
        let much_later = start + Duration::from_secs(1000);
        assert_eq!(limiter.take("a", much_later).unwrap().remaining, 19);
    }

    #[test]
    fn no_rate_is_no_limit() {
        assert_eq!(Limiter::new("key", 0).take("a", Instant::now()), None);
    }

    #[test]
    fn any_number_of_strangers_takes_bounded_memory() {
        let limiter = Limiter::new("address", 1);
        let now = Instant::now();
        for stranger in 0..BUCKETS_MAX + 10 {
            limiter.take(stranger, now);
        }
        assert!(limiter.buckets.lock().unwrap().len() <= BUCKETS_MAX);
    }
}
