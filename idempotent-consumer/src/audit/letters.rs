//! Invariant 4, the judgements: a dead letter, its claim and its copy in the topic belong
//! together. Pure.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::report::Invariant;
use crate::identity::{envelope, fingerprint};
use crate::message::{Fingerprint, Headers, PartitionKey, Record};
use crate::outcome::Outcome;
use crate::redrive::{COUNT_HEADER, GROUP_HEADER, ID_HEADER};

/// A row of `dead_letters` and the claim under its message id, if there is one.
pub(super) struct Letter {
    pub(super) dlq_id: Uuid,
    pub(super) message_id: Uuid,
    /// A redriven message that was applied in the end.
    pub(super) is_resolved: bool,
    /// How far its redrive is, if it is under way.
    pub(super) redrive: Option<Redrive>,
    /// Milliseconds since 1970.
    pub(super) failed_at_ms: i64,
    /// The original record, as far as the row has it.
    pub(super) record: Record,
    pub(super) claim: Option<LetterClaim>,
}

/// A redrive that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Redrive {
    pub(super) number: i32,
    /// Its copy is in the outbox, or in the retry queue.
    pub(super) is_waiting: bool,
    /// It was waited for.
    pub(super) is_awaited: bool,
}

pub(super) struct LetterClaim {
    pub(super) outcome: String,
    pub(super) fingerprint: Fingerprint,
    pub(super) source: PartitionKey,
    pub(super) offset: i64,
}

/// What of the dead letters is outside of the table `dead_letters`.
#[derive(Default)]
pub(super) struct Copies {
    /// In the dead letter topic.
    pub(super) published: HashSet<Uuid>,
    /// On the way there, in the outbox.
    pub(super) queued: HashSet<Uuid>,
    /// Redriven copies in the log that the consumer has not come to: message and number.
    pub(super) unconsumed: HashSet<(Uuid, i32)>,
    /// Copies made before this time may be gone by retention. Milliseconds since 1970.
    pub(super) gone_before_ms: Option<i64>,
}

impl Letter {
    /// Judges the row; returns whether it is one that cannot be judged any more.
    pub(super) fn check(&self, copies: &Copies, findings: &mut Invariant) -> bool {
        findings.checked += 1;
        match &self.claim {
            None => findings.violation(|| format!("{self} has no claim in processed_messages")),
            Some(claim) => self.check_claim(claim, findings),
        }
        self.check_redrive(copies, findings);
        if copies.published.contains(&self.dlq_id) || copies.queued.contains(&self.dlq_id) {
            return false;
        }
        if copies.gone_before_ms.is_some_and(|gone| self.failed_at_ms < gone) {
            return true;
        }
        findings.violation(|| {
            format!("{self} has no copy in the dead letter topic and none in the outbox")
        });
        false
    }

    /// A redrive that is under way has its copy somewhere ahead of the consumer.
    fn check_redrive(&self, copies: &Copies, findings: &mut Invariant) {
        let Some(Redrive { number, is_waiting, is_awaited }) = self.redrive else { return };
        if !is_waiting && !copies.unconsumed.contains(&(self.message_id, number)) {
            findings.violation(|| {
                format!(
                    "{self} is being redriven, but its copy {number} is neither in the outbox nor \
                     ahead of the consumer"
                )
            });
        } else if is_awaited {
            findings.violation(|| format!("{self} is still being redriven"));
        }
    }

    fn check_claim(&self, claim: &LetterClaim, findings: &mut Invariant) {
        let is_dead = claim.outcome == Outcome::DeadLettered.as_str();
        if is_dead == self.is_resolved {
            findings.violation(|| {
                format!("{self} is contradicted by its claim, which says {}", claim.outcome)
            });
            return;
        }
        // The claim of a resolved one is that of its copy, elsewhere in the same partition.
        let is_moved = claim.source != self.record.source
            || (claim.offset != self.record.offset && !self.is_resolved);
        if is_moved {
            findings.violation(|| {
                format!("{self} has its claim at {} offset {}", claim.source, claim.offset)
            });
        }
        let record = &self.record;
        let event_type = envelope(record).event_type;
        let said =
            fingerprint(event_type.as_deref(), record.key.as_deref(), record.value.as_deref());
        if said != claim.fingerprint {
            findings.violation(|| format!("{self} has not the content that was claimed"));
        }
    }
}

impl std::fmt::Display for Letter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { dlq_id, message_id, record, .. } = self;
        write!(
            f,
            "dead letter {dlq_id} (message {message_id}, from {} offset {})",
            record.source, record.offset
        )
    }
}

/// The original that a copy in the topic must carry.
pub(super) struct Original {
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) headers: Headers,
}

/// The group that dead-lettered this record; `None` for records of others.
pub(super) fn group_of(copy: &Record) -> Option<&str> {
    copy.headers.get_str("dlq-consumer-group")
}

/// The id that ties a copy to its row.
pub(super) fn dlq_id_of(copy: &Record) -> Option<Uuid> {
    copy.headers.get_str("dlq-id").and_then(|text| Uuid::try_parse(text).ok())
}

/// Judges records of the topic by the rows found under their ids.
pub(super) fn check_copies(
    copies: &[(Uuid, Record)],
    originals: &HashMap<Uuid, Original>,
    is_before_snapshot: impl Fn(&Record) -> bool,
    findings: &mut Invariant,
) {
    for (dlq_id, copy) in copies {
        let Some(original) = originals.get(dlq_id) else {
            // A row that was committed after the snapshot may have sent its copy already.
            if is_before_snapshot(copy) {
                findings.violation(|| {
                    format!(
                        "{} offset {}: the dead letter {dlq_id} there has no row in dead_letters",
                        copy.source, copy.offset
                    )
                });
            }
            continue;
        };
        if let Some(what) = difference(copy, original) {
            findings.violation(|| {
                format!(
                    "{} offset {}: the copy of dead letter {dlq_id} has another {what} than the \
                     original",
                    copy.source, copy.offset
                )
            });
        }
    }
}

/// What differs. The original's headers come first, behind them those that tell what happened.
fn difference(copy: &Record, original: &Original) -> Option<&'static str> {
    if copy.key != original.key {
        return Some("key");
    }
    let omitted = copy.value.is_none() && copy.headers.get_str("dlq-value-omitted") == Some("true");
    if copy.value != original.value && !omitted {
        return Some("value");
    }
    // Those that a redrive sets are never the original's.
    let is_kept = |(name, _): &(&[u8], _)| {
        let tickets = [ID_HEADER, COUNT_HEADER, GROUP_HEADER];
        !tickets.iter().any(|ticket| name.eq_ignore_ascii_case(ticket.as_bytes()))
    };
    let mut of_copy = copy.headers.iter().filter(is_kept);
    let starts_alike =
        original.headers.iter().filter(is_kept).all(|header| of_copy.next() == Some(header));
    let rest_is_ours = of_copy.all(|(name, _)| name.starts_with(b"dlq-"));
    (!starts_alike || !rest_is_ours).then_some("list of headers")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let mut headers = Headers::new();
        headers.push("ce_type", Some(b"order.placed"));
        headers.push("odd \u{ff}", None);
        Record {
            source: PartitionKey { topic: "t".into(), partition: 1 },
            offset: 7,
            timestamp_ms: None,
            key: Some(b"c-1".to_vec()),
            value: Some(b"{".to_vec()),
            headers,
        }
    }

    fn letter(change: impl FnOnce(&mut Letter)) -> Letter {
        let record = record();
        let claim = LetterClaim {
            outcome: "dead_lettered".to_owned(),
            fingerprint: fingerprint(Some("order.placed"), Some(b"c-1"), Some(b"{")),
            source: record.source.clone(),
            offset: record.offset,
        };
        let mut letter = Letter {
            dlq_id: Uuid::from_u128(1),
            message_id: Uuid::from_u128(2),
            is_resolved: false,
            redrive: None,
            failed_at_ms: 1000,
            record,
            claim: Some(claim),
        };
        change(&mut letter);
        letter
    }

    fn published() -> Copies {
        Copies { published: HashSet::from([Uuid::from_u128(1)]), ..Copies::default() }
    }

    fn found(letter: &Letter, copies: &Copies) -> Vec<String> {
        let mut findings = Invariant::new(4, "dead letters", "…", 10);
        letter.check(copies, &mut findings);
        findings.examples
    }

    #[test]
    fn a_dead_letter_with_claim_and_copy_holds_and_one_on_its_way_as_well() {
        assert!(found(&letter(|_| {}), &published()).is_empty());
        let queued = Copies { queued: HashSet::from([Uuid::from_u128(1)]), ..Copies::default() };
        assert!(found(&letter(|_| {}), &queued).is_empty());
    }

    #[test]
    fn each_contradiction_between_row_claim_and_topic_is_found() {
        type Change = fn(&mut Letter);
        let cases: [(Change, &str); 5] = [
            (|letter| letter.claim = None, "no claim"),
            (|letter| claim(letter).outcome = "applied".to_owned(), "says applied"),
            (|letter| claim(letter).offset = 8, "offset 8"),
            (|letter| letter.record.value = Some(b"[".to_vec()), "not the content"),
            (|letter| letter.is_resolved = true, "says dead_lettered"),
        ];
        for (change, text) in cases {
            let found = found(&letter(change), &published());
            assert!(matches!(&found[..], [one] if one.contains(text)), "{text}: {found:?}");
        }
        assert!(found(&letter(|_| {}), &Copies::default())[0].contains("no copy"));
    }

    fn claim(letter: &mut Letter) -> &mut LetterClaim {
        letter.claim.as_mut().unwrap()
    }

    #[test]
    fn a_redrive_that_is_under_way_has_its_copy_ahead_of_the_consumer() {
        let redriven = |is_waiting, is_awaited| {
            letter(|letter| letter.redrive = Some(Redrive { number: 2, is_waiting, is_awaited }))
        };
        assert!(found(&redriven(true, false), &published()).is_empty());
        assert!(found(&redriven(true, true), &published())[0].contains("still being redriven"));
        assert!(found(&redriven(false, false), &published())[0].contains("copy 2 is neither"));
        let of = |number| HashSet::from([(Uuid::from_u128(2), number)]);
        let ahead = |number| Copies { unconsumed: of(number), ..published() };
        assert!(found(&redriven(false, false), &ahead(2)).is_empty());
        assert_eq!(found(&redriven(false, false), &ahead(1)).len(), 1);
    }

    #[test]
    fn a_copy_that_retention_may_have_removed_is_not_provable() {
        let mut findings = Invariant::new(4, "dead letters", "…", 10);
        let copies = |gone| Copies { gone_before_ms: Some(gone), ..Copies::default() };
        assert!(letter(|_| {}).check(&copies(2000), &mut findings));
        assert_eq!(findings.violations, 0);
        assert!(!letter(|_| {}).check(&copies(500), &mut findings));
        assert_eq!(findings.violations, 1);
    }

    #[test]
    fn a_copy_carries_the_original_byte_for_byte_and_may_go_without_its_value() {
        let original = || {
            let Record { key, value, headers, .. } = record();
            Original { key, value, headers }
        };
        let mut copy = record();
        copy.headers.push("dlq-id", Some(b"x"));
        assert_eq!(difference(&copy, &original()), None);
        assert_eq!(difference(&record(), &Original { key: None, ..original() }), Some("key"));
        copy.value = None;
        assert_eq!(difference(&copy, &original()), Some("value"));
        copy.headers.push("dlq-value-omitted", Some(b"true"));
        assert_eq!(difference(&copy, &original()), None);
        copy.headers.push("other", None);
        assert_eq!(difference(&copy, &original()), Some("list of headers"));
        assert_eq!(
            difference(&Record { headers: Headers::new(), ..record() }, &original()),
            Some("list of headers")
        );
    }

    #[test]
    fn a_copy_without_a_row_is_found_unless_it_may_be_newer_than_the_snapshot() {
        let mut findings = Invariant::new(4, "dead letters", "…", 10);
        let copies = [(Uuid::from_u128(1), record())];
        check_copies(&copies, &HashMap::new(), |_| false, &mut findings);
        assert_eq!(findings.violations, 0);
        check_copies(&copies, &HashMap::new(), |_| true, &mut findings);
        assert!(findings.examples[0].contains("has no row"));
    }
}
