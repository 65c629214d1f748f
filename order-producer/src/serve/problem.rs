//! What went wrong with a request, as RFC 9457 has it.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use idempotent_consumer::failure::{FailureClass, class_of};
use order_events::Rejection;
use serde::Serialize;

use super::answer::Answer;
use super::body::BodyError;
use super::code::Code;
use super::fields::FieldProblem;

pub(super) const CONTENT_TYPE: &str = "application/problem+json";
/// A problem's type is this and its code.
pub(super) const TYPE_PREFIX: &str = "urn:order-producer:problem:";
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// How long to wait before the next try, where nothing better is known.
const RETRY_AFTER_S: u64 = 1;

/// A refused or failed request.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    code: Code,
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
    pub(super) fn new(code: Code, detail: impl Into<String>) -> Self {
        let retry_after_s = code.is_for_now().then_some(RETRY_AFTER_S);
        Self { code, detail: detail.into(), errors: Vec::new(), retry_after_s }
    }

    pub(super) fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }

    /// The stable code.
    #[cfg(test)]
    pub(super) fn code(&self) -> &'static str {
        self.code.as_str()
    }

    pub(super) fn no_order() -> Self {
        let detail = "no order with this id has been accepted or applied";
        Self::new(Code::OrderNotFound, detail)
    }

    pub(super) fn key_reused() -> Self {
        Self::new(
            Code::KeyReused,
            "this key was used with another method, path or body; take a new key for a new request",
        )
    }

    pub(super) fn in_flight() -> Self {
        Self::new(
            Code::InFlight,
            "a request with this Idempotency-Key, or for this order, has not ended yet",
        )
    }

    pub(super) fn internal() -> Self {
        Self::new(
            Code::Internal,
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
                Self::new(
                    Code::DatabaseUnavailable,
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
                Self::new(Code::InvalidJson, detail)
            }
            BodyError::Fields(errors) => {
                let detail = format!("{} of its fields can't be used", errors.len());
                Self { errors, ..Self::new(Code::InvalidOrder, detail) }
            }
        }
    }

    /// The order stands where the request can't follow.
    pub(super) fn of_rejection(rejection: Rejection, was_accepted: bool) -> Self {
        match rejection {
            Rejection::OrderNotFound if !was_accepted => Self::no_order(),
            Rejection::OrderNotFound => Self::new(
                Code::OrderDeadLettered,
                "its order.placed was dead-lettered; GET it for the reason",
            ),
            _ => Self::new(rejection.into(), rejection.to_string()),
        }
    }

    /// As it is kept with an Idempotency-Key.
    pub(super) fn answer(&self) -> Answer {
        let details = Details {
            r#type: format!("{TYPE_PREFIX}{}", self.code.as_str()),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            code: self.code.as_str(),
            detail: &self.detail,
            errors: &self.errors,
        };
        Answer::with_type(self.code.status(), CONTENT_TYPE, &details)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.answer().into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code == Code::Unauthorized {
            let scheme = HeaderValue::from_static("Bearer realm=\"orders\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}
