//! A collector of traces: OTLP over HTTP, as its own schema reads it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message as _;

pub(crate) struct Collector {
    url: String,
    taken: Arc<Mutex<Vec<Taken>>>,
}

/// A span as it was taken.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) kind: SpanKind,
    pub(crate) trace_id: String,
    pub(crate) span_id: String,
    /// Empty of the first of a trace.
    pub(crate) parent: String,
    pub(crate) nanos: (u64, u64),
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) has_failed: bool,
}

impl Collector {
    /// Takes whatever it gets.
    pub(crate) fn start() -> Self {
        let taken = Arc::new(Mutex::new(Vec::new()));
        let store = Arc::clone(&taken);
        let url = serve(move |stream| {
            let body = read(&stream);
            store.lock().unwrap().extend(spans(&body));
            (&stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
        });
        Self { url, taken }
    }

    /// Accepts connections and never answers.
    pub(crate) fn hanging() -> Self {
        let kept = Mutex::new(Vec::new());
        let url = serve(move |stream| kept.lock().unwrap().push(stream));
        Self { url, taken: Arc::default() }
    }

    /// Nobody listens there.
    pub(crate) fn away() -> Self {
        // Free a moment ago; the system gives out others first.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { url: format!("http://127.0.0.1:{port}"), taken: Arc::default() }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The spans of a trace, so far.
    pub(crate) fn of(&self, trace_id: &str) -> Vec<Taken> {
        let taken = self.taken.lock().unwrap();
        taken.iter().filter(|span| span.trace_id == trace_id).cloned().collect()
    }

    /// The ids of all traces that it has heard of.
    pub(crate) fn traces(&self) -> Vec<String> {
        let mut ids: Vec<String> =
            self.taken.lock().unwrap().iter().map(|span| span.trace_id.clone()).collect();
        ids.sort();
        ids.dedup();
        ids
    }
}

impl Taken {
    pub(crate) fn says(&self, attribute: &str) -> &str {
        let said = self.attributes.get(attribute);
        said.unwrap_or_else(|| panic!("no {attribute} in {self:#?}"))
    }

    /// As others are told of it.
    pub(crate) fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.trace_id, self.span_id)
    }
}

/// Serves each connection on a thread, for as long as the tests run; returns its URL.
fn serve(answer: impl Fn(TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, answer) = (stream.unwrap(), Arc::clone(&answer));
            std::thread::spawn(move || answer(stream));
        }
    });
    url
}

/// The body of a request to where traces are sent.
fn read(stream: &TcpStream) -> Vec<u8> {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_ascii_lowercase()),
        }
    }
    assert_eq!(head[0], "post /v1/traces http/1.1");
    assert!(head.contains(&"content-type: application/x-protobuf".to_owned()), "{head:?}");
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    body
}

fn spans(body: &[u8]) -> Vec<Taken> {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let mut taken = Vec::new();
    for of_resource in request.resource_spans {
        let resource = said(&of_resource.resource.unwrap().attributes);
        for span in of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans) {
            taken.push(Taken {
                service: resource["service.name"].clone(),
                kind: span.kind(),
                has_failed: span.status.as_ref().unwrap().code() == StatusCode::Error,
                attributes: said(&span.attributes),
                name: span.name,
                trace_id: hex(&span.trace_id),
                span_id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                nanos: (span.start_time_unix_nano, span.end_time_unix_nano),
            });
        }
    }
    taken
}

fn said(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    let said = |attribute: &KeyValue| {
        let value = attribute.value.as_ref().unwrap().value.as_ref().unwrap();
        (attribute.key.clone(), text(value))
    };
    attributes.iter().map(said).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
