//! Sends spans to a collector, by OTLP over HTTP. A collector that is away slows nothing: spans wait in
//! a queue with a bound, and what has no room, or is not taken, is lost and counted.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use opentelemetry::trace::{SpanContext, SpanId, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::{QUEUE, Queue, Span, SpanKind, Value, lost};

/// Spans that may wait, some 500 bytes each.
const QUEUE_SPANS: usize = 8192;
/// Spans in a request at most.
const BATCH_SPANS: usize = 1024;
/// How long the first of a request waits for others.
const GATHER: Duration = Duration::from_millis(500);
/// How long a request may take, all attempts included.
const SEND: Duration = Duration::from_secs(10);
/// How long the end of the process waits for what is still to be sent.
const FINISH: Duration = Duration::from_secs(3);

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The URL cannot be used.
    #[error("{0:?} is not a URL of the form http://host:port or https://host:port")]
    Url(String),
    /// The exporter refuses its settings, which come from `OTEL_…` variables.
    #[error("OTLP: {0}")]
    Settings(#[from] ExporterBuildError),
    /// It has been started before.
    #[error("spans are exported already")]
    Started,
}

/// Spans are exported until it is told to finish.
#[must_use]
pub struct Exporting(Option<Work>);

struct Work {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Exporting {
    /// Nothing is exported.
    pub fn nothing() -> Self {
        Self(None)
    }

    /// Exports all spans of this process to the collector at `url`, to which `/v1/traces` is added;
    /// as `service`, unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` says otherwise. Headers
    /// come from `OTEL_EXPORTER_OTLP_HEADERS`. To be called within tokio's runtime.
    ///
    /// # Errors
    /// The URL or a variable cannot be used, or it is the second time.
    pub fn start(url: &str, service: &str) -> Result<Self, ExportError> {
        let endpoint = endpoint(url)?;
        let mut exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(Client)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint)
            .build()?;
        exporter.set_resource(&resource(service));
        let (sender, spans) = channel(QUEUE_SPANS);
        let (waiting, is_full) = (AtomicU64::new(0), AtomicBool::new(false));
        QUEUE.set(Queue { sender, waiting, is_full }).map_err(|_| ExportError::Started)?;
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(spans, exporter, stop.clone()));
        Ok(Self(Some(Work { task, stop })))
    }

    /// Sends what is left, within seconds.
    pub async fn finish(self) {
        let Some(Work { mut task, stop }) = self.0 else { return };
        stop.cancel();
        if timeout(FINISH, &mut task).await.is_err() {
            task.abort();
            let left = QUEUE.get().map_or(0, |queue| queue.waiting.load(Relaxed));
            lost("ended", left);
            tracing::warn!(left, "the collector takes no spans; those that waited are lost");
        }
    }
}

/// Where spans go, of what the collector is called.
fn endpoint(url: &str) -> Result<String, ExportError> {
    let wrong = || ExportError::Url(without_user(url));
    let uri: hyper::Uri = url.parse().map_err(|_| wrong())?;
    let is_usable = matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
    if !is_usable || uri.query().is_some() {
        return Err(wrong());
    }
    Ok(format!("{}/v1/traces", url.trim_end_matches('/')))
}

/// A URL may hold a password.
fn without_user(url: &str) -> String {
    url.rsplit_once('@').map_or(url, |(_, rest)| rest).to_owned()
}

fn resource(service: &str) -> Resource {
    let given = Resource::builder().build();
    let name = given.get(&"service.name".into()).map(|name| name.to_string());
    // What the library says of a process that nobody has named.
    if name.is_none_or(|name| name.starts_with("unknown_service")) {
        return Resource::builder().with_service_name(service.to_owned()).build();
    }
    given
}

async fn run(
    mut spans: Receiver<Span>,
    exporter: opentelemetry_otlp::SpanExporter,
    stop: CancellationToken,
) {
    let mut is_away = false;
    loop {
        let batch = next(&mut spans, &stop).await;
        if batch.is_empty() {
            return;
        }
        let count = batch.len() as u64;
        let sent = timeout(SEND, exporter.export(batch.into_iter().map(data).collect())).await;
        let refused = match sent {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {SEND:?}")),
        };
        let queue = QUEUE.get();
        if let Some(queue) = queue {
            queue.waiting.fetch_sub(count, Relaxed);
        }
        match refused {
            None => {
                metrics::counter!("idempotent_consumer_spans_exported_total").increment(count);
                if std::mem::take(&mut is_away) {
                    tracing::info!("the collector takes spans again");
                }
                if let Some(queue) = queue {
                    queue.is_full.store(false, Relaxed);
                }
            }
            Some(why) => {
                lost("not_taken", count);
                if !std::mem::replace(&mut is_away, true) {
                    tracing::warn!("the collector takes no spans, and they are lost: {why}");
                }
            }
        }
    }
}

/// The spans of the next request; none if there will be no more.
async fn next(spans: &mut Receiver<Span>, stop: &CancellationToken) -> Vec<Span> {
    let mut batch = Vec::new();
    stop.run_until_cancelled(spans.recv_many(&mut batch, BATCH_SPANS)).await;
    if batch.len() < BATCH_SPANS {
        stop.run_until_cancelled(tokio::time::sleep(GATHER)).await;
    }
    while batch.len() < BATCH_SPANS
        && let Ok(span) = spans.try_recv()
    {
        batch.push(span);
    }
    batch
}

/// A span as the exporter takes it.
fn data(span: Span) -> SpanData {
    let context = SpanContext::new(
        TraceId::from(span.context.trace_id()),
        SpanId::from(span.context.span_id()),
        TraceFlags::SAMPLED,
        false,
        TraceState::default(),
    );
    let attributes = span.attributes.into_iter().map(|(name, value)| match value {
        Value::Text(text) => KeyValue::new(name, text),
        Value::Number(number) => KeyValue::new(name, number),
    });
    SpanData {
        span_context: context,
        parent_span_id: span.parent.map_or(SpanId::INVALID, SpanId::from),
        parent_span_is_remote: span.parent.is_some(),
        span_kind: match span.kind {
            SpanKind::Server => opentelemetry::trace::SpanKind::Server,
            SpanKind::Client => opentelemetry::trace::SpanKind::Client,
            SpanKind::Consumer => opentelemetry::trace::SpanKind::Consumer,
        },
        name: span.name.into(),
        start_time: span.begun_at,
        end_time: span.ended_at,
        attributes: attributes.collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: if span.has_failed { Status::error("") } else { Status::Unset },
        instrumentation_scope: InstrumentationScope::builder("idempotent_consumer").build(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_a_url_with_a_host_and_its_password_is_not_told() {
        assert_eq!(endpoint("http://[::1]:4318/").unwrap(), "http://[::1]:4318/v1/traces");
        assert_eq!(endpoint("https://c.example/x").unwrap(), "https://c.example/x/v1/traces");
        for wrong in ["", "localhost:4318", "ftp://u:secret@host", "http://", "http://h/?a=b"] {
            let told = endpoint(wrong).unwrap_err().to_string();
            assert!(!told.contains("secret"), "{told}");
        }
    }
}
