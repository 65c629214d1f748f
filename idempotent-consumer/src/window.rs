//! The dedup window: what becomes of a message that has no claim where claims are purged, and which
//! windows are long enough. Pure.
//!
//! ```text
//!   claims may be gone        kept, not relied on          claims are all there
//!   ────────────────────┼─────────── MARGIN ─────────┼──────────── window ──────────── now
//!                 purged before              applied from here on
//! ```
//!
//! A purge at `p` takes a claim only if it was made before `p - window - MARGIN`, and if its id has
//! a time, that is before it as well. A batch that looks at the clock at `b` applies an unclaimed
//! message only if its time is not before `b - window`. So a message whose claim was purged could
//! be applied again only if `p - b > MARGIN`: a transaction that stays open for longer than
//! [`MARGIN`], or a clock that falls back by as much.
//!
//! Clocks and settings are not trusted alone: `p - window - MARGIN` is written down for good before
//! the first claim goes (`dedup_window.purged_before`), batches that began before are waited for,
//! and no later one applies an unclaimed message that is older.

use std::fmt;
use std::time::Duration;

use crate::failure::FailureClass;
use crate::message::{MessageId, Record};
use crate::outcome::{Candidate, Content, Verdict};

/// How much longer a purge keeps claims than the engine relies on them.
pub const MARGIN: Duration = Duration::from_hours(1);

/// What a batch knows, inside its transaction, of the claims that may be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Messages from before this moment may have had a claim. Milliseconds since 1970, by the
    /// database's clock; `None` if no claim is ever purged.
    pub reaches_back_to_ms: Option<i64>,
    /// The partition's `next_offset`: every record below it has had its outcome.
    pub next_offset: i64,
}

/// What a message is that turns out to have no claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclaimed {
    /// Nobody has seen it.
    New,
    /// It has had its outcome, and its claim was purged.
    Settled,
    /// It is so old that it cannot be proved new.
    OutsideWindow,
}

impl Memory {
    /// Judges a record by its place and its message's time.
    pub fn unclaimed(&self, id: MessageId, record: &Record) -> Unclaimed {
        self.judge(record.offset, time_ms(id, record.timestamp_ms))
    }

    fn judge(&self, offset: i64, time_ms: Option<i64>) -> Unclaimed {
        let Some(reaches_back_to_ms) = self.reaches_back_to_ms else { return Unclaimed::New };
        if offset < self.next_offset {
            Unclaimed::Settled
        } else if time_ms.is_some_and(|time_ms| time_ms >= reaches_back_to_ms) {
            Unclaimed::New
        } else {
            Unclaimed::OutsideWindow
        }
    }

    /// Changes what is to become of a message that may not be applied. One that has its claim
    /// is a duplicate all the same.
    pub(crate) fn admit(&self, message: &mut Candidate, record: &Record) {
        match self.unclaimed(message.id, record) {
            Unclaimed::Settled => message.content = Content::Settled,
            Unclaimed::OutsideWindow if message.content == Content::Usable => {
                message.content = Content::Doomed(Box::new(outside_window(message.id)));
            }
            // Poison is poison at any age, and passing over has no effect.
            Unclaimed::OutsideWindow | Unclaimed::New => {}
        }
    }
}

/// When a message was made: the time in its id of version 7, else its record's timestamp.
pub fn time_ms(id: MessageId, timestamp_ms: Option<i64>) -> Option<i64> {
    let bits = id.0.as_u128();
    let is_version_7 = bits >> 76 & 0xf == 7;
    if is_version_7 { i64::try_from(bits >> 80).ok() } else { timestamp_ms }
}

fn outside_window(id: MessageId) -> Verdict {
    Verdict::new(
        FailureClass::Permanent,
        "outside_dedup_window",
        format!(
            "message {id} is older than the dedup window: whether it was applied before cannot be \
             told any more"
        ),
        0,
    )
}

/// How long a topic keeps its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The topic.
    pub topic: String,
    /// `cleanup.policy`.
    pub cleanup_policy: String,
    /// `retention.ms`; negative: for ever.
    pub retention_ms: i64,
    /// `segment.ms`: only what is in a closed segment is deleted.
    pub segment_ms: i64,
}

/// Why a window is not long enough.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowRefused {
    /// A record could be read again after its claim is gone.
    #[error(
        "the dedup window of {} is too short: the topic {topic} keeps records for {} \
         (retention.ms {}, segment.ms {}, and a day); give more than that, or lower the topic's \
         retention", Span(*.window), Span(*.kept_for), Span(*.retention), Span(*.segment)
    )]
    TooShort {
        /// The window.
        window: Duration,
        /// The topic.
        topic: String,
        /// How long a record of it may be read.
        kept_for: Duration,
        /// Its `retention.ms`.
        retention: Duration,
        /// Its `segment.ms`.
        segment: Duration,
    },
    /// There is no such time.
    #[error(
        "a dedup window of {} is too short for the topic {topic}, which keeps records for ever \
         ({why}); keep the claims for ever as well, or give the topic a retention",
        Span(*.window)
    )]
    Unlimited {
        /// The window.
        window: Duration,
        /// The topic.
        topic: String,
        /// The setting that says so.
        why: String,
    },
}

/// Checks that a record is gone from its topic before its claim is.
///
/// # Errors
/// It is not.
pub fn check(window: Duration, retention: &Retention) -> Result<(), WindowRefused> {
    const DAY: Duration = Duration::from_hours(24);
    let topic = retention.topic.clone();
    let unlimited = |why: String| WindowRefused::Unlimited { window, topic: topic.clone(), why };
    if retention.cleanup_policy != "delete" {
        return Err(unlimited(format!("cleanup.policy={}", retention.cleanup_policy)));
    }
    let Ok(kept) = u64::try_from(retention.retention_ms) else {
        return Err(unlimited(format!("retention.ms={}", retention.retention_ms)));
    };
    let kept = Duration::from_millis(kept);
    let segment = Duration::from_millis(u64::try_from(retention.segment_ms).unwrap_or(u64::MAX));
    let kept_for = kept.saturating_add(segment).saturating_add(DAY);
    if window > kept_for {
        Ok(())
    } else {
        Err(WindowRefused::TooShort { window, topic, kept_for, retention: kept, segment })
    }
}

/// A duration for people: `15d`, `7d 1h`, `90s`.
pub(crate) struct Span(pub(crate) Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
        let mut rest = ms;
        let mut parts = Vec::new();
        for (unit, size) in units {
            if rest >= size {
                parts.push(format!("{}{unit}", rest / size));
                rest %= size;
            }
        }
        f.write_str(if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Fingerprint, Headers, PartitionKey};
    use proptest::prelude::*;
    use uuid::Uuid;

    const DAY_MS: i64 = 86_400_000;

    fn retention(retention_ms: i64, segment_ms: i64) -> Retention {
        let (topic, cleanup_policy) = ("orders".to_owned(), "delete".to_owned());
        Retention { topic, cleanup_policy, retention_ms, segment_ms }
    }

    fn record(offset: i64) -> Record {
        Record {
            source: PartitionKey { topic: "orders".into(), partition: 0 },
            offset,
            timestamp_ms: None,
            key: None,
            value: None,
            headers: Headers::new(),
        }
    }

    fn days(days: u64) -> Duration {
        Duration::from_hours(24 * days)
    }

    fn id_of(time_ms: i64) -> MessageId {
        let time_ms = u128::try_from(time_ms).unwrap();
        MessageId(Uuid::from_u128(time_ms << 80 | 7 << 76 | 2 << 62 | 5))
    }

    #[test]
    fn the_time_of_a_message_is_in_its_id_or_else_the_records() {
        let made = id_of(1_700_000_000_000);
        assert_eq!(made.0.get_version_num(), 7);
        assert_eq!(time_ms(made, Some(5)), Some(1_700_000_000_000));
        assert_eq!(time_ms(MessageId(Uuid::from_u128(4 << 76)), Some(5)), Some(5));
        assert_eq!(time_ms(MessageId(Uuid::from_u128(5 << 76)), None), None);
    }

    #[test]
    fn a_window_has_to_exceed_retention_and_a_segment_and_a_day() {
        let week = retention(7 * DAY_MS, 7 * DAY_MS);
        assert_eq!(check(days(15) + Duration::from_millis(1), &week), Ok(()));
        let refused = check(days(15), &week).unwrap_err().to_string();
        assert!(refused.contains("window of 15d is too short"), "{refused}");
        assert!(refused.contains("keeps records for 15d (retention.ms 7d, segment.ms 7d"));
    }

    #[test]
    fn topics_that_keep_records_for_ever_allow_no_window() {
        let compacted = Retention { cleanup_policy: "compact".to_owned(), ..retention(1, 1) };
        let both = Retention { cleanup_policy: "compact,delete".to_owned(), ..retention(1, 1) };
        for endless in [retention(-1, 1), compacted, both] {
            assert!(matches!(check(days(9999), &endless), Err(WindowRefused::Unlimited { .. })));
        }
        assert!(check(Duration::MAX, &retention(i64::MAX, i64::MAX)).is_ok());
    }

    #[test]
    fn spans_are_written_in_their_units() {
        let spans = [0, 90_000, 7 * 86_400_000 + 3_600_000, 86_400_001].map(Duration::from_millis);
        assert_eq!(spans.map(|span| Span(span).to_string()), ["0s", "1m 30s", "7d 1h", "1d 1ms"]);
    }

    #[test]
    fn poison_and_what_is_passed_over_stay_what_they_are_at_any_age() {
        let memory = Memory { reaches_back_to_ms: Some(10), next_offset: 5 };
        let poison = Content::Doomed(Box::new(Verdict::new(FailureClass::Permanent, "x", "x", 0)));
        for content in [poison, Content::Skip] {
            let fingerprint = Fingerprint([0; Fingerprint::LEN]);
            let mut message = Candidate {
                id: id_of(3),
                fingerprint,
                content: content.clone(),
                of_old_log: false,
            };
            memory.admit(&mut message, &record(5));
            assert_eq!(message.content, content);
            memory.admit(&mut message, &record(4));
            assert_eq!(message.content, Content::Settled);
        }
    }

    proptest! {
        /// Times in minutes: a message is applied, a purge may come at any time and take its claim,
        /// and a batch reads it again, at its place or behind `next_offset`, looking at the clock
        /// up to a margin before the purge.
        #[test]
        fn a_message_whose_claim_was_purged_is_never_new(
            made in 0_i64..100_000,
            applied_after in 0_i64..100_000,
            window in 0_i64..50_000,
            purged_at in 0_i64..300_000,
            read_before_purge in 0_i64..60,
            is_version_7 in any::<bool>(),
            sent_again_after in prop::option::of(0_i64..10_000),
        ) {
            let ms = |minutes: i64| minutes * 60_000;
            let applied_at = made + applied_after;
            let margin = i64::try_from(MARGIN.as_secs() / 60).unwrap();
            let cutoff = purged_at - window - margin;
            let id = if is_version_7 { id_of(ms(made)) } else { MessageId(Uuid::from_u128(4 << 76)) };
            // What the SQL of a purge takes.
            let is_purged = applied_at < cutoff && (!is_version_7 || made < cutoff);
            prop_assume!(is_purged);
            let read_at = purged_at - read_before_purge;
            let memory = Memory { reaches_back_to_ms: Some(ms(read_at - window)), next_offset: 10 };
            // The same record, read again.
            prop_assert_eq!(memory.judge(9, time_ms(id, Some(ms(made)))), Unclaimed::Settled);
            // The same message, sent again: a timestamp of its own, the id's time is what it was.
            let timestamp = made + sent_again_after.unwrap_or(0);
            if is_version_7 || timestamp < cutoff {
                let unclaimed = memory.judge(10, time_ms(id, Some(ms(timestamp))));
                prop_assert_eq!(unclaimed, Unclaimed::OutsideWindow);
            }
        }

        #[test]
        fn without_a_window_every_unclaimed_message_is_new(
            offset in any::<i64>(), next_offset in any::<i64>(), time in any::<Option<i64>>(),
        ) {
            let memory = Memory { reaches_back_to_ms: None, next_offset };
            prop_assert_eq!(memory.judge(offset, time), Unclaimed::New);
        }
    }
}
