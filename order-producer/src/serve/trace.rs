//! The trace that a request belongs to: the caller's, or a new one where spans are exported.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, Method};
use idempotent_consumer::TraceContext;
use idempotent_consumer::telemetry::{self, Span, SpanKind};
use rand::RngExt as _;

use super::attend::{UNKNOWN_ROUTE, known_method};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Of one request.
pub(super) struct Traced {
    /// What an event of the request names as its cause.
    pub(super) context: Option<TraceContext>,
    span: Option<Span>,
}

impl Traced {
    /// `ratio`: the share of new traces that is sampled. A new trace begins with what may change an
    /// order; somebody who only looks, or asks whether it lives, begins none.
    pub(super) fn begin(method: &Method, route: &str, request: &Request, ratio: f64) -> Self {
        let given = traceparent(request.headers());
        if !telemetry::is_on() {
            return Self { context: given, span: None };
        }
        let described = |mut span: Span| {
            span.set("http.request.method", known_method(method).unwrap_or("_OTHER"));
            if route != UNKNOWN_ROUTE {
                span.set("http.route", route);
            }
            span.set("url.path", request.uri().path());
            span
        };
        let name = || name(method, route);
        let changes = !method.is_safe() && route.starts_with("/v1/");
        if given.is_none() && changes {
            let context = TraceContext::root(rand::rng().random_bool(ratio));
            let span = Span::root(context, SpanKind::Server, name).map(described);
            return Self { context: Some(context), span };
        }
        let span = Span::child_of(given, SpanKind::Server, name).map(described);
        Self { context: span.as_ref().map(Span::context).or(given), span }
    }

    /// The request has been answered. Neither its address nor its query is told: both may name a person.
    pub(super) fn end(self, scheme: &'static str, status: u16) {
        let Some(mut span) = self.span else { return };
        span.set("url.scheme", scheme);
        span.set("http.response.status_code", i64::from(status));
        if status >= 500 {
            span.fail(&status.to_string());
        }
        span.end();
    }
}

fn name(method: &Method, route: &str) -> String {
    let method = known_method(method).unwrap_or("HTTP");
    if route == UNKNOWN_ROUTE { method.to_owned() } else { format!("{method} {route}") }
}

/// The trace that the request says it belongs to.
fn traceparent(headers: &HeaderMap) -> Option<TraceContext> {
    TraceContext::parse(headers.get(TRACEPARENT)?.to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn a_span_is_named_by_method_and_route_and_never_by_what_anybody_may_make_up() {
        assert_eq!(name(&Method::POST, "/v1/orders"), "POST /v1/orders");
        assert_eq!(name(&Method::GET, UNKNOWN_ROUTE), "GET");
        assert_eq!(name(&Method::from_bytes(b"BREW").unwrap(), UNKNOWN_ROUTE), "HTTP");
    }

    #[test]
    fn without_export_a_trace_is_passed_on_as_it_came_and_none_begins() {
        let begin = |value: Option<&'static str>| {
            let value = value.map(|value| (TRACEPARENT, HeaderValue::from_static(value)));
            let mut request = Request::default();
            request.headers_mut().extend(value);
            let traced = Traced::begin(&Method::POST, "/v1/orders", &request, 1.0);
            assert!(traced.span.is_none());
            traced.context.map(|context| context.to_string())
        };
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(begin(Some(text)).as_deref(), Some(text));
        assert_eq!(begin(Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7")), None);
        assert_eq!(begin(None), None);
    }
}
