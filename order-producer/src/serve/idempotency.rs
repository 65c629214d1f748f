//! The header `Idempotency-Key`, and what a key was used for. Pure.

use axum::http::{HeaderMap, HeaderName};
use sha2::{Digest as _, Sha256};

use super::code::Code;
use super::problem::Problem;

const HEADER: HeaderName = HeaderName::from_static("idempotency-key");
/// Longest key, in characters, as with Stripe.
const KEY_CHARS_MAX: usize = 255;
/// What is taken: bare, or in quotes with `\` before a quote or a backslash.
pub(super) const PATTERN: &str =
    r#"^(?:[!#-~](?:[\t -~]{0,253}[!-~])?|"(?:[\t !#-\[\]-~]|\\["\\]){1,255}")$"#;

/// The key of a request that has to have one. It may come as the structured text of the IETF's draft,
/// in quotes, or bare, as many clients send it; both are the same key.
pub(super) fn key_of(headers: &HeaderMap) -> Result<String, Problem> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else {
        return Err(Problem::new(
            Code::KeyMissing,
            "this request needs an Idempotency-Key: a text of your own, new for each new request \
             and the same when it is sent again, such as a UUID",
        ));
    };
    let wrong = |detail: &str| Problem::new(Code::KeyInvalid, detail);
    if values.next().is_some() {
        return Err(wrong("there is more than one Idempotency-Key"));
    }
    let text = value.to_str().map_err(|_| wrong("the Idempotency-Key is not visible ASCII"))?;
    let key = match text.trim().strip_prefix('"') {
        Some(rest) => {
            unquoted(rest).ok_or_else(|| wrong("the Idempotency-Key's quotes don't fit"))?
        }
        None => text.trim().to_owned(),
    };
    if key.is_empty() || key.chars().count() > KEY_CHARS_MAX {
        return Err(wrong("an Idempotency-Key has 1 to 255 characters"));
    }
    Ok(key)
}

/// The rest of a structured field's text behind its first quote.
fn unquoted(rest: &str) -> Option<String> {
    let mut key = String::with_capacity(rest.len());
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' => return chars.as_str().is_empty().then_some(key),
            '\\' => key.push(chars.next().filter(|c| ['"', '\\'].contains(c))?),
            other => key.push(other),
        }
    }
}

/// What a key is used for: SHA-256 over method, path and body, each with its length before it.
pub(super) fn fingerprint(method: &str, path: &str, body: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in [method.as_bytes(), path.as_bytes(), body] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(values: &[&str]) -> Result<String, &'static str> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HEADER, axum::http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        key_of(&headers).map_err(|problem| problem.code())
    }

    #[test]
    fn a_key_in_quotes_is_the_same_as_without() {
        assert_eq!(key(&["8e03978e"]), Ok("8e03978e".to_owned()));
        assert_eq!(key(&["\"8e03978e\""]), Ok("8e03978e".to_owned()));
        assert_eq!(key(&[r#""a\"b\\c""#]), Ok(r#"a"b\c"#.to_owned()));
    }

    #[test]
    fn a_key_has_1_to_255_visible_characters_and_comes_once() {
        let (longest, longer) = ("k".repeat(255), "k".repeat(256));
        assert_eq!(key(&[&longest]), Ok(longest.clone()));
        assert_eq!(key(&[]), Err("idempotency_key_missing"));
        for wrong in [&["a", "b"][..], &[""], &["\"\""], &["\"a"], &["\"a\" b"], &["é"], &[&longer]]
        {
            assert_eq!(key(wrong), Err("idempotency_key_invalid"), "{wrong:?}");
        }
    }

    #[test]
    fn a_fingerprint_tells_where_path_and_body_part() {
        assert_ne!(fingerprint("POST", "/a", b"b"), fingerprint("POST", "/ab", b""));
        assert_eq!(fingerprint("POST", "/a", b"b"), fingerprint("POST", "/a", b"b"));
    }
}
