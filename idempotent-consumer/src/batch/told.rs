//! What became of a message, as lines of the log. Each has the message's id, what it is about and the
//! trace it belongs to, so that one message can be followed through all programs; none has its content.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::ends::Endings;
use super::{Batch, Item, Present, Slot};
use crate::handler::Handler;
use crate::outcome::Verdict;
use crate::plan::Plan;
use crate::trace_context::TraceContext;

/// Lines above the level `debug`, in a second of the whole process. Poison may come in millions.
const LINES_A_SECOND: u32 = 20;

/// Messages that were committed as applied, at the level `debug`.
pub(super) fn applied<H: Handler>(handler: &H, present: &Present<'_, H::Body>, fresh: &[usize]) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    for item in fresh.iter().map(|at| present.items[*at]) {
        let Told { message_id, subject, trace_id, partition, offset } = Told::of(handler, item);
        tracing::debug!(message_id, subject, trace_id, partition, offset, "applied");
    }
}

/// Messages that were committed as dead letters.
pub(super) fn dead<H: Handler>(handler: &H, present: &Present<'_, H::Body>, ends: &Endings) {
    for (at, verdict) in ends.dead() {
        let Some(left_out) = budget() else { continue };
        let Told { message_id, subject, trace_id, partition, offset } =
            Told::of(handler, present.items[at]);
        let Verdict { code, attempts, .. } = verdict;
        let code = code.as_ref();
        tracing::warn!(
            message_id,
            subject,
            trace_id,
            partition,
            offset,
            code,
            attempts,
            left_out,
            "dead-lettered"
        );
    }
}

/// Messages that have failed and wait for another attempt.
pub(super) fn deferred<H: Handler>(
    handler: &H,
    batch: &Batch<H::Body>,
    plan: &Plan,
    range: Range<usize>,
) {
    for index in range {
        let Some(verdict) = plan.deferral(index) else { continue };
        let Some(left_out) = budget() else { continue };
        let Told { message_id, subject, trace_id, partition, offset } =
            Told::of(handler, &batch.items[index]);
        let Verdict { code, attempts, .. } = verdict;
        let code = code.as_ref();
        tracing::info!(
            message_id,
            subject,
            trace_id,
            partition,
            offset,
            code,
            attempts,
            left_out,
            "failed; another attempt follows"
        );
    }
}

/// Of a message. What it has not is no field of its line.
struct Told {
    message_id: String,
    subject: Option<String>,
    trace_id: Option<String>,
    partition: String,
    offset: i64,
}

impl Told {
    fn of<H: Handler>(handler: &H, item: &Item<H::Body>) -> Self {
        let record = item.record();
        Self {
            message_id: item.candidate.id.to_string(),
            subject: match &item.slot {
                Slot::Usable(message) => handler.subject(&message.body),
                Slot::Other { .. } => None,
            },
            trace_id: record
                .headers
                .get_str("traceparent")
                .and_then(TraceContext::parse)
                .map(|trace| format!("{:032x}", trace.trace_id())),
            partition: record.source.to_string(),
            offset: record.offset,
        }
    }
}

/// Whether one more line may be written now: how many were left out since the last one, or `None`.
fn budget() -> Option<u64> {
    static BUDGET: Mutex<Option<Budget>> = Mutex::new(None);
    let mut budget = BUDGET.lock().unwrap_or_else(PoisonError::into_inner);
    budget.get_or_insert_with(|| Budget::new(Instant::now())).take(Instant::now())
}

struct Budget {
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self { since: now, lines: 0, left_out: 0 }
    }

    fn take(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            (self.since, self.lines) = (now, 0);
        }
        if self.lines == LINES_A_SECOND {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_so_many_lines_and_the_next_tells_how_many_were_left_out() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        for _ in 0..LINES_A_SECOND {
            assert_eq!(budget.take(start), Some(0));
        }
        assert_eq!((budget.take(start), budget.take(start)), (None, None));
        let later = start + Duration::from_secs(1);
        assert_eq!((budget.take(later), budget.take(later)), (Some(2), Some(0)));
    }
}
