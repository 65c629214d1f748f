//! Where a page of a list ended, as a text that clients hand back unread. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use time::OffsetDateTime;
use uuid::Uuid;

/// So that a later form can be told from this one.
const VERSION: u8 = 1;
const LENGTH: usize = 1 + 8 + 16;
/// Times are from 1970 on and of this many bits of microseconds: into the year 6537.
const TIME_BITS: u32 = 57;
/// What is taken: base64 of the version and a time whose first seven bits are zero.
pub(super) const PATTERN: &str = "^AQ[A-H][A-Za-z0-9_-]{30}[AQgw]$";

/// The place of an order in a customer's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) created_at: OffsetDateTime,
    pub(super) order_id: Uuid,
}

impl Cursor {
    pub(super) fn to_text(self) -> String {
        // A time of the database's clock is in microseconds, and fits.
        let micros =
            i64::try_from(self.created_at.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX);
        let mut bytes = Vec::with_capacity(LENGTH);
        bytes.push(VERSION);
        bytes.extend(micros.to_be_bytes());
        bytes.extend(self.order_id.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    pub(super) fn from_text(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let bytes: [u8; LENGTH] = bytes.try_into().ok()?;
        let (version, rest) = bytes.split_first()?;
        let (micros, order_id) = rest.split_first_chunk()?;
        let micros = i64::from_be_bytes(*micros);
        if *version != VERSION || !(0..1 << TIME_BITS).contains(&micros) {
            return None;
        }
        let nanos = i128::from(micros) * 1000;
        let created_at = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?;
        Some(Self { created_at, order_id: Uuid::from_slice(order_id).ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_was() {
        let created_at = time::macros::datetime!(2026-01-03 10:00:00.123456 UTC);
        let cursor = Cursor { created_at, order_id: Uuid::from_u128(7) };
        assert_eq!(Cursor::from_text(&cursor.to_text()), Some(cursor));
    }

    #[test]
    fn what_was_never_a_cursor_is_refused() {
        let other_version = URL_SAFE_NO_PAD.encode([[2_u8; 1].as_slice(), &[0; 24]].concat());
        let before_1970 = URL_SAFE_NO_PAD.encode([[VERSION].as_slice(), &[255; 24]].concat());
        let far = URL_SAFE_NO_PAD.encode([[VERSION, 127].as_slice(), &[255; 23]].concat());
        for text in ["", "x", "####", "AQ", &other_version, &before_1970, &far] {
            assert_eq!(Cursor::from_text(text), None, "{text}");
        }
    }
}
