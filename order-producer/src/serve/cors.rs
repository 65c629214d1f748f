//! Pages of other origins, in a browser: which of them may use the API. Nobody's, unless they are named.
//!
//! Before such a page sends an order, its browser asks whether it may: a preflight, which has no API key
//! and is answered here. What the API then answers is shown to the page only if it names its origin, so
//! every answer does, also that the key is wrong or the time is up.

use std::collections::HashMap;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use clap::Args;
use idempotent_consumer::cli::WrongUse;

use super::routes::Route;

/// What a page may send.
const REQUEST_HEADERS: &str =
    "Authorization, Content-Type, Idempotency-Key, traceparent, tracestate, x-request-id";
/// What a page may read, beside what every page may.
const ANSWER_HEADERS: &str = "Allow, Idempotency-Replayed, Location, RateLimit, RateLimit-Policy, \
                              Retry-After, WWW-Authenticate, x-request-id";
/// Seconds for which a browser need not ask again.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// Whose pages may use the API.
#[derive(Args)]
pub(crate) struct CorsArgs {
    /// Origin whose pages may use the API in a browser, such as https://shop.example, or * for all;
    /// again for more
    #[arg(
        long = "cors-origin",
        env = "ORDER_PRODUCER_CORS_ORIGIN",
        value_delimiter = ',',
        value_name = "ORIGIN",
        value_parser = parse_origin,
        hide_env_values = true
    )]
    cors_origins: Vec<Origin>,
}

impl CorsArgs {
    /// Where nobody is asked for a key, a page that somebody looks at on this machine must not do for it.
    pub(super) fn check(&self, asks_for_keys: bool) -> Result<(), WrongUse> {
        let wrong = |text: &str| Err(WrongUse(text.to_owned()));
        let is_any = self.cors_origins.contains(&Origin::Any);
        if is_any && self.cors_origins.len() > 1 {
            return wrong("--cors-origin * is every origin; leave out either it or the others");
        }
        if is_any && !asks_for_keys {
            return wrong(
                "--cors-origin * with --no-auth would let every page order that somebody opens on this \
                 machine; name the origins",
            );
        }
        Ok(())
    }
}

/// An origin as browsers write it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    Any,
    This(HeaderValue),
}

fn parse_origin(text: &str) -> Result<Origin, String> {
    if text == "*" {
        return Ok(Origin::Any);
    }
    let form = || "an origin is a scheme and a host, such as https://shop.example:8443".to_owned();
    let (scheme, place) = text.split_once("://").ok_or_else(form)?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    if place.contains(['/', '?', '#']) {
        return Err(format!("{}, without a path, also without a / at its end", form()));
    }
    if place.contains('*') {
        return Err("each origin is named in full; there are no patterns but * alone".to_owned());
    }
    // The colons of an IPv6 address are within its brackets.
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (place, None),
    };
    let is_name = |host: &str| {
        !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = address
        .map_or_else(|| is_name(host), |address| address.parse::<std::net::Ipv6Addr>().is_ok());
    let is_port =
        port.is_none_or(|port| port.parse::<u16>().is_ok_and(|it| it.to_string() == port));
    if !is_scheme || !is_host || !is_port {
        return Err(form());
    }
    let is_default = matches!((scheme, port), ("https", Some("443")) | ("http", Some("80")));
    if is_default || text.chars().any(|c| c.is_ascii_uppercase()) {
        return Err("browsers write an origin in small letters and without a usual port".to_owned());
    }
    HeaderValue::from_str(text).map(Origin::This).map_err(|_| form())
}

/// The origins at work.
pub(super) struct Cors {
    allowed: Vec<Origin>,
    /// Of each path.
    methods: HashMap<&'static str, HeaderValue>,
}

impl Cors {
    pub(super) fn new(args: &CorsArgs, routes: &[Route]) -> Self {
        let mut methods: HashMap<&str, Vec<&str>> = HashMap::new();
        for route in routes {
            methods.entry(route.path).or_default().push(route.method.as_str());
        }
        let listed = |(path, methods): (_, Vec<&str>)| {
            Some((path, HeaderValue::from_str(&methods.join(", ")).ok()?))
        };
        Self {
            allowed: args.cors_origins.clone(),
            methods: methods.into_iter().filter_map(listed).collect(),
        }
    }

    /// What is to be said of the origin that a request comes from.
    pub(super) fn sharing(&self, request: &Request) -> Sharing {
        let path = request.uri().path();
        // Neither the pages nor what watches over the gateway is any other page's business.
        let is_shared = path.starts_with("/v1/") || path == "/openapi.json";
        if self.allowed.is_empty() || !is_shared {
            return Sharing { varies: false, origin: None };
        }
        if self.allowed == [Origin::Any] {
            return Sharing { varies: false, origin: Some(HeaderValue::from_static("*")) };
        }
        let given = request.headers().get(header::ORIGIN);
        let origin = given.filter(|it| self.allowed.contains(&Origin::This((*it).clone())));
        Sharing { varies: true, origin: origin.cloned() }
    }

    /// The answer, if this is a browser that asks beforehand for a page that may.
    pub(super) fn preflight(
        &self,
        sharing: &Sharing,
        route: &str,
        request: &Request,
    ) -> Option<Response> {
        let headers = request.headers();
        let asks = request.method() == Method::OPTIONS
            && headers.contains_key(header::ORIGIN)
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if !asks || sharing.origin.is_none() {
            return None;
        }
        let says: [(HeaderName, HeaderValue); 3] = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, self.methods.get(route)?.clone()),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(REQUEST_HEADERS)),
            (header::ACCESS_CONTROL_MAX_AGE, MAX_AGE),
        ];
        Some((StatusCode::NO_CONTENT, says).into_response())
    }
}

/// Who else may read an answer.
pub(super) struct Sharing {
    /// The answer to another origin would say something else.
    varies: bool,
    origin: Option<HeaderValue>,
}

impl Sharing {
    /// Says it. Credentials are never asked for: an API key is no cookie.
    pub(super) fn tell(self, headers: &mut HeaderMap) {
        if self.varies {
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        if let Some(origin) = self.origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            let exposed = HeaderValue::from_static(ANSWER_HEADERS);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::{openapi, routes};

    #[test]
    fn an_origin_is_what_a_browser_writes_and_nothing_else() {
        for right in [
            "https://shop.example",
            "http://localhost:5173",
            "https://[2001:db8::1]:8443",
            "http://[::1]",
            "capacitor://localhost",
        ] {
            let origin = Origin::This(HeaderValue::from_static(right));
            assert_eq!(parse_origin(right), Ok(origin), "{right}");
        }
        assert_eq!(parse_origin("*"), Ok(Origin::Any));
        for (wrong, why) in [
            ("", "a scheme and a host"),
            ("null", "a scheme and a host"),
            ("shop.example", "a scheme and a host"),
            ("https://", "a scheme and a host"),
            ("https://:80", "a scheme and a host"),
            ("https://me@shop.example", "a scheme and a host"),
            ("https://shop.example:99999", "a scheme and a host"),
            ("https://shop example", "a scheme and a host"),
            ("https://[::1", "a scheme and a host"),
            ("://shop.example", "a scheme and a host"),
            ("https://schön.example", "a scheme and a host"),
            ("https://shop.example/", "without a path"),
            ("https://shop.example/cart", "without a path"),
            ("https://shop.example?a", "without a path"),
            ("https://*.shop.example", "no patterns"),
            ("https://Shop.example", "small letters"),
            ("https://shop.example:443", "usual port"),
            ("http://shop.example:80", "usual port"),
        ] {
            let error = parse_origin(wrong).unwrap_err();
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }

    /// What the document describes and a page could not send or read.
    #[test]
    fn a_page_may_send_and_read_every_header_that_is_described() {
        let document = openapi::document(&routes::all(), true);
        let missing = |listed: &str, names: Vec<&str>| {
            let has = |name: &str| listed.split(", ").any(|it| it.eq_ignore_ascii_case(name));
            names.into_iter().filter(|name| !has(name)).map(str::to_owned).collect::<Vec<_>>()
        };
        let parameters = document["components"]["parameters"].as_object().unwrap().values();
        let sent = parameters.filter(|it| it["in"] == "header");
        let sent: Vec<_> = sent.map(|it| it["name"].as_str().unwrap()).collect();
        assert!(sent.len() >= 3);
        assert_eq!(missing(REQUEST_HEADERS, sent), [""; 0]);
        let perhaps = "-Perhaps";
        let read = document["components"]["headers"].as_object().unwrap().keys();
        let read: Vec<_> = read.map(|name| name.trim_end_matches(perhaps)).collect();
        assert_eq!(missing(ANSWER_HEADERS, read), [""; 0]);
    }
}
