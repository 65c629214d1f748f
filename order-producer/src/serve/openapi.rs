//! The OpenAPI 3.1 document of the API, made of what the code itself uses: the routes are those of the
//! router, the codes those that can be answered, the limits the constants that are checked. What an
//! operation's parts may answer (a key, a body, an order's id) is stated once here, for every operation.

mod header;
mod operation;
mod parameter;
mod schemas;
#[cfg(test)]
mod tests;

pub(super) use self::header::Header;
pub(super) use self::operation::{Answers, Body, Content, Operation};
pub(super) use self::parameter::Parameter;

use serde_json::{Map, Value, json};

use super::code::Code;
use super::routes::Route;

const DESCRIPTION: &str = "\
Orders over HTTP, each accepted once however often it is sent. `POST` takes an `Idempotency-Key`: the \
same request again is answered as the first time, byte for byte. What is accepted takes effect a moment \
later; `state` says what is the case. What is at no path of this document is answered 404 `not_found`, a \
method that its path does not have 405 `method_not_allowed`, with `Allow`. Where pages of other origins are \
allowed, `OPTIONS` with `Origin` and `Access-Control-Request-Method` is answered 204, without a key.";

/// The document of these routes. Where nobody is asked for a key, none is described.
pub(super) fn document(routes: &[Route], asks_for_keys: bool) -> Value {
    let mut paths = Map::new();
    for route in routes {
        let methods = paths.entry(route.path).or_insert_with(|| json!({}));
        let method = route.method.as_str().to_ascii_lowercase();
        methods[method] = route.operation.describe(asks_for_keys);
    }
    let mut components = json!({
        "schemas": schemas::all(),
        "parameters": Parameter::components(),
        "headers": Header::components(),
    });
    if asks_for_keys {
        components["securitySchemes"] = json!({ operation::SECURITY: {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "opk_<id>_<secret>",
            "description": "An API key, of `order-producer keys create`. Its scopes say what it allows.",
        }});
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Orders",
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "tags": [
            { "name": "orders", "description": "Place, change, pay, cancel and look at orders" },
            { "name": "health", "description": "For what watches over the gateway" },
            { "name": "pages", "description": "For people, and this document" },
        ],
        "paths": paths,
        "components": components,
        "x-problem-codes": Code::ALL.iter().map(|code| json!({
            "code": code.as_str(), "status": code.status().as_u16(), "title": code.title(),
        })).collect::<Vec<_>>(),
    })
}
