//! What a request brings, before anybody looks into it.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use uuid::Uuid;

use super::code::Code;
use super::problem::Problem;

/// A request, whole.
pub(super) struct Incoming {
    pub(super) parts: Parts,
    pub(super) body: Bytes,
}

impl Incoming {
    /// Reads the body, within limits of bytes and time.
    pub(super) async fn read(
        request: Request,
        bytes_max: usize,
        timeout: Duration,
    ) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let too_large = || {
            let detail = format!("a body has at most {bytes_max} bytes");
            Problem::new(Code::BodyTooLarge, detail)
        };
        let length = parts.headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > bytes_max as u64) {
            return Err(too_large());
        }
        let body = Limited::new(body, bytes_max).collect();
        match tokio::time::timeout(timeout, body).await {
            Ok(Ok(collected)) => Ok(Self { parts, body: collected.to_bytes() }),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
            Ok(Err(_)) => {
                Err(Problem::new(Code::BodyCutOff, "the body ended before it was complete"))
            }
            Err(_) => Err(Problem::new(
                Code::BodyTooSlow,
                format!("a body has to arrive within {} s", timeout.as_secs_f64()),
            )),
        }
    }

    /// The method, path and body that an Idempotency-Key belongs to.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        super::idempotency::fingerprint(
            self.parts.method.as_str(),
            self.parts.uri.path(),
            &self.body,
        )
    }

    /// Refuses a body that is not said to be JSON.
    pub(super) fn require_json(&self) -> Result<(), Problem> {
        if is_json(&self.parts.headers) {
            return Ok(());
        }
        Err(Problem::new(
            Code::UnsupportedMediaType,
            "send JSON, with content-type: application/json",
        ))
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    let (kind, parameters) = value.split_once(';').unwrap_or((value, ""));
    let charset_fits = parameters.split(';').all(|parameter| {
        let parameter = parameter.trim().to_ascii_lowercase();
        parameter.strip_prefix("charset=").is_none_or(|name| name.trim_matches('"') == "utf-8")
    });
    kind.trim().eq_ignore_ascii_case("application/json") && charset_fits
}

/// The order that a path names: a UUID in its canonical form.
pub(super) fn order_id(text: &str) -> Result<Uuid, Problem> {
    const HYPHENATED_LEN: usize = 36;
    let id = (text.len() == HYPHENATED_LEN).then(|| Uuid::try_parse(text).ok()).flatten();
    id.ok_or_else(|| {
        Problem::new(
            Code::InvalidOrderId,
            "the order id of the path is not a UUID such as 0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    fn with(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn json_is_json_whatever_its_parameters() {
        let json = |value| is_json(&with(header::CONTENT_TYPE, value));
        assert!(json("application/json"));
        assert!(json("Application/JSON; charset=UTF-8"));
        assert!(!json("application/json; charset=latin1"));
        assert!(!json("text/plain"));
        assert!(!json("application/jsonl"));
        assert!(!is_json(&HeaderMap::new()));
    }

    #[test]
    fn an_order_id_is_a_uuid_with_hyphens() {
        assert!(order_id("0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3").is_ok());
        for wrong in
            ["", "17", "0192f0c12d3e7a4b8c5d6e7f8091a2b3", "{0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3}"]
        {
            assert!(order_id(wrong).is_err(), "{wrong}");
        }
    }
}
