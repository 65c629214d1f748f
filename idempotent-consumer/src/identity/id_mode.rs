//! Where a message's id comes from.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use super::Envelope;
use super::pointer::{JsonPointer, PointerError};
use crate::message::Record;

/// Where a message's id comes from. The first run records it in `dedup_scope` by its text: under
/// another one a message would not find its claim.
///
/// ```
/// # use idempotent_consumer::identity::IdMode;
/// for text in ["ce_id", "header:id", "json:/order/id", "position"] {
///     assert_eq!(text.parse::<IdMode>().unwrap().to_string(), text);
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum IdMode {
    /// The CloudEvents `id`.
    #[default]
    CeId,
    /// A header.
    Header(HeaderName),
    /// A text or number in the record's value, which is JSON.
    Json(JsonPointer),
    /// Nothing that the producer says: each record is a message of its own.
    Position,
}

/// The name of a header, without regard to ASCII case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderName(String);

/// A text that is no [`IdMode`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdModeError {
    /// It begins with none of the words.
    #[error("expected ce_id, header:NAME, json:/POINTER or position")]
    Unknown,
    /// A header without a name, or with one that nobody can read.
    #[error("expected the header's name behind header:, without control characters")]
    HeaderName,
    /// What stands behind `json:`.
    #[error(transparent)]
    Pointer(#[from] PointerError),
}

impl IdMode {
    /// The id as the producer wrote it; `None` if the record carries none, or an empty one.
    pub fn id_text<'a>(&self, record: &'a Record, envelope: &Envelope<'a>) -> Option<Cow<'a, str>> {
        let text = match self {
            Self::CeId => envelope.id.clone(),
            Self::Header(name) => record.headers.get_str(&name.0).map(Cow::Borrowed),
            Self::Json(pointer) => pointer.text_in(record.value.as_deref()?),
            Self::Position => None,
        };
        text.filter(|text| !text.is_empty())
    }
}

impl FromStr for IdMode {
    type Err = IdModeError;

    fn from_str(text: &str) -> Result<Self, IdModeError> {
        match text.split_once(':') {
            None if text == "ce_id" => Ok(Self::CeId),
            None if text == "position" => Ok(Self::Position),
            Some(("header", name)) if name.is_empty() || name.contains(char::is_control) => {
                Err(IdModeError::HeaderName)
            }
            Some(("header", name)) => Ok(Self::Header(HeaderName(name.to_ascii_lowercase()))),
            Some(("json", pointer)) => Ok(Self::Json(pointer.parse()?)),
            _ => Err(IdModeError::Unknown),
        }
    }
}

impl fmt::Display for IdMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CeId => f.write_str("ce_id"),
            Self::Header(HeaderName(name)) => write!(f, "header:{name}"),
            Self::Json(pointer) => write!(f, "json:{pointer}"),
            Self::Position => f.write_str("position"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_that_mean_the_same_have_one_text() {
        let upper: IdMode = "header:Message-ID".parse().unwrap();
        assert_eq!(upper.to_string(), "header:message-id");
        assert_eq!(Ok(&upper), "header:message-id".parse().as_ref());
        assert_eq!(IdMode::default().to_string(), "ce_id");
        // A colon belongs to the name, and letters count in a pointer.
        for text in ["header:a:b", "json:/A/b:c/~0~1/0/"] {
            assert_eq!(text.parse::<IdMode>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for text in ["", "ce-id", "id", "position:", "ce_id:x", "Header:id"] {
            assert_eq!(text.parse::<IdMode>(), Err(IdModeError::Unknown), "{text}");
        }
        for text in ["header:", "header:a\nb"] {
            assert_eq!(text.parse::<IdMode>(), Err(IdModeError::HeaderName), "{text:?}");
        }
        for text in ["json:", "json:id", "json:/a~2", "json:/a~", "json:/a\0"] {
            assert!(matches!(text.parse::<IdMode>(), Err(IdModeError::Pointer(_))), "{text:?}");
        }
    }
}
