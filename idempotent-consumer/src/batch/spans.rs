//! What became of a message, as a span: of those whose trace is sampled, where spans are exported.

use std::ops::Range;

use super::ends::Endings;
use super::waiting::Waits;
use super::{Batch, Item, Origin, Present, Setting, Slot};
use crate::handler::Handler;
use crate::message::Record;
use crate::outcome::{Content, Outcome, Standing, Verdict};
use crate::plan::Plan;
use crate::telemetry::{Span, SpanKind, is_on};
use crate::trace_context::TraceContext;

/// Begins with the message's being taken into a batch.
pub(super) fn begun(record: &Record) -> Option<Box<Span>> {
    if !is_on() {
        return None;
    }
    let sender = record.headers.get_str("traceparent").and_then(TraceContext::parse);
    let name = || format!("process {}", record.source.topic);
    Span::child_of(sender, SpanKind::Consumer, name).map(Box::new)
}

/// Of a piece, kept until it is known that it is committed.
#[derive(Debug, Default)]
pub(crate) struct Spans(Vec<Span>);

impl Spans {
    /// It is.
    pub(crate) fn end(self) {
        self.0.into_iter().for_each(Span::end);
    }
}

/// A piece whose transaction is about to be committed.
pub(super) struct Piece<'a, 'b, H: Handler> {
    pub(super) setting: &'a Setting<'a, H>,
    pub(super) batch: &'b Batch<H::Body>,
    pub(super) plan: &'a Plan,
    pub(super) range: Range<usize>,
    pub(super) waits: &'a [Option<Waits>],
    pub(super) present: &'a Present<'b, H::Body>,
    pub(super) standings: &'a [Standing],
    pub(super) ends: &'a Endings,
}

impl<H: Handler> Piece<'_, '_, H> {
    /// What will have become of its messages, if it is committed.
    pub(super) fn spans(&self) -> Spans {
        if !is_on() {
            return Spans::default();
        }
        Spans(self.range.clone().filter_map(|index| self.span(index)).collect())
    }

    fn span(&self, index: usize) -> Option<Span> {
        let item = &self.batch.items[index];
        let mut span = Span::clone(item.span.as_ref()?);
        let (outcome, verdict) = self.outcome(index)?;
        self.describe(item, &mut span);
        span.set("idempotent_consumer.outcome", outcome);
        if let Some(verdict) = verdict {
            span.fail(&verdict.code);
        }
        Some(span)
    }

    /// `None` of one that still waits behind another: nothing has happened to it.
    fn outcome(&self, index: usize) -> Option<(&'static str, Option<&Verdict>)> {
        let duplicate = Some(("duplicate", None));
        match self.waits[index - self.range.start] {
            Some(Waits::Done) => return duplicate,
            Some(Waits::For(_)) => {
                let failed = self.plan.deferral(index);
                let has_moved = failed.is_some() || self.batch.origin == Origin::Log;
                return has_moved.then_some(("deferred", failed));
            }
            None => {}
        }
        let at = self.present.indices.binary_search(&index).ok()?;
        if let Some((_, verdict)) = self.ends.dead().find(|(dead, _)| *dead == at) {
            return Some((Outcome::DeadLettered.as_str(), Some(verdict)));
        }
        match (&self.standings[at], &self.present.candidates[at].content) {
            (Standing::Fresh, Content::Usable) => Some((Outcome::Applied.as_str(), None)),
            (Standing::Fresh, Content::Skip) => Some((Outcome::Skipped.as_str(), None)),
            _ => duplicate,
        }
    }

    fn describe(&self, item: &Item<H::Body>, span: &mut Span) {
        let record = item.record();
        span.set("messaging.system", "kafka");
        span.set("messaging.operation.name", "process");
        span.set("messaging.operation.type", "process");
        span.set("messaging.destination.name", &*record.source.topic);
        span.set("messaging.destination.partition.id", record.source.partition.to_string());
        span.set("kafka.offset", record.offset);
        span.set("messaging.consumer.group.name", self.setting.lane.group.as_str());
        span.set("messaging.message.id", item.candidate.id.to_string());
        // What is not usable may say anything.
        if let Slot::Usable(message) = &item.slot {
            if let Some(event_type) = &message.event_type {
                span.set("cloudevents.event_type", event_type.as_str());
            }
            if let Some(subject) = self.setting.handler.subject(&message.body) {
                span.set("cloudevents.event_subject", subject);
            }
        }
        let messages = i64::try_from(self.range.len()).unwrap_or(i64::MAX);
        span.set("idempotent_consumer.transaction.messages", messages);
    }
}
