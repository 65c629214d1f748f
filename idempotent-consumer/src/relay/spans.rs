//! The sending of a row, as a span: of those whose trace is sampled, where spans are exported.
//!
//! A row keeps the `traceparent` that it was written with, as the record's cause, so that it goes out
//! as it stands however often it is sent. The span is therefore one of a client, beside the consumer's.

use std::collections::HashMap;

use uuid::Uuid;

use crate::handler::Outgoing;
use crate::kafka::publisher::{Acknowledged, DeliveryError};
use crate::telemetry::{Span, SpanKind, is_on};
use crate::trace_context::TraceContext;

/// Rows that the producer has, by their ids.
#[derive(Default)]
pub(super) struct Sending(HashMap<i64, Span>);

pub(super) fn begun(record: &Outgoing) -> Option<Span> {
    if !is_on() {
        return None;
    }
    let cause = record.headers.get_str("traceparent").and_then(TraceContext::parse);
    let mut span = Span::child_of(cause, SpanKind::Client, || format!("send {}", record.topic))?;
    span.set("messaging.system", "kafka");
    span.set("messaging.operation.name", "send");
    span.set("messaging.operation.type", "send");
    span.set("messaging.destination.name", record.topic.as_str());
    if let Some(id) = record.headers.get_str("ce_id").filter(|id| Uuid::try_parse(id).is_ok()) {
        span.set("messaging.message.id", id);
    }
    Some(span)
}

impl Sending {
    pub(super) fn begun(&mut self, id: i64, span: Option<Span>) {
        if let Some(span) = span {
            self.0.insert(id, span);
        }
    }

    pub(super) fn ended(&mut self, id: i64, outcome: &Result<Acknowledged, DeliveryError>) {
        let Some(mut span) = self.0.remove(&id) else { return };
        match outcome {
            Ok(Acknowledged { partition, offset }) => {
                span.set("messaging.destination.partition.id", partition.to_string());
                span.set("kafka.offset", *offset);
            }
            Err(DeliveryError::Refused { .. }) => span.fail("refused"),
            Err(DeliveryError::Unconfirmed(_)) => span.fail("unconfirmed"),
        }
        span.end();
    }
}
