//! How long it takes after each death until everything that was accepted by then has taken effect, and
//! its customer has been told.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::PgConnection;
use tokio::time::sleep;

use super::fleet::Fleet;
use super::look;

/// Within which it has to have taken effect.
const APPLIED_WITHIN: Duration = Duration::from_mins(2);
/// Within which the customers have to have been told: mails are sent one by one, and lag behind.
const TOLD_WITHIN: Duration = Duration::from_mins(5);
const POLL: Duration = Duration::from_millis(250);
/// Transactions may commit so much later than they begin.
const LATE_S: f64 = 20.0;

/// What is being recovered from, and what was.
#[derive(Default)]
pub(super) struct Recoveries {
    pending: Mutex<Vec<Pending>>,
    done: Mutex<Vec<Recovered>>,
}

struct Pending {
    what: String,
    began: Instant,
    /// By the database's clock.
    accepted_by: f64,
    applied_s: Option<f64>,
}

/// Seconds from when the dead process was there again.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Recovered {
    pub(super) what: String,
    pub(super) applied_s: f64,
    pub(super) told_s: f64,
}

impl Recoveries {
    /// Everything that is accepted by now is waited for.
    pub(super) async fn begin(&self, fleet: &Fleet, what: &str) -> anyhow::Result<()> {
        let began = Instant::now();
        let accepted_by = loop {
            let asked = async { look::now(&mut fleet.connect().await?).await };
            match asked.await {
                Ok(now) => break now,
                Err(error) if began.elapsed() > APPLIED_WITHIN => return Err(error),
                Err(_) => sleep(POLL).await,
            }
        };
        let pending = Pending { what: what.to_owned(), began, accepted_by, applied_s: None };
        lock(&self.pending).push(pending);
        Ok(())
    }

    /// Waits until nothing is waited for.
    pub(super) async fn all_over(&self) {
        while !lock(&self.pending).is_empty() {
            sleep(POLL).await;
        }
    }

    /// All that were.
    pub(super) fn done(&self) -> Vec<Recovered> {
        lock(&self.done).clone()
    }

    /// Looks again and again.
    pub(super) async fn watch(&self, fleet: &Fleet) {
        let (mut connection, mut from) = (None, 0.0);
        loop {
            match Self::look(fleet, &mut connection, from).await {
                Ok((applied, told)) => {
                    from = f64::min(applied, told) - LATE_S;
                    self.note(fleet, applied, told);
                }
                // The database is away, or on its way.
                Err(_) => connection = None,
            }
            self.give_up(fleet);
            sleep(POLL).await;
        }
    }

    async fn look(
        fleet: &Fleet,
        connection: &mut Option<PgConnection>,
        from: f64,
    ) -> anyhow::Result<(f64, f64)> {
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(fleet.connect().await?),
        };
        look::settled_until(connection, from).await
    }

    fn note(&self, fleet: &Fleet, applied: f64, told: f64) {
        let mut pending = lock(&self.pending);
        for one in pending.iter_mut().filter(|one| one.applied_s.is_none()) {
            if applied > one.accepted_by {
                one.applied_s = Some(one.began.elapsed().as_secs_f64());
            }
        }
        pending.retain(|one| {
            let Some(applied_s) = one.applied_s.filter(|_| told > one.accepted_by) else {
                return true;
            };
            let told_s = one.began.elapsed().as_secs_f64();
            let what = one.what.clone();
            fleet.timeline.note(format!(
                "recovered from {what}: applied after {applied_s:.1} s, told after {told_s:.1} s"
            ));
            lock(&self.done).push(Recovered { what, applied_s, told_s });
            false
        });
    }

    fn give_up(&self, fleet: &Fleet) {
        lock(&self.pending).retain(|one| {
            let (limit, missing) = match one.applied_s {
                None => (APPLIED_WITHIN, "applied"),
                Some(_) => (TOLD_WITHIN, "told"),
            };
            let is_overdue = one.began.elapsed() > limit;
            if is_overdue {
                let (what, seconds) = (&one.what, limit.as_secs());
                fleet.violated(format!("{seconds} s behind {what} not everything is {missing}"));
            }
            !is_overdue
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
