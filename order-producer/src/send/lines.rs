//! Lines of any file in bounded memory, read on a thread of their own so that a terminal or pipe
//! that stays silent does not keep ends and signals waiting.

use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Longest line, in bytes; Kafka's own default limit of a record is about the same.
pub(super) const LINE_BYTES_MAX: usize = 1024 * 1024;
/// A batch is passed on when it has so many bytes, or when the next read would wait.
const BATCH_BYTES: usize = 64 * 1024;
/// Batches that wait to be taken. Together with one line too many each, a few MiB.
const BATCHES_MAX: usize = 4;

/// One line, without its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// From 1.
    pub(super) number: u64,
    pub(super) content: Result<Vec<u8>, LineTooLong>,
}

/// The line has more bytes than [`LINE_BYTES_MAX`]; it was skipped without being kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LineTooLong;

/// Reads all lines that are not blank. An error ends the stream.
pub(super) fn read(input: impl Read + Send + 'static) -> Receiver<std::io::Result<Vec<Line>>> {
    let (sender, receiver) = sync_channel(BATCHES_MAX);
    std::thread::spawn(move || {
        if let Err(error) = feed(BufReader::with_capacity(BATCH_BYTES, input), &sender) {
            let _ = sender.send(Err(error));
        }
    });
    receiver
}

fn feed<R: Read>(
    mut input: BufReader<R>,
    sender: &SyncSender<std::io::Result<Vec<Line>>>,
) -> std::io::Result<()> {
    let (mut batch, mut batch_bytes) = (Vec::new(), 0);
    let mut number = 0;
    while let Some(content) = next_line(&mut input)? {
        number += 1;
        batch_bytes += content.as_ref().map_or(0, Vec::len);
        if !content.as_ref().is_ok_and(|line| line.trim_ascii().is_empty()) {
            batch.push(Line { number, content });
        }
        if batch_bytes >= BATCH_BYTES || input.buffer().is_empty() {
            batch_bytes = 0;
            // The receiver is gone: nobody wants the rest.
            if sender.send(Ok(std::mem::take(&mut batch))).is_err() {
                return Ok(());
            }
        }
    }
    let _ = sender.send(Ok(batch));
    Ok(())
}

/// The next line, `None` at the end.
fn next_line(input: &mut impl BufRead) -> std::io::Result<Option<Result<Vec<u8>, LineTooLong>>> {
    let mut line = Vec::new();
    let limit = LINE_BYTES_MAX as u64 + 1;
    if input.by_ref().take(limit).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        return Ok(Some(Ok(line)));
    }
    if line.len() > LINE_BYTES_MAX {
        drop(line);
        skip_line(input)?;
        return Ok(Some(Err(LineTooLong)));
    }
    Ok(Some(Ok(line)))
}

/// Reads past the next line end, keeping nothing.
fn skip_line(input: &mut impl BufRead) -> std::io::Result<()> {
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(buffer.len(), |end| end + 1);
        input.consume(used);
        if end.is_some() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(input: Vec<u8>) -> Vec<Line> {
        read(std::io::Cursor::new(input)).into_iter().flat_map(Result::unwrap).collect()
    }

    #[test]
    fn lines_keep_their_numbers_and_blank_ones_are_passed_over() {
        let lines = lines_of(b"a\n\n  \r\nb".to_vec());
        let seen: Vec<_> = lines.into_iter().map(|l| (l.number, l.content.unwrap())).collect();
        assert_eq!(seen, [(1, b"a".to_vec()), (4, b"b".to_vec())]);
    }

    #[test]
    fn a_line_of_the_limit_passes_and_one_byte_more_is_skipped_whole() {
        let mut input = vec![b'x'; LINE_BYTES_MAX];
        input.push(b'\n');
        input.extend(vec![b'y'; LINE_BYTES_MAX + 1]);
        input.extend(b"\nz\n");
        input.extend(vec![b'w'; 3 * LINE_BYTES_MAX]);
        let lines = lines_of(input);
        assert_eq!(lines[0].content.as_ref().map(Vec::len), Ok(LINE_BYTES_MAX));
        assert_eq!(lines[1], Line { number: 2, content: Err(LineTooLong) });
        assert_eq!(lines[2], Line { number: 3, content: Ok(b"z".to_vec()) });
        assert_eq!(lines[3], Line { number: 4, content: Err(LineTooLong) });
        assert_eq!(lines.len(), 4);
    }

    #[test]
    fn no_input_gives_no_lines() {
        assert_eq!(lines_of(Vec::new()), []);
    }
}
