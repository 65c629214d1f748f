//! Pages for people. All that they need is in here: nothing is fetched from elsewhere, and no script or
//! style stands in the page itself, so that the browser can be told to run no others.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};

use super::code::Code;
use super::problem::Problem;

/// Stricter than what a browser would do by itself, and looser than for what is no page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";

/// A file of the pages, under `/assets/`.
struct Asset {
    name: &'static str,
    content_type: &'static str,
    text: &'static str,
}

const ASSETS: &[Asset] = &[
    Asset {
        name: "style.css",
        content_type: "text/css; charset=utf-8",
        text: include_str!("pages/style.css"),
    },
    Asset {
        name: "orders.js",
        content_type: "text/javascript; charset=utf-8",
        text: include_str!("pages/orders.js"),
    },
    Asset {
        name: "docs.js",
        content_type: "text/javascript; charset=utf-8",
        text: include_str!("pages/docs.js"),
    },
    Asset { name: "icon.svg", content_type: "image/svg+xml", text: include_str!("pages/icon.svg") },
];

pub(super) fn asset_names() -> Vec<&'static str> {
    ASSETS.iter().map(|asset| asset.name).collect()
}

/// Where orders are placed by hand.
pub(super) async fn orders() -> Response {
    page(HTML, include_str!("pages/orders.html"))
}

/// The OpenAPI document, rendered.
pub(super) async fn docs() -> Response {
    page(HTML, include_str!("pages/docs.html"))
}

pub(super) async fn asset(path: Result<Path<String>, PathRejection>) -> Result<Response, Problem> {
    let name = path.map_or_else(|_| String::new(), |Path(name)| name);
    let found = ASSETS.iter().find(|asset| asset.name == name);
    let asset = found.ok_or_else(|| Problem::new(Code::NotFound, "the pages have no such file"))?;
    Ok(page(asset.content_type, asset.text))
}

fn page(content_type: &'static str, text: &'static str) -> Response {
    let headers = [(header::CONTENT_TYPE, content_type), (header::CONTENT_SECURITY_POLICY, POLICY)];
    (headers, text).into_response()
}
