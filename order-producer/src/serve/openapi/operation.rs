//! One operation: what it takes and every answer it may give.

use std::collections::BTreeMap;

use order_events::limits;
use serde_json::{Map, Value, json};

use crate::serve::auth::Scope;
use crate::serve::code::Code;
use crate::serve::problem;

use super::header::Header;
use super::parameter::Parameter;
use super::schemas::reference;

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
                    page["content"][problem::CONTENT_TYPE] =
                        described["content"][problem::CONTENT_TYPE].clone();
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
