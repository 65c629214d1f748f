//! From a record to a notification.

use idempotent_consumer::{Decoded, Decoder, Poison, Record};
use order_events::OrderNotification;

/// Decodes order notifications. Other types are dead letters: nobody else publishes to this topic.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NotificationDecoder;

impl Decoder for NotificationDecoder {
    type Body = OrderNotification;

    fn decode(&self, record: &Record) -> Result<Decoded<OrderNotification>, Poison> {
        let poison = |code: &'static str, text: String| Poison { code: code.into(), text };
        let (wanted, schema) = (OrderNotification::TYPE, OrderNotification::DATASCHEMA);
        let event_type = record.headers.get_str("ce_type").unwrap_or_default();
        if event_type != wanted {
            let text = format!("the type is {}, not {wanted}", shortened(event_type));
            return Err(poison("unknown_type", text));
        }
        // Of our own schemas only this version can be read.
        let given = record.headers.get_str("ce_dataschema").unwrap_or(schema);
        if given != schema {
            let text = format!("the schema is {}; only {schema} can be read", shortened(given));
            return Err(poison("unsupported_version", text));
        }
        let notification = OrderNotification::decode(record.value.as_deref())
            .map_err(|error| poison(error.code(), error.to_string()))?;
        if record.key.as_deref() != Some(notification.customer_id.as_str().as_bytes()) {
            let customer = &notification.customer_id;
            let text = format!("the record's key is not its customer_id, {customer}");
            return Err(poison("key_mismatch", text));
        }
        Ok(Decoded::Message(notification))
    }
}

/// The beginning of a text of any length, printable.
fn shortened(text: &str) -> String {
    let beginning: String = text.chars().take(60).collect();
    format!("{beginning:?}")
}
