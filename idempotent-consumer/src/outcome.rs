//! What becomes of a message. Pure: no IO, no clock.
//!
//! ```text
//!             record ── something of its key waits ──► waits behind it, see `deferral`
//!               │ decode
//!     ┌─────────┼──────────────┐
//!   poison    usable    unknown type, skipped
//!     └─────────┼──────────────┘
//!               │ claim its id (sorted, ON CONFLICT DO NOTHING)
//!     ┌─────────┴──────────────────────┐
//!    won                    somebody holds it already
//!     │                     ┌──────────┴───────────┐
//!     │              same fingerprint      other fingerprint
//!     │          ┌──────┴──────┐        id_conflict
//!     │      a redrive      duplicate   (claims an id of its own,
//!     │     of its dead     (counted)     then a dead letter)
//!     ├──────── letter, see `redrive`
//!     ├─ poison, or older than
//!     │  the dedup window ────► dead letter (see `window`)
//!     ├─ to be skipped ───────► skipped
//!     └─ usable ── handler ──┬► applied
//!                            ├► rejected: dead letter
//!                            └► retry: no claim, the retry queue, see `plan`
//! ```

use std::borrow::Cow;
use std::cell::LazyCell;
use std::collections::{HashMap, HashSet};

use crate::failure::FailureClass;
use crate::identity::id_of_conflict;
use crate::message::{Fingerprint, MessageId};

/// What is in a record, after decoding and before the database has been asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A message for the handler.
    Usable,
    /// Of a type that the application chose to pass over.
    Skip,
    /// Not to be applied whatever the database says: undecodable, or given up after failures.
    Doomed(Box<Verdict>),
    /// It has had its outcome, whether or not its claim is still there.
    Settled,
}

/// Why a message is dead-lettered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Class of the failure.
    pub class: FailureClass,
    /// Stable, machine-readable: `invalid_json`, `id_conflict`, an SQLSTATE, ….
    pub code: Cow<'static, str>,
    /// For people. Cut to 1 KiB.
    pub text: String,
    /// How often the handler was tried, 0 if it never was.
    pub attempts: u32,
}

/// Bytes of [`Verdict::text`] at most.
pub const MAX_TEXT_BYTES: usize = 1024;

impl Verdict {
    /// A verdict with its text cut to [`MAX_TEXT_BYTES`] at a character's boundary, without NUL,
    /// which no text column takes.
    pub fn new(
        class: FailureClass,
        code: impl Into<Cow<'static, str>>,
        text: impl Into<String>,
        attempts: u32,
    ) -> Self {
        let mut text: String = text.into().replace('\0', "\u{fffd}");
        if text.len() > MAX_TEXT_BYTES {
            let end = (0..=MAX_TEXT_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.truncate(end);
        }
        Self { class, code: code.into(), text, attempts }
    }
}

/// One message of a batch, as far as the decision needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: MessageId,
    /// What it says.
    pub fingerprint: Fingerprint,
    /// What is in it.
    pub content: Content,
    /// It is of a log that an operator has given up, and waited for another attempt since.
    pub of_old_log: bool,
}

/// What `processed_messages.outcome` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The handler's effect is in the same transaction.
    Applied,
    /// A row of `dead_letters` is in the same transaction.
    DeadLettered,
    /// Passed over on purpose.
    Skipped,
}

impl Outcome {
    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::DeadLettered => "dead_lettered",
            Self::Skipped => "skipped",
        }
    }
}

/// A row to be claimed: the message at `index` of the batch, under `id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The id to claim.
    pub id: MessageId,
    /// Which message of the batch claims it.
    pub index: usize,
    /// What the row says, unless the handler rejects the message.
    pub outcome: Outcome,
}

/// The claims a batch asks for: one for each id, made by its first message, in the order of ids,
/// since two transactions that lock the same rows in different orders deadlock.
pub fn claims(batch: &[Candidate]) -> Vec<Claim> {
    let mut claims: Vec<Claim> = Vec::with_capacity(batch.len());
    for (index, message) in batch.iter().enumerate() {
        let outcome = match message.content {
            Content::Usable => Outcome::Applied,
            Content::Skip => Outcome::Skipped,
            Content::Doomed(_) => Outcome::DeadLettered,
            Content::Settled => continue,
        };
        claims.push(Claim { id: message.id, index, outcome });
    }
    fold(claims)
}

/// One claim for each id, the first, in the order of ids.
fn fold(mut claims: Vec<Claim>) -> Vec<Claim> {
    claims.sort_by_key(|claim| (claim.id, claim.index));
    claims.dedup_by_key(|claim| claim.id);
    claims
}

/// What the claims came to.
#[derive(Debug, Default)]
pub struct ClaimResult {
    /// Of each message of the batch, by its index, whether it won the id it claimed.
    won: Vec<bool>,
    /// The fingerprints of those it did not win, read in a statement of its own afterwards.
    pub held: HashMap<MessageId, Fingerprint>,
    /// Messages of the batch, by their indices, that are redriven: the claim is theirs to replace.
    pub redriven: HashSet<usize>,
}

impl ClaimResult {
    /// The message at this index of the batch has won the id it claimed.
    pub(crate) fn note_won(&mut self, index: usize) {
        if self.won.len() <= index {
            self.won.resize(index + 1, false);
        }
        self.won[index] = true;
    }

    /// Whether this one has.
    pub(crate) fn has_won(&self, index: usize) -> bool {
        self.won.get(index).is_some_and(|won| *won)
    }
}

/// What a message is, once the claims are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It won its id, or is redriven, and its content decides.
    Fresh,
    /// The same message has its outcome already, or gets it in this batch.
    Duplicate,
    /// Another message has this id. It claims the id given here, to be dead-lettered under.
    Conflict(MessageId),
}

/// An id was neither won nor found: its row went between two statements. Try the batch again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the claim of {0} vanished while it was being compared")]
pub struct ClaimVanished(pub MessageId);

/// Judges each message of the batch by the claims. Of those with one id only the first that claims it can have won it.
///
/// # Errors
/// [`ClaimVanished`], which trying again mends.
pub fn judge(batch: &[Candidate], result: &ClaimResult) -> Result<Vec<Standing>, ClaimVanished> {
    // What the winner of each id says, for repeats within the batch, of which most have none.
    let winners = LazyCell::new(|| {
        let has_won = |(index, _): &(usize, &Candidate)| result.has_won(*index);
        let won = batch.iter().enumerate().filter(has_won);
        won.map(|(_, winner)| (winner.id, winner.fingerprint)).collect::<HashMap<_, _>>()
    });
    batch
        .iter()
        .enumerate()
        .map(|(index, message)| {
            if result.redriven.contains(&index) {
                return Ok(Standing::Fresh);
            }
            if message.content == Content::Settled {
                return Ok(Standing::Duplicate);
            }
            if result.has_won(index) {
                return Ok(Standing::Fresh);
            }
            let id = &message.id;
            let owner = result.held.get(id).or_else(|| winners.get(id));
            let owner = owner.ok_or(ClaimVanished(*id))?;
            Ok(if *owner == message.fingerprint {
                Standing::Duplicate
            } else {
                Standing::Conflict(id_of_conflict(message.id, message.fingerprint))
            })
        })
        .collect()
}

/// The claims that conflicting messages ask for, folded like the others: replays of one conflict
/// are one dead letter.
pub fn conflict_claims(standings: &[Standing]) -> Vec<Claim> {
    let asked = standings.iter().enumerate().filter_map(|(index, standing)| match standing {
        Standing::Conflict(id) => Some(Claim { id: *id, index, outcome: Outcome::DeadLettered }),
        _ => None,
    });
    fold(asked.collect())
}

/// The verdict on a conflict.
pub fn conflict_verdict(id: MessageId) -> Verdict {
    Verdict::new(
        FailureClass::Permanent,
        "id_conflict",
        format!("another message with the id {id} and other content has its outcome already"),
        0,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn message(id: u128, content: u8) -> Candidate {
        Candidate {
            id: MessageId(Uuid::from_u128(id)),
            fingerprint: Fingerprint([content; Fingerprint::LEN]),
            content: Content::Usable,
            of_old_log: false,
        }
    }

    /// The database as the decision sees it: who holds which id.
    fn ask(batch: &[Candidate], table: &mut HashMap<MessageId, Fingerprint>) -> ClaimResult {
        let mut result = ClaimResult::default();
        for claim in claims(batch) {
            if let Some(fingerprint) = table.get(&claim.id) {
                result.held.insert(claim.id, *fingerprint);
            } else {
                table.insert(claim.id, batch[claim.index].fingerprint);
                result.note_won(claim.index);
            }
        }
        result
    }

    #[test]
    fn a_repeat_within_a_batch_is_a_duplicate_and_other_content_a_conflict() {
        let batch = [message(1, 1), message(1, 1), message(1, 2), message(2, 1)];
        let standings = judge(&batch, &ask(&batch, &mut HashMap::new())).unwrap();
        assert_eq!(standings[0], Standing::Fresh);
        assert_eq!(standings[1], Standing::Duplicate);
        assert!(matches!(standings[2], Standing::Conflict(_)));
        assert_eq!(standings[3], Standing::Fresh);
    }

    #[test]
    fn the_holder_in_the_database_decides_which_of_two_contents_is_the_conflict() {
        let batch = [message(1, 1), message(1, 2)];
        let mut table = HashMap::from([(batch[1].id, batch[1].fingerprint)]);
        let standings = judge(&batch, &ask(&batch, &mut table)).unwrap();
        assert!(matches!(standings[0], Standing::Conflict(_)));
        assert_eq!(standings[1], Standing::Duplicate);
    }

    #[test]
    fn replays_of_a_conflict_fold_into_one_claim() {
        let batch = [message(1, 1), message(1, 2), message(1, 2), message(1, 3)];
        let standings = judge(&batch, &ask(&batch, &mut HashMap::new())).unwrap();
        let claims = conflict_claims(&standings);
        assert_eq!(claims.len(), 2);
        assert!(claims.iter().all(|claim| claim.id != batch[0].id));
    }

    #[test]
    fn a_redriven_copy_is_fresh_and_every_other_record_of_its_message_a_duplicate() {
        let batch = [message(1, 1), message(1, 1), message(1, 1), message(1, 2)];
        let mut result = ask(&batch, &mut HashMap::from([(batch[0].id, batch[0].fingerprint)]));
        result.redriven.insert(1);
        let standings = judge(&batch, &result).unwrap();
        assert_eq!(standings[..3], [Standing::Duplicate, Standing::Fresh, Standing::Duplicate]);
        assert!(matches!(standings[3], Standing::Conflict(_)));
    }

    #[test]
    fn beside_a_redriven_copy_that_wins_its_id_anew_nothing_of_its_message_is_fresh() {
        let batch = [message(1, 1), message(1, 1), message(1, 2)];
        let mut result = ask(&batch, &mut HashMap::new());
        result.redriven.insert(0);
        let standings = judge(&batch, &result).unwrap();
        assert_eq!(standings[..2], [Standing::Fresh, Standing::Duplicate]);
        assert!(matches!(standings[2], Standing::Conflict(_)));
    }

    #[test]
    fn a_claim_that_is_neither_won_nor_held_sends_the_batch_round_again() {
        let batch = [message(1, 1)];
        assert_eq!(judge(&batch, &ClaimResult::default()), Err(ClaimVanished(batch[0].id)));
    }

    #[test]
    fn a_verdicts_text_is_cut_at_a_character_and_has_no_nul() {
        let verdict =
            Verdict::new(FailureClass::Permanent, "x", format!("\0{}", "é".repeat(2000)), 0);
        assert!(verdict.text.len() <= MAX_TEXT_BYTES && verdict.text.len() > MAX_TEXT_BYTES - 4);
        assert!(!verdict.text.contains('\0'));
    }

    proptest! {
        #[test]
        fn however_messages_are_cut_into_batches_each_id_is_fresh_exactly_once(
            stream in prop::collection::vec((0_u128..8, 0_u8..3), 1..60),
            cuts in prop::collection::vec(1_usize..10, 1..60),
        ) {
            let stream: Vec<_> = stream.into_iter().map(|(id, content)| message(id, content)).collect();
            let mut table = HashMap::new();
            let mut fresh: HashMap<MessageId, Fingerprint> = HashMap::new();
            let mut rest = &stream[..];
            for cut in cuts.iter().cycle() {
                let (batch, tail) = rest.split_at((*cut).min(rest.len()));
                let claims = claims(batch);
                prop_assert!(claims.windows(2).all(|pair| pair[0].id < pair[1].id), "sorted, no repeats");
                let standings = judge(batch, &ask(batch, &mut table)).unwrap();
                for (message, standing) in batch.iter().zip(standings) {
                    match standing {
                        Standing::Fresh => prop_assert!(fresh.insert(message.id, message.fingerprint).is_none()),
                        Standing::Duplicate => prop_assert_eq!(fresh[&message.id], message.fingerprint),
                        Standing::Conflict(_) => prop_assert_ne!(fresh[&message.id], message.fingerprint),
                    }
                }
                rest = tail;
                if rest.is_empty() { break; }
            }
            for message in &stream {
                prop_assert!(fresh.contains_key(&message.id));
            }
        }
    }
}
