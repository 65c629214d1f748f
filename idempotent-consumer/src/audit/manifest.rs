//! The producer's list of what Kafka acknowledged, against the log. Pure but for reading the file.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use uuid::Uuid;

use super::merge::{Ranges, Seen};
use super::report::Invariant;
use crate::identity::{envelope, id_from_text};

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("cannot read the manifest {path}: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: std::io::Error,
    },
    /// A line is not one that a producer writes.
    #[error("line {line} of the manifest {path} is not usable: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// Acknowledged messages by their place in the log.
#[derive(Default)]
pub(super) struct Manifest {
    lines: Vec<Line>,
    /// Ids that are not UUIDs. Few: what we make are UUIDs, and those take a tenth of the memory.
    texts: Vec<Box<str>>,
    next: usize,
    /// Lines whose end the producer does not know; they may or may not be in the log.
    pub(super) unconfirmed: u64,
    pub(super) not_provable: u64,
}

/// A UUID in another form is a text that is hashed, see [`id_from_text`].
const HYPHENATED: usize = 36;

struct Line {
    offset: i64,
    partition: i32,
    id: Id,
}

#[derive(Clone, Copy)]
enum Id {
    Uuid(Uuid),
    Text(u32),
    None,
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow)]
    id: Option<std::borrow::Cow<'a, str>>,
    partition: Option<i32>,
    offset: Option<i64>,
    #[serde(borrow)]
    outcome: std::borrow::Cow<'a, str>,
}

impl Manifest {
    pub(super) fn open(path: &Path) -> Result<Self, ManifestError> {
        let unreadable = |reason| ManifestError::Unreadable { path: path.to_owned(), reason };
        let mut file = std::io::BufReader::new(std::fs::File::open(path).map_err(unreadable)?);
        let mut manifest = Self::default();
        let (mut text, mut number) = (String::new(), 0);
        loop {
            text.clear();
            number += 1;
            if file.read_line(&mut text).map_err(unreadable)? == 0 {
                break;
            }
            if !text.trim().is_empty() {
                manifest.add(&text).map_err(|reason| ManifestError::Malformed {
                    path: path.to_owned(),
                    line: number,
                    reason,
                })?;
            }
        }
        manifest.lines.sort_unstable_by_key(Line::place);
        Ok(manifest)
    }

    fn add(&mut self, text: &str) -> Result<(), String> {
        let raw: Raw<'_> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        match &*raw.outcome {
            "acknowledged" => {}
            "unconfirmed" => {
                self.unconfirmed += 1;
                return Ok(());
            }
            "refused" => return Ok(()),
            other => return Err(format!("the outcome {other:?} is not known")),
        }
        let (Some(partition), Some(offset)) = (raw.partition, raw.offset) else {
            return Err("an acknowledged message has a partition and an offset".to_owned());
        };
        let id = match raw.id {
            None => Id::None,
            Some(id) => match Uuid::try_parse(&id) {
                Ok(uuid) if id.len() == HYPHENATED => Id::Uuid(uuid),
                _ => {
                    self.texts.push(id.into());
                    Id::Text(u32::try_from(self.texts.len() - 1).map_err(|e| e.to_string())?)
                }
            },
        };
        self.lines.push(Line { offset, partition, id });
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    /// Compares with the next record; records come by partition and offset.
    pub(super) fn record(&mut self, seen: &Seen, ranges: &Ranges, findings: &mut Invariant) {
        let here = (seen.record.source.partition, seen.record.offset);
        while let Some(line) = self.lines.get(self.next) {
            if line.place() > here {
                break;
            }
            self.next += 1;
            if line.place() < here {
                self.missing(self.next - 1, ranges, findings);
                continue;
            }
            findings.checked += 1;
            if !self.is_id_of(line.id, seen) {
                let listed = self.id_text(line.id);
                findings.violation(|| {
                    format!(
                        "manifest: {listed} was acknowledged at {} offset {}, but the record \
                         there is {}",
                        seen.record.source, seen.record.offset, seen.id
                    )
                });
            }
        }
    }

    /// After the last record: whatever is left is not in the log.
    pub(super) fn finish(&mut self, ranges: &Ranges, findings: &mut Invariant) {
        for at in std::mem::replace(&mut self.next, self.lines.len())..self.lines.len() {
            self.missing(at, ranges, findings);
        }
    }

    fn missing(&mut self, at: usize, ranges: &Ranges, findings: &mut Invariant) {
        let Line { offset, partition, id } = self.lines[at];
        findings.checked += 1;
        if ranges.get(partition).is_some_and(|range| offset < range.start) {
            self.not_provable += 1;
            return;
        }
        let listed = self.id_text(id);
        findings.violation(|| {
            format!(
                "manifest: {listed} was acknowledged at {}[{partition}] offset {offset}, but no \
                 such record is in the log",
                ranges.topic
            )
        });
    }

    /// A producer lists the id that it wrote, and may not know where the consumer takes ids from.
    fn is_id_of(&self, id: Id, seen: &Seen) -> bool {
        let text = match id {
            Id::Uuid(uuid) if seen.id.0 == uuid => return true,
            Id::Uuid(uuid) => &uuid.to_string(),
            Id::Text(at) => &*self.texts[at as usize],
            Id::None => return true,
        };
        let envelope = envelope(&seen.record);
        let source = envelope.source.as_deref();
        let listed = id_from_text(source, text);
        listed == seen.id || envelope.id.is_some_and(|id| listed == id_from_text(source, &id))
    }

    fn id_text(&self, id: Id) -> String {
        match id {
            Id::Uuid(uuid) => format!("message {uuid}"),
            Id::Text(at) => format!("message {:?}", self.texts[at as usize]),
            Id::None => "a message without id".to_owned(),
        }
    }
}

impl Line {
    fn place(&self) -> (i32, i64) {
        (self.partition, self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::super::merge::Range;
    use super::*;
    use crate::message::{Headers, PartitionKey, Record};

    const UUID: &str = "0192d4e0-7b1a-7c3e-8a55-0123456789ab";

    fn seen(offset: i64, id: &str) -> Seen {
        seen_by("ce_id", offset, id)
    }

    fn seen_by(id_mode: &str, offset: i64, id: &str) -> Seen {
        let mut headers = Headers::new();
        headers.push("ce_id", Some(id.as_bytes()));
        headers.push("ce_source", Some(b"shop"));
        let record = Record {
            source: PartitionKey { topic: "t".into(), partition: 0 },
            offset,
            timestamp_ms: None,
            key: None,
            value: None,
            headers,
        };
        Seen::new(record, "x", &id_mode.parse().unwrap())
    }

    fn line(id: &str, offset: i64, outcome: &str) -> String {
        format!(
            r#"{{"id":"{id}","type":"order.placed","order":null,"partition":0,"offset":{offset},"kind":"fresh","outcome":"{outcome}"}}"#
        )
    }

    fn audit(lines: &[String], log: &[Seen], start: i64) -> (Invariant, u64) {
        let mut manifest = Manifest::default();
        for line in lines {
            manifest.add(line).unwrap();
        }
        manifest.lines.sort_unstable_by_key(Line::place);
        let range = Range { start, end: 100, comparable: true, ..Range::default() };
        let ranges =
            Ranges { topic: "t".to_owned(), by_partition: vec![range], ..Ranges::default() };
        let mut findings = Invariant::new(1, "outcomes", "…", 10);
        for seen in log {
            manifest.record(seen, &ranges, &mut findings);
        }
        manifest.finish(&ranges, &mut findings);
        (findings, manifest.not_provable)
    }

    #[test]
    fn an_acknowledged_message_that_is_not_in_the_log_is_found() {
        let log = || [seen(1, UUID), seen(3, "a-7"), seen(4, UUID)];
        let held = [line("a-7", 3, "acknowledged"), line(UUID, 1, "acknowledged")];
        assert_eq!(audit(&held, &log(), 0).0.examples, Vec::<String>::new());
        for missing in [0, 2, 50] {
            let (findings, _) = audit(&[line(UUID, missing, "acknowledged")], &log(), 0);
            assert!(findings.examples[0].contains("no such record"), "{:?}", findings.examples);
        }
        let (findings, _) = audit(&[line("a-8", 3, "acknowledged")], &log(), 0);
        assert!(findings.examples[0].contains("the record there is"), "{:?}", findings.examples);
    }

    #[test]
    fn a_producer_that_lists_ce_ids_need_not_know_that_ids_come_from_elsewhere() {
        for id_mode in ["position", "header:id"] {
            let log = || [seen_by(id_mode, 1, UUID), seen_by(id_mode, 2, "a-7")];
            let held = [line(UUID, 1, "acknowledged"), line("a-7", 2, "acknowledged")];
            assert_eq!(audit(&held, &log(), 0).0.examples, Vec::<String>::new());
            let wrong = [line("a-7", 1, "acknowledged"), line(UUID, 2, "acknowledged")];
            assert_eq!(audit(&wrong, &log(), 0).0.violations, 2);
        }
    }

    #[test]
    fn what_was_not_acknowledged_or_is_older_than_the_log_is_not_called_lost() {
        let lines = [line(UUID, 5, "unconfirmed"), line(UUID, 6, "refused")];
        assert_eq!(audit(&lines, &[], 0).0.violations, 0);
        let (findings, not_provable) = audit(&[line(UUID, 5, "acknowledged")], &[], 6);
        assert_eq!((findings.violations, not_provable), (0, 1));
    }

    #[test]
    fn a_line_that_no_producer_writes_is_refused() {
        for bad in
            ["{", "{}", r#"{"id":"x","outcome":"lost"}"#, r#"{"id":"x","outcome":"acknowledged"}"#]
        {
            assert!(Manifest::default().add(bad).is_err(), "{bad}");
        }
    }
}
