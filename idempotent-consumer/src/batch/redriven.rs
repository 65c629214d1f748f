//! Which messages of a piece are redriven ones, whose dead letters wait for them.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use uuid::Uuid;

use super::{Batch, PieceError};
use crate::message::{Headers, MessageId, Record};
use crate::redrive::{self, COUNT_HEADER, GROUP_HEADER, ID_HEADER};
use crate::store::batch::{LaneName, Opened};
use crate::store::copies::Locked;

/// Copies that take the place of their dead letters, by their indices in the batch.
#[derive(Default)]
pub(super) struct Redriven(HashMap<usize, Copy>);

struct Copy {
    number: i32,
    letter: Locked,
}

/// Locks the dead letters of the piece's redriven copies and finds those that count: of each
/// message the first. Whatever else carries a ticket is an ordinary record.
pub(super) async fn redriven_of<B>(
    opened: &mut Opened<'_>,
    lane: &LaneName,
    batch: &Batch<B>,
    range: Range<usize>,
) -> Result<Redriven, PieceError> {
    let tickets: Vec<(usize, MessageId, i32)> = range
        .filter_map(|index| {
            let ticket = batch.items[index].ticket.as_ref().filter(|t| t.is_of(&lane.group))?;
            Some((index, ticket.id, ticket.number))
        })
        .collect();
    if tickets.is_empty() {
        return Ok(Redriven::default());
    }
    let mut ids: Vec<Uuid> = tickets.iter().map(|(_, id, _)| id.0).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut letters = opened.lock_dead_letters(&ids).await?;
    let mut out = HashMap::new();
    for (index, id, number) in tickets {
        let counts = letters.get(&id).is_some_and(|letter| {
            letter.fingerprint == batch.items[index].candidate.fingerprint
                && redrive::takes(letter.state, letter.redrive_count, number)
        });
        if counts && let Some(letter) = letters.remove(&id) {
            out.insert(index, Copy { number, letter });
        }
    }
    Ok(Redriven(out))
}

impl Redriven {
    /// The number of the redrive, if this message of the batch is one.
    pub(super) fn number(&self, index: usize) -> Option<i32> {
        self.0.get(&index).map(|copy| copy.number)
    }

    /// The record as the dead letter has it: where the original lay, and without the ticket.
    pub(super) fn original(&self, index: usize, record: &Record) -> Option<Record> {
        let Copy { letter, .. } = self.0.get(&index)?;
        let mut headers = Headers::new();
        for (name, value) in record.headers.iter() {
            let is_ticket = [ID_HEADER, COUNT_HEADER, GROUP_HEADER]
                .iter()
                .any(|ticket| name.eq_ignore_ascii_case(ticket.as_bytes()));
            if !is_ticket {
                headers.push(name, value);
            }
        }
        let (offset, timestamp_ms) = (letter.offset, letter.timestamp_ms);
        Some(Record { offset, timestamp_ms, headers, ..record.clone() })
    }
}

impl<B> Batch<B> {
    /// Copies that come behind another record of their message in this batch, in ascending order:
    /// after a database was set back, or if a copy comes twice. What is before them has to be
    /// committed first, or nobody could tell whether they count. So each is run alone.
    pub(crate) fn redriven_behind_their_message(&self) -> Vec<usize> {
        if self.items.iter().all(|item| item.ticket.is_none()) {
            return Vec::new();
        }
        let mut before = HashSet::new();
        let is_behind = |(index, item): (usize, &super::Item<B>)| {
            let is_first = before.insert(item.candidate.id);
            (item.ticket.is_some() && !is_first).then_some(index)
        };
        self.items.iter().enumerate().filter_map(is_behind).collect()
    }
}
