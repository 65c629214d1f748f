//! What each route does, for the OpenAPI document.

use super::auth::Scope;
use super::code::Code;
use super::openapi::{Answers, Body, Content, Header, Operation, Parameter};

const ORDER: Content = Content::Json("Order");
const HTML: Content = Content::Text(&["text/html"]);
const PLAIN: Content = Content::Text(&["text/plain"]);

pub(super) const LIST: Operation = Operation {
    id: "listOrders",
    tag: "orders",
    summary: "A customer's orders",
    description: "Those that were accepted here, the newest first, in pages.",
    scope: Some(Scope::Read),
    parameters: &[Parameter::CustomerId, Parameter::Cursor, Parameter::Limit, Parameter::RequestId],
    body: Body::None,
    answers: &[Answers {
        status: 200,
        means: "A page.",
        content: Content::Json("OrderPage"),
        headers: &[],
    }],
    problems: &[],
};

pub(super) const PLACE: Operation = Operation {
    id: "placeOrder",
    tag: "orders",
    summary: "Place an order",
    description: "Under an id that the gateway makes. The same request again, with the same \
                  Idempotency-Key, gives the same answer and no other order.",
    scope: Some(Scope::Write),
    parameters: &[Parameter::IdempotencyKey, Parameter::Traceparent, Parameter::RequestId],
    body: Body::Required("NewOrder"),
    answers: &[Answers {
        status: 201,
        means: "It is accepted.",
        content: ORDER,
        headers: &[Header::Location, Header::Replayed],
    }],
    problems: &[],
};

pub(super) const SHOW: Operation = Operation {
    id: "getOrder",
    tag: "orders",
    summary: "An order",
    description: "Also one that came by another way, once it has taken effect.",
    scope: Some(Scope::Read),
    parameters: &[Parameter::OrderId, Parameter::RequestId],
    body: Body::None,
    answers: &[Answers { status: 200, means: "The order.", content: ORDER, headers: &[] }],
    problems: &[Code::OrderNotFound],
};

pub(super) const PUT: Operation = Operation {
    id: "putOrder",
    tag: "orders",
    summary: "Place an order under your own id, or replace it",
    description: "It can be replaced while it is `placed`. An equal repeat publishes nothing.",
    scope: Some(Scope::Write),
    parameters: &[Parameter::OrderId, Parameter::Traceparent, Parameter::RequestId],
    body: Body::Required("OrderContent"),
    answers: &[
        Answers {
            status: 200,
            means: "It is replaced, or was like this already.",
            content: ORDER,
            headers: &[],
        },
        Answers {
            status: 201,
            means: "It is accepted as a new order.",
            content: ORDER,
            headers: &[Header::Location],
        },
    ],
    problems: &[Code::WrongStatus, Code::CustomerMismatch, Code::InFlight],
};

pub(super) const CANCEL: Operation = Operation {
    id: "cancelOrder",
    tag: "orders",
    summary: "Cancel an order",
    description: "The order stays, as `cancelled`. Cancelling it again changes nothing.",
    scope: Some(Scope::Write),
    parameters: &[Parameter::OrderId, Parameter::Traceparent, Parameter::RequestId],
    body: Body::Ignored,
    answers: &[
        Answers { status: 200, means: "It was cancelled already.", content: ORDER, headers: &[] },
        Answers {
            status: 202,
            means: "The cancellation is accepted.",
            content: ORDER,
            headers: &[],
        },
    ],
    problems: &[Code::OrderNotFound, Code::OrderDeadLettered, Code::WrongStatus, Code::InFlight],
};

pub(super) const PAY: Operation = Operation {
    id: "payOrder",
    tag: "orders",
    summary: "Pay an order",
    description: "The same request again, with the same Idempotency-Key, gives the same answer and \
                  no other payment.",
    scope: Some(Scope::Write),
    parameters: &[
        Parameter::OrderId,
        Parameter::IdempotencyKey,
        Parameter::Traceparent,
        Parameter::RequestId,
    ],
    body: Body::Optional("Reason"),
    answers: &[Answers {
        status: 202,
        means: "The payment is accepted.",
        content: ORDER,
        headers: &[Header::Replayed],
    }],
    problems: &[Code::OrderNotFound, Code::OrderDeadLettered, Code::WrongStatus],
};

pub(super) const LIVEZ: Operation = open(
    "livez",
    "health",
    "Whether the process answers",
    &[Answers { status: 200, means: "It does.", content: PLAIN, headers: &[] }],
);

pub(super) const READYZ: Operation = open(
    "readyz",
    "health",
    "Whether orders are accepted, for which PostgreSQL is enough",
    &[
        Answers {
            status: 200,
            means: "They are.",
            content: Content::Json("Readiness"),
            headers: &[],
        },
        Answers {
            status: 503,
            means: "They are not; `reasons` says why.",
            content: Content::Json("Readiness"),
            headers: &[Header::RetryAfterPerhaps],
        },
    ],
);

pub(super) const METRICS: Operation = open(
    "metrics",
    "health",
    "Metrics, in the form of Prometheus",
    &[Answers { status: 200, means: "The metrics.", content: PLAIN, headers: &[] }],
);

pub(super) const ORDERS: Operation = open(
    "orders",
    "pages",
    "A page to place orders by hand and watch what becomes of them",
    &[Answers { status: 200, means: "The page.", content: HTML, headers: &[] }],
);

pub(super) const OPENAPI: Operation = open(
    "openapi",
    "pages",
    "This document",
    &[Answers {
        status: 200,
        means: "OpenAPI 3.1.",
        content: Content::Json("Document"),
        headers: &[],
    }],
);

pub(super) const DOCS: Operation = open(
    "docs",
    "pages",
    "This document as a page",
    &[Answers { status: 200, means: "The page.", content: HTML, headers: &[] }],
);

pub(super) const ASSET: Operation = Operation {
    parameters: &[Parameter::Asset],
    ..open(
        "asset",
        "pages",
        "A file of the pages",
        &[Answers {
            status: 200,
            means: "The file.",
            content: Content::Text(&["text/css", "text/javascript", "image/svg+xml"]),
            headers: &[],
        }],
    )
};

/// What anybody may ask for, without anything to say.
const fn open(
    id: &'static str,
    tag: &'static str,
    summary: &'static str,
    answers: &'static [Answers],
) -> Operation {
    Operation {
        id,
        tag,
        summary,
        description: "",
        scope: None,
        parameters: &[],
        body: Body::None,
        answers,
        problems: &[],
    }
}
