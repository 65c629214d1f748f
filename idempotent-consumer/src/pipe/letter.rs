//! The dead letter of a pipe: the original record, and what is wrong with it, as headers.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::failure::FailureClass;
use crate::handler::{Outgoing, Poison};
use crate::identity::{IdMode, id_of_dead_letter, identify};
use crate::message::{Headers, MessageId, Record};
use crate::outcome::Verdict;
use crate::store::dead_letters::NewDeadLetter;

/// What of key and headers goes into a letter that has to be small, in bytes.
const SMALL: usize = 64 * 1024;

/// A record that a pipe does not let through. Its copy is that of the engine's dead letters: key,
/// value and headers byte for byte, and `dlq-…` headers behind them. It has no row anywhere.
#[derive(Clone, Copy, Debug)]
pub struct Letter<'a> {
    /// The record.
    pub record: &'a Record,
    /// The id of its topic.
    pub topic_id: &'a str,
    /// What it would be known by, if it says so; its place otherwise.
    pub message_id: Option<MessageId>,
    /// The pipe's group.
    pub group: &'a str,
    /// What is wrong with it.
    pub poison: &'a Poison,
}

impl Letter<'_> {
    /// For that topic. The `dlq-id` comes from the record's place: a record that is read again has
    /// the same.
    pub fn outgoing(&self, dlq_topic: &str) -> Outgoing {
        self.of(self.record, dlq_topic)
    }

    /// The same as small as it can be: without its value, and without key and headers if those are
    /// large. The original stays where it is.
    pub fn reduced(&self, dlq_topic: &str) -> Outgoing {
        let mut record = self.record.clone();
        record.value = None;
        let is_large =
            record.key.as_ref().map_or(0, Vec::len) + record.headers.size_bytes() > SMALL;
        if is_large {
            record.key = None;
            record.headers = Headers::new();
        }
        let mut letter = self.of(&record, dlq_topic);
        letter.headers.push("dlq-value-omitted", Some(b"true"));
        if is_large {
            letter.headers.push("dlq-headers-omitted", Some(b"true"));
        }
        letter
    }

    fn of(&self, record: &Record, dlq_topic: &str) -> Outgoing {
        let place = identify(self.record, self.topic_id, &IdMode::Position).id;
        let id = self.message_id.unwrap_or(place);
        let Poison { code, text } = self.poison;
        let verdict = Verdict::new(FailureClass::Permanent, code.clone(), text.as_str(), 0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let letter = NewDeadLetter {
            dlq_id: id_of_dead_letter(self.group, place),
            message_id: id,
            original_id: id,
            event_type: None,
            record,
            verdict: &verdict,
            now_ms: i64::try_from(now.as_millis()).unwrap_or(i64::MAX),
            first_failed_at: None,
        };
        letter.copy(self.group, dlq_topic)
    }
}
