//! Every limit of the contract, in one place. A value outside is refused by the producer and
//! poison to the consumer. Raising one is compatible only when consumers are upgraded first.

/// Most items in one order; there is at least one.
pub const ITEMS_MAX: usize = 100;
/// Least quantity of an item.
pub const QUANTITY_MIN: i64 = 1;
/// Greatest quantity of an item.
pub const QUANTITY_MAX: i64 = 10_000;
/// Least unit price, in cents. Gifts are free; nothing has a negative price.
pub const UNIT_PRICE_CENTS_MIN: i64 = 0;
/// Greatest unit price, in cents (a million units of the currency).
pub const UNIT_PRICE_CENTS_MAX: i64 = 100_000_000;
/// Greatest length of a customer id or sku, in characters, all of them visible ASCII
/// (`!` to `~`); the least is 1.
pub const ID_CHARS_MAX: usize = 64;
/// Greatest length of the reason of a status change, in characters; the least is 1.
pub const REASON_CHARS_MAX: usize = 1024;
/// Greatest length of a message id that our producer takes, in characters; the least is 1.
pub const MESSAGE_ID_CHARS_MAX: usize = 256;
/// Deepest nesting of a JSON value, unknown fields included. `serde_json` enforces it; it is
/// named here because it is part of the contract.
pub const JSON_DEPTH: usize = 127;
/// Longest text of an [`EventError`](crate::EventError), in bytes, however large the input.
pub const ERROR_TEXT_BYTES_MAX: usize = 1024;

// The largest order within the limits must fit the type of its total, so that `overflow` can
// only come from sums over orders.
#[expect(clippy::cast_possible_wrap, reason = "ITEMS_MAX is small")]
const _: () = assert!(
    (ITEMS_MAX as i64)
        .checked_mul(QUANTITY_MAX)
        .expect("items by quantity fits 64 bits")
        .checked_mul(UNIT_PRICE_CENTS_MAX)
        .is_some()
);
