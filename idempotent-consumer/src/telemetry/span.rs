//! One span, from its begin to its end.

use std::time::{Instant, SystemTime};

use crate::trace_context::TraceContext;

/// A span that has begun. Dropped without [`end`](Self::end), it has never been.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "otlp"), allow(dead_code, reason = "nobody exports it"))]
pub struct Span {
    pub(super) context: TraceContext,
    /// The span that caused it; `None` for the first of a trace.
    pub(super) parent: Option<u64>,
    pub(super) kind: SpanKind,
    pub(super) name: String,
    pub(super) begun_at: SystemTime,
    pub(super) ended_at: SystemTime,
    pub(super) attributes: Vec<(&'static str, Value)>,
    pub(super) has_failed: bool,
    /// Since when, by a clock that does not step.
    begun: Instant,
}

/// Which part of the system tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// Somebody's request is answered.
    Server,
    /// Another server is asked for something.
    Client,
    /// A message is worked on.
    Consumer,
}

/// What an attribute says. Nothing personal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl Span {
    /// Begins a span that `parent` has caused; `None` if that is not sampled, or nothing is exported.
    pub fn child_of(
        parent: Option<TraceContext>,
        kind: SpanKind,
        name: impl FnOnce() -> String,
    ) -> Option<Self> {
        let parent = parent.filter(|parent| super::is_on() && parent.is_sampled())?;
        Some(Self::new(parent.other_span(), Some(parent.span_id()), kind, name()))
    }

    /// Begins the first span of a trace; `None` if that is not sampled, or nothing is exported.
    pub fn root(
        context: TraceContext,
        kind: SpanKind,
        name: impl FnOnce() -> String,
    ) -> Option<Self> {
        let is_kept = super::is_on() && context.is_sampled();
        is_kept.then(|| Self::new(context, None, kind, name()))
    }

    fn new(context: TraceContext, parent: Option<u64>, kind: SpanKind, name: String) -> Self {
        let now = SystemTime::now();
        Self {
            context,
            parent,
            kind,
            name,
            begun_at: now,
            ended_at: now,
            attributes: Vec::new(),
            has_failed: false,
            begun: Instant::now(),
        }
    }

    /// What it is to be called by those that it causes.
    pub fn context(&self) -> TraceContext {
        self.context
    }

    /// Adds an attribute, by the name that OpenTelemetry's semantic conventions give it.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        self.attributes.push((name, value.into()));
    }

    /// What it tells of has failed. `error_type` is short, and one of few.
    pub fn fail(&mut self, error_type: &str) {
        self.set("error.type", error_type);
        self.has_failed = true;
    }

    /// What it tells of has ended, now: it is to be exported.
    pub fn end(mut self) {
        self.ended_at = self.begun_at + self.begun.elapsed();
        super::queue(self);
    }
}
