//! Where the lanes' time goes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use serde::Serialize;

/// What a lane does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Phase {
    Waiting,
    Decoding,
    Opening,
    Claiming,
    Applying,
    Finishing,
    Committing,
}

/// Microseconds of each phase, of all lanes.
#[derive(Debug, Default)]
pub(crate) struct Phases([AtomicU64; 7]);

impl Phases {
    /// Begins to measure.
    pub(crate) fn lap(&self) -> Lap<'_> {
        Lap { phases: self, since: Instant::now() }
    }

    pub(crate) fn seconds(&self) -> LaneSeconds {
        let of = |phase: Phase| self.0[phase as usize].load(Relaxed) as f64 / 1e6;
        LaneSeconds {
            waiting: of(Phase::Waiting),
            decoding: of(Phase::Decoding),
            opening: of(Phase::Opening),
            claiming: of(Phase::Claiming),
            applying: of(Phase::Applying),
            finishing: of(Phase::Finishing),
            committing: of(Phase::Committing),
        }
    }
}

/// The time since the end of the phase before.
#[derive(Debug)]
pub(crate) struct Lap<'a> {
    phases: &'a Phases,
    since: Instant,
}

impl Lap<'_> {
    /// What has been done since.
    pub(crate) fn ends(&mut self, phase: Phase) {
        let now = Instant::now();
        let took = u64::try_from((now - self.since).as_micros()).unwrap_or(u64::MAX);
        self.phases.0[phase as usize].fetch_add(took, Relaxed);
        self.since = now;
    }
}

/// Seconds of all lanes together, so more than have passed. A transaction that fails counts up to
/// where it failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LaneSeconds {
    /// For records, and for another lane's transaction to end where there are more lanes than may
    /// have one.
    pub waiting: f64,
    /// Identifying and decoding records.
    pub decoding: f64,
    /// Opening the transaction and locking the partition.
    pub opening: f64,
    /// Winning the claims.
    pub claiming: f64,
    /// In the handler.
    pub applying: f64,
    /// Dead letters, the retry queue, progress.
    pub finishing: f64,
    /// In `COMMIT`.
    pub committing: f64,
}
