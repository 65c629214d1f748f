//! `/livez`, `/readyz` and `/metrics`.
//!
//! Ready means that orders are accepted, for which PostgreSQL is enough. Kafka's absence is told, with
//! how far behind the outbox is, and does not take the gateway out of service.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use idempotent_consumer::Health;
use idempotent_consumer::probes::Metrics;
use serde_json::json;

/// What waits in the outbox.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Backlog {
    pub(super) rows: i64,
    pub(super) oldest_seconds: f64,
    pub(super) refused: i64,
}

/// The backlog as it was last seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Behind(Arc<Mutex<Backlog>>);

impl Behind {
    pub(super) fn set(&self, backlog: Backlog) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = backlog;
        metrics::gauge!("order_producer_outbox_rows").set(backlog.rows as f64);
        metrics::gauge!("order_producer_outbox_oldest_seconds").set(backlog.oldest_seconds);
    }

    fn get(&self) -> Backlog {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the database answered when it was last asked. At the start it has.
#[derive(Debug, Clone, Default)]
pub(super) struct Database(Arc<AtomicBool>);

impl Database {
    /// Notes it; returns whether this is new.
    pub(super) fn set_away(&self, is_away: bool) -> bool {
        self.0.swap(is_away, Ordering::Relaxed) != is_away
    }

    fn is_away(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the health pages are made of.
pub(super) struct GatewayHealth {
    relay: Arc<Health>,
    behind: Behind,
    database: Database,
    metrics: Metrics,
}

impl GatewayHealth {
    pub(super) fn new(
        relay: Arc<Health>,
        behind: Behind,
        database: Database,
        metrics: Metrics,
    ) -> Self {
        Self { relay, behind, database, metrics }
    }

    /// From what was last seen, so that asking often costs nothing. Anybody may ask: what a server said
    /// of itself is for the log alone.
    pub(super) fn readyz(&self) -> Response {
        let mut reasons = Vec::new();
        if self.database.is_away() {
            reasons
                .push(json!({ "what": "database", "why": "it does not answer; the log says why" }));
        }
        let degraded: Vec<_> = self
            .relay
            .reasons()
            .into_iter()
            .map(|(what, _)| json!({ "what": what, "why": "events do not go out at present" }))
            .collect();
        let Backlog { rows, oldest_seconds, refused } = self.behind.get();
        let ready = reasons.is_empty();
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let body = json!({
            "ready": ready,
            "reasons": reasons,
            "degraded": degraded,
            "outbox": { "rows": rows, "oldest_seconds": oldest_seconds, "refused": refused },
        });
        (status, Json(body)).into_response()
    }

    pub(super) fn metrics(&self) -> String {
        self.metrics.render()
    }
}
