//! What became of a record that was seen in the log.

use std::collections::{HashMap, HashSet};

use sqlx::PgConnection;

use super::claims::{Claim, claims};
use super::dead_letters::{DeadLetterSummary, dead_letters_of_messages};
use super::overview::partitions;
use super::retry_queue::{Waiting, waiting};
use super::snapshot;
use crate::identity::{Identity, id_of_conflict};
use crate::message::{Fingerprint, MessageId, Record};

/// A record in the log, as far as its fate depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Where it lies.
    pub partition: i32,
    /// Where it lies.
    pub offset: i64,
    /// What the message is known by.
    pub id: MessageId,
    /// What it says.
    pub fingerprint: Fingerprint,
}

impl Sighting {
    /// Of this record.
    pub fn of(record: &Record, identity: &Identity) -> Self {
        Self {
            partition: record.source.partition,
            offset: record.offset,
            id: identity.id,
            fingerprint: identity.fingerprint,
        }
    }

    /// The id it is dead-lettered under if its own belongs to another message.
    pub fn conflict_id(&self) -> MessageId {
        id_of_conflict(self.id, self.fingerprint)
    }

    fn is_at(&self, topic: &str, claim: &Claim) -> bool {
        claim.topic == topic && (claim.partition, claim.offset) == (self.partition, self.offset)
    }
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// The consumer has not come to it.
    Pending,
    /// It waits in the retry queue.
    Waiting(Waiting),
    /// It has this outcome; the dead letter if that is what it came to.
    Decided(Claim, Option<DeadLetterSummary>),
    /// Another record with the same content has this outcome.
    Duplicate(Claim, Option<DeadLetterSummary>),
    /// Another message with its id had its outcome before. It was dead-lettered for that.
    Conflict {
        /// Its own claim, under an id of its own.
        claim: Claim,
        /// Its dead letter.
        letter: Option<DeadLetterSummary>,
        /// The claim of the other message.
        holder: Claim,
    },
    /// The consumer is past it, and it has no outcome. That must not be: the audit tells more.
    Missing,
}

/// Tells what became of each, all of one moment. `topic_id` is that of the log they were seen in,
/// if it is known: a topic created anew has other records at the offsets that the database is past.
///
/// # Errors
/// The database does not answer, or lacks the engine's tables.
pub async fn fates(
    connection: &mut PgConnection,
    group: &str,
    topic: &str,
    topic_id: Option<&str>,
    sightings: &[Sighting],
) -> Result<Vec<Fate>, sqlx::Error> {
    let ids: Vec<MessageId> =
        sightings.iter().flat_map(|sighting| [sighting.id, sighting.conflict_id()]).collect();
    let mut snapshot = snapshot(connection).await?;
    let progress = partitions(&mut snapshot, group, topic).await?;
    let claims = claims(&mut snapshot, group, &ids).await?;
    let letters = dead_letters_of_messages(&mut snapshot, group, &ids).await?;
    let places: Vec<(i32, i64)> =
        sightings.iter().map(|sighting| (sighting.partition, sighting.offset)).collect();
    let waiting = match topic_id {
        Some(topic_id) => waiting(&mut snapshot, group, topic_id, &places).await?,
        None => HashMap::new(),
    };
    snapshot.rollback().await?;
    let is_foreign = |found: &str| topic_id.is_some_and(|topic_id| topic_id != found);
    let foreign = progress.iter().filter(|row| is_foreign(&row.topic_id)).map(|row| row.partition);
    let known = Known {
        topic,
        foreign: foreign.collect(),
        next_offsets: progress.into_iter().map(|row| (row.partition, row.next_offset)).collect(),
        claims: claims.into_iter().map(|claim| (claim.message_id, claim)).collect(),
        letters: letters.into_iter().map(|letter| (letter.message_id, letter)).collect(),
        waiting,
    };
    Ok(sightings.iter().map(|sighting| known.fate(sighting)).collect())
}

/// What the database says.
struct Known<'a> {
    topic: &'a str,
    /// Partitions whose progress is of another log than the records.
    foreign: HashSet<i32>,
    next_offsets: HashMap<i32, i64>,
    claims: HashMap<MessageId, Claim>,
    letters: HashMap<MessageId, DeadLetterSummary>,
    waiting: HashMap<(i32, i64), Waiting>,
}

impl Known<'_> {
    fn fate(&self, sighting: &Sighting) -> Fate {
        if self.foreign.contains(&sighting.partition) {
            return Fate::Pending;
        }
        if let Some(waiting) = self.waiting.get(&(sighting.partition, sighting.offset)) {
            return Fate::Waiting(waiting.clone());
        }
        let consumed = self
            .next_offsets
            .get(&sighting.partition)
            .is_some_and(|next_offset| sighting.offset < *next_offset);
        let undecided = || if consumed { Fate::Missing } else { Fate::Pending };
        let Some(holder) = self.claims.get(&sighting.id) else { return undecided() };
        if holder.fingerprint == sighting.fingerprint {
            return self.by(holder, sighting, consumed);
        }
        match self.claims.get(&sighting.conflict_id()) {
            Some(claim) if sighting.is_at(self.topic, claim) => Fate::Conflict {
                claim: claim.clone(),
                letter: self.letter_of(claim),
                holder: holder.clone(),
            },
            Some(claim) => self.by(claim, sighting, consumed),
            None => undecided(),
        }
    }

    /// By a claim with the same content.
    fn by(&self, claim: &Claim, sighting: &Sighting, consumed: bool) -> Fate {
        let letter = self.letter_of(claim);
        if sighting.is_at(self.topic, claim) {
            Fate::Decided(claim.clone(), letter)
        } else if consumed {
            Fate::Duplicate(claim.clone(), letter)
        } else {
            Fate::Pending
        }
    }

    fn letter_of(&self, claim: &Claim) -> Option<DeadLetterSummary> {
        self.letters.get(&claim.message_id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Outcome;
    use sqlx::types::time::OffsetDateTime;
    use uuid::Uuid;

    fn sighting(offset: i64, content: u8) -> Sighting {
        Sighting {
            partition: 0,
            offset,
            id: MessageId(Uuid::from_u128(7)),
            fingerprint: Fingerprint([content; Fingerprint::LEN]),
        }
    }

    fn claim(of: &Sighting, message_id: MessageId) -> Claim {
        Claim {
            message_id,
            outcome: Outcome::Applied,
            topic: "t".to_owned(),
            partition: of.partition,
            offset: of.offset,
            batch_seq: 1,
            processed_at: OffsetDateTime::UNIX_EPOCH,
            fingerprint: of.fingerprint,
        }
    }

    fn known(next_offset: i64, claims: impl IntoIterator<Item = Claim>) -> Known<'static> {
        Known {
            topic: "t",
            foreign: HashSet::new(),
            next_offsets: HashMap::from([(0, next_offset)]),
            claims: claims.into_iter().map(|claim| (claim.message_id, claim)).collect(),
            letters: HashMap::new(),
            waiting: HashMap::new(),
        }
    }

    #[test]
    fn a_record_in_the_retry_queue_waits() {
        let mut known = known(6, []);
        let waiting = Waiting { attempts: 2, next_attempt_in_seconds: None, error_message: None };
        known.waiting.insert((0, 5), waiting.clone());
        assert_eq!(known.fate(&sighting(5, 1)), Fate::Waiting(waiting));
        assert_eq!(known.fate(&sighting(4, 1)), Fate::Missing);
    }

    #[test]
    fn without_a_claim_a_record_is_pending_or_missing() {
        assert_eq!(known(5, []).fate(&sighting(5, 1)), Fate::Pending);
        assert_eq!(known(6, []).fate(&sighting(5, 1)), Fate::Missing);
        let other_partition = Sighting { partition: 9, ..sighting(5, 1) };
        assert_eq!(known(6, []).fate(&other_partition), Fate::Pending);
    }

    #[test]
    fn progress_in_a_log_that_is_gone_says_nothing_of_a_new_ones_records() {
        let mut known = known(6, [claim(&sighting(3, 1), sighting(3, 1).id)]);
        known.foreign.insert(0);
        assert_eq!(known.fate(&sighting(3, 1)), Fate::Pending);
        assert_eq!(known.fate(&sighting(5, 2)), Fate::Pending);
    }

    #[test]
    fn the_record_that_holds_the_claim_is_decided_and_its_repeats_are_duplicates_once_consumed() {
        let first = claim(&sighting(3, 1), sighting(3, 1).id);
        let known = known(5, [first.clone()]);
        assert_eq!(known.fate(&sighting(3, 1)), Fate::Decided(first.clone(), None));
        assert_eq!(known.fate(&sighting(4, 1)), Fate::Duplicate(first, None));
        assert_eq!(known.fate(&sighting(5, 1)), Fate::Pending);
    }

    #[test]
    fn other_content_under_the_same_id_is_a_conflict_and_its_repeats_are_duplicates_of_it() {
        let holder = claim(&sighting(3, 1), sighting(3, 1).id);
        let conflict = claim(&sighting(4, 2), sighting(4, 2).conflict_id());
        let known = known(6, [holder.clone(), conflict.clone()]);
        let expected = Fate::Conflict { claim: conflict.clone(), letter: None, holder };
        assert_eq!(known.fate(&sighting(4, 2)), expected);
        assert_eq!(known.fate(&sighting(5, 2)), Fate::Duplicate(conflict, None));
        assert_eq!(known.fate(&sighting(5, 3)), Fate::Missing);
        assert_eq!(known.fate(&sighting(6, 3)), Fate::Pending);
    }
}
