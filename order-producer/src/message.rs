//! A record to publish, owned.

use idempotent_consumer::Headers;
use idempotent_consumer::publish::Publication;
use order_events::EncodedRecord;

/// Key, value and headers of a record to publish. A null key or value is not an empty one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Value.
    pub value: Option<Vec<u8>>,
    /// Headers.
    pub headers: Headers,
}

impl Message {
    pub(crate) fn publication<'a>(&'a self, topic: &'a str) -> Publication<'a> {
        Publication {
            topic,
            partition: None,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: &self.headers,
        }
    }
}

impl From<EncodedRecord> for Message {
    fn from(record: EncodedRecord) -> Self {
        Self {
            key: Some(record.key),
            value: Some(record.value),
            headers: record.headers.into_iter().collect(),
        }
    }
}
