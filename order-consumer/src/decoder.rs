//! From a record to an order event, by the contract in `order_events`.

use idempotent_consumer::{Decoded, Decoder, Headers, Poison, Record};
use order_events::{EventError, OrderEvent, RecordView};

/// What to do with an event of a type that this version does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum UnknownType {
    /// Dead-letter it: nothing that nobody applied goes unseen.
    #[default]
    DeadLetter,
    /// Claim it as skipped, and count it.
    Skip,
}

/// Decodes order events.
#[derive(Clone, Copy, Debug, Default)]
pub struct OrderDecoder {
    /// What to do with unknown types.
    pub unknown_type: UnknownType,
}

impl Decoder for OrderDecoder {
    type Body = OrderEvent;

    fn decode(&self, record: &Record) -> Result<Decoded<OrderEvent>, Poison> {
        match order_events::decode(&view(record, &Walk(&record.headers))) {
            Ok(decoded) => Ok(Decoded::Message(decoded.event)),
            Err(EventError::UnknownType { .. }) if self.unknown_type == UnknownType::Skip => {
                Ok(Decoded::Skip)
            }
            Err(error) => Err(Poison { code: error.code().into(), text: error.to_string() }),
        }
    }
}

fn view<'a>(record: &'a Record, headers: &'a Walk<'a>) -> RecordView<'a> {
    RecordView { key: record.key.as_deref(), value: record.value.as_deref(), headers }
}

/// The library's headers as the contract wants to walk them.
struct Walk<'h>(&'h Headers);

impl order_events::Headers for Walk<'_> {
    fn each<'a>(&'a self, visit: &mut dyn FnMut(&'a [u8], Option<&'a [u8]>)) {
        for (name, value) in self.0.iter() {
            visit(name, value);
        }
    }
}
