//! What a request names outside of its body.

use serde_json::{Value, json};

use super::schemas::id_schema;
use crate::serve::code::Code;
use crate::serve::{cursor, idempotency, pages, query};

/// Something that a request names outside of its body.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::serve) enum Parameter {
    OrderId,
    IdempotencyKey,
    CustomerId,
    Cursor,
    Limit,
    Traceparent,
    RequestId,
    Asset,
}

impl Parameter {
    const ALL: [Self; 8] = [
        Self::OrderId,
        Self::IdempotencyKey,
        Self::CustomerId,
        Self::Cursor,
        Self::Limit,
        Self::Traceparent,
        Self::RequestId,
        Self::Asset,
    ];

    pub(super) fn problems(self) -> &'static [Code] {
        match self {
            Self::OrderId => &[Code::InvalidOrderId],
            Self::IdempotencyKey => {
                &[Code::KeyMissing, Code::KeyInvalid, Code::KeyReused, Code::InFlight]
            }
            Self::CustomerId | Self::Cursor | Self::Limit => &[Code::InvalidQuery],
            Self::Traceparent | Self::RequestId => &[],
            Self::Asset => &[Code::NotFound],
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::OrderId => "order_id",
            Self::IdempotencyKey => "Idempotency-Key",
            Self::CustomerId => "customer_id",
            Self::Cursor => "cursor",
            Self::Limit => "limit",
            Self::Traceparent => "traceparent",
            Self::RequestId => "x-request-id",
            Self::Asset => "file",
        }
    }

    fn describe(self) -> Value {
        let (place, is_required, description, schema) = match self {
            Self::OrderId => (
                "path",
                true,
                "The order, as a UUID with hyphens.",
                json!({ "type": "string", "format": "uuid" }),
            ),
            Self::IdempotencyKey => (
                "header",
                true,
                "A text of your own, new for each new request and the same when it is sent again. \
                 In quotes or bare; both are the same key.",
                json!({ "type": "string", "pattern": idempotency::PATTERN,
                    "examples": ["8e03978e-40d5-43dd-bc93-6894a57f9324"] }),
            ),
            Self::CustomerId => ("query", true, "Whose orders.", id_schema()),
            Self::Cursor => (
                "query",
                false,
                "`next_cursor` of the page before, unread.",
                json!({ "type": "string", "pattern": cursor::PATTERN }),
            ),
            Self::Limit => (
                "query",
                false,
                "Most orders of the page.",
                json!({ "type": "integer", "minimum": 1, "maximum": query::LIMIT_MAX,
                    "default": query::LIMIT_DEFAULT }),
            ),
            Self::Traceparent => (
                "header",
                false,
                "The trace that the request belongs to, in the W3C's form; goes on into the event's \
                 header. Anything else is ignored.",
                json!({ "type": "string" }),
            ),
            Self::RequestId => (
                "header",
                false,
                "An id of yours for this request, answered as it came if it is of 1 to 128 visible \
                 ASCII characters; else one is made.",
                json!({ "type": "string" }),
            ),
            Self::Asset => (
                "path",
                true,
                "A file of the pages.",
                json!({ "type": "string", "enum": pages::asset_names() }),
            ),
        };
        json!({ "name": self.name(), "in": place, "required": is_required,
            "description": description, "schema": schema })
    }

    pub(super) fn components() -> Value {
        Self::ALL.into_iter().map(|it| (it.name().to_owned(), it.describe())).collect()
    }
}
