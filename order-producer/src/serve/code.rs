//! The codes of problems, each with its status and title. They are part of the API's contract: what has
//! no line here can't be answered, and the OpenAPI document lists what has.

use axum::http::StatusCode;
use order_events::Rejection;

macro_rules! codes {
    ($($name:ident $status:ident $code:literal $title:literal)*) => {
        /// What went wrong, for programs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Code {
            $($name),*
        }

        impl Code {
            /// Every code.
            pub(super) const ALL: &'static [Self] = &[$(Self::$name),*];

            /// As it stands in an answer.
            pub(super) const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $code),*
                }
            }

            pub(super) const fn status(self) -> StatusCode {
                match self {
                    $(Self::$name => StatusCode::$status),*
                }
            }

            /// For people; the same each time.
            pub(super) const fn title(self) -> &'static str {
                match self {
                    $(Self::$name => $title),*
                }
            }
        }
    };
}

codes! {
    InvalidJson BAD_REQUEST "invalid_json" "The body is no JSON"
    InvalidOrderId BAD_REQUEST "invalid_order_id" "The request can't be understood"
    InvalidQuery BAD_REQUEST "invalid_query" "The request can't be understood"
    KeyMissing BAD_REQUEST "idempotency_key_missing" "The request can't be understood"
    KeyInvalid BAD_REQUEST "idempotency_key_invalid" "The request can't be understood"
    BodyCutOff BAD_REQUEST "body_cut_off" "The request can't be understood"
    Unauthorized UNAUTHORIZED "unauthorized" "This takes an API key"
    MissingScope FORBIDDEN "missing_scope" "The key does not allow this"
    NotFound NOT_FOUND "not_found" "There is no such thing"
    OrderNotFound NOT_FOUND "order_not_found" "There is no such order"
    MethodNotAllowed METHOD_NOT_ALLOWED "method_not_allowed" "This can't be done here"
    BodyTooSlow REQUEST_TIMEOUT "body_too_slow" "The body did not arrive in time"
    WrongStatus CONFLICT "wrong_status" "The order stands where this can't follow"
    CustomerMismatch CONFLICT "customer_mismatch" "The order stands where this can't follow"
    OrderDeadLettered CONFLICT "order_dead_lettered" "The order did not take effect"
    InFlight CONFLICT "request_in_flight" "Another request is under way"
    BodyTooLarge PAYLOAD_TOO_LARGE "body_too_large" "The body is too large"
    UnsupportedMediaType UNSUPPORTED_MEDIA_TYPE "unsupported_media_type" "The body is of a type that is not read"
    InvalidOrder UNPROCESSABLE_ENTITY "invalid_order" "The body is not valid"
    KeyReused UNPROCESSABLE_ENTITY "idempotency_key_reused" "The Idempotency-Key belongs to another request"
    RateLimited TOO_MANY_REQUESTS "rate_limited" "Too many requests"
    Internal INTERNAL_SERVER_ERROR "internal" "The gateway failed"
    DatabaseUnavailable SERVICE_UNAVAILABLE "database_unavailable" "Not now"
    Overloaded SERVICE_UNAVAILABLE "overloaded" "Not now"
    Timeout SERVICE_UNAVAILABLE "timeout" "Not now"
}

impl Code {
    /// Whether the same request may be answered otherwise soon; the answer then says when to try.
    pub(super) fn is_for_now(self) -> bool {
        matches!(
            self,
            Self::InFlight
                | Self::RateLimited
                | Self::DatabaseUnavailable
                | Self::Overloaded
                | Self::Timeout
        )
    }
}

impl From<Rejection> for Code {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::OrderNotFound => Self::OrderNotFound,
            Rejection::CustomerMismatch => Self::CustomerMismatch,
            // An order that exists is amended, and never placed again.
            Rejection::WrongStatus { .. } | Rejection::OrderExists => Self::WrongStatus,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use order_events::{EventKind, Status};

    #[test]
    fn an_orders_rejection_has_the_code_of_the_dead_letter_it_would_become() {
        let wrong = Rejection::WrongStatus { status: Status::Paid, event: EventKind::Amended };
        for rejection in [Rejection::OrderNotFound, Rejection::CustomerMismatch, wrong] {
            assert_eq!(Code::from(rejection).as_str(), rejection.code());
        }
    }
}
