//! What to do about a dead letter, as far as this version can help. Pure.

use idempotent_consumer::inspect::{DeadLetter, DeadLetterState};
use idempotent_consumer::{PartitionKey, Record};

use crate::show::order_id_of;

/// Sentences for the screen.
pub(super) fn advice(letter: &DeadLetter) -> Vec<String> {
    let summary = &letter.summary;
    match summary.state {
        DeadLetterState::Open => {}
        DeadLetterState::Redriven => {
            return vec!["nothing: its redrive is under way, once a consumer runs.".to_owned()];
        }
        state => return vec![format!("nothing: it is {}", state.as_str())],
    }
    let mut out = vec!["orders and totals have nothing of this message.".to_owned()];
    if summary.error_code == "id_conflict" {
        out.push(format!(
            "Another message with its id had its outcome first: order-consumer show {}",
            summary.original_id
        ));
        out.push(
            "If both are meant to count, the producer has to send this one under a new id; its \
             ids are not unique."
                .to_owned(),
        );
        return out;
    }
    if summary.attempts == 0 {
        out.push(
            "The record itself is wrong, so nothing here can apply it. Mend its producer."
                .to_owned(),
        );
    } else if summary.error_class == "permanent" {
        out.push("It was refused by what orders said at that moment.".to_owned());
    } else {
        out.push(
            "It failed every time it was tried; the consumer's log of then says more.".to_owned(),
        );
    }
    if let Some(order_id) = order_id_of(&record(letter)) {
        out.push(format!("The whole story of its order: order-consumer show {order_id}"));
    }
    out.push(format!(
        "Once the cause is mended: order-consumer dlq redrive {}. If the record has to be \
             mended, have it sent again under a new id: the same id counts as a duplicate.",
        summary.dlq_id
    ));
    out
}

fn record(letter: &DeadLetter) -> Record {
    let summary = &letter.summary;
    Record {
        source: PartitionKey { topic: summary.topic.as_str().into(), partition: summary.partition },
        offset: summary.offset,
        timestamp_ms: None,
        key: summary.key.clone(),
        value: letter.value.clone(),
        headers: letter.headers.clone(),
    }
}
