//! What every request and every answer has: an id, an end in time, headers, a place in the metrics.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tracing::Instrument as _;
use uuid::Uuid;

use super::Gateway;
use super::code::Code;
use super::problem::Problem;
use super::trace::Traced;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_CHARS_MAX: usize = 128;
/// The route of what is at no path of the API.
pub(super) const UNKNOWN_ROUTE: &str = "other";

/// Gives each request an id, and each answer its headers; counts.
pub(super) async fn attend(
    State(gateway): State<Arc<Gateway>>,
    mut request: Request,
    next: Next,
) -> Response {
    let begun = Instant::now();
    let id = request_id(request.headers());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let route = route.unwrap_or_else(|| UNKNOWN_ROUTE.to_owned());
    let traced = Traced::begin(&method, &route, &request, gateway.trace_ratio);
    if let Some(context) = traced.context {
        request.extensions_mut().insert(context);
    }
    let timeout = gateway.guard.request_timeout();
    let sharing = gateway.cors.sharing(&request);
    let preflight = gateway.cors.preflight(&sharing, &route, &request);
    let answer = async {
        match preflight {
            Some(answer) => answer,
            None => next.run(request).await,
        }
    };
    // What the log has of a request is under its id.
    let answer = answer.instrument(tracing::error_span!("request", %id));
    let mut response = match tokio::time::timeout(timeout, answer).await {
        Ok(response) => response,
        Err(_) => Problem::new(
            Code::Timeout,
            format!("the request took longer than {} s; send it again", timeout.as_secs_f64()),
        )
        .into_response(),
    };
    let status = response.status();
    tracing::debug!(%id, %method, route, status = status.as_u16(), "answered");
    // To say that it is not ready is no failure, and asked every few seconds.
    if status.is_server_error() && route != "/readyz" {
        tracing::warn!(%id, %method, route, status = status.as_u16(), "a request failed");
    }
    traced.end(gateway.scheme, status.as_u16());
    let labels = [
        ("method", known_method(&method).unwrap_or("other").to_owned()),
        ("route", route),
        ("status", status.as_str().to_owned()),
    ];
    metrics::counter!("order_producer_http_requests_total", &labels).increment(1);
    metrics::histogram!("order_producer_http_request_seconds")
        .record(begun.elapsed().as_secs_f64());
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id_value(&id));
    sharing.tell(headers);
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Methods are any text; these are the ones that mean something.
pub(super) fn known_method(method: &Method) -> Option<&str> {
    let name = method.as_str();
    matches!(name, "GET" | "HEAD" | "POST" | "PUT" | "DELETE").then_some(name)
}

/// The caller's id, if it is short and plain; else one of ours.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let is_usable = |id: &&str| {
        (1..=REQUEST_ID_CHARS_MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic())
    };
    given.filter(is_usable).map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

fn id_value(id: &str) -> HeaderValue {
    HeaderValue::from_str(id).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_keeps_its_id_if_that_is_plain() {
        let id = |value: &str| {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            request_id(&HeaderMap::from_iter([(REQUEST_ID, value)]))
        };
        assert_eq!(id("abc-1"), "abc-1");
        for odd in ["", "a b", "é", &"x".repeat(129)] {
            assert!(Uuid::try_parse(&id(odd)).is_ok(), "{odd}");
        }
    }
}
