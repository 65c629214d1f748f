//! What is told of an order whose status an event has changed, for those who tell the customer.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::encode::{EncodedRecord, HeaderValue};
use crate::error::{EventError, FieldError, excerpt};
use crate::money::Cents;
use crate::parse::describe_mismatch;
use crate::status::Status;
use crate::text::CustomerId;

/// An order as an applied event has left it. Everything in it follows from the events alone, so that
/// the same event gives the same bytes whenever it is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderNotification {
    /// The order.
    pub order_id: Uuid,
    /// Where it stands now.
    pub status: Status,
    /// Whose order it is; the record's key.
    pub customer_id: CustomerId,
    /// What it costs, never negative.
    pub total: Cents,
    /// The currency of the total: three capitals. One that was withdrawn since may be among them, for an
    /// order goes on in it.
    pub currency: String,
    /// The message id of the event.
    pub message_id: Uuid,
}

/// The value as it lies in the record.
#[derive(Serialize, Deserialize)]
struct Payload<'a> {
    order_id: Uuid,
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow)]
    customer_id: Cow<'a, str>,
    total_cents: i64,
    #[serde(borrow)]
    currency: Cow<'a, str>,
    message_id: Uuid,
}

impl OrderNotification {
    /// The record's `ce_type`.
    pub const TYPE: &'static str = "order.notification";
    /// The name and version of the payload, sent as `ce_dataschema`.
    pub const DATASCHEMA: &'static str = "urn:order-events:order.notification:1";
    /// Never to change: ids derive from it.
    const NAMESPACE: Uuid = Uuid::from_u128(0x6f72_6465_722d_5e6e_af74_6966_6963_6174);

    /// The notification's own message id, a version 5 UUID of the event's: an event that is applied
    /// anew, to a database that was set back, gives no second notification.
    pub fn id(&self) -> Uuid {
        Uuid::new_v5(&Self::NAMESPACE, self.message_id.as_bytes())
    }

    /// The record in CloudEvents binary mode, but for what it has from the event's record: `ce_time`
    /// and `traceparent` are carried on by whoever has them.
    pub fn encode(&self, source: &'static str) -> EncodedRecord {
        let value = serde_json::to_vec(&Payload {
            order_id: self.order_id,
            status: self.status.as_str().into(),
            customer_id: self.customer_id.as_str().into(),
            total_cents: self.total.get(),
            currency: self.currency.as_str().into(),
            message_id: self.message_id,
        })
        .expect("a Vec takes every byte, and keys are text");
        let fixed = |text: &'static str| -> HeaderValue { Cow::Borrowed(text.as_bytes()) };
        EncodedRecord {
            key: self.customer_id.as_str().as_bytes().to_vec(),
            value,
            headers: vec![
                ("ce_specversion", fixed("1.0")),
                ("ce_id", Cow::Owned(self.id().to_string().into_bytes())),
                ("ce_type", fixed(Self::TYPE)),
                ("ce_source", fixed(source)),
                ("ce_dataschema", fixed(Self::DATASCHEMA)),
                ("content-type", fixed("application/json")),
            ],
        }
    }

    /// Reads a record's value. Fields that are not known are ignored.
    ///
    /// # Errors
    /// The value is none, or one of its fields is not within the limits.
    pub fn decode(value: Option<&[u8]>) -> Result<Self, EventError> {
        let value = match value {
            None => return Err(EventError::Tombstone),
            Some([]) => return Err(EventError::EmptyValue),
            Some(value) => value,
        };
        let payload: Payload<'_> = serde_json::from_slice(value).map_err(|error| {
            let text = error.to_string();
            if error.is_data() {
                // Which field it is, the text says only of those that are missing.
                EventError::InvalidField {
                    pointer: String::new(),
                    problem: if text.contains(", expected ") {
                        describe_mismatch(&text)
                    } else {
                        excerpt(&text)
                    },
                }
            } else {
                EventError::InvalidJson { problem: text }
            }
        })?;
        let status = Status::from_name(&payload.status)
            .ok_or_else(|| {
                FieldError::Invalid(format!("\"{}\" is no status", excerpt(&payload.status)))
            })
            .map_err(|error| error.at("/status"))?;
        if payload.total_cents < 0 {
            return Err(FieldError::Limit("is negative".to_owned()).at("/total_cents"));
        }
        if payload.currency.len() != 3 || !payload.currency.bytes().all(|b| b.is_ascii_uppercase())
        {
            let problem = format!("\"{}\" is no currency code", excerpt(&payload.currency));
            return Err(FieldError::Invalid(problem).at("/currency"));
        }
        Ok(Self {
            order_id: payload.order_id,
            status,
            customer_id: CustomerId::new(&payload.customer_id).map_err(|e| e.at("/customer_id"))?,
            total: Cents::new(payload.total_cents),
            currency: payload.currency.into_owned(),
            message_id: payload.message_id,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notification() -> OrderNotification {
        OrderNotification {
            order_id: Uuid::from_u128(1),
            status: Status::Paid,
            customer_id: CustomerId::new("c-17").unwrap(),
            total: Cents::new(900),
            currency: "EUR".to_owned(),
            message_id: Uuid::from_u128(2),
        }
    }

    #[test]
    fn a_notification_comes_out_as_it_went_in_and_its_bytes_and_its_id_never_change() {
        let record = notification().encode("/order-consumer");
        assert_eq!(OrderNotification::decode(Some(&record.value)), Ok(notification()));
        let json = r#"{"order_id":"00000000-0000-0000-0000-000000000001","status":"paid","customer_id":"c-17","total_cents":900,"currency":"EUR","message_id":"00000000-0000-0000-0000-000000000002"}"#;
        assert_eq!(String::from_utf8(record.value).unwrap(), json);
        assert_eq!(notification().id().to_string(), "1df869f3-e6c9-5b3a-b6e2-41889b9e3664");
    }

    #[test]
    fn what_is_no_notification_is_refused_with_a_code_and_a_place() {
        let json = String::from_utf8(notification().encode("/test").value).unwrap();
        let refused = |from: &str, to: &str| {
            let error = OrderNotification::decode(Some(json.replace(from, to).as_bytes()));
            let error = error.unwrap_err();
            format!("{} {error}", error.code())
        };
        assert!(refused("\"paid\"", "\"lost\"").starts_with("invalid_field /status"));
        assert!(refused("c-17", "c 17").starts_with("invalid_field /customer_id"));
        assert!(refused("c-17", r"c\n17").starts_with("invalid_field /customer_id"));
        assert!(refused("900", "-1").starts_with("limit_exceeded /total_cents"));
        assert!(refused("900", "\"900\"").contains("expected i64"));
        assert!(refused("EUR", "EURO").starts_with("invalid_field /currency"));
        assert!(refused("\"status\"", "\"other\"").contains("missing field `status`"));
        assert!(refused("}", "").starts_with("invalid_json"));
        assert_eq!(OrderNotification::decode(None).unwrap_err().code(), "tombstone");
        assert_eq!(OrderNotification::decode(Some(b"")).unwrap_err().code(), "empty_value");
    }
}
