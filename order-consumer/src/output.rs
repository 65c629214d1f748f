//! How results are written: tables, ages, bytes from outside, and a reader that goes away.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};

use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};
use serde::Serialize;
use sqlx::types::time::OffsetDateTime;
use time::macros::format_description;

use crate::cli::Format;

/// Writes to stdout. A reader that went away (`| head`) has what it wanted.
pub(crate) fn write(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// One JSON text, on lines for people or on one line.
pub(crate) fn write_json(value: &impl Serialize, format: Format) -> anyhow::Result<()> {
    let mut text = match format {
        Format::Jsonl => serde_json::to_vec(value)?,
        Format::Json | Format::Table => serde_json::to_vec_pretty(value)?,
    };
    text.push(b'\n');
    write(&text)
}

/// One line below the header and no other: a screen should hold it.
const STYLE: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// A table without colours. `numbers` are the columns to be set to
/// the right.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    numbers: &[usize],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table
        .load_style(STYLE)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header)
        .add_rows(rows);
    for number in numbers {
        if let Some(column) = table.column_mut(*number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{}\n", table.trim_fmt())
}

/// So many of something.
pub(crate) fn counted(count: impl Into<i128>, one: &str) -> String {
    match count.into() {
        1 => format!("1 {one}"),
        count => format!("{count} {one}s"),
    }
}

/// An age, in its two largest units.
pub(crate) fn age(seconds: f64) -> String {
    // Two clocks of one machine may differ by a little, and no age is negative.
    let whole = std::time::Duration::from_secs_f64(seconds.clamp(0.0, 1e12)).as_secs();
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{whole}s"),
        (0, 0, _) => format!("{minutes}m {}s", whole % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// A moment, in UTC to the millisecond.
pub(crate) fn moment(at: OffsetDateTime) -> String {
    let format =
        format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:3]Z");
    at.to_offset(time::UtcOffset::UTC).format(&format).unwrap_or_else(|_| at.to_string())
}

/// Text from outside on one line, cut to so many characters: whoever writes a record must not
/// write to an operator's terminal.
pub(crate) fn one_line(text: &str, max_chars: usize) -> String {
    let mut out = String::new();
    for (at, character) in text.chars().enumerate() {
        if at == max_chars {
            out.push('…');
            break;
        }
        push_safe(&mut out, character);
    }
    out
}

/// The same for text of several lines, which are kept.
pub(crate) fn lines(text: &str, max_bytes: usize) -> String {
    let end = (0..=max_bytes.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    let mut out = String::new();
    for character in text[..end.unwrap_or(0)].chars() {
        match character {
            '\n' | '\t' => out.push(character),
            _ => push_safe(&mut out, character),
        }
    }
    out
}

fn push_safe(out: &mut String, character: char) {
    // Characters that turn the direction of text around hide what it says.
    let turns = matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if character.is_control() || turns {
        out.extend(character.escape_default());
    } else {
        out.push(character);
    }
}

/// A key on one line: text, or hexadecimal where it is not text.
pub(crate) fn key(bytes: Option<&[u8]>, max_chars: usize) -> String {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => "null".to_owned(),
        Some((_, Ok(text))) => one_line(text, max_chars),
        Some((bytes, Err(_))) => {
            let mut hex = "0x".to_owned();
            for byte in bytes {
                // Writing to a String cannot fail.
                let _ = write!(hex, "{byte:02x}");
                if hex.len() > max_chars {
                    break;
                }
            }
            one_line(&hex, max_chars)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_in_their_two_largest_units() {
        let ages = [-1.0, 59.9, 60.0, 3_599.0, 3_600.0, 90_000.0].map(age);
        assert_eq!(ages, ["0s", "59s", "1m 0s", "59m 59s", "1h 0m", "1d 1h"]);
    }

    #[test]
    fn nothing_from_outside_reaches_the_terminal_as_a_command() {
        assert_eq!(one_line("a\u{1b}[2Jb\nc\u{202e}d", 99), "a\\u{1b}[2Jb\\nc\\u{202e}d");
        assert_eq!(one_line("äöü", 2), "äö…");
        assert_eq!(lines("a\nb\u{7}ü", 99), "a\nb\\u{7}ü");
        assert_eq!(lines("aü", 2), "a", "cut at a character");
        assert_eq!(key(Some(&[0xff, 0x01]), 20), "0xff01");
        assert_eq!(key(None, 20), "null");
    }
}
