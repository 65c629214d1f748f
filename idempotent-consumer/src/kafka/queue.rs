//! What the owner of the consumer has read of a partition and its lane has not taken yet. Bounded.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::message::Record;

/// A bounded queue between the owner's thread and a lane.
#[derive(Debug)]
pub(crate) struct PartitionQueue {
    inner: Mutex<Inner>,
    /// For the lane: there is something to take.
    filled: Notify,
    /// For the owner: there is room again.
    emptied: Condvar,
    limit_bytes: AtomicUsize,
}

#[derive(Debug, Default)]
struct Inner {
    records: VecDeque<Record>,
    bytes: usize,
    /// The partition's end, if it has been reached behind everything that was queued.
    end: Option<i64>,
}

/// What a lane takes.
#[derive(Debug)]
pub(crate) enum Taken {
    Records(Vec<Record>),
    /// No record is left below this offset.
    End(i64),
}

impl PartitionQueue {
    pub(crate) fn new(limit_bytes: usize) -> Self {
        Self {
            inner: Mutex::default(),
            filled: Notify::new(),
            emptied: Condvar::new(),
            limit_bytes: AtomicUsize::new(limit_bytes),
        }
    }

    /// Sets another bound: the process has more partitions now, or fewer.
    pub(crate) fn set_limit(&self, limit_bytes: usize) {
        self.limit_bytes.store(limit_bytes, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nobody panics while holding it; and if so, a queue of records is still one.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a record, also beyond the limit. Returns whether there is room for more.
    pub(crate) fn push(&self, record: Record) -> bool {
        let mut inner = self.lock();
        inner.bytes += record.size_bytes();
        inner.end = None;
        let was_empty = inner.records.is_empty();
        inner.records.push_back(record);
        let has_room = inner.bytes <= self.limit_bytes.load(Relaxed);
        drop(inner);
        // Whoever takes looks before it waits.
        if was_empty {
            self.filled.notify_one();
        }
        has_room
    }

    /// Notes that the partition's end is here, behind everything queued.
    pub(crate) fn reached_end(&self, offset: i64) {
        self.lock().end = Some(offset);
        self.filled.notify_one();
    }

    /// Whether there is room, waiting for it for `patience` at most.
    pub(crate) fn wait_for_room(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut inner = self.lock();
        while inner.bytes > self.limit_bytes.load(Relaxed) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            inner =
                self.emptied.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Whether so little is left that reading may go on.
    pub(crate) fn is_low(&self) -> bool {
        self.lock().bytes <= self.limit_bytes.load(Relaxed) / 2
    }

    /// Forgets everything: the lane begins anew at another offset.
    pub(crate) fn clear(&self) {
        *self.lock() = Inner::default();
        self.emptied.notify_all();
    }

    /// Waits until there is something to take, or was a moment ago.
    pub(crate) async fn filled(&self) {
        loop {
            let filled = self.filled.notified();
            {
                let inner = self.lock();
                if !inner.records.is_empty() || inner.end.is_some() {
                    return;
                }
            }
            filled.await;
        }
    }

    /// How many records there are to take.
    pub(crate) fn len(&self) -> usize {
        self.lock().records.len()
    }

    /// The next records, up to both bounds but at least one; or the partition's end.
    pub(crate) fn take(&self, max_records: usize, max_bytes: usize) -> Option<Taken> {
        let mut inner = self.lock();
        if inner.records.is_empty() {
            return inner.end.take().map(Taken::End);
        }
        let mut batch = Vec::with_capacity(inner.records.len().min(max_records));
        let mut bytes = 0;
        while let Some(next) = inner.records.front() {
            let size = next.size_bytes();
            if batch.len() == max_records || (!batch.is_empty() && bytes + size > max_bytes) {
                break;
            }
            bytes += size;
            batch.extend(inner.records.pop_front());
        }
        inner.bytes -= bytes;
        drop(inner);
        self.emptied.notify_all();
        Some(Taken::Records(batch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Headers, PartitionKey};

    fn record(offset: i64, len: usize) -> Record {
        Record {
            source: PartitionKey { topic: "t".into(), partition: 0 },
            offset,
            timestamp_ms: None,
            key: None,
            value: Some(vec![0; len]),
            headers: Headers::new(),
        }
    }

    #[test]
    fn a_batch_keeps_both_bounds_and_a_record_larger_than_them_goes_alone() {
        let queue = PartitionQueue::new(1 << 20);
        for offset in 0..5 {
            queue.push(record(offset, if offset == 3 { 10_000 } else { 10 }));
        }
        let mut sizes = Vec::new();
        for _ in 0..4 {
            match queue.take(2, 5_000) {
                Some(Taken::Records(batch)) => sizes.push(batch.len()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(sizes, [2, 1, 1, 1]);
    }

    #[test]
    fn the_end_comes_behind_the_records_and_a_further_record_takes_it_back() {
        let queue = PartitionQueue::new(1 << 20);
        queue.push(record(0, 1));
        queue.reached_end(2);
        assert!(matches!(queue.take(10, 1000), Some(Taken::Records(batch)) if batch.len() == 1));
        assert!(matches!(queue.take(10, 1000), Some(Taken::End(2))));
        queue.reached_end(3);
        queue.push(record(3, 1));
        assert!(matches!(queue.take(10, 1000), Some(Taken::Records(_))));
        assert!(queue.take(10, 1000).is_none());
    }

    #[test]
    fn a_full_queue_has_room_again_once_it_is_emptied() {
        let queue = PartitionQueue::new(100);
        queue.push(record(0, 1000));
        assert!(!queue.wait_for_room(Duration::from_millis(1)));
        queue.clear();
        assert!(queue.wait_for_room(Duration::ZERO));
    }
}
