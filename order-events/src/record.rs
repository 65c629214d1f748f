//! A Kafka record as this crate sees it, whatever client read it.

use crate::error::{EventError, excerpt_bytes};

/// The headers of a record. A walk rather than a look-up, since clients keep them in lists.
pub trait Headers {
    /// Calls `visit` with name and value of each header in their order. A name is bytes since
    /// Kafka does not insist on text; a value may be null.
    fn each<'a>(&'a self, visit: &mut dyn FnMut(&'a [u8], Option<&'a [u8]>));
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> Headers for Vec<(N, V)> {
    fn each<'a>(&'a self, visit: &mut dyn FnMut(&'a [u8], Option<&'a [u8]>)) {
        for (name, value) in self {
            visit(name.as_ref(), Some(value.as_ref()));
        }
    }
}

/// A record as it was read.
#[derive(Clone, Copy)]
pub struct RecordView<'a> {
    /// The key; null is not empty.
    pub key: Option<&'a [u8]>,
    /// The value; null is a tombstone.
    pub value: Option<&'a [u8]>,
    /// The headers.
    pub headers: &'a dyn Headers,
}

/// The headers that matter, found in one walk. Names count without regard to case; of headers
/// with one name the last counts, as for the Java client's `lastHeader`.
#[derive(Default)]
pub(crate) struct Attributes<'a> {
    pub(crate) content_type: Option<&'a [u8]>,
    pub(crate) specversion: Option<&'a [u8]>,
    pub(crate) event_type: Option<&'a [u8]>,
    pub(crate) id: Option<&'a [u8]>,
    pub(crate) source: Option<&'a [u8]>,
    pub(crate) dataschema: Option<&'a [u8]>,
}

impl<'a> Attributes<'a> {
    pub(crate) fn of(headers: &'a dyn Headers) -> Self {
        let mut found = Self::default();
        headers.each(&mut |name, value| {
            let slot = match name {
                _ if name.eq_ignore_ascii_case(b"content-type") => &mut found.content_type,
                _ if name.eq_ignore_ascii_case(b"ce_specversion") => &mut found.specversion,
                _ if name.eq_ignore_ascii_case(b"ce_type") => &mut found.event_type,
                _ if name.eq_ignore_ascii_case(b"ce_id") => &mut found.id,
                _ if name.eq_ignore_ascii_case(b"ce_source") => &mut found.source,
                _ if name.eq_ignore_ascii_case(b"ce_dataschema") => &mut found.dataschema,
                _ => return,
            };
            *slot = value;
        });
        found
    }
}

/// Where a record keeps its CloudEvents attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Binary,
    Structured,
}

impl Mode {
    /// By the content type. A record without one is read as binary mode with JSON: many clients
    /// set only the `ce_` headers.
    pub(crate) fn of(content_type: Option<&[u8]>) -> Result<Self, EventError> {
        let content_type = match content_type {
            // What nearly every record says takes no parsing.
            None | Some(b"application/json") => return Ok(Self::Binary),
            Some(content_type) => content_type,
        };
        let unsupported =
            || EventError::UnsupportedContentType { content_type: excerpt_bytes(content_type) };
        let text = std::str::from_utf8(content_type).map_err(|_| unsupported())?;
        if essence_is(text, "application/cloudevents+json") {
            Ok(Self::Structured)
        } else if is_json(text) {
            Ok(Self::Binary)
        } else {
            Err(unsupported())
        }
    }
}

/// The media type without its parameters.
fn essence(content_type: &str) -> &str {
    content_type.split_once(';').map_or(content_type, |(essence, _)| essence).trim()
}

fn essence_is(content_type: &str, expected: &str) -> bool {
    essence(content_type).eq_ignore_ascii_case(expected)
}

/// `application/json`, `text/json` and the `+json` types, except those of CloudEvents, which
/// are envelopes.
pub(crate) fn is_json(content_type: &str) -> bool {
    if essence_is(content_type, "application/json") {
        return true;
    }
    let essence = essence(content_type).to_ascii_lowercase();
    essence == "text/json"
        || essence.ends_with("+json") && !essence.starts_with("application/cloudevents")
}
