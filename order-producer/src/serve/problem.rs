//! What went wrong with a request, as RFC 9457 has it.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use idempotent_consumer::failure::{FailureClass, class_of};
use order_events::Rejection;
use serde::Serialize;

use super::answer::Answer;
use super::body::BodyError;
use super::fields::FieldProblem;

const LOCK_NOT_AVAILABLE: &str = "55P03";
/// How long to wait before the next try, where nothing better is known.
const RETRY_AFTER_S: u64 = 1;

/// A refused or failed request. The codes are part of the API's contract.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    detail: String,
    errors: Vec<FieldProblem>,
    retry_after_s: Option<u64>,
}

#[derive(Serialize)]
struct Details<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    code: &'a str,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldProblem],
}

impl Problem {
    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        let detail = detail.into();
        Self { status, code, title, detail, errors: Vec::new(), retry_after_s: None }
    }

    fn retry(self) -> Self {
        self.retry_after(RETRY_AFTER_S)
    }

    pub(super) fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }

    /// The stable code.
    #[cfg(test)]
    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    pub(super) fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, "The request can't be understood", detail)
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "There is no such thing", detail)
    }

    pub(super) fn no_order() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "order_not_found",
            "There is no such order",
            "no order with this id has been accepted or applied",
        )
    }

    pub(super) fn key_reused() -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency_key_reused",
            "The Idempotency-Key belongs to another request",
            "this key was used with another method, path or body; take a new key for a new request",
        )
    }

    pub(super) fn in_flight() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "request_in_flight",
            "Another request is under way",
            "a request with this Idempotency-Key, or for this order, has not ended yet",
        )
        .retry()
    }

    pub(super) fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, "Not now", detail).retry()
    }

    pub(super) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "The gateway failed",
            "this is a defect of the gateway; its log has the cause under the request's id",
        )
    }

    /// What a failure of the database means for the client. After a lost answer to COMMIT the order
    /// may have been accepted: the same request again, with the same key, tells.
    pub(super) fn of_database(error: &sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        if code.as_deref() == Some(LOCK_NOT_AVAILABLE) {
            return Self::in_flight();
        }
        match class_of(error) {
            FailureClass::Infrastructure | FailureClass::Retryable => {
                tracing::warn!(%error, "the database fails");
                Self::unavailable(
                    "database_unavailable",
                    "the database does not answer; send the same request again",
                )
            }
            FailureClass::Permanent | FailureClass::Stop => {
                tracing::error!(%error, "the database refuses what the gateway asks");
                Self::internal()
            }
        }
    }

    /// The body can't be used.
    pub(super) fn of_body(error: BodyError) -> Self {
        match error {
            BodyError::NotJson(problem) => {
                let detail = format!("the body is not usable JSON: {problem}");
                Self::new(StatusCode::BAD_REQUEST, "invalid_json", "The body is no JSON", detail)
            }
            BodyError::Fields(errors) => {
                let detail = format!("{} of its fields can't be used", errors.len());
                let problem = Self::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "invalid_order",
                    "The body is not valid",
                    detail,
                );
                Self { errors, ..problem }
            }
        }
    }

    /// The order stands where the request can't follow.
    pub(super) fn of_rejection(rejection: Rejection, was_accepted: bool) -> Self {
        match rejection {
            Rejection::OrderNotFound if !was_accepted => Self::no_order(),
            Rejection::OrderNotFound => Self::new(
                StatusCode::CONFLICT,
                "order_dead_lettered",
                "The order did not take effect",
                "its order.placed was dead-lettered; GET it for the reason",
            ),
            _ => Self::new(
                StatusCode::CONFLICT,
                rejection.code(),
                "The order stands where this can't follow",
                rejection.to_string(),
            ),
        }
    }

    /// As it is kept with an Idempotency-Key.
    pub(super) fn answer(&self) -> Answer {
        let details = Details {
            r#type: format!("urn:order-producer:problem:{}", self.code),
            title: self.title,
            status: self.status.as_u16(),
            code: self.code,
            detail: &self.detail,
            errors: &self.errors,
        };
        Answer::with_type(self.status, "application/problem+json", &details)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.answer().into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"orders\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}
