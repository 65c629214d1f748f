//! The contract of the order pipeline: what an order event is, and how it travels in a Kafka
//! record. Producer, consumer and auditor agree because they all read and write through here.
//! Nothing in this crate does IO or reads a clock.
//!
//! * [`OrderEvent`] and its parts can only be built valid: every constructor checks the
//!   [`limits`], and the total is computed, with overflow checks, never taken from the input.
//! * [`encode`] writes a CloudEvents 1.0 record in binary mode (attributes as `ce_` headers),
//!   [`encode_structured`] the same event in structured mode.
//! * [`decode_raw`] reads an event that has no record of its own yet.
//! * [`decode`] reads both. Whatever the bytes are, the answer is an event or an [`EventError`]
//!   with a stable [`code`](EventError::code) and a short text; never a panic.
//! * [`Status::apply`] is the life of an order as a pure function.
//! * [`OrderNotification`] is what is told of an order whose status has changed.
//!
//! How JSON is read: unknown fields are ignored, a known field that appears twice is an error
//! (readers disagree on which one counts), numbers are integers without quotes, `null` counts as
//! absent only for `reason`, and no value is nested deeper than [`limits::JSON_DEPTH`].
//!
//! ```
//! use order_events::{decode, encode, Cents, Currency, CustomerId, Envelope, Item, OrderContent,
//!                    OrderEvent, RecordView, Sku};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tea = Item::new(Sku::new("TEA-1")?, 2, Cents::new(450))?;
//! let event = OrderEvent::Placed(OrderContent::new(
//!     uuid::Uuid::now_v7(),
//!     CustomerId::new("c-17")?,
//!     Currency::new("EUR")?,
//!     vec![tea],
//!     time::OffsetDateTime::now_utc(),
//! )?);
//! let envelope = Envelope {
//!     id: uuid::Uuid::now_v7().to_string(),
//!     source: "/web-shop".to_owned(),
//!     time: time::OffsetDateTime::now_utc(),
//!     traceparent: None,
//! };
//! let record = encode(&event, &envelope);
//! let decoded = decode(&RecordView {
//!     key: Some(&record.key),
//!     value: Some(&record.value),
//!     headers: &record.headers,
//! })?;
//! assert_eq!(decoded.event, event);
//! # Ok(())
//! # }
//! ```

mod currency;
mod decode;
mod encode;
mod error;
mod event;
pub mod limits;
mod money;
mod notification;
mod order;
mod parse;
mod record;
mod status;
mod structured;
mod text;

pub use currency::Currency;
pub use decode::{Decoded, RawEvent, decode, decode_raw, event_type};
pub use encode::{
    EncodedRecord, Envelope, HeaderValue, encode, encode_headers, encode_structured, encode_value,
};
pub use error::{EventError, FieldError};
pub use event::{EventKind, OrderEvent, StatusChange};
pub use money::Cents;
pub use notification::OrderNotification;
pub use order::{Item, OrderContent};
pub use parse::parse_event;
pub use record::{Headers, RecordView};
pub use status::{Rejection, Status};
pub use text::{CustomerId, Reason, Sku, check_message_id};
