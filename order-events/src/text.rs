//! Texts of the contract: ids and reasons, each a type of its own so that one can't be passed
//! for another.

use std::fmt;

use crate::error::FieldError;
use crate::limits;

/// Checks an id: 1 to [`limits::ID_CHARS_MAX`] characters, all visible ASCII.
fn check_id(text: &str) -> Result<(), FieldError> {
    // Characters first: only then are bytes and characters the same number.
    if let Some(odd) = text.chars().find(|c| !c.is_ascii_graphic()) {
        return Err(FieldError::Invalid(format!(
            "contains {odd:?}; ids consist of visible ASCII characters, without blanks"
        )));
    }
    if text.is_empty() || text.len() > limits::ID_CHARS_MAX {
        return Err(FieldError::Limit(format!(
            "has {} characters; ids have 1 to {}",
            text.len(),
            limits::ID_CHARS_MAX
        )));
    }
    Ok(())
}

/// Checks a reason: 1 to [`limits::REASON_CHARS_MAX`] characters, none of them NUL, which
/// PostgreSQL's text can't hold.
fn check_reason(text: &str) -> Result<(), FieldError> {
    if text.contains('\0') {
        return Err(FieldError::Invalid("contains the character U+0000; remove it".to_owned()));
    }
    let chars = text.chars().count();
    if chars == 0 || chars > limits::REASON_CHARS_MAX {
        return Err(FieldError::Limit(format!(
            "has {chars} characters; a reason has 1 to {}, or is left out",
            limits::REASON_CHARS_MAX
        )));
    }
    Ok(())
}

/// Checks the text of a message id as our producer takes it from its user: 1 to
/// [`limits::MESSAGE_ID_CHARS_MAX`] characters of any script, none of them a control character.
/// A reader takes any id, since other producers follow rules of their own.
pub fn check_message_id(text: &str) -> Result<(), FieldError> {
    let chars = text.chars().count();
    if chars == 0 || chars > limits::MESSAGE_ID_CHARS_MAX {
        return Err(FieldError::Limit(format!(
            "has {chars} characters; a message id has 1 to {}, or is left out",
            limits::MESSAGE_ID_CHARS_MAX
        )));
    }
    if let Some(odd) = text.chars().find(|c| c.is_control()) {
        return Err(FieldError::Invalid(format!(
            "contains {odd:?}; a message id has no control characters"
        )));
    }
    Ok(())
}

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// Takes the text if it is within the limits.
            pub fn new(text: &str) -> Result<Self, FieldError> {
                $check(text)?;
                Ok(Self(text.into()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
    };
}

text_type!(
    /// Who ordered: 1 to 64 visible ASCII characters. It is the record's key.
    CustomerId,
    check_id
);
text_type!(
    /// What is ordered: 1 to 64 visible ASCII characters.
    Sku,
    check_id
);
text_type!(
    /// Why a status changed: 1 to 1024 characters, no NUL.
    Reason,
    check_reason
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_1_to_64_characters() {
        assert!(CustomerId::new("c").is_ok());
        assert!(CustomerId::new(&"c".repeat(64)).is_ok());
        assert!(matches!(CustomerId::new(""), Err(FieldError::Limit(_))));
        assert!(matches!(CustomerId::new(&"c".repeat(65)), Err(FieldError::Limit(_))));
    }

    #[test]
    fn an_id_is_visible_ascii() {
        assert!(Sku::new("!~").is_ok());
        for text in ["a b", "a\u{0}", "a\n", "a\u{7f}", "é", "\u{202e}"] {
            assert!(matches!(Sku::new(text), Err(FieldError::Invalid(_))), "{text:?}");
        }
    }

    #[test]
    fn a_message_id_is_1_to_256_characters_without_control_characters() {
        assert!(check_message_id("order 17 / é").is_ok());
        assert!(check_message_id(&"é".repeat(256)).is_ok());
        assert!(matches!(check_message_id(&"é".repeat(257)), Err(FieldError::Limit(_))));
        assert!(matches!(check_message_id(""), Err(FieldError::Limit(_))));
        assert!(matches!(check_message_id("a\n"), Err(FieldError::Invalid(_))));
    }

    #[test]
    fn a_reason_has_1_to_1024_characters_of_any_script_but_no_nul() {
        assert!(Reason::new(&"é".repeat(1024)).is_ok());
        assert!(matches!(Reason::new(&"é".repeat(1025)), Err(FieldError::Limit(_))));
        assert!(matches!(Reason::new(""), Err(FieldError::Limit(_))));
        assert!(matches!(Reason::new("a\0b"), Err(FieldError::Invalid(_))));
    }
}
