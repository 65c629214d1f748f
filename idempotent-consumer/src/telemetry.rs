//! Spans: what happened to a message of a sampled trace, and when, for a collector of traces.
//!
//! They are made where something has ended, of what is known by then, and only for messages whose
//! `traceparent` has the sampled flag; so a trace never says more than the database. Without the
//! feature `otlp`, or before `export` has been started, there are none, and nothing is looked at.

#[cfg(all(feature = "otlp", feature = "cli"))]
pub(crate) mod args;
#[cfg(feature = "otlp")]
mod client;
#[cfg(feature = "otlp")]
pub mod export;
mod span;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::sync::mpsc::Sender;

pub use self::span::{Span, SpanKind, Value};

/// Where spans wait to be sent. Once a process.
static QUEUE: OnceLock<Queue> = OnceLock::new();

struct Queue {
    sender: Sender<Span>,
    /// Neither sent nor given up.
    waiting: AtomicU64,
    /// It is known, and said, that spans are lost.
    is_full: AtomicBool,
}

/// Whether spans are sent anywhere.
pub fn is_on() -> bool {
    cfg!(feature = "otlp") && QUEUE.get().is_some()
}

/// Never waits: what has no room is lost, and counted.
fn queue(span: Span) {
    let Some(queue) = QUEUE.get() else { return };
    queue.waiting.fetch_add(1, Relaxed);
    if queue.sender.try_send(span).is_err() {
        queue.waiting.fetch_sub(1, Relaxed);
        lost("queue_full", 1);
        if !queue.is_full.swap(true, Relaxed) {
            tracing::warn!("spans come faster than they are taken; some are lost");
        }
    }
}

fn lost(reason: &'static str, spans: u64) {
    metrics::counter!("idempotent_consumer_spans_dropped_total", "reason" => reason)
        .increment(spans);
}

#[cfg(all(test, feature = "otlp"))]
mod tests {
    use super::*;
    use crate::trace_context::TraceContext;

    #[test]
    fn what_finds_no_room_is_lost_at_once_and_said() {
        let not_sampled = TraceContext::root(false);
        let name = || "x".to_owned();
        assert!(Span::root(TraceContext::root(true), SpanKind::Server, name).is_none(), "off");
        let (sender, mut spans) = tokio::sync::mpsc::channel(2);
        let (waiting, is_full) = (AtomicU64::new(0), AtomicBool::new(false));
        assert!(QUEUE.set(Queue { sender, waiting, is_full }).is_ok());
        let root = Span::root(TraceContext::root(true), SpanKind::Server, name).unwrap();
        assert!(Span::root(not_sampled, SpanKind::Server, name).is_none());
        assert!(Span::child_of(Some(not_sampled), SpanKind::Client, name).is_none());
        assert!(Span::child_of(None, SpanKind::Client, name).is_none());
        let child = Span::child_of(Some(root.context()), SpanKind::Client, name).unwrap();
        assert_eq!(child.context().trace_id(), root.context().trace_id());
        assert_eq!(child.parent, Some(root.context().span_id()));
        assert_ne!(child.context(), root.context());
        for _ in 0..5 {
            child.clone().end();
        }
        let queue = QUEUE.get().unwrap();
        assert!(queue.is_full.load(Relaxed));
        assert_eq!(queue.waiting.load(Relaxed), 2);
        assert!(spans.try_recv().is_ok() && spans.try_recv().is_ok() && spans.try_recv().is_err());
    }
}
