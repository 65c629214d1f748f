//! What was sent and is not committed: on disk, so that a file of any length takes no memory.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Seek, Write};
use std::path::PathBuf;

use order_events::EventKind;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::output::{Note, Resend};

/// A record that Kafka has, as part of an open transaction.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) line: u64,
    pub(super) message_id: String,
    /// The line has no id: this one was made for it.
    pub(super) is_new_id: bool,
    event_type: String,
    order_id: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
}

impl Entry {
    pub(super) fn new(note: &Note, is_new_id: bool, partition: i32, offset: i64) -> Self {
        Self {
            line: note.line.unwrap_or_default(),
            message_id: note.message_id.clone(),
            is_new_id,
            event_type: note.event_type.to_owned(),
            order_id: note.order_id.clone(),
            partition,
            offset,
        }
    }

    pub(super) fn note(self) -> anyhow::Result<Note> {
        Ok(Note {
            line: Some(self.line),
            message_id: self.message_id,
            event_type: EventKind::from_type(&self.event_type)?.as_str(),
            order_id: self.order_id,
            resend: Resend::WithItsFile,
        })
    }
}

/// Entries in a file without a name.
pub(super) struct Spool {
    file: BufWriter<File>,
    path: PathBuf,
    entries: u64,
}

impl Spool {
    pub(super) fn new() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("order-producer-{}", Uuid::new_v4()));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path)?;
        // Gone with the process, however that ends. Where an open file cannot be removed, `drop` does.
        let _ = std::fs::remove_file(&path);
        Ok(Self { file: BufWriter::new(file), path, entries: 0 })
    }

    pub(super) fn len(&self) -> u64 {
        self.entries
    }

    pub(super) fn add(&mut self, entry: &Entry) -> anyhow::Result<()> {
        serde_json::to_writer(&mut self.file, entry)?;
        self.file.write_all(b"\n")?;
        self.entries += 1;
        Ok(())
    }

    /// Makes sure that all of it is in the file.
    pub(super) fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }

    /// Hands each entry on, in the order in which they were added.
    pub(super) fn each(
        mut self,
        mut each: impl FnMut(Entry) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.flush()?;
        self.file.get_ref().rewind()?;
        for line in BufReader::new(self.file.get_ref()).lines() {
            each(serde_json::from_str(&line?)?)?;
        }
        Ok(())
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_in_their_order_and_the_file_has_no_name() {
        let mut spool = Spool::new().unwrap();
        assert!(!spool.path.exists());
        for line in 0..1000 {
            let note = Note {
                line: Some(line),
                message_id: format!("m \"{line}\"\n"),
                event_type: "order.paid",
                order_id: Uuid::nil().to_string(),
                resend: Resend::WithItsFile,
            };
            spool.add(&Entry::new(&note, line % 2 == 0, 3, 7)).unwrap();
        }
        assert_eq!(spool.len(), 1000);
        let mut seen = 0;
        spool
            .each(|entry| {
                assert_eq!((entry.line, entry.is_new_id), (seen, seen % 2 == 0));
                assert_eq!(entry.note()?.message_id, format!("m \"{seen}\"\n"));
                seen += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(seen, 1000);
    }
}
