//! What of a piece waits instead of being applied, and what that makes of the retry queue.

use std::collections::HashMap;
use std::ops::Range;

use uuid::Uuid;

use super::redriven::Redriven;
use super::{Batch, Item, Origin, PieceError, Setting};
use crate::deferral::{KeyHash, Place, Wait, waits};
use crate::handler::Handler;
use crate::identity;
use crate::message::{Fingerprint, MessageId};
use crate::outcome::Candidate;
use crate::plan::Plan;
use crate::store::batch::{Counts, Opened};
use crate::store::retry_queue::{Attempt, Changes, Joining, Queued};
use crate::window::Unclaimed;

/// What a message of a piece waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// In the retry queue, as the decision says.
    For(Wait),
    /// For nothing: its key is blocked, but it has its outcome already.
    Done,
}

/// Which messages of the piece wait. A batch from the log finds its keys in the queue, also those
/// that an earlier piece of it has put there. A batch from the queue is in it as a whole, so what
/// counts is which of its earlier pieces' messages stay.
pub(super) async fn waits_of<H: Handler>(
    opened: &mut Opened<'_>,
    setting: &Setting<'_, H>,
    batch: &Batch<H::Body>,
    plan: &Plan,
    range: Range<usize>,
    redriven: &Redriven,
) -> Result<Vec<Option<Waits>>, PieceError> {
    let looks_up = opened.has_queue && batch.origin == Origin::Log;
    let has_failed = (0..range.end).any(|index| plan.deferral(index).is_some());
    if !looks_up && !has_failed {
        return Ok(vec![None; range.len()]);
    }
    let items = &batch.items[range.clone()];
    let keys = key_hashes(items);
    let is_redriven = |at: usize| redriven.number(range.start + at).is_some();
    let mut queued = Queued::default();
    if looks_up {
        let offsets: Vec<i64> = items.iter().map(|item| item.record().offset).collect();
        queued = opened.look_up_queue(setting.topic_id, &keys, &offsets).await?;
    }
    if batch.origin == Origin::RetryQueue {
        let failed = (0..range.start).filter(|index| plan.deferral(*index).is_some());
        queued.keys = failed.filter_map(|index| batch.items[index].key_hash()).collect();
    }
    let mut places: Vec<Place> = items
        .iter()
        .zip(&keys)
        .zip(range.clone())
        .map(|((item, key), index)| {
            let Candidate { id, fingerprint, .. } = item.candidate;
            Place {
                key: *key,
                queued: queued.offsets.get(&item.record().offset) == Some(&(id, fingerprint)),
                failed: plan.deferral(index).is_some(),
            }
        })
        .collect();
    let free = match batch.origin {
        Origin::Log => {
            let mut waits = waits(&places, &queued.keys);
            // Its claim is that of its dead letter: it has its outcome ahead of it.
            waits
                .iter_mut()
                .enumerate()
                .filter(|(at, _)| is_redriven(*at))
                .for_each(|(_, wait)| *wait = None);
            free_among(opened, items, &waits).await?
        }
        Origin::RetryQueue => HashMap::new(),
    };
    for at in free.keys() {
        places[*at].failed = false;
    }
    let waits = waits(&places, &queued.keys).into_iter().enumerate();
    Ok(waits
        .map(|(at, wait)| free.get(&at).copied().unwrap_or_else(|| wait.map(Waits::For)))
        .collect())
}

/// The hash of each message's key, worked out once for each key.
fn key_hashes<B>(items: &[Item<B>]) -> Vec<Option<KeyHash>> {
    let mut known: HashMap<&[u8], KeyHash> = HashMap::new();
    let mut hash = |key| *known.entry(key).or_insert_with(|| KeyHash::of(key));
    items.iter().map(|item| item.record().key.as_deref().map(&mut hash)).collect()
}

/// Those of the messages that would wait which need not: delivered again, they have their outcome
/// already, or they are so old that they will not be applied whenever it is.
async fn free_among<B>(
    opened: &mut Opened<'_>,
    items: &[Item<B>],
    waits: &[Option<Wait>],
) -> Result<HashMap<usize, Option<Waits>>, PieceError> {
    let waiting: Vec<(usize, MessageId, Fingerprint)> = items
        .iter()
        .zip(waits)
        .enumerate()
        .filter(|(_, (_, wait))| matches!(wait, Some(Wait::Behind | Wait::Failed)))
        .map(|(at, (item, _))| (at, item.candidate.id, item.candidate.fingerprint))
        .collect();
    if waiting.is_empty() {
        return Ok(HashMap::new());
    }
    let of_conflict =
        |(_, id, fingerprint): &(_, _, _)| identity::id_of_conflict(*id, *fingerprint);
    let ids: Vec<Uuid> = waiting.iter().map(|(_, id, _)| id.0).collect();
    let mut holders = opened.holders(&ids).await?;
    // A message whose id is another one's may have its outcome as a conflict.
    let is_anothers = |(_, id, fingerprint): &&(_, _, _)| {
        holders.get(id).is_some_and(|holder| holder != fingerprint)
    };
    let conflicts: Vec<Uuid> =
        waiting.iter().filter(is_anothers).map(|message| of_conflict(message).0).collect();
    if !conflicts.is_empty() {
        holders.extend(opened.holders(&conflicts).await?);
    }
    Ok(waiting
        .iter()
        .filter_map(|message| {
            let (at, id, fingerprint) = message;
            let is_held = holders.get(id).is_some_and(|holder| {
                holder == fingerprint || holders.get(&of_conflict(message)) == Some(fingerprint)
            });
            match opened.memory.unclaimed(*id, items[*at].record()) {
                _ if is_held => Some((*at, Some(Waits::Done))),
                _ if items[*at].waits_for_nobody => Some((*at, None)),
                Unclaimed::Settled => Some((*at, Some(Waits::Done))),
                Unclaimed::OutsideWindow => Some((*at, None)),
                Unclaimed::New => None,
            }
        })
        .collect())
}

/// What the piece changes in the retry queue.
pub(super) fn changes<'a, H: Handler>(
    setting: &Setting<'_, H>,
    batch: &'a Batch<H::Body>,
    plan: &'a Plan,
    waits: impl Iterator<Item = (usize, Option<Waits>)>,
    counts: &mut Counts,
) -> Changes<'a> {
    let mut changes = Changes::default();
    for (index, wait) in waits {
        let item = &batch.items[index];
        let attempt = || {
            let verdict = plan.deferral(index)?;
            Some(Attempt { verdict, next_in: (setting.retry_delay)(verdict.attempts) })
        };
        match (item.queue_no, wait) {
            (Some(queue_no), None) => changes.leaving.push(queue_no),
            (Some(queue_no), Some(Waits::For(Wait::Failed))) => {
                changes.failed.extend(attempt().map(|attempt| (queue_no, attempt)));
            }
            (None, Some(Waits::Done | Waits::For(Wait::Queued))) => counts.duplicates += 1,
            (None, Some(Waits::For(wait))) => {
                counts.deferred += 1;
                changes.joining.push(Joining {
                    record: item.record(),
                    id: item.candidate.id,
                    fingerprint: item.candidate.fingerprint,
                    failed: if wait == Wait::Failed { attempt() } else { None },
                });
            }
            // It has its end, or is in the queue already and stays.
            (None, None) | (Some(_), Some(_)) => {}
        }
    }
    changes
}
