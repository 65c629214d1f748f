//! The screen for people.

use std::fmt::Write as _;

use idempotent_consumer::inspect::RetryHead;

use super::report::{PartitionLine, Status};
use crate::output::{age, counted, key, one_line, table};

/// `others` are the groups and topics that the database has progress of, asked for where this one
/// has none; `options` are what a command line has to repeat to mean the same place.
pub(super) fn render(status: &Status, others: &[(String, String)], options: &str) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_all(&mut out, status, others, options);
    out
}

fn write_all(
    out: &mut String,
    status: &Status,
    others: &[(String, String)],
    options: &str,
) -> std::fmt::Result {
    writeln!(out, "topic {}, group {}", status.topic, status.consumer_group)?;
    if !status.has_run() {
        write_not_run(out, status, others)?;
    }
    if let Some(problem) = &status.kafka.problem {
        writeln!(out, "lag is not known: {problem}")?;
    }
    if !status.partitions.is_empty() {
        out.push_str(&partitions(status));
    }
    writeln!(out)?;
    write_retry_queue(out, status)?;
    write_dead_letters(out, status)?;
    write_outbox(out, status)?;
    write_ages(out, status)?;
    write_suspects(out, status)?;
    write_lost(out, status)?;
    write_stopped(out, status, options)
}

fn write_not_run(
    out: &mut String,
    status: &Status,
    others: &[(String, String)],
) -> std::fmt::Result {
    writeln!(
        out,
        "no consumer of this group has run on this topic with this database; `order-consumer run` \
         begins"
    )?;
    if status.kafka.topic_exists == Some(false) {
        writeln!(out, "the topic does not exist yet; `order-consumer run` creates it")?;
    }
    for (group, topic) in others {
        writeln!(out, "this database has the progress of group {group} on topic {topic}")?;
    }
    Ok(())
}

fn partitions(status: &Status) -> String {
    let known = |number: Option<i64>| number.map_or("?".to_owned(), |number| number.to_string());
    let lag = |row: &PartitionLine| {
        if status.stopped.iter().any(|stopped| stopped.partition == row.number) {
            "stopped".to_owned()
        } else {
            known(row.lag)
        }
    };
    let rows = status.partitions.iter().map(|row| {
        [
            row.number.to_string(),
            row.next_offset.map_or("-".to_owned(), |next| next.to_string()),
            known(row.log_end),
            lag(row),
            row.applied.to_string(),
            row.duplicates.to_string(),
            row.dead_lettered.to_string(),
            row.skipped.to_string(),
            row.last_progress_age_seconds.map_or("-".to_owned(), age),
            // The process and its assignment; the process is what tells consumers apart.
            row.owner.as_deref().map_or("-".to_owned(), |owner| one_line(owner, 8)),
        ]
    });
    let totals = &status.totals;
    let sum = [
        "all".to_owned(),
        String::new(),
        String::new(),
        known(totals.lag),
        totals.applied.to_string(),
        totals.duplicates.to_string(),
        totals.dead_lettered.to_string(),
        totals.skipped.to_string(),
        String::new(),
        String::new(),
    ];
    table(
        [
            "partition",
            "next offset",
            "log end",
            "lag",
            "applied",
            "duplicates",
            "dead-lettered",
            "skipped",
            "progress",
            "last owner",
        ],
        &[0, 1, 2, 3, 4, 5, 6, 7, 8],
        rows.chain([sum]),
    )
}

fn write_retry_queue(out: &mut String, status: &Status) -> std::fmt::Result {
    let queue = &status.retry_queue;
    let behind = queue.messages - queue.heads;
    writeln!(out, "to be tried again: {}, and {behind} behind them with their keys", queue.heads)?;
    for head in &queue.next {
        writeln!(out, "  {}", retry_line(head))?;
    }
    if queue.heads > i64::try_from(queue.next.len()).unwrap_or(i64::MAX) {
        writeln!(out, "  … `order-consumer retries list` lists more")?;
    }
    Ok(())
}

/// One message that is tried again: key, how often, when next, and why.
fn retry_line(head: &RetryHead) -> String {
    let next = if head.next_attempt_in_seconds > 0.0 {
        format!("next in {}", age(head.next_attempt_in_seconds.ceil()))
    } else {
        "due".to_owned()
    };
    format!(
        "key {}: {} behind it, {}, {next}: {}",
        key(head.key.as_deref(), 40),
        head.behind,
        counted(head.attempts, "attempt"),
        one_line(head.error_message.as_deref().unwrap_or("not tried yet"), 80)
    )
}

fn write_dead_letters(out: &mut String, status: &Status) -> std::fmt::Result {
    let (open, closed): (Vec<_>, Vec<_>) =
        status.dead_letters.iter().partition(|count| count.state == "open");
    let sum: i64 = open.iter().map(|count| count.count).sum();
    writeln!(out, "dead letters open: {sum}")?;
    for count in &open {
        let oldest = age(count.oldest_age_seconds);
        writeln!(
            out,
            "  {:<24} {:>8}, oldest {oldest}",
            one_line(&count.error_code, 60),
            count.count
        )?;
    }
    if sum > 0 {
        writeln!(out, "  `order-consumer dlq list --state open` lists them")?;
    }
    for state in ["redriven", "discarded", "resolved"] {
        let sum: i64 = closed.iter().filter(|c| c.state == state).map(|c| c.count).sum();
        if sum > 0 {
            writeln!(out, "dead letters {state}: {sum}")?;
        }
    }
    Ok(())
}

fn write_outbox(out: &mut String, status: &Status) -> std::fmt::Result {
    let outbox = &status.outbox;
    writeln!(out, "outbox: {} to be published, {} refused", outbox.rows, outbox.refused_rows)?;
    for row in &outbox.refused {
        writeln!(
            out,
            "  row {} for {}: refused {} ago: {}",
            row.id,
            row.topic,
            age(row.refused_age_seconds),
            one_line(&row.reason, 200)
        )?;
    }
    Ok(())
}

fn write_ages(out: &mut String, status: &Status) -> std::fmt::Result {
    let ages = &status.ages;
    for (what, seconds) in [
        ("last progress", ages.last_progress),
        ("oldest message to be tried again failed first", ages.oldest_retry),
        ("oldest open dead letter", ages.oldest_open_dead_letter),
        ("oldest row in the outbox", ages.oldest_outbox_row),
    ] {
        let text = seconds.map_or("-".to_owned(), |seconds| format!("{} ago", age(seconds)));
        writeln!(out, "{what}: {text}")?;
    }
    Ok(())
}

fn write_suspects(out: &mut String, status: &Status) -> std::fmt::Result {
    for row in &status.partitions {
        if let (Some(next), Some(end)) = (row.next_offset, row.suspects_end) {
            writeln!(
                out,
                "suspected: {}[{}] offsets {next} to {}: a consumer may have ended over one of them, \
                 so they are tried one at a time",
                status.topic,
                row.number,
                end - 1
            )?;
        }
    }
    Ok(())
}

fn write_lost(out: &mut String, status: &Status) -> std::fmt::Result {
    for range in &status.lost_ranges {
        writeln!(
            out,
            "lost: {}[{}] offsets {} to {} were deleted before they were read (noticed {} ago)",
            status.topic,
            range.partition,
            range.from_offset,
            range.to_offset - 1,
            age(range.noticed_age_seconds)
        )?;
    }
    for row in &status.partitions {
        if let (Some(next), Some(start), Some(_)) = (row.next_offset, row.log_start, row.lag)
            && next < start
        {
            writeln!(
                out,
                "lost: {}[{}] offsets {next} to {} were deleted before they were read",
                status.topic,
                row.number,
                start - 1
            )?;
        }
    }
    Ok(())
}

fn write_stopped(out: &mut String, status: &Status, options: &str) -> std::fmt::Result {
    for stopped in &status.stopped {
        let number = stopped.partition;
        writeln!(out, "\nstopped: {}[{number}]: {}", status.topic, stopped.reason)?;
        writeln!(
            out,
            "  if that is as it should be: order-consumer accept{options} --partition {number} \
             (first with --dry-run)"
        )?;
    }
    Ok(())
}
