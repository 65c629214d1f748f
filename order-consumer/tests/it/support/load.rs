//! A stream of orders beside a test, a tenth of them sent twice and some of them poison.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use super::events::{Event, event, placed, with_value};
use super::poll::eventually;
use super::world::{World, customer};

/// Publishes in small portions until stopped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

const PORTION: u128 = 50;

impl Load {
    /// Starts publishing orders numbered from `first`.
    pub(crate) fn start(world: &Arc<World>, first: u128) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (world, stopped, count) = (Arc::clone(world), Arc::clone(&stop), Arc::clone(&sent));
        let thread = std::thread::spawn(move || {
            let mut number = first;
            while !stopped.load(Relaxed) {
                let events = portion(number);
                number += PORTION;
                let ends = world.offer(None, &events, Duration::from_mins(1));
                let acknowledged = ends.iter().filter(|end| end.is_ok()).count();
                count.fetch_add(acknowledged as u64, Relaxed);
            }
        });
        Self { stop, sent, thread: Some(thread) }
    }

    /// Waits until so many more records have been acknowledged.
    #[track_caller]
    pub(crate) fn wait_more(&self, count: u64) {
        let goal = self.sent.load(Relaxed) + count;
        eventually("the load goes on", || self.sent.load(Relaxed) >= goal);
    }

    /// Stops, and says how many records were acknowledged.
    pub(crate) fn stop(mut self) -> u64 {
        self.stop.store(true, Relaxed);
        self.thread.take().unwrap().join().unwrap();
        self.sent.load(Relaxed)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

/// Orders with repeats and poison among them.
pub(crate) fn portion(first: u128) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    for number in first..first + PORTION {
        let order = event(number, &placed(number, &customer(number % 17), 1));
        match number % 50 {
            7 => events.push(with_value(order, b"{\"order_id\":")),
            11 | 22 | 33 | 44 => events.extend([order.clone(), order]),
            _ => events.push(order),
        }
    }
    events
}
