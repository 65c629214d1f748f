//! The story for people.

use std::fmt::Write as _;

use idempotent_consumer::inspect::{Claim, DeadLetterSummary, Waiting};

use super::story::{Outcome, RecordStory, Story};
use crate::output::{age, counted, moment, one_line};

pub(super) fn render(story: &Story) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_all(&mut out, story);
    out
}

/// What was looked through in vain.
pub(super) fn nothing_found(story: &Story) -> String {
    format!(
        "nothing is known of {}; looked through {}, the outcomes of group {} and the table orders",
        one_line(&story.id, 100),
        looked_through(story),
        story.consumer_group
    )
}

fn looked_through(story: &Story) -> String {
    match &story.looked_through {
        None => format!("what could be read of {}", story.topic),
        Some(scanned) => format!(
            "{} of {} ({}, all that the log has)",
            counted(scanned.records, "record"),
            story.topic,
            counted(scanned.partitions.len() as u64, "partition")
        ),
    }
}

fn write_all(out: &mut String, story: &Story) -> std::fmt::Result {
    let kind = story.kind.unwrap_or("id");
    writeln!(out, "{kind} {}", one_line(&story.id, 100))?;
    for record in &story.records {
        write_record(out, story, record)?;
    }
    if story.more_records > 0 {
        writeln!(
            out,
            "\n… and {} more; --limit shows more",
            counted(story.more_records, "record")
        )?;
    }
    for outcome in &story.without_record {
        write_without_record(out, story, outcome)?;
    }
    write_rows(out, story)?;
    writeln!(out, "\nlooked through {}", looked_through(story))
}

fn write_record(out: &mut String, story: &Story, record: &RecordStory) -> std::fmt::Result {
    let at = record.timestamp.map_or("without a timestamp".to_owned(), moment);
    let event_type = record.event_type.as_deref().map_or("no type".to_owned(), |t| one_line(t, 60));
    writeln!(
        out,
        "\n{at}  {event_type}  {}[{}] offset {}",
        story.topic, record.partition, record.offset
    )?;
    write!(out, "  message {}", record.message_id)?;
    if let Some(producer_id) = &record.producer_id {
        write!(out, " ({})", one_line(producer_id, 100))?;
    }
    writeln!(out)?;
    let claim = record.decided.as_ref().map(|decided| &decided.claim);
    let letter = record.decided.as_ref().and_then(|decided| decided.dead_letter.as_ref());
    match (record.outcome, claim) {
        ("waiting", _) => write_waiting(out, record.waiting.as_ref()),
        ("pending", _) => writeln!(out, "  pending: the consumer has not come to it"),
        ("duplicate", Some(claim)) => {
            let (other, became) = (place(claim), word(claim));
            // The claim that its own dead letter had is now that of the copy.
            if letter.is_some_and(|letter| is_of(letter, story, record)) {
                writeln!(out, "  dead-lettered; its redriven copy, {other}, was {became}")?;
            } else {
                writeln!(out, "  duplicate of {other}, which was {became}")?;
            }
            write_letter(out, letter)
        }
        ("id_conflict", Some(claim)) => {
            match &record.conflicts_with {
                Some(holder) => writeln!(
                    out,
                    "  id conflict: another message with this id, {}, was {} before",
                    place(holder),
                    word(holder)
                )?,
                None => writeln!(out, "  id conflict: another message had this id before")?,
            }
            writeln!(out, "  {}", decided(claim))?;
            write_letter(out, letter)
        }
        (_, Some(claim)) => {
            writeln!(out, "  {}", decided(claim))?;
            write_letter(out, letter)
        }
        (_, None) => writeln!(
            out,
            "  missing: the consumer is past it, and it has no outcome; `order-consumer verify` \
             tells more"
        ),
    }
}

fn write_waiting(out: &mut String, waiting: Option<&Waiting>) -> std::fmt::Result {
    let Some(Waiting { attempts, next_attempt_in_seconds, error_message }) = waiting else {
        return Ok(());
    };
    match next_attempt_in_seconds {
        None => writeln!(out, "  waits behind another message of its key")?,
        Some(seconds) => writeln!(
            out,
            "  waits for another attempt after {}, next in {}",
            counted(*attempts, "attempt"),
            age(seconds.ceil())
        )?,
    }
    match error_message {
        Some(text) => writeln!(out, "  {}", one_line(text, 300)),
        None => Ok(()),
    }
}

fn is_of(letter: &DeadLetterSummary, story: &Story, record: &RecordStory) -> bool {
    (&letter.topic, letter.partition, letter.offset)
        == (&story.topic, record.partition, record.offset)
}

fn decided(claim: &Claim) -> String {
    format!("{} {} in batch {}", word(claim), moment(claim.processed_at), claim.batch_seq)
}

fn word(claim: &Claim) -> &'static str {
    match claim.outcome.as_str() {
        "dead_lettered" => "dead-lettered",
        other => other,
    }
}

fn place(claim: &Claim) -> String {
    format!("{}[{}] offset {}", claim.topic, claim.partition, claim.offset)
}

fn write_letter(out: &mut String, letter: Option<&DeadLetterSummary>) -> std::fmt::Result {
    let Some(letter) = letter else { return Ok(()) };
    writeln!(
        out,
        "  {}: {}",
        one_line(&letter.error_code, 60),
        one_line(&letter.error_message, 300)
    )?;
    writeln!(
        out,
        "  {}; `order-consumer dlq show {}` tells more",
        letter.state.as_str(),
        letter.dlq_id
    )
}

fn write_without_record(out: &mut String, story: &Story, outcome: &Outcome) -> std::fmt::Result {
    let claim = &outcome.claim;
    let start = story.looked_through.as_ref().and_then(|scanned| {
        scanned.partitions.iter().find(|part| part.partition == claim.partition)
    });
    let why = match start {
        Some(part) if claim.topic == story.topic && claim.offset < part.from_offset => {
            format!("not in the log any more, which begins at offset {}", part.from_offset)
        }
        Some(_) if claim.topic == story.topic => "not in the log".to_owned(),
        _ => "which was not read".to_owned(),
    };
    writeln!(out, "\nrecord at {}, {why}", place(claim))?;
    writeln!(out, "  message {}", claim.message_id)?;
    writeln!(out, "  {}", decided(claim))?;
    write_letter(out, outcome.dead_letter.as_ref())
}

fn write_rows(out: &mut String, story: &Story) -> std::fmt::Result {
    for order in &story.orders {
        writeln!(
            out,
            "\norder {}: {}, customer {}, {} cents {}, {}, placed {}, updated {}",
            order.order_id,
            order.status,
            one_line(&order.customer_id, 64),
            order.total_cents,
            one_line(&order.currency, 3),
            counted(order.items.as_array().map_or(0, Vec::len) as u64, "item"),
            moment(order.placed_at),
            moment(order.updated_at)
        )?;
    }
    if story.kind == Some("order") && story.orders.is_empty() {
        writeln!(out, "\nthe table orders has no such order")?;
    }
    for row in &story.customer_totals {
        writeln!(
            out,
            "customer {}: {}, {} cents {} in all",
            one_line(&row.customer_id, 64),
            counted(row.orders, "order"),
            row.spent_cents,
            one_line(&row.currency, 3)
        )?;
    }
    Ok(())
}
