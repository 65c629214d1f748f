//! What the messages of a piece come to, once they are claimed and the handler has answered.

use std::collections::HashSet;

use super::redriven::Redriven;
use super::{Item, Present};
use crate::failure::FailureClass;
use crate::handler::Answer;
use crate::identity;
use crate::message::{MessageId, Record};
use crate::outcome::{Content, Outcome, Standing, Verdict, conflict_verdict};
use crate::plan::Plan;
use crate::store::batch::Counts;
use crate::store::copies::{Ended, Replaced};
use crate::store::dead_letters::NewDeadLetter;

/// The end of each message of a piece.
#[derive(Default)]
pub(super) struct Endings {
    pub(super) counts: Counts,
    /// Claimed as applied, and rejected by the handler.
    pub(super) rejected: Vec<MessageId>,
    /// Redriven copies that have not become dead letters again.
    replaced: Vec<Replaced>,
    verdicts: Vec<Dead>,
}

/// One that becomes a dead letter.
struct Dead {
    at: usize,
    /// What its claim is under.
    id: MessageId,
    verdict: Verdict,
    /// Of its redrive, if it was a dead letter before.
    number: Option<i32>,
    /// The record as it was before it was redriven.
    original: Option<Record>,
}

impl Endings {
    /// `answers`: the handler's, where it was given a message. `conflicts_won`: under which ids a conflict
    /// was claimed for the first time.
    pub(super) fn of<B>(
        present: &Present<'_, B>,
        standings: &[Standing],
        answers: Vec<Option<Answer>>,
        conflicts_won: &HashSet<MessageId>,
        redriven: &Redriven,
        plan: &Plan,
    ) -> Self {
        let mut ends = Self::default();
        for (at, (standing, answer)) in standings.iter().zip(answers).enumerate() {
            let index = present.indices[at];
            let candidate = &present.candidates[at];
            let number = redriven.number(index).filter(|_| *standing == Standing::Fresh);
            let dead = match (standing, &candidate.content, answer) {
                (Standing::Fresh, Content::Skip, _) => {
                    ends.counts.skipped += 1;
                    None
                }
                (Standing::Fresh, Content::Doomed(verdict), _) => {
                    Some((candidate.id, (**verdict).clone()))
                }
                (Standing::Fresh, Content::Usable, Some(Answer::Rejected(code, text))) => {
                    if number.is_none() {
                        ends.rejected.push(candidate.id);
                    }
                    let (class, attempts) = (FailureClass::Permanent, plan.attempts(index) + 1);
                    Some((candidate.id, Verdict::new(class, code, text, attempts)))
                }
                (Standing::Fresh, Content::Usable, _) => {
                    ends.counts.applied += 1;
                    None
                }
                (Standing::Duplicate, ..) | (_, Content::Settled, _) => {
                    ends.counts.duplicates += 1;
                    None
                }
                (Standing::Conflict(id), ..) => {
                    let is_first = ends.verdicts.iter().all(|dead| dead.id != *id);
                    if is_first && conflicts_won.contains(id) {
                        Some((*id, conflict_verdict(candidate.id)))
                    } else {
                        ends.counts.duplicates += 1;
                        None
                    }
                }
            };
            if let Some((id, verdict)) = dead {
                ends.counts.dead_lettered += 1;
                let original = redriven.original(index, present.items[at].record());
                ends.verdicts.push(Dead { at, id, verdict, number, original });
            } else if let Some(number) = number {
                let is_skipped = candidate.content == Content::Skip;
                ends.replaced.push(Replaced {
                    id: candidate.id,
                    number,
                    outcome: if is_skipped { Outcome::Skipped } else { Outcome::Applied },
                    offset: present.offsets[at],
                    of_old_log: candidate.of_old_log,
                });
            }
        }
        ends
    }

    /// Those that become dead letters: where each is among the present ones, and why.
    pub(super) fn dead(&self) -> impl Iterator<Item = (usize, &Verdict)> {
        self.verdicts.iter().map(|dead| (dead.at, &dead.verdict))
    }

    /// Dead letters to be written, and what became of redriven ones.
    pub(super) fn letters<'a, B>(
        &'a self,
        present: &'a Present<'_, B>,
        group: &str,
        now_ms: i64,
    ) -> (Vec<NewDeadLetter<'a>>, Ended<'a>) {
        let mut new = Vec::new();
        let mut redriven = Ended { replaced: self.replaced.clone(), again: Vec::new() };
        for Dead { at, id, verdict, number, original } in &self.verdicts {
            let item: &Item<B> = present.items[*at];
            let nth = number.unwrap_or(0);
            let letter = NewDeadLetter {
                dlq_id: identity::id_of_redriven_dead_letter(group, *id, nth),
                message_id: *id,
                original_id: present.candidates[*at].id,
                event_type: item.event_type(),
                record: original.as_ref().unwrap_or_else(|| item.record()),
                verdict,
                now_ms,
                first_failed_at: item.first_failed_at,
            };
            match number {
                Some(number) => redriven.again.push((letter, *number)),
                None => new.push(letter),
            }
        }
        (new, redriven)
    }
}
