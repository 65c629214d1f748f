//! `dlq show`.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use idempotent_consumer::inspect::{self, DeadLetter};
use uuid::Uuid;

use super::advice::advice;
use crate::cli::{DatabaseArgs, Format, OutputArgs, TopicArgs};
use crate::output::{age, counted, lines, moment, one_line, write, write_json};

/// Bytes of a key, a header or a value that is text, on a screen.
const MAX_TEXT_BYTES: usize = 4096;
/// Bytes of anything else.
const MAX_HEX_BYTES: usize = 256;

/// Arguments of `dlq show`.
#[derive(Args)]
pub(crate) struct ShowArgs {
    /// A dlq id, a message id, or the producer's own id text
    id: String,

    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    topics: TopicArgs,

    /// Write the record's value to stdout, byte for byte, and nothing else
    #[arg(long, conflicts_with = "output")]
    raw: bool,

    #[command(flatten)]
    output: OutputArgs,
}

/// Shows it.
pub(super) async fn run(args: ShowArgs) -> anyhow::Result<ExitCode> {
    let pool = args.database.migrated_pool().await?;
    let mut connection = pool.acquire().await?;
    let group = &args.topics.group;
    let by_uuid = Uuid::try_parse(&args.id).ok();
    let mut found = match by_uuid {
        Some(id) => inspect::dead_letter(&mut connection, group, id).await?,
        None => Vec::new(),
    };
    if found.is_empty() {
        found = inspect::dead_letters_with_producer_id(&mut connection, group, &args.id).await?;
    }
    let exact = found.first().is_some_and(|letter| {
        let ids = [letter.summary.dlq_id, letter.summary.message_id.0];
        by_uuid.is_some_and(|id| ids.contains(&id))
    });
    let others = found.split_off(found.len().min(1));
    let Some(letter) = found.pop() else {
        eprintln!(
            "no dead letter of group {group} has the dlq id, message id or producer's id {}; \
             `order-consumer show` finds messages that were applied",
            one_line(&args.id, 100)
        );
        return Ok(ExitCode::FAILURE);
    };
    if !exact && !others.is_empty() {
        eprintln!("several dead letters came with this id; choose one by its dlq id:");
        for letter in std::iter::once(&letter).chain(&others) {
            eprintln!("  {}  {}", letter.summary.dlq_id, letter.summary.error_code);
        }
        return Ok(ExitCode::FAILURE);
    }
    for other in &others {
        eprintln!("note: another dead letter came with this id: {}", other.summary.dlq_id);
    }
    print(&letter, &args)?;
    Ok(ExitCode::SUCCESS)
}

fn print(letter: &DeadLetter, args: &ShowArgs) -> anyhow::Result<()> {
    if args.raw {
        if letter.value.is_none() {
            eprintln!("the record has no value");
        }
        return write(letter.value.as_deref().unwrap_or_default());
    }
    match args.output.output {
        Format::Table => {
            let mut out = String::new();
            // Writing to a String cannot fail.
            let _ = render(&mut out, letter);
            write(out.as_bytes())
        }
        format => write_json(letter, format),
    }
}

fn render(out: &mut String, letter: &DeadLetter) -> std::fmt::Result {
    let DeadLetter { summary, record_timestamp, headers, value, .. } = letter;
    let mut line = |what: &str, text: &str| writeln!(out, "{what:<16}{text}");
    line("dead letter", &summary.dlq_id.to_string())?;
    line("state", &state(letter))?;
    if let Some(reason) = &letter.state_reason {
        line("", &one_line(reason, 300))?;
    }
    if summary.redrive_count > 0 {
        line("redriven", &counted(summary.redrive_count, "time"))?;
    }
    line("error", &format!("{} ({})", one_line(&summary.error_code, 60), summary.error_class))?;
    line("", &one_line(&summary.error_message, 1024))?;
    line("dead-lettered", &when(letter))?;
    line("message", &summary.message_id.to_string())?;
    if summary.original_id != summary.message_id {
        line("came with id", &summary.original_id.to_string())?;
    }
    line("type", &summary.event_type.as_deref().map_or("-".to_owned(), |name| one_line(name, 60)))?;
    let written = record_timestamp.map_or(String::new(), |at| format!(", written {}", moment(at)));
    line(
        "record",
        &format!("{}[{}] offset {}{written}", summary.topic, summary.partition, summary.offset),
    )?;
    section(out, "key", summary.key.as_deref())?;
    writeln!(out, "headers: {}", headers.len())?;
    for (name, value) in headers.iter() {
        let name = one_line(&String::from_utf8_lossy(name), 200);
        match value.map(|value| (value, std::str::from_utf8(value))) {
            None => writeln!(out, "  {name}: null")?,
            Some((_, Ok(text))) => writeln!(out, "  {name}: {}", one_line(text, 500))?,
            Some((bytes, Err(_))) => {
                writeln!(out, "  {name}: {} bytes\n{}", bytes.len(), hex(bytes))?;
            }
        }
    }
    section(out, "value", value.as_deref())?;
    writeln!(out, "what to do")?;
    for text in advice(letter) {
        writeln!(out, "  {text}")?;
    }
    Ok(())
}

fn state(letter: &DeadLetter) -> String {
    let mut text = letter.summary.state.as_str().to_owned();
    if let Some(at) = letter.state_changed_at {
        let _ = write!(text, " since {}", moment(at));
    }
    if let Some(by) = &letter.state_changed_by {
        let _ = write!(text, " by {}", one_line(by, 100));
    }
    text
}

fn when(letter: &DeadLetter) -> String {
    let summary = &letter.summary;
    let mut text = format!("{}, {} ago", moment(summary.last_failed_at), age(summary.age_seconds));
    match summary.attempts {
        0 => text.push_str(", without being tried"),
        1 => text.push_str(", tried once"),
        attempts => {
            let _ = write!(text, ", tried {attempts} times");
        }
    }
    if summary.first_failed_at != summary.last_failed_at {
        let _ = write!(text, ", first failed {}", moment(summary.first_failed_at));
    }
    text
}

fn section(out: &mut String, what: &str, bytes: Option<&[u8]>) -> std::fmt::Result {
    let Some(bytes) = bytes else { return writeln!(out, "{what}: null") };
    writeln!(out, "{what}: {}", counted(bytes.len() as u64, "byte"))?;
    if bytes.is_empty() {
        return Ok(());
    }
    let shown = if let Ok(text) = std::str::from_utf8(bytes) {
        for line in lines(text, MAX_TEXT_BYTES).lines() {
            writeln!(out, "  {line}")?;
        }
        MAX_TEXT_BYTES
    } else {
        writeln!(out, "{}", hex(bytes))?;
        MAX_HEX_BYTES
    };
    if bytes.len() > shown {
        writeln!(out, "  … cut; -o json has all of it, and --raw writes the value alone")?;
    }
    Ok(())
}

/// Sixteen bytes a line, with what is readable of them.
fn hex(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(MAX_HEX_BYTES)];
    let rows: Vec<String> = shown
        .chunks(16)
        .enumerate()
        .map(|(row, chunk)| {
            let mut digits = String::new();
            for byte in chunk {
                let _ = write!(digits, "{byte:02x} ");
            }
            let readable: String =
                chunk
                    .iter()
                    .map(|byte| {
                        if byte.is_ascii_graphic() || *byte == b' ' {
                            char::from(*byte)
                        } else {
                            '.'
                        }
                    })
                    .collect();
            format!("  {:06x}  {digits:<48} {readable}", row * 16)
        })
        .collect();
    rows.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_shown_in_rows_of_sixteen() {
        let rows = hex(b"\x00\xffabcdefghijklmnop");
        let mut rows = rows.lines();
        assert_eq!(
            rows.next(),
            Some("  000000  00 ff 61 62 63 64 65 66 67 68 69 6a 6b 6c 6d 6e  ..abcdefghijklmn")
        );
        assert!(rows.next().unwrap().starts_with("  000010  6f 70 "));
    }

    #[test]
    fn null_and_empty_are_told_apart() {
        let mut out = String::new();
        section(&mut out, "key", None).unwrap();
        section(&mut out, "value", Some(b"")).unwrap();
        assert_eq!(out, "key: null\nvalue: 0 bytes\n");
    }
}
