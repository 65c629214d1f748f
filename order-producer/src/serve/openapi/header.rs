//! The headers of answers.

use serde_json::{Value, json};

/// A header of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::serve) enum Header {
    RequestId,
    Replayed,
    Location,
    RetryAfter,
    /// Where only some of the answers of the status have it.
    RetryAfterPerhaps,
    RateLimit,
    RateLimitPolicy,
    WwwAuthenticate,
}

impl Header {
    const ALL: [Self; 8] = [
        Self::RequestId,
        Self::Replayed,
        Self::Location,
        Self::RetryAfter,
        Self::RetryAfterPerhaps,
        Self::RateLimit,
        Self::RateLimitPolicy,
        Self::WwwAuthenticate,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::RequestId => "x-request-id",
            Self::Replayed => "Idempotency-Replayed",
            Self::Location => "Location",
            Self::RetryAfter | Self::RetryAfterPerhaps => "Retry-After",
            Self::RateLimit => "RateLimit",
            Self::RateLimitPolicy => "RateLimit-Policy",
            Self::WwwAuthenticate => "WWW-Authenticate",
        }
    }

    /// Its name among the components.
    const fn key(self) -> &'static str {
        match self {
            Self::RetryAfterPerhaps => "Retry-After-Perhaps",
            other => other.name(),
        }
    }

    fn describe(self) -> Value {
        let (is_required, description, schema) = match self {
            Self::RequestId => (
                true,
                "The request's id, under which the gateway's log has it.",
                json!({ "type": "string", "minLength": 1, "maxLength": 128 }),
            ),
            Self::Replayed => (
                false,
                "`true`: this is the answer of an earlier request with the same Idempotency-Key.",
                json!({ "type": "string", "const": "true" }),
            ),
            Self::Location => (
                true,
                "The order's path.",
                json!({ "type": "string", "pattern": "^/v1/orders/[0-9a-f-]{36}$" }),
            ),
            Self::RetryAfter | Self::RetryAfterPerhaps => (
                self == Self::RetryAfter,
                "Seconds after which to send the same request again.",
                json!({ "type": "integer", "minimum": 1 }),
            ),
            Self::RateLimit => (
                false,
                "What is left, for each limit that is set: `r` requests, full again in `t` seconds.",
                json!({ "type": "string" }),
            ),
            Self::RateLimitPolicy => (
                false,
                "The limits that are set: `q` requests in `w` seconds.",
                json!({ "type": "string" }),
            ),
            Self::WwwAuthenticate => {
                (true, "How to authenticate.", json!({ "type": "string", "pattern": "^Bearer " }))
            }
        };
        json!({ "required": is_required, "description": description, "schema": schema })
    }

    pub(super) fn components() -> Value {
        Self::ALL.into_iter().map(|it| (it.key().to_owned(), it.describe())).collect()
    }

    pub(super) fn reference(self) -> (String, Value) {
        (self.name().to_owned(), json!({ "$ref": format!("#/components/headers/{}", self.key()) }))
    }
}
