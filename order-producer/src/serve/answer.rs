//! An answer as it is kept with its key, and sent.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use uuid::Uuid;

/// Says that the answer is that of an earlier request.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Status, headers and body. What is the same for every answer (request id, limits, security) is
/// not part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// A JSON body.
    pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Self {
        Self::with_type(status, "application/json", value)
    }

    pub(super) fn with_type(
        status: StatusCode,
        content_type: &str,
        value: &impl Serialize,
    ) -> Self {
        let body = serde_json::to_vec(value)
            .expect("a Vec takes every byte, keys are text, and times are of years 0 to 9999");
        let headers = vec![(header::CONTENT_TYPE.to_string(), content_type.to_owned())];
        Self { status: status.as_u16(), headers, body }
    }

    /// Names the order's place.
    pub(super) fn located(mut self, order_id: Uuid) -> Self {
        self.headers.push((header::LOCATION.to_string(), format!("/v1/orders/{order_id}")));
        self
    }

    /// Marks it as that of an earlier request.
    pub(super) fn replayed(self) -> Response {
        let mut response = self.into_response();
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        response
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        // Both were written by us; from a row that somebody has changed they may be anything.
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        for (name, value) in self.headers {
            if let (Ok(name), Ok(value)) =
                (HeaderName::try_from(name), HeaderValue::try_from(value))
            {
                response.headers_mut().append(name, value);
            }
        }
        response
    }
}
