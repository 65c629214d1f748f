//! Bytes in JSON: `key` as text, or `key_base64` in its place where it is not text, like headers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Serialize, Serializer};

fn parts(bytes: Option<&[u8]>) -> (Option<&str>, Option<String>) {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => (None, None),
        Some((_, Ok(text))) => (Some(text), None),
        Some((bytes, Err(_))) => (None, Some(BASE64.encode(bytes))),
    }
}

// serde hands over references to the fields.
#[allow(clippy::ref_option)]
pub(super) fn key<S: Serializer>(bytes: &Option<Vec<u8>>, out: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Fields<'a> {
        key: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        key_base64: Option<String>,
    }
    let (key, key_base64) = parts(bytes.as_deref());
    Fields { key, key_base64 }.serialize(out)
}

#[allow(clippy::ref_option)]
pub(super) fn value<S: Serializer>(bytes: &Option<Vec<u8>>, out: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Fields<'a> {
        value: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        value_base64: Option<String>,
        value_bytes: Option<usize>,
    }
    let (value, value_base64) = parts(bytes.as_deref());
    Fields { value, value_base64, value_bytes: bytes.as_ref().map(Vec::len) }.serialize(out)
}
