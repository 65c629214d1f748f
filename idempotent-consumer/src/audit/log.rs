//! The log as a stream of small batches, read and prepared on a thread of its own.

use std::ops::ControlFlow;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::kafka::log_reader::{LogError, LogReader, Stretch};
use crate::kafka::settings::KafkaSettings;
use crate::message::Record;

/// How long the log may be silent before the audit gives up.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

const BATCH_RECORDS: usize = 512;
const BATCH_BYTES: usize = 1024 * 1024;
const BATCHES: usize = 4;

/// What the reading thread sends.
enum Sent<T> {
    Batch(Vec<T>),
    End,
    Failed(LogError),
}

/// Batches of a log.
pub(super) struct LogStream<T>(mpsc::Receiver<Sent<T>>);

impl<T> LogStream<T> {
    /// The next batch; `None` once everything was read, which is never taken for granted: what
    /// is missing from a log would otherwise be called lost.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<T>>, LogError> {
        match self.0.recv().await {
            Some(Sent::Batch(batch)) => Ok(Some(batch)),
            Some(Sent::End) => Ok(None),
            Some(Sent::Failed(error)) => Err(error),
            None => Err(LogError::Refused {
                doing: "to read on".to_owned(),
                reason: "the reading thread ended before the log did".to_owned(),
            }),
        }
    }
}

/// Reads the stretches one after the other. `prepare` runs on the reading thread.
pub(super) fn stream<T: Send + 'static>(
    settings: &KafkaSettings,
    topic: &str,
    stretches: Vec<Stretch>,
    prepare: impl Fn(Record) -> T + Send + 'static,
) -> LogStream<T> {
    let (sender, receiver) = mpsc::channel(BATCHES);
    let (settings, topic) = (settings.clone(), topic.to_owned());
    // Not the runtime's thread: that would hold up the end of the process after another failure.
    std::thread::spawn(move || {
        let end = match read(&settings, &topic, &stretches, prepare, &sender) {
            Ok(()) => Sent::End,
            Err(error) => Sent::Failed(error),
        };
        // Nobody listens any more if the audit failed elsewhere, and then it says why.
        let _ = sender.blocking_send(end);
    });
    LogStream(receiver)
}

fn read<T>(
    settings: &KafkaSettings,
    topic: &str,
    stretches: &[Stretch],
    prepare: impl Fn(Record) -> T,
    sender: &mpsc::Sender<Sent<T>>,
) -> Result<(), LogError> {
    let reader = LogReader::new(settings, topic, PATIENCE)?;
    let (mut batch, mut bytes) = (Vec::with_capacity(BATCH_RECORDS), 0);
    for stretch in stretches {
        let flow = reader.read(stretch, |record| {
            bytes += record.size_bytes();
            batch.push(prepare(record));
            if batch.len() < BATCH_RECORDS && bytes < BATCH_BYTES {
                return ControlFlow::Continue(());
            }
            bytes = 0;
            let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH_RECORDS));
            match sender.blocking_send(Sent::Batch(full)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        })?;
        if flow.is_break() {
            return Ok(());
        }
    }
    let _ = sender.blocking_send(Sent::Batch(batch));
    Ok(())
}

/// Whether there is any record in the stretches: between two offsets there may be transaction
/// markers alone. Blocks.
pub(super) fn any_record(
    settings: &KafkaSettings,
    topic: &str,
    stretches: &[Stretch],
) -> Result<bool, LogError> {
    let reader = LogReader::new(settings, topic, PATIENCE)?;
    for stretch in stretches {
        if reader.read(stretch, |_| ControlFlow::Break(()))?.is_break() {
            return Ok(true);
        }
    }
    Ok(false)
}
