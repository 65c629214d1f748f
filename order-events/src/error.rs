//! Why a record is poison: what, where, and what to do, in a text of bounded size.

use crate::limits;

/// A record that can never be applied. Found before any SQL; the code is stored with the dead
/// letter and stays stable, the text is for people and may change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The record's value is null.
    #[error(
        "the record has no value (a tombstone); orders are cancelled with an order.cancelled event"
    )]
    Tombstone,
    /// The record's value has no bytes.
    #[error("the record's value is empty; send the event as a JSON object")]
    EmptyValue,
    /// The value is not JSON, or no JSON that every reader understands alike.
    #[error("the value is not usable JSON: {problem}")]
    InvalidJson {
        /// What the parser met, and where.
        problem: String,
    },
    /// Neither a `ce_type` header nor the `type` of a structured event.
    #[error(
        "the record names no event type; set the header ce_type (binary mode) or the field type (structured mode)"
    )]
    MissingType,
    /// A type that is none of the five of [`EventKind`](crate::EventKind).
    #[error(
        "the event type \"{name}\" is not known; known are order.placed, order.amended, order.paid, order.fulfilled and order.cancelled"
    )]
    UnknownType {
        /// The type, cut to a readable length.
        name: String,
    },
    /// A required field is absent.
    #[error("{pointer} is missing; the event type requires it")]
    MissingField {
        /// JSON pointer of the field.
        pointer: String,
    },
    /// A field of the wrong type or form, or one that appears twice.
    #[error("{}: {problem}", place(pointer))]
    InvalidField {
        /// JSON pointer of the field.
        pointer: String,
        /// What is wrong and what is expected.
        problem: String,
    },
    /// A value of the right type outside the [`limits`].
    #[error("{}: {problem}", place(pointer))]
    LimitExceeded {
        /// JSON pointer of the field.
        pointer: String,
        /// The limit and what was found.
        problem: String,
    },
    /// The total does not fit 64 bits.
    #[error("{}: the total does not fit a 64 bit number of cents; split the order", place(pointer))]
    Overflow {
        /// JSON pointer of the field.
        pointer: String,
    },
    /// The record's key is not the event's customer, so the order of one customer's events would
    /// not be kept.
    #[error(
        "the record's key is {key}, but must be the customer_id \"{customer_id}\", which keeps one customer's events in order"
    )]
    KeyMismatch {
        /// The key as text, cut to a readable length, or `null`.
        key: String,
        /// The customer that the event names.
        customer_id: String,
    },
    /// A content type that is neither JSON nor a structured CloudEvent in JSON.
    #[error(
        "the content type \"{content_type}\" is not supported; send application/json (binary mode) or application/cloudevents+json"
    )]
    UnsupportedContentType {
        /// The content type, cut to a readable length.
        content_type: String,
    },
    /// Another version of CloudEvents, or of the payload, than this crate reads.
    #[error(
        "{attribute} is \"{version}\", but only \"{supported}\" can be read; upgrade the consumer or send the older version"
    )]
    UnsupportedVersion {
        /// `specversion` or `dataschema`.
        attribute: &'static str,
        /// The version found, cut to a readable length.
        version: String,
        /// The version that can be read.
        supported: &'static str,
    },
}

impl EventError {
    /// The stable machine code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Tombstone => "tombstone",
            Self::EmptyValue => "empty_value",
            Self::InvalidJson { .. } => "invalid_json",
            Self::MissingType => "missing_type",
            Self::UnknownType { .. } => "unknown_type",
            Self::MissingField { .. } => "missing_field",
            Self::InvalidField { .. } => "invalid_field",
            Self::LimitExceeded { .. } => "limit_exceeded",
            Self::Overflow { .. } => "overflow",
            Self::KeyMismatch { .. } => "key_mismatch",
            Self::UnsupportedContentType { .. } => "unsupported_content_type",
            Self::UnsupportedVersion { .. } => "unsupported_version",
        }
    }
}

/// What is wrong with one value, before it is known where the value stood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// Wrong form.
    #[error("{0}")]
    Invalid(String),
    /// Right form, outside the [`limits`].
    #[error("{0}")]
    Limit(String),
    /// A sum that does not fit 64 bits.
    #[error("the total does not fit a 64 bit number of cents")]
    Overflow,
}

impl FieldError {
    /// The same problem at a place, which makes it the error of an event.
    pub fn at(self, pointer: impl Into<String>) -> EventError {
        let pointer = pointer.into();
        match self {
            Self::Invalid(problem) => EventError::InvalidField { pointer, problem },
            Self::Limit(problem) => EventError::LimitExceeded { pointer, problem },
            Self::Overflow => EventError::Overflow { pointer },
        }
    }
}

/// The root's JSON pointer is the empty text, which reads badly.
fn place(pointer: &str) -> &str {
    if pointer.is_empty() { "the value" } else { pointer }
}

/// Longest excerpt of the input in a text, in characters. An escape takes up to 10 bytes, so the
/// longest text (an excerpt plus a pointer and a sentence) stays below
/// [`limits::ERROR_TEXT_BYTES_MAX`].
const EXCERPT_CHARS_MAX: usize = 60;
const _: () = assert!(EXCERPT_CHARS_MAX * 10 + 400 < limits::ERROR_TEXT_BYTES_MAX);

/// The beginning of `text`, safe to print: control characters are escaped.
pub(crate) fn excerpt(text: &str) -> String {
    let mut chars = text.chars();
    let mut cut: String =
        chars.by_ref().take(EXCERPT_CHARS_MAX).flat_map(char::escape_debug).collect();
    if chars.next().is_some() {
        cut.push('…');
    }
    cut
}

/// The beginning of `bytes` as text.
pub(crate) fn excerpt_bytes(bytes: &[u8]) -> String {
    // Four bytes are the most a character takes, one character more shows that it was cut.
    let head = &bytes[..bytes.len().min(4 * (EXCERPT_CHARS_MAX + 1))];
    excerpt(&String::from_utf8_lossy(head))
}
