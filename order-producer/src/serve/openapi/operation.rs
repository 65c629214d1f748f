//! One operation: what it takes and every answer it may give.

use std::collections::BTreeMap;

use order_events::limits;
use serde_json::{Map, Value, json};

use crate::serve::auth::Scope;
use crate::serve::code::Code;
use crate::serve::{cursor, idempotency, pages, problem, query};

use super::schemas::{id_schema, reference};

pub(super) const SECURITY: &str = "apiKey";

/// What a route does, for the document.
pub(in crate::serve) struct Operation {
    pub(in crate::serve) id: &'static str,
    pub(in crate::serve) tag: &'static str,
    pub(in crate::serve) summary: &'static str,
    pub(in crate::serve) description: &'static str,
    /// What a key has to allow. `None`: it is open to everybody, and nobody is counted.
    pub(in crate::serve) scope: Option<Scope>,
    pub(in crate::serve) parameters: &'static [Parameter],
    pub(in crate::serve) body: Body,
    pub(in crate::serve) answers: &'static [Answers],
    /// The problems that no parameter and no body explains.
    pub(in crate::serve) problems: &'static [Code],
}

/// An answer that is no problem.
pub(in crate::serve) struct Answers {
    pub(in crate::serve) status: u16,
    pub(in crate::serve) means: &'static str,
    pub(in crate::serve) content: Content,
    pub(in crate::serve) headers: &'static [Header],
}

/// What an answer's body is.
#[derive(Clone, Copy)]
pub(in crate::serve) enum Content {
    /// JSON of this name among the schemas.
    Json(&'static str),
    /// Text of one of these types.
    Text(&'static [&'static str]),
}

/// What a request's body is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::serve) enum Body {
    /// It is not read.
    None,
    /// It is read and says nothing.
    Ignored,
    /// JSON of this name among the schemas.
    Required(&'static str),
    Optional(&'static str),
}

impl Body {
    fn problems(self) -> &'static [Code] {
        match self {
            Self::None => &[],
            Self::Ignored => &[Code::BodyCutOff, Code::BodyTooSlow, Code::BodyTooLarge],
            Self::Required(_) | Self::Optional(_) => &[
                Code::BodyCutOff,
                Code::BodyTooSlow,
                Code::BodyTooLarge,
                Code::InvalidJson,
                Code::UnsupportedMediaType,
                Code::InvalidOrder,
            ],
        }
    }
}

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

    fn problems(self) -> &'static [Code] {
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

    const fn name(self) -> &'static str {
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

    fn reference(self) -> (String, Value) {
        (self.name().to_owned(), json!({ "$ref": format!("#/components/headers/{}", self.key()) }))
    }
}

impl Operation {
    /// Every problem that it may answer.
    fn all_problems(&self, asks_for_keys: bool) -> Vec<Code> {
        let mut codes = vec![Code::Timeout];
        if self.scope.is_some() {
            codes.extend([Code::RateLimited, Code::Overloaded]);
            codes.extend([Code::DatabaseUnavailable, Code::Internal]);
            if asks_for_keys {
                codes.extend([Code::Unauthorized, Code::MissingScope]);
            }
        }
        codes.extend(self.parameters.iter().flat_map(|parameter| parameter.problems()));
        codes.extend(self.body.problems());
        codes.extend(self.problems);
        // In the order of the table, each once.
        Code::ALL.iter().copied().filter(|code| codes.contains(code)).collect()
    }

    pub(super) fn describe(&self, asks_for_keys: bool) -> Value {
        let parameter =
            |it: &Parameter| json!({ "$ref": format!("#/components/parameters/{}", it.name()) });
        let mut described = json!({
            "operationId": self.id,
            "tags": [self.tag],
            "summary": self.summary,
            "description": self.description,
            "parameters": self.parameters.iter().map(parameter).collect::<Vec<_>>(),
            "responses": self.responses(asks_for_keys),
        });
        if let Body::Required(schema) | Body::Optional(schema) = self.body {
            described["requestBody"] = json!({
                "required": matches!(self.body, Body::Required(_)),
                "description": format!(
                    "JSON in UTF-8, nested at most {} deep, within the gateway's `--body-bytes`. \
                     Fields of other names are ignored; one that comes twice is refused.",
                    limits::JSON_DEPTH
                ),
                "content": { "application/json": { "schema": reference(schema) } },
            });
        }
        match self.scope {
            Some(scope) if asks_for_keys => {
                described["security"] = json!([{ SECURITY: [scope.as_str()] }]);
            }
            _ => described["security"] = json!([]),
        }
        described
    }

    fn responses(&self, asks_for_keys: bool) -> Value {
        let mut responses = Map::new();
        for answer in self.answers {
            let described = json!({
                "description": answer.means,
                "headers": self.headers(answer.headers),
                "content": answer.content.describe(),
            });
            responses.insert(answer.status.to_string(), described);
        }
        let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
        for code in self.all_problems(asks_for_keys) {
            by_status.entry(code.status().as_u16()).or_default().push(code);
        }
        for (status, codes) in by_status {
            let described = self.problem(status, &codes);
            match responses.get_mut(&status.to_string()) {
                // A page that has this status as well.
                Some(page) => {
                    let merge = |field: &str, page: &mut Value| {
                        for (name, value) in described[field].as_object().into_iter().flatten() {
                            page[field][name] = value.clone();
                        }
                    };
                    merge("content", page);
                }
                None => {
                    responses.insert(status.to_string(), described);
                }
            }
        }
        Value::Object(responses)
    }

    fn problem(&self, status: u16, codes: &[Code]) -> Value {
        let mut headers = Vec::new();
        // What was judged of the order is kept with the key; so may the answer be that of then.
        let is_kept =
            |code: &Code| matches!(code.status().as_u16(), 404 | 409) && *code != Code::InFlight;
        if self.parameters.contains(&Parameter::IdempotencyKey) && codes.iter().any(is_kept) {
            headers.push(Header::Replayed);
        }
        if codes.iter().all(|code| code.is_for_now()) {
            headers.push(Header::RetryAfter);
        } else if codes.iter().any(|code| code.is_for_now()) {
            headers.push(Header::RetryAfterPerhaps);
        }
        if codes.contains(&Code::Unauthorized) {
            headers.push(Header::WwwAuthenticate);
        }
        let names: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
        let list = codes.iter().map(|code| format!("- `{}`: {}", code.as_str(), code.title()));
        json!({
            "description": list.collect::<Vec<_>>().join("\n"),
            "headers": self.headers(&headers),
            "content": { problem::CONTENT_TYPE: { "schema": {
                "allOf": [
                    reference("Problem"),
                    { "properties": { "status": { "const": status }, "code": { "enum": names } } },
                ],
            }}},
        })
    }

    fn headers(&self, own: &[Header]) -> Value {
        let counted: &[Header] = match self.scope {
            Some(_) => &[Header::RateLimit, Header::RateLimitPolicy],
            None => &[],
        };
        let all = [&[Header::RequestId], own, counted].concat();
        all.into_iter().map(Header::reference).collect()
    }
}

impl Content {
    fn describe(self) -> Value {
        match self {
            Self::Json(schema) => json!({ "application/json": { "schema": reference(schema) } }),
            Self::Text(types) => {
                let text =
                    |it: &&str| ((*it).to_owned(), json!({ "schema": { "type": "string" } }));
                types.iter().map(text).collect()
            }
        }
    }
}
